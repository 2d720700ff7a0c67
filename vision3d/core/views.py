"""What reconstruction works on after the poses are known: undistorted photos, and depth maps, with their cameras."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from vision3d.core.camera import Camera
from vision3d.core.transform import RigidTransform


@dataclass(frozen=True, slots=True)
class View:
    """An undistorted, resized photo: rgb in [0, 1]; camera is a PINHOLE of its size; pose in float64.

    mask is true where the pixel shows the photo and counts (inside the distorted photo, not masked out by the user).
    """

    name: str
    camera: Camera
    cam_from_world: RigidTransform
    rgb: Float[Tensor, "3 h w"]
    mask: Bool[Tensor, "h w"]


@dataclass(frozen=True, slots=True)
class DepthView:
    """A depth map with its camera: depth is z in the camera (scene's unit), 0 where unknown; color in [0, 1].

    camera has no distortion and the size of the maps. weight: how far each pixel is to be trusted, at least 0.
    """

    name: str
    camera: Camera
    cam_from_world: RigidTransform
    depth: Float[Tensor, "h w"]
    color: Float[Tensor, "3 h w"]
    weight: Float[Tensor, "h w"]
