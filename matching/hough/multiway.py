"""Registers many clouds: all pairs, then one pose for each from the pairs that registered.

S. Choi et al., "Robust reconstruction of indoor scenes", CVPR 2015, section 3 (see pose_graph.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vision3d.core import PointCloud, RigidTransform
from vision3d.core.progress import Progress, silent
from vision3d.matching.hough.grid import auto_voxel
from vision3d.matching.hough.learned import LearnedFeatures
from vision3d.matching.hough.pose_graph import Edge, solve_pose_graph
from vision3d.matching.hough.register import register
from vision3d.matching.hough.registration import RegisterConfig, Registration
from vision3d.matching.hough.vote_network import VoteNetwork


@dataclass(frozen=True, slots=True)
class Multiway:
    """`first_from[k]` takes cloud k into the frame of the first cloud of the group; None for those left out.

    pairs: what registering cloud j to cloud i gave, for i < j. trust: of the pairs that registered, 1 where a pair fits
    the others, towards 0 where it contradicts them.
    """

    first_from: list[RigidTransform | None]
    pairs: dict[tuple[int, int], Registration]
    trust: dict[tuple[int, int], float]

    @property
    def registered(self) -> bool:
        """Whether all clouds have a pose."""
        return all(pose is not None for pose in self.first_from)

    @property
    def reason(self) -> str:
        """In words."""
        out = [k for k, pose in enumerate(self.first_from) if pose is None]
        good = sum(pair.registered for pair in self.pairs.values())
        text = f"{good} of {len(self.pairs)} pairs registered"
        return text + (f", clouds {', '.join(map(str, out))} (from 0) have no pose" if out else "")

    def as_json(self) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "registered": self.registered,
            "reason": self.reason,
            "first_from_cloud": [None if pose is None else pose.matrix().tolist() for pose in self.first_from],
            "pairs": [
                {
                    "target": i,
                    "source": j,
                    "registered": pair.registered,
                    "trust": self.trust.get((i, j)),
                    "target_from_source": pair.target_from_source.matrix().tolist(),
                    **pair.evidence.as_json(),
                }
                for (i, j), pair in self.pairs.items()
            ],
        }


def register_many(
    clouds: list[PointCloud],
    config: RegisterConfig | None = None,
    progress: Progress = silent,
    *,
    features: LearnedFeatures | None = None,
    votes: VoteNetwork | None = None,
) -> Multiway:
    """Poses of two clouds or more, each pair by `register` with the same voxel. Features, votes, errors as there."""
    config = config or RegisterConfig()
    tables = [cloud.points.detach().cpu().double().numpy() for cloud in clouds]
    tables = [table[np.isfinite(table).all(1)] for table in tables]
    if config.voxel is None and all(len(table) for table in tables):
        config = replace(config, voxel=min(auto_voxel(table, table) for table in tables))
    numbered = [(i, j) for j in range(len(clouds)) for i in range(j)]
    pairs: dict[tuple[int, int], Registration] = {}
    for done, (i, j) in enumerate(numbered):
        progress("pairs", done, len(numbered))
        pairs[i, j] = register(clouds[j], clouds[i], config, features=features, votes=votes)
    progress("pairs", len(numbered), len(numbered))
    kept = [key for key, pair in pairs.items() if pair.registered]
    edges = [Edge(i, j, pairs[i, j].target_from_source, float(pairs[i, j].evidence.overlap_source)) for i, j in kept]
    radius = float(np.median([np.sqrt(((t - t.mean(0)) ** 2).sum(1).mean()) for t in tables if len(t)] or [1.0]))
    scale = 3 * max((pair.evidence.voxel for pair in pairs.values()), default=1.0) or 1.0
    graph = solve_pose_graph(len(clouds), edges, radius, scale)
    return Multiway(graph.first_from, pairs, dict(zip(kept, graph.trust, strict=True)))
