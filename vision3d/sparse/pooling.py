"""Maximum and mean over the active sites of a window; sites that are not active do not take part (as in spconv)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx

from vision3d.core.sparse_tensor import SparseTensor
from vision3d.sparse import fused_pooling, rulebooks
from vision3d.sparse.kernel_map import KernelMap
from vision3d.sparse.layers import SparseModule
from vision3d.sparse.window import PerDimension, Window


def max_along(features: Float[Tensor, "n c"], rulebook: KernelMap) -> tuple[Float[Tensor, "m c"], Int[Tensor, "m c"]]:
    """Per output and channel the largest input and its row; of equal ones the first kernel element's. NaN never wins.

    Outputs without an input get 0 and row -1. The twin of the CPU kernel, and the engine on CUDA.
    """
    best = features.new_full((rulebook.outputs, features.shape[1]), -torch.inf)
    row = torch.full_like(best, -1, dtype=torch.int32)
    for first, last in pairwise(rulebook.starts):
        sources, targets = rulebook.in_rows[first:last], rulebook.out_rows[first:last].long()
        candidate, current = features.index_select(0, sources), best.index_select(0, targets)
        better = (candidate > current) | (row.index_select(0, targets) < 0)
        best[targets] = torch.where(better, candidate, current)
        row[targets] = torch.where(better, sources[:, None].int(), row.index_select(0, targets))
    return torch.where(row < 0, 0, best), row


def sum_along(features: Float[Tensor, "n c"], rulebook: KernelMap) -> Float[Tensor, "m c"]:
    """Per output the sum of its inputs. The twin of the CPU kernel, and the engine on CUDA."""
    total_type = torch.float32 if features.dtype in (torch.bfloat16, torch.float16) else features.dtype
    out = features.new_zeros(rulebook.outputs, features.shape[1], dtype=total_type)
    for first, last in pairwise(rulebook.starts):
        rows = features.index_select(0, rulebook.in_rows[first:last]).to(total_type)
        out.index_add_(0, rulebook.out_rows[first:last], rows)
    return out.to(features.dtype)


class _Max(torch.autograd.Function):
    """The gradient goes to the input that was largest."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, rulebook: KernelMap) -> Tensor:
        along = fused_pooling.max_along if fused_pooling.works_on(features) else max_along
        out, row = along(features.detach(), rulebook)
        ctx.save_for_backward(row)
        ctx.rows = len(features)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (row,) = ctx.saved_tensors
        gradient = torch.where(row < 0, 0, gradient)
        out = gradient.new_zeros(ctx.rows, gradient.shape[1], dtype=torch.promote_types(gradient.dtype, torch.float32))
        out.scatter_add_(0, row.clamp(min=0).long(), gradient.to(out.dtype))
        return out.to(gradient.dtype), None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, features: Tensor, rulebook: KernelMap) -> Tensor:
        ctx.rulebook = rulebook  # type: ignore[attr-defined]
        along = fused_pooling.sum_along if fused_pooling.works_on(features) else sum_along
        return along(features.detach(), rulebook)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return cast(Tensor, _Sum.apply(gradient, ctx.rulebook.transposed())), None


class _Pool(SparseModule):
    def __init__(
        self,
        dimensions: int,
        kernel_size: PerDimension,
        stride: PerDimension | None = None,
        padding: PerDimension = 0,
        dilation: PerDimension = 1,
    ) -> None:
        super().__init__()
        self.window = Window.of(dimensions, kernel_size, kernel_size if stride is None else stride, padding, dilation)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self.window, name)}" for name in self.window.__slots__)

    def _rulebook(self, x: SparseTensor) -> tuple[Any, KernelMap]:
        if x.dimensions != len(self.window.kernel_size):
            raise ValueError(f"the layer takes {len(self.window.kernel_size)} dimensions, got {x.dimensions}")
        return rulebooks.strided(x.sites, self.window)


class SparseMaxPool(_Pool):
    """Largest value of the active sites in the window; output sites as of `SparseConv`. stride None: kernel_size."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        """The same channels on the output sites. Dense pooling with padding of -inf gives the same there."""
        sites, rulebook = self._rulebook(x)
        return SparseTensor.at(sites, cast(Tensor, _Max.apply(x.features, rulebook)))


class SparseAvgPool(_Pool):
    """Mean over the active sites in the window, of which there is at least one. stride None: kernel_size."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        """The same channels on the output sites."""
        sites, rulebook = self._rulebook(x)
        total = cast(Tensor, _Sum.apply(x.features, rulebook))
        count = torch.bincount(rulebook.out_rows, minlength=rulebook.outputs)
        return SparseTensor.at(sites, total / count[:, None].to(total.dtype))


def global_pool(x: SparseTensor) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"]]:
    """Mean and maximum over all sites of each grid of the batch; zeros for an empty grid."""
    batch = x.indices[:, 0].long()
    total = x.features.new_zeros(x.batch_size, x.channels).index_add(0, batch, x.features)
    count = torch.bincount(batch, minlength=x.batch_size)
    mean = total / count.clamp(min=1)[:, None].to(total.dtype)
    largest = x.features.new_zeros(x.batch_size, x.channels)
    where = batch[:, None].expand_as(x.features)
    largest = largest.scatter_reduce(0, where, x.features, "amax", include_self=False)
    return mean, largest
