"""Homographies: apply, fit by the normalised DLT, and the corner error of the homography benchmarks.

R. Hartley and A. Zisserman, "Multiple View Geometry", 2nd edition, algorithm 4.2.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def apply_homography(h: Float[Tensor, "*b 3 3"], points: Float[Tensor, "*b n 2"]) -> Float[Tensor, "*b n 2"]:
    """Points through a homography, px to px; not finite on the line that maps to infinity."""
    mapped = torch.nn.functional.pad(points, (0, 1), value=1.0) @ h.mT
    return mapped[..., :2] / mapped[..., 2:]


def fit_homography(
    points0: Float[Tensor, "*b n 2"], points1: Float[Tensor, "*b n 2"], weights: Float[Tensor, "*b n"] | None = None
) -> Float[Tensor, "*b 3 3"]:
    """H_1_from_0, scaled to norm 1 with positive determinant of the points' side, from n >= 4 pairs (normalised DLT).

    Raises:
        ValueError: fewer than 4 pairs, or so many on a line that the homography is not determined.
    """
    if points0.shape[-2] < 4:
        raise ValueError(f"a homography needs 4 point pairs or more, got {points0.shape[-2]}")
    t0, t1 = _normaliser(points0), _normaliser(points1)
    x0, x1 = apply_homography(t0, points0), apply_homography(t1, points1)
    ones, zeros = torch.ones_like(x0[..., :1]), torch.zeros_like(x0)
    h0 = torch.cat([x0, ones], dim=-1)
    zero3 = torch.cat([zeros, zeros[..., :1]], dim=-1)
    rows_x = torch.cat([h0, zero3, -x1[..., :1] * h0], dim=-1)
    rows_y = torch.cat([zero3, h0, -x1[..., 1:] * h0], dim=-1)
    if weights is not None:
        rows_x, rows_y = rows_x * weights[..., None].sqrt(), rows_y * weights[..., None].sqrt()
    _, s, vt = torch.linalg.svd(torch.cat([rows_x, rows_y], dim=-2), full_matrices=True)
    if bool((s[..., 7] < 1e-9 * s[..., 0]).any()):
        raise ValueError("the points do not determine a homography: three of four, or nearly all, lie on a line")
    h: Tensor = torch.linalg.inv(t1) @ vt[..., 8, :].reshape(*vt.shape[:-2], 3, 3) @ t0
    center = points0.mean(-2)
    w = (h[..., 2, :2] * center).sum(-1) + h[..., 2, 2]
    sign = torch.where(w < 0, -torch.ones_like(w), torch.ones_like(w))
    norm: Tensor = torch.linalg.matrix_norm(h)
    return h * (sign / norm)[..., None, None]


def corner_error(
    estimated: Float[Tensor, "3 3"], true: Float[Tensor, "3 3"], size: tuple[int, int]
) -> Float[Tensor, ""]:
    """Mean distance in px between the four corners of image 0 mapped by two H_1_from_0; inf where one is not finite.

    Corners are the centres of the corner pixels, as in HPatches' protocol (D. DeTone et al., SuperPoint, 2018, 7.2).
    size: (width, height) px of image 0.
    """
    width, height = size
    corners = true.new_tensor([[0.5, 0.5], [width - 0.5, 0.5], [width - 0.5, height - 0.5], [0.5, height - 0.5]])
    distance = torch.linalg.vector_norm(apply_homography(estimated, corners) - apply_homography(true, corners), dim=-1)
    return torch.nan_to_num(distance.mean(), nan=torch.inf, posinf=torch.inf)


def shift_origin(h: Float[Tensor, "*b 3 3"], offset: float) -> Float[Tensor, "*b 3 3"]:
    """The homography after adding `offset` px to x and y in both images: 0.5 turns pixel centres at 0 into ours."""
    shift = torch.eye(3, dtype=h.dtype, device=h.device)
    shift[:2, 2] = offset
    back = torch.eye(3, dtype=h.dtype, device=h.device)
    back[:2, 2] = -offset
    return shift @ h @ back


def _normaliser(points: Float[Tensor, "*b n 2"]) -> Float[Tensor, "*b 3 3"]:
    """Similarity that centres the points and brings their mean distance to sqrt(2) (H&Z 4.4.4)."""
    mean = points.mean(-2)
    distance = torch.linalg.vector_norm(points - mean[..., None, :], dim=-1).mean(-1)
    scale = 2**0.5 / torch.where(distance > 0, distance, torch.ones_like(distance))
    out = torch.zeros(*scale.shape, 3, 3, dtype=points.dtype, device=points.device)
    out[..., 0, 0] = out[..., 1, 1] = scale
    out[..., :2, 2] = -scale[..., None] * mean
    out[..., 2, 2] = 1
    return out
