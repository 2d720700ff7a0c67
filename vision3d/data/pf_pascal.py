"""PF-PASCAL as typed pairs: pictures of PASCAL VOC of 20 categories with corresponding keypoints.

B. Ham et al., "Proposal Flow: Semantic Correspondences from Object Proposals", PAMI 2018; splits of K. Han et al.,
"SCNet", ICCV 2017. ROOT/{SPLIT_pairs.csv or SPLIT_pairs_pf_pascal.csv, JPEGImages/A.jpg, Annotations/CATEGORY/A.mat}.
The files count pixels as MATLAB does, from (1, 1) at the centre of the top-left one.
"""

from __future__ import annotations

import functools
from pathlib import Path, PurePosixPath

import numpy as np
import scipy.io
import torch
from jaxtyping import Float64

from vision3d.core import UsageError, Vision3DError
from vision3d.data.pair_list import chosen, inside, picture_size, read_pair_list
from vision3d.data.semantic_pairs import MATLAB_CENTRE, PairSplit, SemanticPair, checked_box, pair_split

CATEGORIES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_LISTS = {
    "trn": ("trn_pairs.csv", "train_pairs.csv", "trn_pairs_pf_pascal.csv", "train_pairs_pf_pascal.csv"),
    "val": ("val_pairs.csv", "val_pairs_pf_pascal.csv"),
    "test": ("test_pairs.csv", "test_pairs_pf_pascal.csv"),
}

Box = tuple[float, float, float, float]


def read_pf_pascal(root: str | Path, split: str = "test", categories: tuple[str, ...] = ()) -> PairSplit:
    """Read a split; of the pictures only the headers are.

    Keypoints and boxes are those of Annotations. Without that folder keypoints are the list's columns (XA, YA, XB, YB,
    separated by semicolons; test and val have them) and the box is the whole picture. Rows of trn whose flip is 1 ask
    for a mirrored copy of another row and are skipped.

    Raises:
        UsageError: no such split or category, or a folder of another kind. Vision3DError: a file that is missing or
            wrong; the message names it.
    """
    root = Path(root)
    if split not in _LISTS:
        raise UsageError(f"the splits of PF-PASCAL are {', '.join(_LISTS)}, got {split}")
    annotated = (root / "Annotations").is_dir()
    file, rows = read_pair_list(root, _LISTS[split], 3 if annotated else 7, "PF-PASCAL")
    named = [(number, _category(row[2], file, number), row) for number, row in enumerate(rows, 2)]
    chosen(categories, {category for _, category, _ in named}, file)
    pairs = []
    for number, category, row in named:
        if (categories and category not in categories) or (len(row) == 4 and row[3].strip() == "1"):
            continue
        images = [inside(root / "JPEGImages", PurePosixPath(name).name, file) for name in row[:2]]
        sizes = [picture_size(image) for image in images]
        points, boxes = [], []
        for side, (image, size) in enumerate(zip(images, sizes, strict=True)):
            if annotated:
                found, box = _annotation(root / "Annotations" / category / f"{image.stem}.mat", size)
            else:
                found, box = (
                    _columns(row[3 + 2 * side : 5 + 2 * side], file, number),
                    (0.0, 0.0, float(size[0]), float(size[1])),
                )
            points.append(found)
            boxes.append(box)
        if len(points[0]) != len(points[1]):
            raise Vision3DError(
                f"{file}, row {number}: {len(points[0])} and {len(points[1])} keypoints, they must be as many"
            )
        both = np.isfinite(points[0]).all(1) & np.isfinite(points[1]).all(1)
        pairs.append(
            SemanticPair(
                f"{number - 2:06d}-{images[0].stem}-{images[1].stem}:{category}",
                category,
                images[0],
                images[1],
                sizes[0],
                sizes[1],
                boxes[0],
                boxes[1],
                torch.from_numpy(points[0][both]).float() + MATLAB_CENTRE,
                torch.from_numpy(points[1][both]).float() + MATLAB_CENTRE,
                tuple(str(k) for k in np.flatnonzero(both)),
            )
        )
    return pair_split(pairs)


def _category(text: str, file: Path, number: int) -> str:
    try:
        index = int(float(text))
    except ValueError:
        index = 0
    if not 1 <= index <= len(CATEGORIES):
        raise Vision3DError(f"{file}, row {number}: the class is a number from 1 to {len(CATEGORIES)}, got {text!r}")
    return CATEGORIES[index - 1]


@functools.lru_cache(maxsize=1 << 12)
def _annotation(file: Path, size: tuple[int, int]) -> tuple[Float64[np.ndarray, "n 2"], Box]:
    """Keypoints, NaN where not seen, and the box of a picture."""
    try:
        data = scipy.io.loadmat(file, variable_names=["kps", "bbox"])
    except (OSError, ValueError, TypeError, RuntimeError, scipy.io.matlab.MatReadError) as error:
        raise Vision3DError(f"cannot read the annotation {file}: {error}") from None
    try:
        points = np.asarray(data["kps"], np.float64).reshape(-1, 2)
        box = np.asarray(data["bbox"], np.float64).ravel().tolist()
        return points, checked_box(box, size, file, MATLAB_CENTRE)
    except KeyError as error:
        raise Vision3DError(f"{file}: the field {error} is missing") from None
    except (TypeError, ValueError) as error:
        raise Vision3DError(f"{file}: a field is wrong ({error})") from None


def _columns(texts: list[str], file: Path, number: int) -> Float64[np.ndarray, "n 2"]:
    """Keypoints of a row; -1, -1 stands for one that is not there in padded lists."""
    try:
        x, y = (np.array([float(v) for v in text.split(";") if v.strip()]) for text in texts)
        points = np.stack([x, y], axis=1).reshape(-1, 2)
    except ValueError as error:
        raise Vision3DError(f"{file}, row {number}: the keypoints are wrong ({error})") from None
    points[(points == -1).all(1)] = np.nan
    return points
