"""SPair-71k in its official layout, as typed pairs and pictures.

J. Min et al., arXiv 1908.10543. ROOT/{PairAnnotation/SPLIT/ID-A-B:CATEGORY.json, ImageAnnotation/CATEGORY/A.json,
JPEGImages/CATEGORY/A.jpg, Layout/{large,small}/{trn,val,test}.txt, Segmentation/CATEGORY/A.png}.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from vision3d.core import UsageError, Vision3DError
from vision3d.data.semantic_pairs import (
    PIXEL_CENTRE,
    Difficulty,
    PairSplit,
    SemanticImage,
    SemanticPair,
    checked_box,
    pair_split,
)

SPLITS = ("trn", "val", "test")
OVERHANG = 0.1  # of the longer side: how far a keypoint may lie outside its picture, as annotated boxes do
_COLONS = (":", "_", "%3A")  # file systems without colons hold these instead
_ADVICE = "correct the file, or unpack the data set again"


def read_spair(
    root: str | Path,
    split: str = "test",
    layout: Literal["large", "small"] = "large",
    categories: tuple[str, ...] = (),
) -> PairSplit:
    """Read the annotations of a split (no picture is opened).

    categories: only these; all if empty.

    Raises:
        UsageError: no such split, layout or category, or a folder of another kind. Vision3DError: an annotation that is
            missing or wrong; the message names the file.
    """
    root = Path(root)
    if split not in SPLITS:
        raise UsageError(f"the splits of SPair-71k are {', '.join(SPLITS)}, got {split}")
    listing = root / "Layout" / layout / f"{split}.txt"
    if not listing.is_file():
        raise UsageError(f"{root} is no SPair-71k folder: {listing} is missing")
    names = [line.strip() for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
    known = {name.rpartition(":")[2] for name in names}
    for category in categories:
        if category not in known:
            raise UsageError(f"category {category} has no pairs in {listing}: it has {', '.join(sorted(known))}")
    if not names:
        raise UsageError(f"{listing} lists no pairs")
    pairs = []
    for name in names:
        category = name.rpartition(":")[2]
        if not categories or category in categories:
            pairs.append(_read_pair(root, _pair_file(root / "PairAnnotation" / split, name), name, category))
    return pair_split(pairs, (root / "synthetic.json").is_file())


def read_spair_image(root: str | Path, category: str, name: str) -> SemanticImage:
    """One picture with all its keypoints.

    Raises:
        Vision3DError: the annotation is missing or wrong.
    """
    root = Path(root)
    file = root / "ImageAnnotation" / category / f"{name}.json"
    data = _read(file)
    try:
        keypoints = data["kps"]
        size = (int(data["image_width"]), int(data["image_height"]))
        ids = sorted(keypoints, key=int)
        points = torch.zeros(len(ids), 2)
        visible = torch.zeros(len(ids), dtype=torch.bool)
        for row, key in enumerate(ids):
            if keypoints[key] is not None:
                points[row] = _points([keypoints[key]], size, file)[0]
                visible[row] = True
        box = checked_box(data["bndbox"], size, file)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Vision3DError(f"{file}: {_what(error)}") from None
    return SemanticImage(
        root / "JPEGImages" / category / f"{name}.jpg", category, size, box, points, visible, tuple(ids)
    )


def spair_images(root: str | Path, pairs: tuple[SemanticPair, ...]) -> tuple[SemanticImage, ...]:
    """All pictures of these pairs, once each, in order of category and name."""
    found = {(pair.category, file.stem) for pair in pairs for file in (pair.image0, pair.image1)}
    return tuple(read_spair_image(root, category, name) for category, name in sorted(found))


def _pair_file(folder: Path, name: str) -> Path:
    for colon in _COLONS:
        file = folder / f"{name.replace(':', colon)}.json"
        if file.is_file():
            return file
    raise Vision3DError(
        f"{folder / name}.json is missing (also with _ or %3A for the colon): unpack the data set again"
    )


def _read_pair(root: Path, file: Path, name: str, category: str) -> SemanticPair:
    data = _read(file)
    try:
        if data.get("category", category) != category:
            raise Vision3DError(
                f"{file}: the category is {data['category']!r}, but the pair's name says {category!r}: {_ADVICE}"
            )
        sizes = [(int(data[f"{side}_imsize"][0]), int(data[f"{side}_imsize"][1])) for side in ("src", "trg")]
        boxes = [
            checked_box(data[f"{side}_bndbox"], size, file) for side, size in zip(("src", "trg"), sizes, strict=True)
        ]
        points = [_points(data[f"{side}_kps"], size, file) for side, size in zip(("src", "trg"), sizes, strict=True)]
        ids = tuple(str(key) for key in data["kps_ids"])
        if not len(points[0]) == len(points[1]) == len(ids):
            raise Vision3DError(
                f"{file}: {len(points[0])} and {len(points[1])} keypoints with {len(ids)} ids, they must be as many"
            )
        if data.get("mirror", 0):
            raise Vision3DError(f"{file}: mirrored pairs are not part of SPair-71k")
        difficulty = Difficulty(
            int(data["viewpoint_variation"]),
            int(data["scale_variation"]),
            int(data["truncation"]),
            int(data["occlusion"]),
        )
        images = [root / "JPEGImages" / category / str(data[f"{side}_imname"]) for side in ("src", "trg")]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise Vision3DError(f"{file}: {_what(error)}") from None
    return SemanticPair(
        name,
        category,
        images[0],
        images[1],
        sizes[0],
        sizes[1],
        boxes[0],
        boxes[1],
        points[0],
        points[1],
        ids,
        difficulty,
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Vision3DError(f"cannot read the annotation {file}: {error}") from None
    if not isinstance(data, dict):
        raise Vision3DError(f"{file}: an annotation is a JSON object")
    return data


def _points(rows: list[list[float]], size: tuple[int, int], file: Path) -> Tensor:
    points = torch.tensor(rows, dtype=torch.float32).reshape(-1, 2) + PIXEL_CENTRE
    if not torch.isfinite(points).all():
        raise Vision3DError(f"{file}: a keypoint is not finite")
    outside = torch.maximum(-points, points - points.new_tensor(size)).amax(1) > OVERHANG * max(size)
    if outside.any():
        shown = rows[int(outside.nonzero()[0])]
        raise Vision3DError(
            f"{file}: the keypoint {shown} lies far outside the image of {size[0]}x{size[1]} px: {_ADVICE}"
        )
    return points


def _what(error: Exception) -> str:
    return f"the field {error} is missing" if isinstance(error, KeyError) else f"a field is wrong ({error})"
