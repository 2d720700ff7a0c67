"""Surfels to pictures (2D Gaussian splatting), with gradients to every surfel parameter, pose and intrinsics."""

from vision3d.recon.splat2d.render import Engine, render_surfels
from vision3d.recon.splat2d.spherical_harmonics import evaluate_sh

__all__ = ["Engine", "evaluate_sh", "render_surfels"]
