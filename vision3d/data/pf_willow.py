"""PF-WILLOW as typed pairs: 10 keypoints on pictures of cars, ducks, motorbikes and wine bottles.

B. Ham et al., "Proposal Flow", CVPR 2016. ROOT/{test_pairs.csv or test_pairs_pf.csv, CATEGORY/A.png}; columns: two
names, then x 10 times and y 10 times of the first and of the second picture, counted as MATLAB does from (1, 1) at the
centre of the top-left pixel. There are no boxes: those of the keypoints stand for them, as is the custom.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
import torch

from vision3d.core import UsageError, Vision3DError
from vision3d.data.pair_list import chosen, inside, picture_size, read_pair_list
from vision3d.data.semantic_pairs import MATLAB_CENTRE, PairSplit, SemanticPair, checked_box, pair_split

_LISTS = ("test_pairs.csv", "test_pairs_pf.csv")
_POINTS = 10


def read_pf_willow(root: str | Path, split: str = "test", categories: tuple[str, ...] = ()) -> PairSplit:
    """Read the test split, the only one; of the pictures only the headers are. The box holds a picture's
    keypoints.

    Raises:
        UsageError: no such split or category, or a folder of another kind. Vision3DError: a file or a row that is
            missing or wrong; the message names it.
    """
    root = Path(root)
    if split != "test":
        raise UsageError(f"PF-WILLOW has only the split test, got {split}")
    file, rows = read_pair_list(root, _LISTS, 2 + 4 * _POINTS, "PF-WILLOW")
    chosen(categories, {_category(row[0], file) for row in rows}, file)
    pairs = []
    for number, row in enumerate(rows, 2):
        category = _category(row[0], file)
        if categories and category not in categories:
            continue
        images = [inside(root, "/".join(PurePosixPath(name).parts[-2:]), file) for name in row[:2]]
        sizes = [picture_size(image) for image in images]
        try:
            values = np.array([float(v) if v.strip() else np.nan for v in row[2 : 2 + 4 * _POINTS]])
        except ValueError as error:
            raise Vision3DError(f"{file}, row {number}: the keypoints are wrong ({error})") from None
        points = values.reshape(2, 2, _POINTS).transpose(0, 2, 1).copy()  # picture, point, x y
        points[(points == -1).all(2)] = np.nan  # padding of some lists
        seen = np.isfinite(points).all(2)
        both = seen.all(0)
        pair_id = f"{number - 2:06d}-{images[0].stem}-{images[1].stem}:{category}"
        boxes = []
        for k in range(2):
            extent = points[k][seen[k]]
            corners = [*extent.min(0), *extent.max(0)] if both.any() else [1, 1, *sizes[k]]
            boxes.append(checked_box(corners, sizes[k], f"{file}, row {number}", MATLAB_CENTRE))
        first, second = (torch.from_numpy(points[k][both]).float() + MATLAB_CENTRE for k in range(2))
        pairs.append(
            SemanticPair(
                pair_id,
                category,
                images[0],
                images[1],
                sizes[0],
                sizes[1],
                boxes[0],
                boxes[1],
                first,
                second,
                tuple(str(k) for k in np.flatnonzero(both)),
            )
        )
    return pair_split(pairs)


def _category(name: str, file: Path) -> str:
    parts = PurePosixPath(name).parts
    if len(parts) < 2:
        raise Vision3DError(f"{file}: {name!r} is no picture's name, which is CATEGORY/NAME")
    return parts[-2]
