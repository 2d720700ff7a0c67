"""Upright boxes in 3D: of objects seen by a LiDAR, true or detected."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vision3d.core.transform import RigidTransform

# Boxes stay upright when they go from one frame to another: a rotation that tilts by more than this does not allow it.
MAX_TILT_DEG = 10.0


@dataclass(frozen=True, slots=True)
class Boxes3D:
    """n boxes in the named frame, whose z axis points up; metres and radians.

    centers: geometric centres. sizes: length (along the heading), width, height, all positive. yaw: heading about +z,
    0 along +x, growing towards +y, any turn of 2 pi. labels: indices into the list of classes that whoever made them
    says. scores: higher is surer; None for ground truth.

    Raises:
        ValueError: lengths that differ, a number that is not finite, a size that is not positive, a negative label.
    """

    centers: Float[Tensor, "n 3"]
    sizes: Float[Tensor, "n 3"]
    yaw: Float[Tensor, " n"]
    labels: Int[Tensor, " n"]
    scores: Float[Tensor, " n"] | None = None
    frame: str = "lidar"

    def __post_init__(self) -> None:
        n = int(self.centers.shape[0])
        expected = {"centers": (n, 3), "sizes": (n, 3), "yaw": (n,), "labels": (n,), "scores": (n,)}
        for name, shape in expected.items():
            value = getattr(self, name)
            if value is None:
                continue
            if tuple(value.shape) != shape:
                raise ValueError(f"{name} of {n} boxes should have the shape {shape}, got {tuple(value.shape)}")
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                bad = int((~torch.isfinite(value)).reshape(n, -1).any(1).nonzero()[0, 0])
                raise ValueError(f"{name} of box {bad} is not finite: {value[bad].tolist()}")
        if bool((self.sizes <= 0).any()):
            bad = int((self.sizes <= 0).any(1).nonzero()[0, 0])
            raise ValueError(f"box {bad} has the size {self.sizes[bad].tolist()}: length, width, height are positive")
        if bool((self.labels < 0).any()):
            raise ValueError("labels of boxes are indices of classes, 0 and up")

    @classmethod
    def empty(cls, frame: str = "lidar", dtype: torch.dtype = torch.float32, scored: bool = False) -> Boxes3D:
        """No boxes; scored: with (no) scores."""
        labels = torch.zeros(0, dtype=torch.int64)
        none = torch.zeros(0, dtype=dtype)
        return cls(none.reshape(0, 3), none.reshape(0, 3), none, labels, none if scored else None, frame)

    def __len__(self) -> int:
        return int(self.centers.shape[0])

    def select(self, keep: Tensor) -> Boxes3D:
        """Those at a mask or at indices."""
        scores = None if self.scores is None else self.scores[keep]
        return Boxes3D(self.centers[keep], self.sizes[keep], self.yaw[keep], self.labels[keep], scores, self.frame)

    def corners(self) -> Float[Tensor, "n 8 3"]:
        """The bottom face's corners, front left, rear left, rear right, front right, then the top's likewise."""
        signs = [[1, 1, -1], [-1, 1, -1], [-1, -1, -1], [1, -1, -1], [1, 1, 1], [-1, 1, 1], [-1, -1, 1], [1, -1, 1]]
        local = 0.5 * self.sizes[:, None] * self.sizes.new_tensor(signs)
        c, s = self.yaw.cos()[:, None], self.yaw.sin()[:, None]
        x, y, z = local.unbind(-1)
        return torch.stack([c * x - s * y, s * x + c * y, z], dim=-1) + self.centers[:, None]

    def contains(self, points: Float[Tensor, "m 3"]) -> Tensor:
        """[n m]: which points, in the boxes' frame, lie in which boxes; those on a face do."""
        offset = points[None] - self.centers[:, None].to(points)
        c, s = self.yaw.cos()[:, None].to(points), self.yaw.sin()[:, None].to(points)
        x, y, z = offset.unbind(-1)
        local = torch.stack([c * x + s * y, c * y - s * x, z], dim=-1)
        inside: Tensor = (local.abs() <= 0.5 * self.sizes[:, None].to(points)).all(-1)
        return inside

    def transformed(self, b_from_a: RigidTransform, frame: str) -> Boxes3D:
        """The boxes, now in frame a, in frame b. They stay upright: yaw turns by the rotation's twist about z.

        The inverse transform leads back exactly. ValueError for a rotation that tilts z by more than MAX_TILT_DEG.
        """
        r = b_from_a.rotation
        if float(r[2, 2]) < math.cos(math.radians(MAX_TILT_DEG)):
            raise ValueError(f"boxes stay upright: a transform to {frame} that tilts z by so much would fell them")
        twist = torch.atan2(r[1, 0] - r[0, 1], r[0, 0] + r[1, 1])
        moved = RigidTransform(r.double(), b_from_a.translation.double()).apply(self.centers.double())
        yaw = self.yaw + twist.to(self.yaw)
        return Boxes3D(moved.to(self.centers.dtype), self.sizes, yaw, self.labels, self.scores, frame)
