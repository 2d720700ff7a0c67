"""A warp refiner of DKM (section 3.3): from both photos' features at the warp to a small displacement and certainty."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vision3d.matching.dkm.config import REFINERS
from vision3d.matching.dkm.depthwise import depthwise_block
from vision3d.matching.dkm.gaussian_process import pixel_grid
from vision3d.matching.dkm.local_correlation import correlate, gather_inputs

HIDDEN_BLOCKS = 8
ALIGNED = 16  # channels are padded to a multiple of it, which products run faster with


def _block(channels: int, width: int) -> nn.Sequential:
    depthwise = nn.Conv2d(channels, width, 5, padding=2, groups=channels)
    return nn.Sequential(depthwise, nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 1))


class Refiner(nn.Module):
    """The refiner of one stride; plain layers where gradients are wanted, else the sweeps of `depthwise`."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.features, self.embedded, self.radius = REFINERS[stride]
        window = (2 * self.radius + 1) ** 2 if self.radius else 0
        channels = 2 * self.features + self.embedded + window
        width = 2 * channels if stride == 1 else channels
        self.inputs, self.repeat = channels, width // channels
        self.block1 = _block(channels, width)
        self.hidden_blocks = nn.Sequential(*(_block(width, width) for _ in range(HIDDEN_BLOCKS)))
        self.out_conv = nn.Conv2d(width, 3, 1)
        self.disp_emb = nn.Conv2d(2, self.embedded, 1)

    def forward(
        self, x0: Float[Tensor, "b c h w"], x1: Float[Tensor, "b c h w"], warp: Float[Tensor, "b 2 h w"]
    ) -> tuple[Float[Tensor, "b 2 h w"], Float[Tensor, "b 1 h w"]]:
        """Displacement in quarters of this stride's px and the change of the certainty's logit."""
        fast = not (torch.is_grad_enabled() or self.training) and x0.dtype == torch.float32 and x0.device.type == "cpu"
        made = self._swept(x0, x1, warp) if fast else self._plain(x0, x1, warp)
        return made[:, 1:], made[:, :1]

    def _plain(self, x0: Tensor, x1: Tensor, warp: Tensor) -> Tensor:
        with torch.no_grad():
            seen = F.grid_sample(x1, warp.permute(0, 2, 3, 1), align_corners=False)
        grid = pixel_grid(x0.shape[2], x0.shape[3], x0).permute(2, 0, 1)
        parts = [x0, seen, self.disp_emb(warp - grid)]
        if self.radius:
            parts.append(correlate(x0, x1, warp, self.radius))
        made: Tensor = self.out_conv(self.hidden_blocks(self.block1(torch.cat(parts, 1))))
        return made

    def _swept(self, x0: Tensor, x1: Tensor, warp: Tensor) -> Tensor:
        """One photo after the other with two maps: the blocks read one and write the other."""
        h, w = x0.shape[2:]
        blocks = self._folded()
        padded = blocks[0][0].shape[1]
        grid = pixel_grid(h, w, x0)
        repeat, channels = self.repeat, self.inputs
        first, second = x0.new_empty(h, w, padded), x0.new_empty(h, w, padded)
        made = []
        for a, b, flow in zip(x0, x1, warp.permute(0, 2, 3, 1), strict=True):
            # repeated channels (stride 1) are gathered once, then spread
            inputs = first if repeat == 1 else x0.new_empty(h, w, channels)
            at = 2 * self.features
            flow = flow.contiguous()
            a, b = (t.permute(1, 2, 0).contiguous() for t in (a, b))
            gather_inputs(a, b, flow, self.radius, inputs, at + self.embedded)
            inputs[..., at : at + self.embedded] = F.linear(
                flow - grid, self.disp_emb.weight[:, :, 0, 0], self.disp_emb.bias
            )
            if repeat > 1:
                first[..., : repeat * channels] = inputs.repeat_interleave(repeat, 2)
                del inputs
            first[..., repeat * channels :] = 0
            source, target = first, second
            for taps, shift, mix, bias in blocks[:-1]:
                depthwise_block(source, taps, shift, mix, bias, target)
                source, target = target, source
            last = x0.new_empty(h, w, 3)
            depthwise_block(source, *blocks[-1], last)
            made.append(last.permute(2, 0, 1))
        return torch.stack(made)

    def _folded(self) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Per block: taps, shift, mixing matrix, bias; normalisation is in the taps, the last layer in the last block.

        Made anew for each call (1 % of its time), so that it never outlives a change of the weights.
        """
        blocks: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        out_weight = self.out_conv.weight[:, :, 0, 0]
        for i, block in enumerate([self.block1, *self.hidden_blocks]):
            depthwise, norm, _, pointwise = block
            width = depthwise.out_channels
            pad = -width % ALIGNED if width > 64 else 0
            gain = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            taps = (depthwise.weight[:, 0] * gain[:, None, None]).flatten(1).T
            shift = (depthwise.bias - norm.running_mean) * gain + norm.bias
            mix, bias = pointwise.weight[:, :, 0, 0], pointwise.bias
            rows = pad
            if i == HIDDEN_BLOCKS:
                bias, mix, rows = out_weight @ bias + self.out_conv.bias, out_weight @ mix, 0
            taps, shift = F.pad(taps, (0, pad)).contiguous(), F.pad(shift, (0, pad))
            blocks.append((taps, shift, F.pad(mix, (0, pad, 0, rows)).T, F.pad(bias, (0, rows))))
        return blocks
