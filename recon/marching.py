"""A mesh from a sparse volume of signed distances: marching cubes over dense pieces, joined without seams.

T. Lewiner et al., "Efficient implementation of marching cubes' cases with topological guarantees", Journal of Graphics
Tools 2003 (scikit-image's). Neighbouring pieces share a layer of grid points; a vertex there lies on one grid edge, and
vertices of the same edge become one.
"""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Float, Int64
from skimage.measure import marching_cubes

from vision3d.core import Progress, silent
from vision3d.recon.tsdf import SIDE, TsdfVolume

_BLOCKS = 4  # blocks along the side of a piece
_CELLS = _BLOCKS * SIDE
# Distances nearer to zero than this are moved away from it: no vertex falls on a grid point, where several edges meet.
_NUDGE = 1e-4


def extract_surface(
    volume: TsdfVolume, progress: Progress = silent
) -> tuple[Float[np.ndarray, "n 3"], Int64[np.ndarray, "m 3"]]:
    """Vertices in the world (scene unit) and faces, counter-clockwise from outside, where all eight corners were seen.

    The order is fixed by the blocks. No surface gives empty arrays.
    """
    pieces = np.unique(volume.blocks // _BLOCKS, axis=0)
    keys = _keys(volume.blocks)
    every_vertex, every_face, offset = [np.zeros((0, 3))], [np.zeros((0, 3), np.int64)], 0
    distance = np.empty((_CELLS + 1,) * 3, np.float32)
    whole = np.empty((_CELLS + 1,) * 3, np.bool_)
    for done, piece in enumerate(pieces):
        progress("surface", done, len(pieces))
        if not _gather(piece * _BLOCKS, keys, volume.distance, volume.weight, np.float32(_NUDGE), distance, whole):
            continue
        vertices, faces = _march(distance, whole)
        every_vertex.append(vertices.astype(np.float64) + piece * _CELLS)
        every_face.append(faces + offset)
        offset += len(vertices)
    progress("surface", len(pieces), len(pieces))
    vertices, faces = _joined(np.concatenate(every_vertex), np.concatenate(every_face))
    return volume.grid.origin + volume.grid.voxel * vertices, faces


def _march(
    distance: Float[np.ndarray, "x y z"], whole: np.ndarray
) -> tuple[Float[np.ndarray, "n 3"], Int64[np.ndarray, "m 3"]]:
    try:
        vertices, faces, _, _ = marching_cubes(distance, 0.0, mask=whole, gradient_direction="descent")
    except RuntimeError:  # no surface in the cells that count
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64)
    return vertices, faces.astype(np.int64)


def _joined(
    vertices: Float[np.ndarray, "n 3"], faces: Int64[np.ndarray, "m 3"]
) -> tuple[Float[np.ndarray, "k 3"], Int64[np.ndarray, "m 3"]]:
    """Vertices on the faces of pieces that lie on the same grid edge become the first of them."""
    nearest = np.rint(vertices)
    shared = np.flatnonzero(((vertices == nearest) & (nearest % _CELLS == 0)).any(1))
    axis = np.abs(vertices[shared] - nearest[shared]).argmax(1)
    edge = nearest[shared].astype(np.int64)
    rows = np.arange(len(shared))
    edge[rows, axis] = np.floor(vertices[shared][rows, axis]).astype(np.int64)
    _, first, inverse = np.unique(
        np.concatenate([edge, axis[:, None]], axis=1), axis=0, return_index=True, return_inverse=True
    )
    owner = np.arange(len(vertices))
    owner[shared] = shared[first[inverse.reshape(-1)]]
    kept = owner == np.arange(len(vertices))
    number = np.cumsum(kept) - 1
    return vertices[kept], number[owner][faces]


def _keys(blocks: Int64[np.ndarray, "n 3"]) -> Int64[np.ndarray, " n"]:
    reach = 1 << 20
    out: np.ndarray = ((blocks[:, 0] + reach) << 42) | ((blocks[:, 1] + reach) << 21) | (blocks[:, 2] + reach)
    return out


@numba.njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that the tests' shape checks have wrapped
def _gather(corner, keys, distance, weight, nudge, out, whole):  # pragma: no cover (compiled)
    """Fills a piece from its blocks; whole marks cells (at their highest corner) all of whose corners were seen.

    Returns whether such a cell has corners of both signs.
    """
    reach = 1 << 20
    out[:] = 1
    whole[:] = False
    for bx in range(_BLOCKS + 1):
        for by in range(_BLOCKS + 1):
            for bz in range(_BLOCKS + 1):
                key = ((corner[0] + bx + reach) << 42) | ((corner[1] + by + reach) << 21) | (corner[2] + bz + reach)
                b = np.searchsorted(keys, key)
                if b == keys.shape[0] or keys[b] != key:
                    continue
                for i in range(SIDE if bx < _BLOCKS else 1):
                    for j in range(SIDE if by < _BLOCKS else 1):
                        for k in range(SIDE if bz < _BLOCKS else 1):
                            if weight[b, i, j, k] > 0:
                                d = distance[b, i, j, k]
                                if abs(d) < nudge:
                                    d = nudge if d >= 0 else -nudge
                                x, y, z = bx * SIDE + i, by * SIDE + j, bz * SIDE + k
                                out[x, y, z] = d
                                whole[x, y, z] = True
    crossed = False
    n = out.shape[0]
    for x in range(n - 1, -1, -1):  # downwards: corners of a cell are still marks of points when it is looked at
        for y in range(n - 1, -1, -1):
            for z in range(n - 1, -1, -1):
                seen = x > 0 and y > 0 and z > 0
                if seen:
                    low, high = out[x, y, z], out[x, y, z]
                    for i in range(2):
                        for j in range(2):
                            for k in range(2):
                                seen = seen and whole[x - i, y - j, z - k]
                                low = min(low, out[x - i, y - j, z - k])
                                high = max(high, out[x - i, y - j, z - k])
                    crossed = crossed or (seen and low < 0 and high > 0)
                whole[x, y, z] = seen
    return crossed
