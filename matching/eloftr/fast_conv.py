"""The 3x3 convolutions of a fused network: by our kernels on a CPU where they are faster, else by the framework's."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vision3d.matching.eloftr.short_conv import convolve_strided, strided_kernel
from vision3d.matching.eloftr.stem import convolve_grey
from vision3d.matching.short_products import COLUMNS, ShortMatrix
from vision3d.matching.winograd import TILE, WinogradKernel, all_tiles, convolve_tiles, fits, winograd_kernel


class FastConv(nn.Module):
    """3x3 convolution, padding 1, then leaky ReLU with `slope` (0 ReLU, 1 none); for evaluation only."""

    weight: Tensor
    bias: Tensor

    def __init__(
        self, weight: Float[Tensor, "d c 3 3"], bias: Tensor | None, stride: int, slope: float, *, saved: bool
    ) -> None:
        """saved: whether the weights belong to the network's state or are made of others that do."""
        super().__init__()
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        self.register_buffer("weight", weight.detach().clone(), persistent=saved)
        self.register_buffer("bias", bias.detach().clone(), persistent=saved)
        self.stride, self.slope = stride, slope
        self.short = False
        """whether to multiply 16-bit integers instead of float32; see `precision.to_16_bits`"""
        self._prepared: WinogradKernel | ShortMatrix | None = None

    def forward(self, x: Float[Tensor, "b c h w"], tiles: Int[Tensor, "n 3"] | None = None) -> Float[Tensor, "b d i j"]:
        """The response, channels last in memory. Pixels outside `tiles` (item, row, column of 4 x 4 px) may hold
        anything; None: all are wanted.
        """
        plain = x.dtype == torch.float32 and x.device.type == "cpu" and not torch.is_grad_enabled()
        if plain and self.stride == 2 and not len(self.weight) % COLUMNS:
            rows = x.permute(0, 2, 3, 1).contiguous()
            if rows.shape[3] == 1:
                weight = self.weight.flatten(1).T.contiguous()
                return convolve_grey(rows[..., 0], weight, self.bias, self.slope).permute(0, 3, 1, 2)
            if self.short and not rows.shape[3] % COLUMNS:
                return convolve_strided(rows, self._strided(), self.bias, self.slope).permute(0, 3, 1, 2)
        large = min(self.weight.shape[:2]) >= 32  # below, transforms cost more than they save
        if plain and large and self.stride == 1 and fits(self.weight) and not (x.shape[2] % TILE or x.shape[3] % TILE):
            if tiles is None:
                tiles = all_tiles(len(x), x.shape[2], x.shape[3])
            made = convolve_tiles(x.permute(0, 2, 3, 1).contiguous(), self._kernel(), tiles)
            return made.permute(0, 3, 1, 2)
        y = F.conv2d(x, self.weight, self.bias, self.stride, 1)
        return F.leaky_relu(y, self.slope) if self.slope < 1 else y

    def _strided(self) -> ShortMatrix:
        if not isinstance(self._prepared, ShortMatrix):
            self._prepared = strided_kernel(self.weight)
        return self._prepared

    def _kernel(self) -> WinogradKernel:
        if not isinstance(self._prepared, WinogradKernel) or self._prepared.short != self.short:
            self._prepared = winograd_kernel(self.weight, self.bias, self.slope, short=self.short)
        return self._prepared

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        self._prepared = None
        super()._load_from_state_dict(*arguments, **options)
