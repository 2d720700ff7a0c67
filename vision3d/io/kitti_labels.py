"""KITTI object lines, ground truth (15 fields) and results (16): a table of plain arrays, read and written.

Geiger et al., "Are we ready for Autonomous Driving?", CVPR 2012, and the object development kit's readme. Nothing is
converted here (io/kitti_boxes does that), and torch is not needed: the evaluation reads thousands of these files.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from vision3d.errors import Vision3DError
from vision3d.io.ascii_file import read_ascii
from vision3d.io.atomic import atomic_write_text

DONT_CARE = "DontCare"
# "Person" stands in the tracking labels for a sitting person.
KITTI_TYPES = (
    "Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Person", "Cyclist", "Tram", "Misc", DONT_CARE,
)  # fmt: skip
LABEL_FIELDS, RESULT_FIELDS = 15, 16
_LARGEST = 1e12  # what no length in px or metres reaches: a damaged number


@dataclass(frozen=True, slots=True)
class KittiObjects:
    """n objects of one frame as the file has them, in the rectified camera frame (x right, y down, z forward).

    truncation in [0, 1], occlusion 0 to 3 (both -1: unknown). alpha: observation angle, rad. boxes_2d: left, top,
    right, bottom, px with pixel centres at integers. dimensions: height, width, length, m. locations: centre of the
    bottom face, m. rotation_y: rad about +y. DontCare has -1, -1, -10 and -1000 for what it lacks. scores: of results,
    None for ground truth.
    """

    types: tuple[str, ...]
    truncation: Float64[np.ndarray, " n"]
    occlusion: Int64[np.ndarray, " n"]
    alpha: Float64[np.ndarray, " n"]
    boxes_2d: Float64[np.ndarray, "n 4"]
    dimensions: Float64[np.ndarray, "n 3"]
    locations: Float64[np.ndarray, "n 3"]
    rotation_y: Float64[np.ndarray, " n"]
    scores: Float64[np.ndarray, " n"] | None = None

    def __len__(self) -> int:
        return len(self.types)

    def select(self, keep: np.ndarray) -> KittiObjects:
        """Those at a mask or at indices."""
        index = np.arange(len(self))[keep]
        return KittiObjects(
            tuple(self.types[i] for i in index),
            self.truncation[index],
            self.occlusion[index],
            self.alpha[index],
            self.boxes_2d[index],
            self.dimensions[index],
            self.locations[index],
            self.rotation_y[index],
            None if self.scores is None else self.scores[index],
        )


def read_labels(path: str | Path, types: Collection[str] | None = KITTI_TYPES) -> KittiObjects:
    """Read a label_2 file: 15 fields a line. An empty file is a frame without objects.

    types: the names allowed, in any case of letters; None allows all.

    Raises:
        Vision3DError: missing; a line with another number of fields, no number where one must stand, NaN or infinity,
            an unknown type. The message has file and line.
    """
    return parse_objects(read_ascii(path, "a text file of KITTI objects"), LABEL_FIELDS, path, types)


def read_results(path: str | Path, types: Collection[str] | None = KITTI_TYPES) -> KittiObjects:
    """Read a result file: 16 fields a line, the last one the score. Otherwise as `read_labels`."""
    return parse_objects(read_ascii(path, "a text file of KITTI objects"), RESULT_FIELDS, path, types)


def parse_objects(
    text: str, fields: int, path: str | Path, types: Collection[str] | None = KITTI_TYPES
) -> KittiObjects:
    """The lines of a label file (fields 15) or a result file (16); path is for messages."""
    names: list[str] = []
    values: list[float] = []
    lines: list[int] = []
    known = None if types is None else {name.casefold() for name in types}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) != fields:
            raise Vision3DError(f"{path}:{number}: {_wrong_count(len(words), fields)}")
        if known is not None and words[0].casefold() not in known:
            raise Vision3DError(f"{path}:{number}: {_unknown(words[0], types or ())}")
        try:
            values.extend(map(float, words[1:]))
        except ValueError:
            bad = next(word for word in words[1:] if not _is_number(word))
            raise Vision3DError(f"{path}:{number}: {bad!r} is not a number") from None
        names.append(words[0])
        lines.append(number)
    table = np.array(values, np.float64).reshape(len(names), fields - 1)
    wrong = ~(np.abs(table) <= _LARGEST)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise Vision3DError(
            f"{path}:{lines[row]}: field {column + 2} is {table[row, column]}, not a usable number: remove the object"
        )
    occlusion = table[:, 1].astype(np.int64)
    if fields == LABEL_FIELDS and (occlusion != table[:, 1]).any():
        row = int(np.argmax(occlusion != table[:, 1]))
        raise Vision3DError(
            f"{path}:{lines[row]}: occlusion {table[row, 1]:g} is no whole number "
            "(the order is type, truncation, occlusion, alpha, ...)"
        )
    return KittiObjects(
        tuple(names),
        table[:, 0].copy(),
        occlusion,
        table[:, 2].copy(),
        table[:, 3:7].copy(),
        table[:, 7:10].copy(),
        table[:, 10:13].copy(),
        table[:, 13].copy(),
        table[:, 14].copy() if fields == RESULT_FIELDS else None,
    )


def format_objects(objects: KittiObjects, digits: int = 2) -> str:
    """The lines of a label file, or of a result file where there are scores (written with `digits` + 2).

    With 2 digits, labels of the object benchmark come back byte by byte: whole numbers for what DontCare lacks, and
    for an unknown truncation.

    Raises:
        ValueError: a number that is not finite, or a type with white space in it.
    """
    out = []
    for i, name in enumerate(objects.types):
        if not name or len(name.split()) != 1:
            raise ValueError(f"a KITTI type is one word, got {name!r}")
        row = [objects.truncation[i], objects.alpha[i], *objects.boxes_2d[i], *objects.dimensions[i]]
        row += [*objects.locations[i], objects.rotation_y[i], 0.0 if objects.scores is None else objects.scores[i]]
        if not np.isfinite(row).all():
            raise ValueError(f"object {i} ({name}) has a number that is not finite")
        care = name.casefold() != DONT_CARE.casefold()
        text = [_number(float(v), digits, care or 2 <= k <= 5) for k, v in enumerate(row[:-1])]
        if row[0] == -1:
            text[0] = "-1"
        words = [name, text[0], str(int(objects.occlusion[i])), *text[1:]]
        if objects.scores is not None:
            words.append(_number(float(row[-1]), digits + 2, True))
        out.append(" ".join(words) + "\n")
    return "".join(out)


def write_objects(path: str | Path, objects: KittiObjects, digits: int | None = None) -> None:
    """Write a label or result file (see `format_objects`); digits: by default 2 for labels and 4 for results."""
    atomic_write_text(
        path, format_objects(objects, digits if digits is not None else 2 if objects.scores is None else 4)
    )


def _number(value: float, digits: int, decimals: bool) -> str:
    if not decimals and value == int(value):
        return str(int(value))
    shown = f"{value:.{digits}f}"
    return shown[1:] if shown.startswith("-") and not float(shown) else shown


def _wrong_count(found: int, fields: int) -> str:
    what = "a label has 15 fields" if fields == LABEL_FIELDS else "a result has 16 fields"
    if fields == RESULT_FIELDS and found == LABEL_FIELDS:
        return f"{what}, the last one the score, found 15: the score is missing"
    if fields == LABEL_FIELDS and found == RESULT_FIELDS:
        return f"{what}, found 16: is this a result (with a score)?"
    if found == RESULT_FIELDS + 1:
        return f"{what}, found 17: are these tracking labels (with frame and track in front)?"
    return f"{what}, found {found}"


def _unknown(name: str, types: Collection[str]) -> str:
    close = difflib.get_close_matches(name, types, n=1, cutoff=0.6)
    hint = (
        f", did you mean {close[0]!r}?"
        if close
        else f" (known: {', '.join({t.casefold(): t for t in types}.values())})"
    )
    return f"the class {name!r} is unknown{hint}"


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
