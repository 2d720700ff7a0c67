"""The settings of `vision3d reconstruct`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vision3d.core import UsageError
from vision3d.matching.catalogue import MATCHERS, weights_options
from vision3d.recon.dense_init import DenseInitConfig
from vision3d.recon.fit_config import FitConfig
from vision3d.recon.mesh import MeshConfig


@dataclass(frozen=True, kw_only=True)
class ReconstructConfig:
    """Settings of a reconstruction. Every field is a flag of `vision3d reconstruct`."""

    photos: Path
    """folder of photos (subfolders are read too)"""
    out: Path
    """folder for the results; in an earlier run's folder the work goes on where that run was"""
    matcher: str = "auto"
    """auto (SIFT, and learned features where SIFT is not enough), or a matcher's name (`vision3d match --help`)"""
    weights: Path | None = None
    """weights file of the matcher, where it takes one (eloftr, dkm); default: the published ones"""
    max_size: int = 1024
    """longer side in px at which photos are matched"""
    intrinsics: Path | None = None
    """known intrinsics, kept fixed: a cameras.json, a COLMAP model folder or a transforms.json"""
    known_poses: bool = False
    """take the poses in the --intrinsics file as they are, and only triangulate points"""
    refine_poses: bool = False
    """take the poses in the --intrinsics file as a start and improve them"""
    share_intrinsics: Literal["auto", "all", "none"] = "auto"
    """which photos share one camera: auto (same size, make, model and focal length), all of one size, or none"""
    masks: Path | None = None
    """folder of masks: NAME.png for photo NAME; black is ignored"""
    object_masks: bool = False
    """the masks cut out an object: nothing is reconstructed where they are black, and its outline is held to them"""
    until: Literal["matches", "poses", "surfels", "mesh"] = "mesh"
    """last stage to run"""
    view_size: int = 768
    """longer side in px of the photos that surfels are fitted to"""
    holdout: int | None = None
    """keep the first of every HOLDOUT photos out of the surfels and measure PSNR and SSIM on them; 8 is usual"""
    max_time: float | None = None
    """seconds after which the fitting of surfels stops"""
    dense: DenseInitConfig = field(default_factory=DenseInitConfig)
    """how surfels are started"""
    fit: FitConfig = field(default_factory=FitConfig)
    """how surfels are fitted"""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """how the mesh is fused"""
    seed: int = 0
    """seed of everything random"""


def check_settings(config: ReconstructConfig) -> None:
    """UsageError for settings that cannot be."""
    if config.matcher != "auto" and config.matcher not in MATCHERS:
        raise UsageError(f"no matcher is called {config.matcher!r}; use auto, {', '.join(MATCHERS)}")
    weights_options((config.matcher,), config.weights)
    if config.max_size < 64:
        raise UsageError(f"--max-size {config.max_size} is too small to match anything; 1024 is usual")
    if not 0 <= config.seed < 2**31:
        raise UsageError(f"--seed {config.seed}: name a number from 0 to {2**31 - 1}")
    if config.view_size < 32:
        raise UsageError(f"--view-size {config.view_size} is too small to fit surfels to; 768 is usual")
    if config.holdout is not None and config.holdout < 2:
        raise UsageError(f"--holdout {config.holdout} leaves no photo to learn from; 8 is usual")
    if config.max_time is not None and not config.max_time > 0:
        raise UsageError(f"--max-time is in seconds and positive, got {config.max_time}")
    if (config.known_poses or config.refine_poses) and config.intrinsics is None:
        raise UsageError("--known-poses and --refine-poses need --intrinsics FILE with intrinsics and poses")
    if config.object_masks and config.masks is None:
        raise UsageError("--object-masks says that the masks cut out an object: add --masks FOLDER")
    if config.known_poses and config.refine_poses:
        raise UsageError("choose one of --known-poses (poses stay as they are) and --refine-poses (they are a start)")
