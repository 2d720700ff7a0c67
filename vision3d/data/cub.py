"""Pairs of Caltech-UCSD Birds 200 2011: pictures of one species with up to 15 parts marked in both.

C. Wah et al., Caltech CNS-TR-2011-001; pairs as in K. Gupta et al., "ASIC", ICCV 2023, section 4: all ordered pairs of
different pictures of a species and split. ROOT/{images.txt, bounding_boxes.txt, train_test_split.txt,
parts/part_locs.txt, images/SPECIES/A.jpg}. The files count pixels from (1, 1) at the centre of the top-left one.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vision3d.core import UsageError, Vision3DError
from vision3d.data.pair_list import chosen, inside, picture_size
from vision3d.data.semantic_pairs import MATLAB_CENTRE, PairSplit, SemanticPair, checked_box, pair_split

_PARTS = 15


def read_cub(root: str | Path, split: str = "test", categories: tuple[str, ...] = ()) -> PairSplit:
    """Read the pairs of a split; of the pictures only the headers are.

    split: trn or test of train_test_split.txt. (ASIC takes the list that ACSM cleaned of small and hidden birds.)
    categories: species as their folders are called, e.g. 001.Black_footed_Albatross; all if empty: 165,000 pairs.

    Raises:
        UsageError: no such split or species, or a folder of another kind. Vision3DError: a file or a line that is
            missing or wrong; the message names it.
    """
    root = Path(root)
    if split not in ("trn", "test"):
        raise UsageError(f"the splits of CUB are trn, test, got {split}")
    names = _table(root / "images.txt", 2)
    training, boxes = _table(root / "train_test_split.txt", 2), _table(root / "bounding_boxes.txt", 5)
    parts = _parts(root / "parts" / "part_locs.txt")
    file = root / "images.txt"
    for table, said in ((training, "train_test_split.txt"), (boxes, "bounding_boxes.txt"), (parts, "part_locs.txt")):
        if absent := sorted(names.keys() - set(table), key=names.__getitem__):
            raise Vision3DError(f"{said} says nothing of picture {absent[0]} of {file}: unpack the data set again")
    members: dict[str, list[str]] = {}
    for number, (name,) in names.items():
        if training[number][0] == ("1" if split == "trn" else "0"):
            members.setdefault(PurePosixPath(name).parts[0], []).append(number)
    chosen(categories, set(members), file)
    pairs = []
    for category, numbers in members.items():
        if categories and category not in categories:
            continue
        images, sizes, found = {}, {}, {}
        for n in numbers:
            images[n] = inside(root / "images", names[n][0], file)
            sizes[n] = picture_size(images[n])
            where = f"{root / 'bounding_boxes.txt'}, picture {n}"
            try:
                x, y, w, h = (float(v) for v in boxes[n])
            except ValueError as error:
                raise Vision3DError(f"{where}: a number is wrong ({error})") from None
            found[n] = checked_box((x, y, x + w, y + h), sizes[n], where, MATLAB_CENTRE)
        for a in numbers:
            for b in numbers:
                if a == b:
                    continue
                (p, seen_a), (q, seen_b) = (parts[n] for n in (a, b))
                both = seen_a & seen_b
                pairs.append(
                    SemanticPair(
                        f"{a}-{b}:{category}",
                        category,
                        images[a],
                        images[b],
                        sizes[a],
                        sizes[b],
                        found[a],
                        found[b],
                        p[both],
                        q[both],
                        tuple(str(k + 1) for k in both.nonzero()[:, 0].tolist()),
                    )
                )
    return pair_split(pairs)


def _table(file: Path, columns: int) -> dict[str, list[str]]:
    """Rows of words by their first."""
    try:
        rows = [line.split() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        raise UsageError(f"{file.parent} is no CUB_200_2011 folder: {file} is missing") from None
    except (OSError, ValueError) as error:
        raise Vision3DError(f"cannot read {file}: {error}") from None
    for number, row in enumerate(rows, 1):
        if len(row) != columns:
            raise Vision3DError(f"{file}, line {number}: {len(row)} columns, {columns} are needed")
    return {row[0]: row[1:] for row in rows}


def _parts(file: Path) -> dict[str, tuple[Float[Tensor, "k 2"], Bool[Tensor, " k"]]]:
    """By picture: its parts, px, and which of them are seen."""
    out: dict[str, tuple[Tensor, Tensor]] = {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"{file.parent.parent} is no CUB_200_2011 folder: cannot read {file} ({error})") from None
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        try:
            image, part, x, y, seen = words[0], int(words[1]) - 1, float(words[2]), float(words[3]), words[4] == "1"
            if not 0 <= part < _PARTS or len(words) != 5:
                raise ValueError(f"the columns are picture, part from 1 to {_PARTS}, x, y, visible")
        except (ValueError, IndexError) as error:
            raise Vision3DError(f"{file}, line {number}: {error}") from None
        points, visible = out.setdefault(image, (torch.zeros(_PARTS, 2), torch.zeros(_PARTS, dtype=torch.bool)))
        points[part] = torch.tensor([x, y]) + MATLAB_CENTRE
        visible[part] = seen
        if seen and not torch.isfinite(points[part]).all():
            raise Vision3DError(f"{file}, line {number}: a part is not finite")
    return out
