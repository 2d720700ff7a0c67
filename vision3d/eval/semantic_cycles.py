"""k-CyPCK: keypoints carried around random cycles of k pictures of a category, compared with the truth at every step.

K. Gupta et al., "ASIC: Aligning Sparse in-the-wild Image Collections", ICCV 2023, section 4. The points are saved
first, OUT/cycles/METHOD.json, and scored from the file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vision3d.core import Progress, silent
from vision3d.data.semantic_pairs import SemanticPair
from vision3d.errors import UsageError, Vision3DError
from vision3d.eval.pck import PredictedPair, cycle_steps, pck
from vision3d.eval.semantic_predictions import Describer, fitted_matcher, predictions_path
from vision3d.eval.semantic_report import SemanticProtocol
from vision3d.eval.tables import Cell, Table
from vision3d.io.atomic import atomic_write_json

LENGTHS = (2, 3, 4)  # pictures in a cycle
SEED = 0


@dataclass(frozen=True, slots=True)
class _Picture:
    """A picture with the keypoints that its pairs say, by id."""

    file: Path
    size: tuple[int, int]
    box: tuple[float, float, float, float]
    points: dict[str, tuple[float, float]] = field(default_factory=dict)


def evaluate_cycles(
    pairs: Sequence[SemanticPair],
    title: str,
    methods: Sequence[str],
    out: Path,
    protocol: SemanticProtocol,
    count: int,
    progress: Progress = silent,
) -> Table:
    """A row per category and one for all, with every method's k-CyPCK at the first alpha, per point.

    count: cycles of each length and category; those of a category with fewer than k pictures are left out. The
    keypoints of a picture are all that the pairs say of it. Methods must have been evaluated on the pairs before, if
    they are fitted to collections.

    Raises:
        UsageError: fewer than one cycle. Vision3DError: as in `save_predictions`.
    """
    if count < 1:
        raise UsageError(f"cycles are 1 or more, got {count}")
    pictures = _pictures(pairs)
    cycles = _sample(pictures, count)
    for method in methods:
        _save(pictures, cycles, method, out, progress)
    steps = {method: _read(pictures, cycles, method, out) for method in methods}
    alpha, rule = protocol.alphas[0], protocol.rule("point")
    rows: list[tuple[Cell, ...]] = []
    for category in [*pictures, "all"]:
        cells: list[Cell] = []
        for found in steps.values():
            for k in LENGTHS:
                inside = [
                    s for (c, length), many in found.items() if length == k and category in (c, "all") for s in many
                ]
                value = pck(inside, alpha, rule)
                cells.append(None if value is None else 100 * value)
        rows.append((category, *cells))
    note = (
        f"{protocol.text()}, alpha = {alpha:g}, {count} random cycles of k pictures per category; the points are "
        "compared at every step, those hidden in a picture leave the cycle there."
    )
    columns = [f"{method}, k = {k}" for method in methods for k in LENGTHS]
    return Table(f"{title}: k-CyPCK", note, ("category", *columns), (0, *(1 for _ in columns)), tuple(rows))


Cycles = dict[tuple[str, int], list[list[int]]]


def _pictures(pairs: Sequence[SemanticPair]) -> dict[str, list[_Picture]]:
    found: dict[str, dict[Path, _Picture]] = {}
    for pair in pairs:
        members = found.setdefault(pair.category, {})
        for file, size, box, points in (
            (pair.image0, pair.size0, pair.box0, pair.points0),
            (pair.image1, pair.size1, pair.box1, pair.points1),
        ):
            picture = members.setdefault(file, _Picture(file, size, box))
            for key, (x, y) in zip(pair.keypoint_ids, points.tolist(), strict=True):
                picture.points[key] = (x, y)
    return {category: [members[file] for file in sorted(members)] for category, members in sorted(found.items())}


def _sample(pictures: dict[str, list[_Picture]], count: int) -> Cycles:
    """By category and k: rows of k different pictures."""
    cycles: Cycles = {}
    for number, (category, members) in enumerate(pictures.items()):
        rng = np.random.default_rng([SEED, number])
        for k in LENGTHS:
            if len(members) >= k:
                cycles[category, k] = [rng.choice(len(members), k, replace=False).tolist() for _ in range(count)]
    return cycles


def _save(pictures: dict[str, list[_Picture]], cycles: Cycles, method: str, out: Path, progress: Progress) -> None:
    """Carries all keypoints of the first picture around each cycle; a list of steps per cycle."""
    describe = Describer(fitted_matcher(method, out / "fits"))
    total, done = sum(map(len, cycles.values())), 0
    saved: list[dict[str, Any]] = []
    for (category, k), rows in cycles.items():
        members = pictures[category]
        for row in rows:
            points = torch.tensor(list(members[row[0]].points.values()), dtype=torch.float32)
            found = []
            for here, there in zip(row, [*row[1:], row[0]], strict=True):
                a, b = (describe(members[i].file, members[i].size) for i in (here, there))
                points = describe.matcher.transfer(a, b, points)
                found.append(points.double().cpu().numpy().round(4).tolist())
            saved.append({"category": category, "k": k, "pictures": row, "found": found})
            done += 1
            progress(f"cycles of {method}", done, total)
    atomic_write_json(_path(method, out), {"method": method, "cycles": saved})


def _read(
    pictures: dict[str, list[_Picture]], cycles: Cycles, method: str, out: Path
) -> dict[tuple[str, int], list[PredictedPair]]:
    path = _path(method, out)
    try:
        saved = iter(json.loads(path.read_text(encoding="utf-8"))["cycles"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Vision3DError(f"cannot read the cycles {path}: {error}; run again") from None
    steps: dict[tuple[str, int], list[PredictedPair]] = {}
    for (category, k), rows in cycles.items():
        members = pictures[category]
        steps[category, k] = []
        for row in rows:
            ids = list(members[row[0]].points)
            entered = [members[i] for i in (*row[1:], row[0])]
            truth = np.array([[p.points.get(key, (0.0, 0.0)) for key in ids] for p in entered], np.float64)
            seen = np.array([[key in p.points for key in ids] for p in (members[row[0]], *entered)])
            found = np.array(next(saved)["found"], np.float64)
            steps[category, k] += cycle_steps(found, truth, seen, [p.size for p in entered], [p.box for p in entered])
    return steps


def _path(method: str, out: Path) -> Path:
    return out / "cycles" / f"{predictions_path(out, method).stem}.json"
