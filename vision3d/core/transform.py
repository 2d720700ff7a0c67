"""Rigid transforms `b_from_a`, batched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class RigidTransform:
    """x_b = rotation @ x_a + translation, for a variable named `b_from_a` (metres, or the scene's unit).

    Examples: `cam_from_world @ world_from_lidar`, `cam_from_world.apply(points_in_world)`.
    """

    rotation: Float[Tensor, "*b 3 3"]
    translation: Float[Tensor, "*b 3"]

    @classmethod
    def identity(cls, dtype: torch.dtype = torch.float64) -> RigidTransform:
        """The transform that changes nothing, without a batch dimension."""
        return cls(torch.eye(3, dtype=dtype), torch.zeros(3, dtype=dtype))

    @classmethod
    def from_matrix(cls, matrix: Float[Tensor, "*b r 4"]) -> RigidTransform:
        """From [R|t], 3x4 or 4x4. ValueError if R is not a rotation (to 1e-3)."""
        if matrix.shape[-2] not in (3, 4):
            raise ValueError(f"a rigid transform is 3x4 or 4x4, got {tuple(matrix.shape)}")
        rotation = matrix[..., :3, :3]
        eye = torch.eye(3, dtype=matrix.dtype, device=matrix.device)
        off = (rotation @ rotation.mT - eye).abs().amax() if rotation.numel() else torch.zeros(())
        if not bool(torch.isfinite(matrix).all()) or float(off) > 1e-3 or bool((torch.linalg.det(rotation) < 0).any()):
            raise ValueError("the left 3x3 block is not a rotation (orthonormal, determinant +1)")
        return cls(rotation, matrix[..., :3, 3])

    @classmethod
    def stack(cls, transforms: Sequence[RigidTransform]) -> RigidTransform:
        """Several transforms as one with a leading batch dimension. At least one is needed."""
        return cls(torch.stack([t.rotation for t in transforms]), torch.stack([t.translation for t in transforms]))

    def matrix(self) -> Float[Tensor, "*b 4 4"]:
        """The homogeneous 4x4 matrix."""
        top = torch.cat([self.rotation, self.translation[..., None]], dim=-1)
        bottom = torch.zeros_like(top[..., :1, :])
        bottom[..., 0, 3] = 1
        return torch.cat([top, bottom], dim=-2)

    def inverse(self) -> RigidTransform:
        """`a_from_b` of a `b_from_a`."""
        rotation = self.rotation.mT
        return RigidTransform(rotation, -(rotation @ self.translation[..., None])[..., 0])

    def __matmul__(self, other: RigidTransform) -> RigidTransform:
        """`c_from_b @ b_from_a` is `c_from_a`."""
        translation = (self.rotation @ other.translation[..., None])[..., 0] + self.translation
        return RigidTransform(self.rotation @ other.rotation, translation)

    def apply(self, points: Float[Tensor, "*b n 3"]) -> Float[Tensor, "*b n 3"]:
        """Points in frame a to points in frame b."""
        return points @ self.rotation.mT + self.translation[..., None, :]

    def center(self) -> Float[Tensor, "*b 3"]:
        """Origin of b in frame a: the camera centre in the world for a `cam_from_world`."""
        return -(self.rotation.mT @ self.translation[..., None])[..., 0]
