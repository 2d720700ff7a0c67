"""What attention over groups says to single cells, and the MLP on it (Efficient LoFTR, section 3.2): float32 on a CPU.

Cells go through in blocks of whole rows, so that what lies between the two matrix products stays in the cache: the
message is interpolated, added and bent in one pass, normalised and added to the cells in another. The readable twin is
`transformer.update_cells`.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float
from numba import njit, prange
from torch import Tensor, nn

from vision3d.matching.winograd import empty
from vision3d.sparse.threads import use_torch_threads

BLOCK = 1600  # cells at once, about


@torch.no_grad()
def update_cells_in_blocks(
    x: Float[Tensor, "b h w c"],
    grid: Float[Tensor, "b i j d"],
    weight: Float[Tensor, "d c"],
    second: Float[Tensor, "c d"],
    slope: float,
    norm: nn.LayerNorm,
) -> Float[Tensor, "b h w c"]:
    """As `transformer.update_cells`: x, grid contiguous; h and w are the same multiple of i and j."""
    use_torch_threads()
    b, h, w, c = x.shape
    lines = max(1, min(h, BLOCK // w))
    hidden, update = x.new_empty(lines * w, len(weight)), x.new_empty(lines * w, c)
    out = empty(tuple(x.shape))
    cells, made = x.reshape(b, h * w, c), out.view(b, h * w, c)
    scale, shift = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    for item in range(b):
        for line in range(0, h, lines):
            part = slice(line * w, min(line + lines, h) * w)
            source = cells[item, part]
            bent = torch.mm(source, weight.T, out=hidden[: len(source)])
            _add_message(bent.numpy(), grid[item].numpy(), line, w, h // grid.shape[1], np.float32(slope))
            told = torch.mm(bent, second.T, out=update[: len(source)])
            _add_normalised(told.numpy(), source.numpy(), scale, shift, np.float32(norm.eps), made[item, part].numpy())
    return out


@njit(cache=True, parallel=True, fastmath={"contract", "nsz"}, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that shape checks have wrapped
def _add_message(hidden, grid, line, w, times, slope):  # pragma: no cover (compiled)
    """hidden = leaky ReLU(hidden + grid interpolated to cells), for whole rows of w cells from row `line` on."""
    columns, d = grid.shape[1:]
    for r in prange(len(hidden) // w):
        blend = np.empty((columns, d), np.float32)
        blend_line(grid, line + r, times, blend)
        for u in range(w):
            x = max((u + 0.5) / times - 0.5, 0.0)
            left = int(x)
            right, along = min(left + 1, columns - 1), np.float32(x - left)
            cell = hidden[r * w + u]
            for k in range(d):
                t = cell[k] + (blend[left, k] + along * (blend[right, k] - blend[left, k]))
                cell[k] = max(t, slope * t)


@njit(cache=True, fastmath={"contract", "nsz"}, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def blend_line(grid, line, times, blend):  # pragma: no cover (compiled)
    """The grid [i, j, d], interpolated along the columns to a line of cells, `times` as fine."""
    y = max((line + 0.5) / times - 0.5, 0.0)
    above = int(y)
    below, down = min(above + 1, grid.shape[0] - 1), np.float32(y - above)
    for j in range(grid.shape[1]):
        for k in range(grid.shape[2]):
            blend[j, k] = grid[above, j, k] + down * (grid[below, j, k] - grid[above, j, k])


@njit(cache=True, parallel=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _add_normalised(update, x, scale, shift, eps, out):  # pragma: no cover (compiled)
    """out = x + layer norm of the update, cell by cell."""
    for i in prange(len(update)):
        add_normalised_cell(update[i], x[i], scale, shift, eps, out[i])


@njit(cache=True, fastmath={"contract", "nsz", "reassoc"}, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def add_normalised_cell(update, x, scale, shift, eps, out):  # pragma: no cover (compiled)
    """out = x + layer norm of the update, of one cell."""
    c = len(x)
    total = np.float32(0)
    for k in range(c):
        total += update[k]
    mean, spread = total / np.float32(c), np.float32(0)
    for k in range(c):
        spread += (update[k] - mean) * (update[k] - mean)
    factor = np.float32(1) / np.sqrt(spread / np.float32(c) + eps)
    for k in range(c):
        out[k] = x[k] + ((update[k] - mean) * factor * scale[k] + shift[k])
