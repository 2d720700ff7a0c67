"""Surfels: flat Gaussian disks in 3D (2D Gaussian splatting), and a picture rendered from them."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Surfels:
    """n flat Gaussians in the world frame (Huang et al., "2D Gaussian Splatting", SIGGRAPH 2024, section 4).

    quats (wxyz, need not be unit) turn surfel axes into the world: the first two columns of the rotation are the
    tangents, the third is the normal. scales are the standard deviations along the tangents, positive, in the scene's
    unit. opacities lie in [0, 1]. sh are the coefficients of real spherical harmonics per colour channel, k = 1, 4, 9
    or 16, in the order and signs of 3D Gaussian splatting: colour = 0.5 + sum(sh * basis(direction)).
    """

    means: Float[Tensor, "n 3"]
    quats: Float[Tensor, "n 4"]
    scales: Float[Tensor, "n 2"]
    opacities: Float[Tensor, " n"]
    sh: Float[Tensor, "n k 3"]

    def __len__(self) -> int:
        return int(self.means.shape[0])

    def select(self, keep: Tensor) -> Surfels:
        """Those at a mask or at indices."""
        return Surfels(self.means[keep], self.quats[keep], self.scales[keep], self.opacities[keep], self.sh[keep])


@dataclass(frozen=True, slots=True)
class Rendering:
    """What one camera sees of surfels, per pixel of h x w; every field is composited front to back with weights w_i.

    color: sum of w_i c_i plus the background where light is left. alpha: sum of w_i. depth: expected z in the camera,
    sum(w_i z_i) / alpha, 0 where alpha is 0. median_depth: z of the last surfel that begins with more than half of the
    light left, 0 where there is none. normal: sum of w_i n_i in the camera frame, facing the camera (n_z < 0 on the
    axis), not unit. distortion: the spread of the weights along the ray, sum over i, j of w_i w_j |z_i - z_j|, in the
    scene's unit. color_variance: sum of w_i c_i^2 - (sum of w_i c_i)^2, added over channels (Sparfels, section 3.3).
    """

    color: Float[Tensor, "3 h w"]
    alpha: Float[Tensor, "h w"]
    depth: Float[Tensor, "h w"]
    median_depth: Float[Tensor, "h w"]
    normal: Float[Tensor, "3 h w"]
    distortion: Float[Tensor, "h w"]
    color_variance: Float[Tensor, "h w"]
