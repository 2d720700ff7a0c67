"""A small set in SPair-71k's layout whose pictures are real photos and shifted copies of them: the truth is known."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import skimage.data

SIZE = (200, 160)  # width, height px
PHOTOS = {"cat": "chelsea.png", "cup": "coffee.png", "man": "astronaut.png"}


def photo(category: str) -> np.ndarray:
    """A photo, 480 x 384 px."""
    path = Path(skimage.data.__file__).parent / PHOTOS[category]
    return np.asarray(PIL.Image.open(path).convert("RGB").resize((480, 384), PIL.Image.Resampling.LANCZOS))


def write_copies(root: Path, pairs_per_category: int = 3, seed: int = 0, synthetic: bool = False) -> Path:
    """Pairs of crops of the photos of PHOTOS, every pair with pictures of its own; 5 keypoints each."""
    rng = np.random.default_rng(seed)
    names = []
    for category in PHOTOS:
        whole = photo(category)
        (root / "JPEGImages" / category).mkdir(parents=True)
        for number in range(pairs_per_category):
            corners = rng.integers(60, 100, 2), rng.integers(60, 100, 2)
            files = []
            for side, (x, y) in enumerate(corners):
                crop = whole[y : y + 2 * SIZE[1], x : x + 2 * SIZE[0]][: 2 * SIZE[1], : 2 * SIZE[0]]
                files.append(f"{number}{'ab'[side]}.jpg")
                picture = PIL.Image.fromarray(crop[: SIZE[1] + 60, : SIZE[0] + 60]).crop((0, 0, *SIZE))
                picture.save(root / "JPEGImages" / category / files[-1], quality=95)
            shift = corners[0] - corners[1]
            points = rng.integers(50, [SIZE[0] - 50, SIZE[1] - 50], (5, 2))
            names.append(f"{len(names):06d}-{files[0][:-4]}-{files[1][:-4]}:{category}")
            annotation = {
                "src_imname": files[0],
                "trg_imname": files[1],
                "src_imsize": [*SIZE, 3],
                "trg_imsize": [*SIZE, 3],
                "src_bndbox": [10, 10, SIZE[0] - 10, SIZE[1] - 10],
                "trg_bndbox": [20, 20, SIZE[0] - 20, SIZE[1] - 20],
                "src_kps": points.tolist(),
                "trg_kps": (points + shift).tolist(),
                "kps_ids": [str(k) for k in range(5)],
                "category": category,
                "mirror": 0,
                "viewpoint_variation": number % 3,
                "scale_variation": 0,
                "truncation": number % 2,
                "occlusion": 0,
            }
            file = root / "PairAnnotation" / "test" / f"{names[-1]}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(annotation))
    listing = root / "Layout" / "large" / "test.txt"
    listing.parent.mkdir(parents=True)
    listing.write_text("\n".join(names) + "\n")
    if synthetic:
        (root / "synthetic.json").write_text("{}")
    return root
