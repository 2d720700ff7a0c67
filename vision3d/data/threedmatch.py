"""3DMatch and 3DLoMatch as typed samples: pairs of fragments of eight test scenes.

A. Zeng et al., "3DMatch", CVPR 2017; S. Huang et al., "Predator", CVPR 2021 (3DLoMatch: overlaps of 10 to 30 %).
Fragments: ROOT/SCENE/cloud_bin_0.ply, or ROOT/fragments/SCENE. Ground truth: ROOT/benchmarks/{3DMatch,3DLoMatch}/SCENE
with gt.log, gt.info and, where it is there, gt_overlap.log; for 3DMatch also ROOT/SCENE-evaluation and
ROOT/gt_result/SCENE-evaluation, as the official archives unpack.

The source is fragment i and the target fragment j, as DGR, PointDSC and DHVR register them: target_from_source is the
inverse of gt.log's matrix. (gt.info's numbers are sums over points in the frame of fragment i, without the factor 2
between a quaternion and a rotation; the official rule weighs an error in the frame of fragment j with them all the
same.)
Note: the cloud_bin_0.ply of the kitchen that some repositories ship is in another frame than gt.log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch

from vision3d.core import PointCloud, UsageError, Vision3DError
from vision3d.data.cloud_pairs import CloudPair
from vision3d.io.gt_log import Fragments, read_gt_info, read_gt_log, read_gt_overlap
from vision3d.io.ply import read_ply

Benchmark = Literal["3DMatch", "3DLoMatch"]
SCENES = (
    "7-scenes-redkitchen",
    "sun3d-home_at-home_at_scan1_2013_jan_1",
    "sun3d-home_md-home_md_scan9_2012_sep_30",
    "sun3d-hotel_uc-scan3",
    "sun3d-hotel_umd-maryland_hotel1",
    "sun3d-hotel_umd-maryland_hotel3",
    "sun3d-mit_76_studyroom-76-1studyroom2",
    "sun3d-mit_lab_hj-lab_hj_tea_nov_2_2012_scan1_erika",
)


@dataclass(frozen=True, slots=True)
class SceneFiles:
    """What is there of a scene. pairs: in gt.log; usable: those whose two fragments are there."""

    name: str
    fragments: Path
    pairs: int
    usable: tuple[Fragments, ...]

    @property
    def complete(self) -> bool:
        """Whether all its pairs can be used."""
        return len(self.usable) == self.pairs


class ThreeDMatchDataset(torch.utils.data.Dataset[CloudPair]):
    """The pairs of a benchmark in the official order; ground truth is read at once, fragments on access.

    What is not there is left out and named: `scenes` says how many pairs each scene has and how many can be used,
    `missing` which scenes (of `SCENES`, or of those asked for) have no fragments or no ground truth, and why.

    Raises:
        UsageError: not a single pair. Vision3DError: a broken file, or gt.log and gt.info of
            different pairs.
    """

    def __init__(self, root: str | Path, benchmark: Benchmark = "3DMatch", scenes: Sequence[str] | None = None) -> None:
        self.root, self.benchmark = Path(root), benchmark
        self.scenes: list[SceneFiles] = []
        self.missing: dict[str, str] = {}
        self.pairs: list[tuple[SceneFiles, Fragments]] = []
        self._poses, self._information, self._overlaps = {}, {}, {}
        for name in SCENES if scenes is None else scenes:
            truth = self._truth_folder(name)
            fragments = next((f for f in (self.root / name, self.root / "fragments" / name) if f.is_dir()), None)
            if truth is None or fragments is None:
                self.missing[name] = "no fragments" if fragments is None else f"no gt.log of {benchmark}"
                continue
            poses, information = read_gt_log(truth / "gt.log"), read_gt_info(truth / "gt.info")
            if poses.keys() != information.keys():
                raise Vision3DError(f"{truth}: gt.log and gt.info are of different pairs")
            there = {p.name for p in fragments.glob("cloud_bin_*.ply")}
            usable = tuple(pair for pair in poses if {f"cloud_bin_{i}.ply" for i in pair} <= there)
            if not usable:
                self.missing[name] = f"none of the {len(poses)} pairs has both fragments in {fragments}"
                continue
            scene = SceneFiles(name, fragments, len(poses), usable)
            self.scenes.append(scene)
            self.pairs += [(scene, pair) for pair in usable]
            overlap = truth / "gt_overlap.log"
            self._poses[name], self._information[name] = poses, information
            self._overlaps[name] = read_gt_overlap(overlap) if overlap.is_file() else {}
        if not self.pairs:
            why = "; ".join(f"{name}: {reason}" for name, reason in self.missing.items())
            raise UsageError(f"{root} has no pair of {benchmark} with both fragments and ground truth ({why})")

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> CloudPair:
        scene, (i, j) = self.pairs[index]
        return CloudPair(
            name=f"{scene.name}/{i}_{j}",
            scene=scene.name,
            source=_fragment(scene.fragments / f"cloud_bin_{i}.ply"),
            target=_fragment(scene.fragments / f"cloud_bin_{j}.ply"),
            target_from_source=self._poses[scene.name][i, j].inverse(),
            information=self._information[scene.name][i, j],
            neighbours=j - i == 1,
            overlap=self._overlaps[scene.name].get((i, j)),
        )

    def notes(self) -> list[str]:
        """What is not there, a line for each scene; empty if the benchmark is complete."""
        lines = [f"{name} left out: {reason}" for name, reason in self.missing.items()]
        return lines + [
            f"{s.name}: {len(s.usable)} of its {s.pairs} pairs, the other fragments are not there"
            for s in self.scenes
            if not s.complete
        ]

    def _truth_folder(self, scene: str) -> Path | None:
        folders = [self.root / "benchmarks" / self.benchmark / scene]
        if self.benchmark == "3DMatch":
            folders += [self.root / f"{scene}-evaluation", self.root / "gt_result" / f"{scene}-evaluation"]
        return next((folder for folder in folders if (folder / "gt.log").is_file()), None)


@lru_cache(maxsize=8)  # pairs come in the order of their fragments
def _fragment(path: Path) -> PointCloud:
    cloud = read_ply(path, drop_invalid=True).cloud
    return PointCloud(cloud.points, None, path.stem)
