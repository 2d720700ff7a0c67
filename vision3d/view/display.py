"""Where and how large things stand in the view, and surfels and cameras in the form that the viewer takes.

The viewer works in fixed lengths (near and far planes, covariances in half precision), a scene may have any unit: the
world is moved and scaled, not turned, so that what is seen lies within RADIUS of the origin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vision3d.core import Surfels
from vision3d.geometry.rotation import quaternion_from_matrix, quaternion_to_matrix
from vision3d.view.contents import Contents, PosedPhoto, upright_from_world_of

RADIUS = 10.0
THICKNESS = 0.03  # of a surfel over its smaller scale; less would drown in half precision
MAX_POINTS, MAX_SURFELS = 1_000_000, 500_000
_C0 = 0.28209479177387814  # the constant spherical harmonic
_SAMPLE = 100_000


@dataclass(frozen=True, slots=True)
class Display:
    """x_display = scale * (x_world - center); up is the upward direction in both; frustum is a good depth of cameras
    in the view's unit."""

    center: Float[Tensor, " 3"]
    scale: float
    up: Float[Tensor, " 3"]
    frustum: float

    def apply(self, points: Float[Tensor, "*b 3"]) -> Float[np.ndarray, "*b 3"]:
        """World points in the view, float32."""
        moved: np.ndarray = ((points.double() - self.center) * self.scale).float().numpy()
        return moved

    def undo(self, points: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3"]:
        """Points of the view in the world."""
        return points.double() / self.scale + self.center


@dataclass(frozen=True, slots=True)
class Splats:
    """Gaussians as the viewer takes them: float32, colours and opacities in [0, 1]."""

    centers: Float[np.ndarray, "n 3"]
    covariances: Float[np.ndarray, "n 3 3"]
    colors: Float[np.ndarray, "n 3"]
    opacities: Float[np.ndarray, "n 1"]


def display_of(contents: Contents) -> Display:
    """Centre and size from what is shown (its middle 95 %), so that stray points do not shrink the rest."""
    clouds = []
    if contents.mesh is not None:
        clouds.append(contents.mesh.vertices)
    if contents.surfels is not None:
        clouds.append(contents.surfels.means)
    if contents.cloud is not None:
        clouds.append(contents.cloud.points)
    centers = torch.stack(
        [p.cam_from_world.center() for p in contents.photos] or [torch.zeros(3, dtype=torch.float64)]
    )[: len(contents.photos)]
    body = torch.cat([_thinned(cloud).double() for cloud in clouds] or [centers])
    center = body.median(dim=0).values
    distance = torch.linalg.vector_norm(body - center, dim=1)
    radius = float(distance.quantile(0.95)) if len(distance) else 0.0
    if len(centers):
        radius = max(radius, float(torch.linalg.vector_norm(centers - center, dim=1).max()))
    scale = RADIUS / radius if radius > 0 else 1.0
    up = upright_from_world_of(contents.photos)[1]
    return Display(center, scale, up, _frustum_depth((centers - center) * scale))


def splats(surfels: Surfels, display: Display) -> Splats:
    """The surfels as thin Gaussians with their colour seen from everywhere (the constant of the harmonics).

    Beyond MAX_SURFELS those with the largest opacity times area are kept.
    """
    if len(surfels) > MAX_SURFELS:
        weight = surfels.opacities * surfels.scales.prod(dim=1)
        surfels = surfels.select(weight.topk(MAX_SURFELS).indices.sort().values)
    scales = surfels.scales.double() * display.scale
    three = torch.cat([scales, scales.amin(dim=1, keepdim=True) * THICKNESS], dim=1)
    axes = quaternion_to_matrix(surfels.quats.double()) * three[:, None]
    return Splats(
        display.apply(surfels.means),
        # Half precision ends at 65504.
        (axes @ axes.mT).clamp(-6e4, 6e4).float().numpy(),
        (0.5 + _C0 * surfels.sh[:, 0]).clamp(0, 1).float().numpy(),
        surfels.opacities[:, None].clamp(0, 1).float().numpy(),
    )


def even_subset(n: int, limit: int) -> Bool[Tensor, " n"]:
    """Which of n points to show so that there are at most `limit`: a seeded random choice."""
    keep = torch.ones(n, dtype=torch.bool)
    if n > limit:
        order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
        keep[order[limit:]] = False
    return keep


@dataclass(frozen=True, slots=True)
class Frustum:
    """A camera in the view: world_from_cam as quaternion and position, vertical field of view (rad), width / height."""

    wxyz: Float[np.ndarray, " 4"]
    position: Float[np.ndarray, " 3"]
    fov: float
    aspect: float

    @classmethod
    def of(cls, photo: PosedPhoto, display: Display) -> Frustum:
        """Of a posed photo; the principal point is taken for the middle, as the viewer knows no other."""
        camera, world_from_cam = photo.camera, photo.cam_from_world.inverse()
        return cls(
            quaternion_from_matrix(world_from_cam.rotation.double()).numpy(),
            display.apply(world_from_cam.translation).astype(np.float64),
            2 * float(np.arctan(camera.height / 2 / camera.focal[1])),
            camera.width / camera.focal[0] / (camera.height / camera.focal[1]),
        )

    @property
    def forward(self) -> Float[np.ndarray, " 3"]:
        """Viewing direction."""
        axis: np.ndarray = quaternion_to_matrix(torch.from_numpy(self.wxyz))[:, 2].numpy()
        return axis

    def viser_scale(self, depth: float) -> float:
        """The viewer's size of a frustum whose picture lies `depth` ahead: it scales all to one volume."""
        half = float(np.tan(self.fov / 2))
        return depth * float(np.cbrt(half * half * self.aspect / 3))

    def hit(
        self, origin: Float[np.ndarray, " 3"], direction: Float[np.ndarray, " 3"], depth: float
    ) -> tuple[float, float] | None:
        """Where a ray meets the picture `depth` ahead: (right, down) from 0 to 1, None where it misses."""
        to_cam = quaternion_to_matrix(torch.from_numpy(self.wxyz)).numpy().T
        start, step = to_cam @ (origin - self.position), to_cam @ direction
        if abs(step[2]) < 1e-12:
            return None
        at = start + (depth - start[2]) / step[2] * step
        half = float(np.tan(self.fov / 2)) * depth
        u, v = at[0] / (half * self.aspect) / 2 + 0.5, at[1] / half / 2 + 0.5
        return (float(u), float(v)) if 0 <= u < 1 and 0 <= v < 1 else None


def point_at(photo: PosedPhoto, u: float, v: float, z: float) -> Float[Tensor, " 3"]:
    """The world point at share (u, v) of the undistorted photo and depth z (scene's unit)."""
    camera = photo.camera
    (fx, fy), (cx, cy) = camera.focal, camera.center
    ray = torch.tensor([(u * camera.width - cx) / fx, (v * camera.height - cy) / fy, 1.0], dtype=torch.float64)
    return photo.cam_from_world.inverse().apply((ray * z)[None])[0]


def _thinned(points: Float[Tensor, "n 3"]) -> Float[Tensor, "m 3"]:
    return points[even_subset(len(points), _SAMPLE)]


def _frustum_depth(centers: Float[Tensor, "n 3"]) -> float:
    """0.4 of the usual distance between neighbouring cameras, but neither tiny nor huge in the view."""
    if len(centers) < 2:
        return 0.1 * RADIUS
    near = [float(torch.cdist(c[None], centers)[0].topk(2, largest=False).values[1]) for c in centers[:500]]
    return float(np.clip(0.4 * np.median(near), 0.02 * RADIUS, 0.12 * RADIUS))
