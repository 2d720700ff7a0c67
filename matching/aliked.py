"""ALIKED (Zhao et al., IEEE TIM 2023): kornia's network, with keypoints and descriptors computed only where needed.

kornia builds the 128-channel feature map at full resolution (360 MB for a 1024 x 683 photo) and unfolds the score map.
Here the score head's first 1x1 convolution runs before the upsampling (both are linear, so they commute), features are
evaluated only at the pixels that descriptors sample, samples are weighted sums of rows in memory (`embedding_bag`), and
batch norms are folded into convolutions. Same results up to rounding, faster, in a fraction of the memory.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from kornia.feature.aliked.aliked import ALIKED, DeformableConv2d, InputPadder
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vision3d.matching.lightglue import load_strictly

RADIUS = 2  # of the non-maximum suppression and of the soft-argmax, px
TEMPERATURE = 0.1  # of the soft-argmax
CHUNK = 512  # keypoints described at once: 512 x (9 + 64) pixels x 128 channels are 19 MB


class LeanAliked(ALIKED):  # type: ignore[misc]
    """kornia's ALIKED with `detect`, which takes the budget and threshold per call; made by `from_state`."""

    @classmethod
    def from_state(cls, model_name: str, state: Mapping[str, Tensor]) -> LeanAliked:
        """In evaluation mode, from the published checkpoint of kornia's `model_name`, strictly."""
        net: LeanAliked = cls(model_name)
        load_strictly(net, state, model_name, derived={"dkd.hw_grid"})
        net.eval()
        for block in (net.block1, net.block2, net.block3, net.block4):
            for i in ("1", "2"):
                conv, norm = getattr(block, f"conv{i}"), getattr(block, f"bn{i}")
                if isinstance(conv, DeformableConv2d):
                    fused = fuse_conv_bn_eval(conv.regular_conv, norm)
                    setattr(block, f"conv{i}", _RowDeformableConv(conv.offset_conv, fused))
                else:
                    setattr(block, f"conv{i}", fuse_conv_bn_eval(conv, norm))
                setattr(block, f"bn{i}", nn.Identity())
        net.to(memory_format=torch.channels_last)
        return net

    def detect(
        self, images: Float[Tensor, "b 3 h w"], *, max_keypoints: int, threshold: float
    ) -> list[tuple[Float[Tensor, "n 2"], Float[Tensor, "n d"], Float[Tensor, " n"]]]:
        """Keypoints (px, pixel centres at +0.5), unit descriptors and scores in (0, 1), strongest first, per image.

        images: RGB in [0, 1]. Keeps the local maxima of the score map above `threshold`, at most `max_keypoints`.
        """
        maps, scores, corner = self._maps(images)
        out = []
        for i in range(len(images)):
            keypoints, response = score_maxima(scores[i, 0], max_keypoints, threshold)
            descriptors = self._describe([m[i] for m in maps], keypoints, corner, images.shape[-1], images.shape[-2])
            out.append((keypoints + 0.5, descriptors, response))
        return out

    def _maps(self, images: Tensor) -> tuple[list[Tensor], Tensor, tuple[int, int]]:
        """The four feature maps [b h w c] (strides 1, 2, 8, 32, of the padded image), the score map, the padding."""
        padder = InputPadder(images.shape[-2], images.shape[-1], 32)
        x1 = self.block1(padder.pad(images).contiguous(memory_format=torch.channels_last))
        x2 = self.block2(self.pool2(x1))
        x3 = self.block3(self.pool4(x2))
        x4 = self.block4(self.pool4(x3))
        maps = [
            self.gate(conv(x)) for conv, x in ((self.conv1, x1), (self.conv2, x2), (self.conv3, x3), (self.conv4, x4))
        ]
        size = maps[0].shape[-2:]
        weights = self.score_head[0].weight.chunk(4, dim=1)
        score = F.conv2d(maps[0], weights[0])
        for feature, weight in zip(maps[1:], weights[1:], strict=True):
            score += F.interpolate(F.conv2d(feature, weight), size, mode="bilinear", align_corners=True)
        score = torch.sigmoid(self.score_head[1:](score))
        rows = [m.permute(0, 2, 3, 1).contiguous() for m in maps]
        return rows, padder.unpad(score), (padder._pad[0], padder._pad[2])

    def _describe(
        self, maps: list[Tensor], keypoints: Tensor, corner: tuple[int, int], width: int, height: int
    ) -> Tensor:
        """Descriptors by the deformable head (paper section III-C) at keypoints (px, centres at integers)."""
        head = self.desc_head
        k = head.kernel_size
        limit = max(width, height) / 4
        size = keypoints.new_tensor([width, height]).long()
        grid = torch.stack(torch.meshgrid(*[torch.arange(k, device=keypoints.device)] * 2, indexing="xy"), dim=-1)
        mix = head.agg_weights.flatten(0, 1)
        parts = [keypoints.new_zeros(0, mix.shape[1])]
        for points in torch.split(keypoints, CHUNK) if len(keypoints) else ():
            start = (points.long() - k / 2 + 1).long()  # as in the published code
            start = torch.minimum(start.clamp(min=0), (size - 1 - k).clamp(min=0))
            patch = self._features(maps, start[:, None, None] + grid, corner)  # n k k c
            offset = head.offset_conv(patch.permute(0, 3, 1, 2)).clamp(-limit, limit)[:, :, 0, 0]
            at = points[:, None] + offset.reshape(len(points), 2, head.n_pos).permute(0, 2, 1)
            sampled = self._sample(maps, at, corner, size)  # n p c
            sampled = torch.selu_(F.linear(sampled, head.sf_conv.weight[:, :, 0, 0]))
            parts.append(F.normalize(sampled.flatten(1) @ mix, dim=1))
        return torch.cat(parts)

    def _sample(self, maps: list[Tensor], at: Tensor, corner: tuple[int, int], size: Tensor) -> Tensor:
        """The unit feature map between pixels, zero outside the image."""
        pixels, weights = corners(at, size)
        values = self._features(maps, torch.minimum(pixels.clamp(min=0), size - 1), corner)
        return (weights[..., None] * values).sum(dim=-2)

    def _features(self, maps: list[Tensor], pixels: Tensor, corner: tuple[int, int]) -> Tensor:
        """The full-resolution unit feature vector at integer pixels [*, 2] (x, y) of the unpadded image."""
        at = (pixels + pixels.new_tensor(corner)).reshape(-1, 2)
        height, width = maps[0].shape[:2]
        parts = [maps[0].flatten(0, 1)[at[:, 1] * width + at[:, 0]]]
        for m in maps[1:]:  # upsampled bilinearly with aligned corners
            size = at.new_tensor([m.shape[1], m.shape[0]])
            parts.append(sample_rows(m, at * ((size - 1) / (at.new_tensor([width, height]) - 1))))
        return F.normalize(torch.cat(parts, dim=1), dim=1).reshape(*pixels.shape[:-1], 4 * maps[0].shape[-1])


