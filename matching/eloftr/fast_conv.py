"""The 3x3 convolutions of a fused network: Winograd on a CPU in float32, the framework's anywhere else."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vision3d.matching.winograd import TILE, WinogradKernel, all_tiles, convolve_tiles, winograd_kernel
from vision3d.sparse.threads import use_torch_threads

FEW = 2  # tiles are few where so many times as many would not fill the maps


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
        self._prepared: WinogradKernel | None = None

    def forward(self, x: Float[Tensor, "b c h w"], tiles: Int[Tensor, "n 3"] | None = None) -> Float[Tensor, "b d i j"]:
        """The response, channels last in memory. Pixels outside `tiles` (item, row, column of 4 x 4 px) may hold
        anything; None: all are wanted.
        """
        if not self._by_winograd(x, tiles):
            y = F.conv2d(x, self.weight, self.bias, self.stride, 1)
            return F.leaky_relu(y, self.slope) if self.slope < 1 else y
        use_torch_threads()
        if tiles is None:
            tiles = all_tiles(len(x), x.shape[2], x.shape[3])
        made = convolve_tiles(x.permute(0, 2, 3, 1).float().contiguous(), self._kernel(), tiles)
        return made.permute(0, 3, 1, 2).to(x.dtype)

    def _by_winograd(self, x: Tensor, tiles: Tensor | None) -> bool:
        """In bfloat16 where few tiles are wanted: the processor's own products are as fast, but know no tiles."""
        few = tiles is not None and FEW * len(tiles) * TILE**2 < len(x) * x.shape[2] * x.shape[3]
        usual = x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and few)
        plain = usual and x.device.type == "cpu" and not torch.is_grad_enabled()
        large = min(self.weight.shape[:2]) >= 32  # below, transforms cost more than they save
        return plain and large and self.stride == 1 and not (x.shape[2] % TILE or x.shape[3] % TILE)

    def _kernel(self) -> WinogradKernel:
        if self._prepared is None:
            self._prepared = winograd_kernel(self.weight, self.bias, self.slope)
        return self._prepared

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        self._prepared = None
        super()._load_from_state_dict(*arguments, **options)
