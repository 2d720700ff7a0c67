"""Learned features of point clouds: FCGF's network on the voxels of a cloud."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.errors import UsageError
from vision3d.matching.hough.fcgf import Fcgf
from vision3d.matching.hough.network_files import find_fcgf, read_fcgf, read_vote_network
from vision3d.matching.hough.vote_network import VoteNetwork
from vision3d.matching.hough.voxels import voxel_inputs, voxel_tensor, voxelise


class LearnedFeatures:
    """Gives each occupied voxel a unit feature that is near those of the same place in other clouds.

    The network sees the world in voxels: give the size it was trained with for the scenes it was trained on.
    """

    def __init__(self, network: Fcgf) -> None:
        self.network = network.eval()

    @classmethod
    def load(cls, name: str) -> LearnedFeatures:
        """From a published model's name ("fcgf-3dmatch-5cm", "fcgf-kitti-30cm", ...) or the path of a weights file.

        MissingWeightsError says what to put where; UsageError for an unknown name; Vision3DError for a damaged file.
        """
        return cls(read_fcgf(find_fcgf(name)))

    def describe(self, points: Float[Tensor, "n 3"], voxel: float) -> tuple[Float[Tensor, "m 3"], Float[Tensor, "m c"]]:
        """Points thinned to the mean of each voxel, and their features (float32, c = 32 in the published models).

        ValueError without points, for points that are not finite, or if they span too many voxels.
        """
        if not voxel > 0:
            raise ValueError(f"voxel must be positive, got {voxel:g}")
        thinned, indices = voxelise(points, voxel)
        with torch.no_grad():
            features = self.network(voxel_tensor([indices], [voxel_inputs(thinned, voxel, self.network.config.inputs)]))
        return thinned, features


@lru_cache(maxsize=1)
def read_networks(features: str | None, votes: Path | None) -> tuple[LearnedFeatures | None, VoteNetwork | None]:
    """The networks of a run, read once a process: as in `LearnedFeatures.load`, and a vote network's file.

    UsageError where a file is not there.
    """
    if votes is not None and not votes.is_file():
        raise UsageError(f"votes {votes}: no such weights file")
    return (
        None if features is None else LearnedFeatures.load(features),
        None if votes is None else read_vote_network(votes),
    )