class _RowDeformableConv(nn.Module):
    """A 3x3 deformable convolution of stride 1 (Dai et al., ICCV 2017) as sampled rows and one matrix product."""

    def __init__(self, offset_conv: nn.Conv2d, conv: nn.Conv2d) -> None:
        super().__init__()
        self.offset_conv = offset_conv
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """[b c h w] to [b c' h w]."""
        height, width = x.shape[-2:]
        limit = max(height, width) / 4
        offset = self.offset_conv(x).clamp(-limit, limit)  # b (9 y x) h w
        y, x_ = torch.meshgrid(*(torch.arange(n, device=x.device) for n in (height, width)), indexing="ij")
        tap = torch.arange(9, device=x.device)
        weight = self.conv.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (9 c) c'
        out = []
        assert self.conv.bias is not None  # the folded batch norm
        for photo, shift in zip(x, offset, strict=True):
            shift = shift.permute(1, 2, 0).reshape(height, width, 9, 2)
            at_y = y[..., None] + tap // 3 - 1 + shift[..., 0]
            at_x = x_[..., None] + tap % 3 - 1 + shift[..., 1]
            rows = sample_rows(photo.permute(1, 2, 0), torch.stack([at_x, at_y], dim=-1).reshape(-1, 2))
            out.append(torch.addmm(self.conv.bias, rows.reshape(height * width, len(weight)), weight))
        return torch.stack(out).reshape(len(x), height, width, -1).permute(0, 3, 1, 2)


def corners(at: Float[Tensor, "*n 2"], size: Tensor) -> tuple[Tensor, Tensor]:
    """The four pixels [*n 4 2] around positions (px, centres at integers) and their bilinear weights, 0 outside."""
    low = at.floor()
    step = at.new_tensor([[0, 0], [1, 0], [0, 1], [1, 1]])
    pixels = low[..., None, :] + step
    weights = (1 - (at[..., None, :] - pixels).abs()).prod(dim=-1)
    pixels = pixels.long()
    return pixels, weights * ((pixels >= 0) & (pixels < size)).all(dim=-1)


def sample_rows(rows: Float[Tensor, "h w c"], at: Float[Tensor, "n 2"]) -> Float[Tensor, "n c"]:
    """Bilinear samples of a map at positions (x, y) px with centres at integers, zero outside."""
    height, width, channels = rows.shape
    size = torch.tensor([width, height], device=at.device)
    pixels, weights = corners(at, size)
    index = torch.minimum(pixels.clamp(min=0), size - 1)
    flat = rows.reshape(-1, channels)
    return F.embedding_bag(index[..., 1] * width + index[..., 0], flat, mode="sum", per_sample_weights=weights)


def score_maxima(
    score: Float[Tensor, "h w"], max_keypoints: int, threshold: float
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, " n"]]:
    """Sub-pixel local maxima (px, centres at integers) by soft-argmax (paper section III-B), and their scores."""
    height, width = score.shape
    window = 2 * RADIUS + 1
    if height <= 2 * RADIUS or width <= 2 * RADIUS:
        return score.new_zeros(0, 2), score.new_zeros(0)
    inner = score[RADIUS : height - RADIUS, RADIUS : width - RADIUS]
    highest = F.max_pool2d(score[None, None], window, stride=1)[0, 0]
    y, x = ((inner == highest) & (inner > threshold)).nonzero().unbind(dim=1)
    order = inner[y, x].sort(descending=True, stable=True).indices[:max_keypoints]
    x, y = x[order] + RADIUS, y[order] + RADIUS
    step = torch.arange(-RADIUS, RADIUS + 1, device=score.device)
    dy, dx = torch.meshgrid(step, step, indexing="ij")
    patch = score[(y[:, None] + dy.flatten()), (x[:, None] + dx.flatten())]
    weight = torch.softmax(patch / TEMPERATURE, dim=1)
    shift = weight @ torch.stack([dx.flatten(), dy.flatten()], dim=1).to(score.dtype)
    keypoints = torch.stack([x, y], dim=1) + shift
    response, order = sample_rows(score[..., None], keypoints)[:, 0].sort(descending=True, stable=True)
    return keypoints[order], response
