"""Ground truth and results of the KITTI object benchmark from folders, laid out flat for the evaluation's kernels.

As the official tool does, the frames that have a result file are scored, and no others.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from vision3d.errors import UsageError
from vision3d.io.ascii_file import read_ascii
from vision3d.io.kitti_labels import DONT_CARE, KITTI_TYPES, KittiObjects, read_labels, read_results


@dataclass(frozen=True, slots=True)
class FlatObjects:
    """The objects of all frames behind each other; those of frame f are starts[f] to starts[f + 1]."""

    objects: KittiObjects
    starts: Int64[np.ndarray, " frames_and_one"]
    types: np.ndarray

    @classmethod
    def of(cls, frames: list[KittiObjects]) -> FlatObjects:
        """Joins the frames; all have scores, or none has. types: the names in small letters."""
        merged = {
            name: np.concatenate([getattr(frame, name) for frame in frames])
            for name in ("truncation", "occlusion", "alpha", "boxes_2d", "dimensions", "locations", "rotation_y")
        }
        scored = [frame.scores for frame in frames if frame.scores is not None]
        names = tuple(name for frame in frames for name in frame.types)
        objects = KittiObjects(names, **merged, scores=np.concatenate(scored) if scored else None)
        starts = np.cumsum([0, *(len(frame) for frame in frames)]).astype(np.int64)
        return cls(objects, starts, np.array([name.lower() for name in names], dtype=np.str_))

    def rectangles(self) -> Float64[np.ndarray, "n 5"]:
        """Footprints seen from above, (x, z, length, width, yaw from x to z).

        Where length and width are both negative, as in DontCare, the official tool's polygon is that of their absolute
        values. In the tracking labels that is a square of 1000 m, which excuses any detection from above; in the object
        labels it is one of 1 m, far away.
        """
        length, width = self.objects.dimensions[:, 2], self.objects.dimensions[:, 1]
        both = (length < 0) & (width < 0)
        location = self.objects.locations
        return np.stack(
            [
                location[:, 0],
                location[:, 2],
                np.where(both, -length, length),
                np.where(both, -width, width),
                -self.objects.rotation_y,
            ],
            axis=1,
        )


@dataclass(frozen=True, slots=True)
class KittiFrames:
    """What is scored: frame names, their ground truth and their results; folders: of both, where they were read."""

    names: tuple[str, ...]
    truth: FlatObjects
    results: FlatObjects
    folders: tuple[Path, Path] | None = None


def read_frames(gt: str | Path, results: str | Path, classes: Collection[str] = ()) -> KittiFrames:
    """Read all frames that have a result file.

    gt: a label_2 folder, or a KITTI folder that holds one (label_2 or training/label_2). results: a folder of result
    files named by frame (000123.txt), or one with such files in data/ or results/. classes: types beside KITTI's own.

    Raises:
        UsageError: a folder that is missing, no result files, frames without ground truth. Vision3DError: a broken
            line, with file and line.
    """
    labels = _label_folder(Path(gt))
    folder, found = _result_files(Path(results))
    there = {path.name for path in labels.iterdir()}
    missing = [name for name in found if name not in there]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UsageError(f"no ground truth for {missing[0]}{more} of {folder} in {labels}")
    types = (*KITTI_TYPES, *classes)
    # Joined as text: thousands of Path objects would take as long as reading the files.
    truth = [read_labels(f"{labels}{os.sep}{name}", types) for name in found]
    scored = [read_results(f"{folder}{os.sep}{name}", types) for name in found]
    names = tuple(name.removesuffix(".txt") for name in found)
    return KittiFrames(names, FlatObjects.of(truth), FlatObjects.of(scored), (labels, folder))


def broken_boxes(frames: KittiFrames) -> tuple[int, str]:
    """How many objects that were read have a 3D size that is not positive or a 2D box without area, and FILE:LINE of
    the first. Neither DontCare is meant nor objects that say by their location, -1000, that they have no 3D box."""
    count, first = 0, ""
    for folder, flat in zip(frames.folders or (), (frames.truth, frames.results), strict=False):
        box, size = flat.objects.boxes_2d, flat.objects.dimensions
        solid = (flat.objects.locations != -1000).any(1)
        wrong = (solid & (size <= 0).any(1)) | (box[:, 2] <= box[:, 0]) | (box[:, 3] <= box[:, 1])
        rows = np.flatnonzero(wrong & (flat.types != DONT_CARE.lower()))
        count += len(rows)
        if len(rows) and not first:
            frame = int(np.searchsorted(flat.starts, rows[0], side="right")) - 1
            file = folder / f"{frames.names[frame]}.txt"
            lines = [n for n, line in enumerate(read_ascii(file).splitlines(), 1) if line.strip()]
            first = f"{file}:{lines[rows[0] - flat.starts[frame]]}"
    return count, first


def _label_folder(path: Path) -> Path:
    if not path.is_dir():
        raise UsageError(f"the ground-truth folder {path} does not exist")
    for inner in (path / "training" / "label_2", path / "label_2"):
        if inner.is_dir():
            return inner
    return path


def _result_files(path: Path) -> tuple[Path, list[str]]:
    """The folder that holds them, and their names in order."""
    if not path.is_dir():
        raise UsageError(f"the result folder {path} does not exist")
    for folder in (path / "data", path / "results", path):
        names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        found = sorted(name for name in names if name.endswith(".txt") and name[:-4].isdecimal())
        if found:
            return folder, found
    raise UsageError(
        f"no result files in {path}: they are named by frame, as 000123.txt, there or in its folder data or results"
    )
