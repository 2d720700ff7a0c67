"""AP-10K pairs as typed pairs: animals of 54 species with up to 17 joints marked in both.

H. Yu et al., "AP-10K", NeurIPS 2021; pairs of J. Zhang et al., "Telling Left from Right", CVPR 2024, section 5.
ROOT/{PairAnnotation/SPLIT/A-B:CATEGORY.json, ImageAnnotation/FAMILY/SPECIES/A.json, JPEGImages/FAMILY/SPECIES/A.jpg};
the annotation of a picture is its record of COCO's format, pixels counted from the centre of the top-left one.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vision3d.core import UsageError, Vision3DError
from vision3d.data.pair_list import chosen, inside
from vision3d.data.semantic_pairs import PIXEL_CENTRE, PairSplit, SemanticPair, checked_box, pair_split

SPLITS = ("trn", "val", "test", "val_cross_species", "test_cross_species", "val_cross_family", "test_cross_family")


def read_ap10k(root: str | Path, split: str = "test", categories: tuple[str, ...] = ()) -> PairSplit:
    """Read the pairs of a split in the order of their names (no picture is opened).

    split: test and val pair pictures of a species; with _cross_species of a family, with _cross_family of all.
    categories: what stands after the colon of a pair's name (species, family or "all").

    Raises:
        UsageError: no such split or category, or a folder of another kind. Vision3DError: an annotation that is
            missing or wrong; the message names the file.
    """
    root = Path(root)
    if split not in SPLITS:
        raise UsageError(f"the splits of AP-10K are {', '.join(SPLITS)}, got {split}")
    folder = root / "PairAnnotation" / split
    files = sorted(folder.glob("*.json"))
    if not files:
        raise UsageError(f"{root} is no folder of AP-10K pairs: {folder} holds no .json files")
    data = {file: _read(file) for file in files}
    named = {file: _category(file, split, data[file]) for file in files}
    chosen(categories, set(named.values()), folder)
    images: dict[Path, _Animal] = {}
    pairs = []
    for file, category in named.items():
        if categories and category not in categories:
            continue
        sides = []
        for side in ("src", "trg"):
            name = _below(data[file], f"{side}_json_path", file)
            annotation = inside(root / "ImageAnnotation", name, file)
            if annotation not in images:
                picture = root.joinpath("JPEGImages", name).with_suffix(".jpg")
                images[annotation] = _Animal(annotation, picture)
            sides.append(images[annotation])
        a, b = sides
        both = a.seen & b.seen
        pairs.append(
            SemanticPair(
                file.stem,
                category,
                a.picture,
                b.picture,
                a.size,
                b.size,
                a.box,
                b.box,
                a.points[both],
                b.points[both],
                tuple(str(k) for k in both.nonzero()[:, 0].tolist()),
            )
        )
    return pair_split(pairs)


class _Animal:
    """A picture's annotation: points [17 2] px, seen [17], box, size."""

    points: Float[Tensor, "k 2"]
    seen: Bool[Tensor, " k"]

    def __init__(self, file: Path, picture: Path) -> None:
        data = _read(file)
        self.picture = picture
        try:
            self.size = (int(data["width"]), int(data["height"]))
            x, y, w, h = (float(v) for v in data["bbox"])
            self.box = checked_box((x, y, x + w, y + h), self.size, file)
            rows = torch.tensor(data["keypoints"], dtype=torch.float32).reshape(-1, 3)
        except KeyError as error:
            raise Vision3DError(f"{file}: the field {error} is missing") from None
        except (TypeError, ValueError, RuntimeError) as error:
            raise Vision3DError(f"{file}: a field is wrong ({error})") from None
        if len(rows) != 17:
            raise Vision3DError(f"{file}: an animal of AP-10K has 17 keypoints, this one {len(rows)}")
        self.points, self.seen = rows[:, :2] + PIXEL_CENTRE, rows[:, 2] > 0
        if not torch.isfinite(rows).all():
            raise Vision3DError(f"{file}: a keypoint is not finite")


def _category(file: Path, split: str, data: dict[str, Any]) -> str:
    """After the colon of the file's name; elsewhere, as on file systems without colons, from the folders."""
    if ":" in file.stem:
        return file.stem.rpartition(":")[2]
    if split.endswith("family"):
        return "all"
    parts = PurePosixPath(_below(data, "src_json_path", file)).parts
    return parts[0] if split.endswith("species") or len(parts) < 2 else parts[-2]


def _below(data: dict[str, Any], key: str, file: Path) -> str:
    """The path below ImageAnnotation, wherever the folder lay when the pairs were made."""
    path = data.get(key)
    if not isinstance(path, str):
        raise Vision3DError(f"{file}: the field '{key}' is missing")
    _, found, name = path.replace("\\", "/").rpartition("ImageAnnotation/")
    if not found:
        raise Vision3DError(f"{file}: {key} is a path with ImageAnnotation in it, got {path!r}")
    return name


def _read(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Vision3DError(f"cannot read the annotation {file}: {error}") from None
    if not isinstance(data, dict):
        raise Vision3DError(f"{file}: an annotation is a JSON object")
    return data
