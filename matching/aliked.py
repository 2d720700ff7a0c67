"""ALIKED (Zhao et al., IEEE TIM 2023): kornia's network, with keypoints and descriptors computed only where needed.

kornia builds the 128-channel feature map at full resolution (360 MB for a 1024 x 683 photo) and unfolds the score map.
Here the score head's first 1x1 convolution runs before the upsampling (both are linear, so they commute), and features
are evaluated only at the pixels the descriptors sample. Same results, a third of the time, a fraction of the memory.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from kornia.feature.aliked.aliked import ALIKED, InputPadder
from torch import Tensor

RADIUS = 2  # of the non-maximum suppression and of the soft-argmax, px
TEMPERATURE = 0.1  # of the soft-argmax
CHUNK = 512  # keypoints described at once: 512 x (9 + 64) pixels x 128 channels are 19 MB


class LeanAliked(ALIKED):  # type: ignore[misc]
    """kornia's ALIKED with `detect`, which takes the budget and threshold per call."""

    def detect(
        self, images: Float[Tensor, "b 3 h w"], *, max_keypoints: int, threshold: float
    ) -> list[tuple[Float[Tensor, "n 2"], Float[Tensor, "n d"], Float[Tensor, " n"]]]:
        """Keypoints (px, pixel centres at +0.5), unit descriptors and scores in (0, 1), strongest first, per image.

        images: RGB in [0, 1]. Keeps the local maxima of the score map above `threshold`, at most `max_keypoints`.
        """
        maps, scores, corner = self._maps(images)
        out = []
        for i in range(len(images)):
            keypoints, response = _score_maxima(scores[i, 0], max_keypoints, threshold)
            descriptors = self._describe([m[i] for m in maps], keypoints, corner, images.shape[-1], images.shape[-2])
            out.append((keypoints + 0.5, descriptors, response))
        return out

    def _maps(self, images: Tensor) -> tuple[list[Tensor], Tensor, tuple[int, int]]:
        """The four 1/4-width feature maps (strides 1, 2, 8, 32, of the padded image), the score map, the padding."""
        padder = InputPadder(images.shape[-2], images.shape[-1], 32)
        x1 = self.block1(padder.pad(images))
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
        return maps, padder.unpad(score), (padder._pad[0], padder._pad[2])

    def _describe(
        self, maps: list[Tensor], keypoints: Tensor, corner: tuple[int, int], width: int, height: int
    ) -> Tensor:
        """Descriptors by the deformable head (paper section III-C) at keypoints (px, centres at integers)."""
        head = self.desc_head
        k = head.kernel_size
        limit = max(width, height) / 4
        size = keypoints.new_tensor([width, height]).long()
        grid = torch.stack(torch.meshgrid(*[torch.arange(k, device=keypoints.device)] * 2, indexing="xy"), dim=-1)
        parts = [keypoints.new_zeros(0, head.sf_conv.out_channels)]
        for points in torch.split(keypoints, CHUNK):
            start = (points.long() - k / 2 + 1).long()  # as in the published code
            start = torch.minimum(start.clamp(min=0), (size - 1 - k).clamp(min=0))
            patch = self._features(maps, start[:, None, None] + grid, corner)  # n k k c
            offset = head.offset_conv(patch.permute(0, 3, 1, 2)).clamp(-limit, limit)[:, :, 0, 0]
            at = points[:, None] + offset.view(len(points), 2, head.n_pos).permute(0, 2, 1)
            sampled = self._bilinear(maps, at, corner, size)  # n p c
            sampled = torch.selu_(F.linear(sampled, head.sf_conv.weight[:, :, 0, 0]))
            parts.append(F.normalize(torch.einsum("npc,pcd->nd", sampled, head.agg_weights), dim=1))
        return torch.cat(parts)

    def _bilinear(self, maps: list[Tensor], at: Tensor, corner: tuple[int, int], size: Tensor) -> Tensor:
        """The normalised feature map at sub-pixel positions, zero outside the image."""
        low = at.floor()
        out = None
        for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
            pixel = low + low.new_tensor([dx, dy])
            weight = (1 - (at - pixel).abs()).prod(dim=-1, keepdim=True)
            pixel = pixel.long()
            weight = weight * ((pixel >= 0) & (pixel < size)).all(dim=-1, keepdim=True)
            part = weight * self._features(maps, torch.minimum(pixel.clamp(min=0), size - 1), corner)
            out = part if out is None else out + part
        assert out is not None
        return out

    def _features(self, maps: list[Tensor], pixels: Tensor, corner: tuple[int, int]) -> Tensor:
        """The full-resolution unit feature vector at integer pixels [*, 2] (x, y) of the unpadded image."""
        x, y = pixels[..., 0].flatten() + corner[0], pixels[..., 1].flatten() + corner[1]
        height, width = maps[0].shape[-2:]
        grid = torch.stack([x * (2 / (width - 1)) - 1, y * (2 / (height - 1)) - 1], dim=-1)[None, None]
        parts = [maps[0][:, y, x]]
        parts += [
            F.grid_sample(m[None], grid.to(m.dtype), align_corners=True, padding_mode="border")[0, :, 0]
            for m in maps[1:]
        ]
        features: Tensor = F.normalize(torch.cat(parts), dim=0).T.reshape(*pixels.shape[:-1], -1)
        return features


def _score_maxima(score: Tensor, max_keypoints: int, threshold: float) -> tuple[Tensor, Tensor]:
    """Sub-pixel local maxima (px, centres at integers) by soft-argmax (paper section III-B), and their scores."""
    height, width = score.shape
    window = 2 * RADIUS + 1
    if height <= 2 * RADIUS or width <= 2 * RADIUS:
        return score.new_zeros(0, 2), score.new_zeros(0)
    inner = score[RADIUS : height - RADIUS, RADIUS : width - RADIUS]
    highest = F.max_pool2d(score[None, None], window, stride=1)[0, 0]
    y, x = ((inner == highest) & (inner > threshold)).nonzero().unbind(dim=1)
    value = inner[y, x]
    value, order = value.sort(descending=True, stable=True)
    order = order[:max_keypoints]
    x, y = x[order] + RADIUS, y[order] + RADIUS
    step = torch.arange(-RADIUS, RADIUS + 1, device=score.device)
    dy, dx = torch.meshgrid(step, step, indexing="ij")
    patch = score[(y[:, None] + dy.flatten()), (x[:, None] + dx.flatten())]
    weight = torch.softmax(patch / TEMPERATURE, dim=1)
    shift = weight @ torch.stack([dx.flatten(), dy.flatten()], dim=1).to(score.dtype)
    keypoints = torch.stack([x, y], dim=1) + shift
    grid = keypoints / keypoints.new_tensor([width - 1, height - 1]) * 2 - 1
    response = F.grid_sample(score[None, None], grid[None, None], align_corners=True)[0, 0, 0]
    return keypoints, response
