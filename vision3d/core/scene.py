"""A reconstructed scene: cameras, posed photos, points and their observations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from vision3d.core.camera import Camera
from vision3d.core.transform import RigidTransform


@dataclass(frozen=True, slots=True)
class PosedImage:
    """A registered photo: the id of its camera in the scene and its pose (float64, no batch dimension)."""

    camera_id: int
    cam_from_world: RigidTransform


@dataclass(frozen=True, slots=True)
class Tracks:
    """Observations: point `point[k]` is seen in photo `images[image[k]]` at `xy[k]` px of the original."""

    images: tuple[str, ...]
    point: Int[Tensor, " m"]
    image: Int[Tensor, " m"]
    xy: Float[Tensor, "m 2"]

    @classmethod
    def empty(cls) -> Tracks:
        """No observations."""
        none = torch.zeros(0, dtype=torch.int64)
        return cls((), none, none, torch.zeros(0, 2, dtype=torch.float64))


@dataclass(frozen=True, slots=True)
class Scene:
    """Cameras by id, posed photos by name, points in the world frame (scene unit), mean reprojection error in px."""

    cameras: Mapping[int, Camera]
    images: Mapping[str, PosedImage]
    points: Float[Tensor, "n 3"]
    colors: UInt8[Tensor, "n 3"]
    errors: Float[Tensor, " n"]
    tracks: Tracks

    def camera_of(self, name: str) -> Camera:
        """The camera of a photo."""
        return self.cameras[self.images[name].camera_id]
