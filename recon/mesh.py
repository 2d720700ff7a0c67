"""Depth maps to a coloured triangle mesh: volumetric fusion (recon/tsdf.py), marching cubes, cleaning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64

from vision3d.core import DepthView, Mesh, Progress, Vision3DError, silent
from vision3d.recon.fusion_maps import FusionMap, Typical, typical_pixel
from vision3d.recon.marching import extract_surface
from vision3d.recon.mesh_clean import color_vertices, faces_of_large_components, to_tensors, without_unused
from vision3d.recon.tsdf import BLOCK_BYTES, Grid, TooManyBlocksError, find_blocks, fuse, prepare

PIXELS_PER_VOXEL = 2.5  # of an automatic voxel: rendered depth has no finer detail, and files stay handy
_COARSER = 2 ** (1 / 3)  # step by which an automatic voxel grows until the blocks fit


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """From depth maps to a mesh."""

    voxel: float | None = None
    """Side of a voxel in the scene's unit (default: from the width of a pixel on the surface)."""
    truncation: float = 5.0
    """Reach of a depth measurement before and behind the surface, in voxels."""
    max_angle_deg: float = 80.0
    """Depth steps steeper than a surface seen at this angle are edges of objects and left out."""
    min_views: int = 1
    """Views whose depth must agree with a vertex."""
    min_component: float = 0.002
    """Connected pieces with a smaller share of all faces are removed."""
    max_memory_mb: int = 1024
    """Limit for the voxels; an automatic voxel grows until it is kept."""

    def __post_init__(self) -> None:
        if self.voxel is not None and not (math.isfinite(self.voxel) and self.voxel > 0):
            raise ValueError(f"the voxel must be a positive length, got {self.voxel}")
        if not 1 < self.truncation <= 100:
            raise ValueError(f"the truncation must lie between 1 and 100 voxels, got {self.truncation}")
        if not 0 < self.max_angle_deg < 90:
            raise ValueError(f"the largest viewing angle must lie between 0 and 90 degrees, got {self.max_angle_deg}")
        if self.min_views < 1 or not 0 <= self.min_component < 1 or self.max_memory_mb < 1:
            raise ValueError(
                f"min_views must be 1 or more, min_component in [0, 1), max_memory_mb positive, got {self.min_views}, "
                f"{self.min_component}, {self.max_memory_mb}"
            )


def fuse_depths(views: Sequence[DepthView], config: MeshConfig | None = None, progress: Progress = silent) -> Mesh:
    """The surface that depth maps agree on, in the world frame, with vertex colours.

    No overlap of views is needed; every surface seen by `min_views` of them is there. Unknown, infinite or NaN depth
    counts as not seen; where nothing is seen the mesh is empty. The result does not depend on the number of threads.

    Raises:
        ValueError: no view, or a depth map that does not fit its camera.
        Vision3DError: the voxel asked for is too small for the memory limit, or so large that no surface is left.
    """
    config = config or MeshConfig()
    if not views:
        raise ValueError("a mesh needs one depth map or more, got none")
    typical = typical_pixel(list(views))
    if typical is None:
        return Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, 3))
    grid, maps, blocks = _grid_maps_and_blocks(views, config, typical)
    volume = fuse(maps, grid, blocks, progress)
    vertices, faces = extract_surface(volume, progress)
    colors, support = color_vertices(vertices, views, maps, grid.voxel, grid.truncation)
    faces = faces[(support >= config.min_views)[faces].all(1)]
    faces = faces[faces_of_large_components(faces, len(vertices), config.min_component)]
    if not len(faces) and config.voxel is not None:
        raise Vision3DError(
            f"no mesh: with voxels of {grid.voxel:.3g} at a median depth of {typical.depth:.3g} (scene unit) no "
            f"surface is seen by {config.min_views} or more views: choose a smaller voxel or fewer views"
        )
    faces, kept = without_unused(faces, len(vertices))
    return Mesh(*to_tensors(vertices[kept], faces, colors[kept]))


def _grid_maps_and_blocks(
    views: Sequence[DepthView], config: MeshConfig, typical: Typical
) -> tuple[Grid, list[FusionMap], Int64[np.ndarray, "n 3"]]:
    """The voxel asked for, or PIXELS_PER_VOXEL at the median depth, enlarged until the blocks fit into memory."""
    centers = np.stack([view.cam_from_world.center().detach().cpu().double().numpy() for view in views])
    if not np.isfinite(centers).all():
        raise ValueError("a camera pose has NaN or infinite values")
    origin = centers.mean(0)
    voxel = PIXELS_PER_VOXEL * typical.width if config.voxel is None else config.voxel
    most = max(1, config.max_memory_mb * 2**20 // BLOCK_BYTES)
    while True:
        grid = Grid(origin, voxel, config.truncation)
        maps = prepare(views, grid, config.max_angle_deg, typical)
        try:
            return grid, maps, find_blocks(maps, grid, most)
        except TooManyBlocksError:
            if config.voxel is not None:
                raise Vision3DError(
                    f"a voxel of {voxel:.4g} needs more than {config.max_memory_mb} MB for its blocks: choose a larger "
                    f"voxel (a pixel is {typical.width:.4g} wide at the median depth) or a higher memory limit"
                ) from None
            voxel *= _COARSER
