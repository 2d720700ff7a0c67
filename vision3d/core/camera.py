"""Pinhole camera with COLMAP's distortion models; pixel (0.5, 0.5) is the centre of the top-left pixel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# COLMAP's name -> (number of focal lengths, names of the distortion parameters in COLMAP's order).
CAMERA_MODELS: dict[str, tuple[int, tuple[str, ...]]] = {
    "SIMPLE_PINHOLE": (1, ()),
    "PINHOLE": (2, ()),
    "SIMPLE_RADIAL": (1, ("k",)),
    "RADIAL": (1, ("k1", "k2")),
    "OPENCV": (2, ("k1", "k2", "p1", "p2")),
}


@dataclass(frozen=True, slots=True)
class Camera:
    """Intrinsics of an image of width x height px.

    focal and center are (x, y) in px; axes x right, y down, z forward. `model` is COLMAP's name, `distortion` its
    parameters after the principal point (see CAMERA_MODELS), on normalised coordinates.
    """

    width: int
    height: int
    focal: tuple[float, float]
    center: tuple[float, float]
    model: str = "PINHOLE"
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.model not in CAMERA_MODELS:
            raise ValueError(f"camera model {self.model!r} is not supported, use one of {', '.join(CAMERA_MODELS)}")
        focals, names = CAMERA_MODELS[self.model]
        if len(self.distortion) != len(names):
            raise ValueError(f"{self.model} takes {len(names)} distortion parameters, got {len(self.distortion)}")
        if focals == 1 and self.focal[0] != self.focal[1]:
            raise ValueError(f"{self.model} has one focal length, got {self.focal}")
        if self.width < 1 or self.height < 1 or not min(self.focal) > 0:
            raise ValueError(f"a camera needs a positive size and focal length, got {self}")

    @classmethod
    def from_matrix(cls, width: int, height: int, k: Float[Tensor, "3 3"]) -> Camera:
        """From a calibration matrix K (px). ValueError for skew above 1e-3 px: no supported model has it."""
        if abs(float(k[0, 1])) > 1e-3:
            raise ValueError(f"K has a skew of {float(k[0, 1]):g} px, which no supported camera model has")
        return cls(width, height, (float(k[0, 0]), float(k[1, 1])), (float(k[0, 2]), float(k[1, 2])))

    def matrix(self, dtype: torch.dtype = torch.float64) -> Float[Tensor, "3 3"]:
        """K, from camera coordinates to px (without distortion)."""
        (fx, fy), (cx, cy) = self.focal, self.center
        return torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=dtype)

    def colmap_params(self) -> tuple[float, ...]:
        """Parameters in COLMAP's order for `model`."""
        focal = self.focal[:1] if CAMERA_MODELS[self.model][0] == 1 else self.focal
        return (*focal, *self.center, *self.distortion)

    @classmethod
    def from_colmap(cls, model: str, width: int, height: int, params: tuple[float, ...]) -> Camera:
        """From COLMAP's model name and parameter list."""
        if model not in CAMERA_MODELS:
            raise ValueError(f"camera model {model!r} is not supported, use one of {', '.join(CAMERA_MODELS)}")
        focals = CAMERA_MODELS[model][0]
        focal = (params[0], params[focals - 1])
        return cls(width, height, focal, (params[focals], params[focals + 1]), model, tuple(params[focals + 2 :]))

    def resized(self, width: int, height: int) -> Camera:
        """The camera of the same photo resized to width x height px (aspect may change)."""
        sx, sy = width / self.width, height / self.height
        focal = (self.focal[0] * sx, self.focal[1] * sy)
        model, distortion = self.model, self.distortion
        if CAMERA_MODELS[model][0] == 1 and focal[0] != focal[1]:
            if abs(sx / sy - 1) < 0.01:  # rounding of a size that keeps the aspect
                focal = ((focal[0] + focal[1]) / 2,) * 2
            elif model == "SIMPLE_PINHOLE":
                model = "PINHOLE"
            else:
                k = (*distortion, 0.0, 0.0, 0.0)
                model, distortion = "OPENCV", ((k[0], k[1], 0.0, 0.0))
        center = (self.center[0] * sx, self.center[1] * sy)
        return replace(self, width=width, height=height, focal=focal, center=center, model=model, distortion=distortion)

    def project(self, points_in_cam: Float[Tensor, "*b 3"]) -> tuple[Float[Tensor, "*b 2"], Bool[Tensor, "*b"]]:
        """Points in the camera frame to px, and which lie in front (z > 0); behind it, px mean nothing."""
        z = points_in_cam[..., 2:]
        front = z[..., 0] > 0
        uv = self._distort(points_in_cam[..., :2] / torch.where(z > 0, z, torch.ones_like(z)))
        return uv * uv.new_tensor(self.focal) + uv.new_tensor(self.center), front

    def unproject(self, pixels: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b 2"]:
        """px to normalised, undistorted coordinates (x/z, y/z); distortion undone by 30 fixed-point steps."""
        uv = (pixels - pixels.new_tensor(self.center)) / pixels.new_tensor(self.focal)
        if not any(self.distortion):
            return uv
        out = uv
        for _ in range(30):
            out = out + uv - self._distort(out)
        return out

    def _distort(self, uv: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b 2"]:
        if not any(self.distortion):
            return uv
        k1, k2, p1, p2 = (*self.distortion, 0.0, 0.0, 0.0)[:4]
        u, v = uv[..., 0], uv[..., 1]
        r2 = u * u + v * v
        radial = 1 + k1 * r2 + k2 * r2 * r2
        du = 2 * p1 * u * v + p2 * (r2 + 2 * u * u)
        dv = 2 * p2 * u * v + p1 * (r2 + 2 * v * v)
        return torch.stack([u * radial + du, v * radial + dv], dim=-1)


@dataclass(frozen=True, slots=True)
class CameraPrior:
    """What is known of a photo's camera before reconstruction.

    source: "given" by the user (kept fixed), "exif" (a focal length to refine), "guess" (unknown focal length).
    Photos with the same group share one physical camera and its parameters.
    """

    camera: Camera
    source: Literal["given", "exif", "guess"]
    group: int
