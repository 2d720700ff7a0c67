"""Surfels as a PLY in the layout of 3D Gaussian splatting (Kerbl et al., SIGGRAPH 2023), which splat viewers read.

Per vertex, all float32: x y z; nx ny nz; f_dc_0..2 (the constant coefficient of red, green, blue); f_rest_0.. (the
other coefficients, all of red first, then green, then blue: 0, 9, 24 or 45 of them); opacity as logit; scale_0..2 as
natural logarithms; rot_0..3, a quaternion wxyz. A surfel is flat: its third scale is a hundredth of the smaller one,
and nx ny nz is its normal (3D Gaussian splatting leaves zeros there).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from vision3d.core import Surfels, Vision3DError
from vision3d.geometry.rotation import quaternion_to_matrix
from vision3d.io.ply_table import read_vertices, write_vertices

FLATNESS = 0.01  # written third scale over the smaller of the two
MAX_LOGIT = 30.0  # opacities 0 and 1 are written as this, viewers choke on infinity
_COEFFICIENTS = (1, 4, 9, 16)
_MEAN, _NORMAL, _DC = ("x", "y", "z"), ("nx", "ny", "nz"), ("f_dc_0", "f_dc_1", "f_dc_2")
_QUAT = ("rot_0", "rot_1", "rot_2", "rot_3")
# Turns that bring another axis to the place of the normal, by the axis: (quaternion wxyz, axes that become tangents).
_TURNS = {0: ((0.5, 0.5, 0.5, 0.5), (1, 2)), 1: ((0.5, -0.5, -0.5, -0.5), (2, 0)), 2: ((1.0, 0.0, 0.0, 0.0), (0, 1))}


def write_surfels(path: str | Path, surfels: Surfels) -> None:
    """Write surfels, none included; little endian float32.

    means, quats and sh come back exactly (in float32), scales and opacities to 1e-5 relative: they go through a
    logarithm and a logit.

    Raises:
        ValueError: a value that is not finite, a scale that is not positive, an opacity outside [0, 1], a quaternion
            of length 0, or sh that are not of degree 0 to 3. Vision3DError: it cannot be written.
    """
    k = surfels.sh.shape[1]
    if k not in _COEFFICIENTS:
        raise ValueError(f"sh must have 1, 4, 9 or 16 coefficients per channel, got {k}")
    means, quats, scales, opacities, sh = (
        tensor.detach().cpu().double()
        for tensor in (surfels.means, surfels.quats, surfels.scales, surfels.opacities, surfels.sh)
    )
    for what, values in (("means", means), ("quats", quats), ("scales", scales), ("opacities", opacities), ("sh", sh)):
        if not bool(torch.isfinite(values.float()).all()):
            raise ValueError(f"the surfels' {what} hold NaN or infinity (in float32)")
    # Below 1e-36 the third scale would leave float32.
    if len(surfels) and float(scales.min()) < 1e-36:
        raise ValueError(f"the surfels' scales must be positive, the smallest is {float(scales.min()):g}")
    if len(surfels) and not 0 <= float(opacities.min()) <= float(opacities.max()) <= 1:
        raise ValueError(f"opacities must lie in [0, 1], got {float(opacities.min()):g} to {float(opacities.max()):g}")
    if len(surfels) and float(quats.float().norm(dim=1).min()) == 0:
        raise ValueError("a surfel's quaternion has length 0")
    normals = quaternion_to_matrix(quats)[:, :, 2]
    thin = scales.amin(dim=1, keepdim=True) * FLATNESS
    logits = torch.logit(opacities).clamp(-MAX_LOGIT, MAX_LOGIT)
    rest = sh[:, 1:].transpose(1, 2).reshape(len(surfels), 3 * (k - 1))
    columns = torch.cat(
        [means, normals, sh[:, 0], rest, logits[:, None], torch.cat([scales, thin], dim=1).log(), quats], dim=1
    )
    names = [*_MEAN, *_NORMAL, *_DC, *_rest(k), "opacity", *_scales(3), *_QUAT]
    table = np.ascontiguousarray(columns.float().numpy()).view([(name, "<f4") for name in names])
    write_vertices(path, table.reshape(len(surfels)), ("surfels in the layout of 3D Gaussian splatting",))


def read_surfels(path: str | Path) -> Surfels:
    """Read surfels from a splat PLY, ours or another program's; float32.

    Of three scales the two largest are kept: where the thinnest axis is not the third, the axes are permuted
    cyclically (the quaternion turned by 120 degrees) so that the normal is the thinnest axis. Files with two scales, as
    2D Gaussian splatting writes them, are read as they are. Normals and other properties are ignored.

    Raises:
        Vision3DError: missing, no PLY, cut off, no splats (points, a mesh, a compressed splat file), or values that
            are not finite.
    """
    table = read_vertices(path)
    names = set(table.dtype.names or ())
    if "packed_position" in names:
        raise Vision3DError(f"{path} is a compressed splat file: export it again as an uncompressed PLY")
    num_scales = 3 if "scale_2" in names else 2
    needed = (*_MEAN, *_DC, "opacity", *_scales(num_scales), *_QUAT)
    missing = [name for name in needed if name not in names]
    if missing:
        raise Vision3DError(f"{path} holds no Gaussian splats: the vertices have no {', '.join(missing)}")
    rest = sum(name.startswith("f_rest_") for name in names)
    k = rest // 3 + 1
    if k not in _COEFFICIENTS or rest != 3 * (k - 1) or not set(_rest(k)) <= names:
        raise Vision3DError(f"{path}: {rest} f_rest properties are no spherical harmonics (0, 9, 24 or 45 are)")
    n = len(table)
    dc = _columns(path, table, _DC)[:, None]
    others = _columns(path, table, _rest(k)).reshape(n, 3, k - 1).transpose(0, 2, 1)
    with np.errstate(over="ignore"):
        scales = np.exp(_columns(path, table, _scales(num_scales))).astype(np.float32)
        opacities = (1 / (1 + np.exp(-_columns(path, table, ("opacity",))[:, 0]))).astype(np.float32)
    quats = _columns(path, table, _QUAT)
    if not np.isfinite(scales).all():
        raise Vision3DError(f"{path}: a scale is too large to be one (its logarithm is above 88)")
    if n and not (quats != 0).any(axis=1).all():
        raise Vision3DError(f"{path}: a splat has a quaternion of length 0")
    tiny = np.finfo(np.float32).tiny
    quats, scales = (
        _flattened(quats, np.maximum(scales, tiny)) if num_scales == 3 else (quats, np.maximum(scales, tiny))
    )
    arrays = (_columns(path, table, _MEAN), quats, scales, opacities, np.concatenate([dc, others], axis=1))
    means, quats, scales, opacities, sh = (np.ascontiguousarray(a, dtype=np.float32) for a in arrays)
    return Surfels(*(torch.from_numpy(a) for a in (means, quats, scales, opacities, sh)))


def _flattened(
    quats: Float[np.ndarray, "n 4"], scales: Float[np.ndarray, "n 3"]
) -> tuple[Float[np.ndarray, "n 4"], Float[np.ndarray, "n 2"]]:
    """Quaternions whose third axis is the thinnest, and the scales along the other two."""
    thinnest = 2 - np.argmin(scales[:, ::-1], axis=1)  # of equal ones the third, which leaves the quaternion alone
    out_quats, out_scales = quats.copy(), scales[:, :2].copy()
    for axis in (0, 1):
        (pw, px, py, pz), tangents = _TURNS[axis]
        at = thinnest == axis
        w, x, y, z = quats[at].T
        out_quats[at] = np.stack(
            [
                w * pw - x * px - y * py - z * pz,
                w * px + x * pw + y * pz - z * py,
                w * py - x * pz + y * pw + z * px,
                w * pz + x * py - y * px + z * pw,
            ],
            axis=1,
        )
        out_scales[at] = scales[at][:, list(tangents)]
    return out_quats, out_scales


def _columns(path: str | Path, table: np.ndarray, names: tuple[str, ...]) -> Float[np.ndarray, "n c"]:
    columns = np.zeros((len(table), len(names)))
    for i, name in enumerate(names):
        columns[:, i] = table[name]
        if not np.isfinite(columns[:, i].astype(np.float32)).all():
            raise Vision3DError(f"{path}: {name} holds NaN or infinity, the file is damaged")
    return columns


def _rest(k: int) -> tuple[str, ...]:
    return tuple(f"f_rest_{i}" for i in range(3 * (k - 1)))


def _scales(count: int) -> tuple[str, ...]:
    return tuple(f"scale_{i}" for i in range(count))
