"""DKM v3 (Edstedt et al., "DKM: Dense Kernelized Feature Matching for Geometry Estimation", CVPR 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vision3d.matching.dkm.coarse_decoder import CoarseDecoder
from vision3d.matching.dkm.config import REFINERS, DKMConfig
from vision3d.matching.dkm.encoder import Encoder
from vision3d.matching.dkm.gaussian_process import GaussianProcess
from vision3d.matching.dkm.refiner import Refiner


@dataclass(frozen=True, slots=True)
class Estimate:
    """A warp at one stride: (x, y) in photo 1, [-1, 1] across it, and the certainty's logit."""

    warp: Float[Tensor, "b 2 h w"]
    logit: Float[Tensor, "b 1 h w"]

    def resized(self, size: tuple[int, int]) -> Estimate:
        """On a grid of another (height, width)."""
        return Estimate(_resized(self.warp, size), _resized(self.logit, size))

    def detach(self) -> Estimate:
        """Without gradients."""
        return Estimate(self.warp.detach(), self.logit.detach())


class Decoder(nn.Module):
    """From two feature pyramids to estimates, coarse to fine."""

    def __init__(self, config: DKMConfig) -> None:
        super().__init__()
        self.embedding_decoder = CoarseDecoder()
        self.gps = nn.ModuleDict({s: GaussianProcess(256, config.temperature, config.noise) for s in ("32", "16")})
        self.proj = nn.ModuleDict({"16": nn.Conv2d(1024, 512, 1), "32": nn.Conv2d(2048, 512, 1)})
        self.conv_refiner = nn.ModuleDict({str(stride): Refiner(stride) for stride in REFINERS})

    def forward(
        self, maps0: Mapping[int, Tensor], maps1: Mapping[int, Tensor], start: Estimate | None = None
    ) -> dict[int, Estimate]:
        """Estimates by stride: from 32 on, or from 8 on where `start` is given (the second pass)."""
        height, width = maps0[1].shape[2:]
        made: dict[int, Estimate] = {}
        estimate, context = start, None
        for stride in (8, 4, 2, 1) if start is not None else (32, 16, 8, 4, 2, 1):
            x0, x1, scale = maps0[stride], maps1[stride], str(stride)
            size = (x0.shape[2], x0.shape[3])
            if estimate is not None:
                estimate = estimate.resized(size).detach()
            if stride >= 16:
                x0, x1 = self.proj[scale](x0), self.proj[scale](x1)
                context = None if context is None else _resized(context, size)
                posterior = self.gps[scale](x0, x1)
                warp, logit, context = self.embedding_decoder(posterior, x0, context, stride)
                estimate = Estimate(warp, logit)
            assert estimate is not None
            if stride <= 16:
                displacement, change = self.conv_refiner[scale](x0, x1, estimate.warp)
                unit = displacement.new_tensor([stride / (4 * width), stride / (4 * height)])[:, None, None]
                estimate = Estimate(estimate.warp + unit * displacement, estimate.logit + change)
            made[stride] = estimate
        return made


class DKM(nn.Module):
    """Dense matching of two photos of one size; see `DKMConfig` for the sizes it is meant for."""

    def __init__(self, config: DKMConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder()
        self.decoder = Decoder(config)

    def forward(
        self, rgb0: Float[Tensor, "b 3 h w"], rgb1: Float[Tensor, "b 3 h w"], start: Estimate | None = None
    ) -> dict[int, Estimate]:
        """Where photo 0's pixels lie in photo 1, by stride (32 to 1; from 8 on with `start`). rgb in [0, 1].

        ValueError: sizes differ or are below 32 px, values are not finite or not floating point.
        """
        _check(rgb0, rgb1)
        # one batch: in training the encoder is normalised over both photos
        maps = self.encoder(torch.cat([rgb0, rgb1]), 32 if start is None else 8)
        maps0, maps1 = ({stride: x.chunk(2)[k] for stride, x in maps.items()} for k in range(2))
        made: dict[int, Estimate] = self.decoder(maps0, maps1, start)
        return made

    def both_ways(self, rgb: Float[Tensor, "2 3 h w"], start: Estimate | None = None) -> dict[int, Estimate]:
        """Estimates of photo 0 to 1 (item 0) and of photo 1 to 0 (item 1)."""
        _check(rgb[:1], rgb[1:])
        maps = self.encoder(rgb, 32 if start is None else 8)
        made: dict[int, Estimate] = self.decoder(maps, {stride: x.flip(0) for stride, x in maps.items()}, start)
        return made

    def match(
        self, rgb: Float[Tensor, "2 3 h w"], finer: Float[Tensor, "2 3 i j"] | None = None
    ) -> tuple[Float[Tensor, "2 a b 2"], Float[Tensor, "2 a b"]]:
        """Warps both ways ([-1, 1] across the other photo) and certainty, at the size of `rgb`, or of `finer` (the
        same photos larger) where a second pass refines them. Certainty is 0 where the warp leaves the photo.
        """
        made = self.both_ways(rgb)
        coarse, fine = made[16], made[1]
        del made
        if finer is not None:
            fine = self.both_ways(finer, fine)[1]
        size = (fine.warp.shape[2], fine.warp.shape[3])
        logit = fine.logit - 0.5 * _resized(coarse.logit, size).clamp(max=0)
        warp = fine.warp.permute(0, 2, 3, 1)
        inside = (warp.abs() <= 1).all(-1)
        return warp.clamp(-1, 1), torch.where(inside, torch.sigmoid(logit[:, 0]), 0)


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def _check(rgb0: Tensor, rgb1: Tensor) -> None:
    if rgb0.shape != rgb1.shape or min(rgb0.shape[2:]) < 32:
        raise ValueError(f"photos must share one size of at least 32 px, got {list(rgb0.shape)}, {list(rgb1.shape)}")
    for rgb in (rgb0, rgb1):
        if not rgb.is_floating_point():
            raise ValueError(f"photos must hold floating point values in [0, 1], got {rgb.dtype}")
        if not torch.isfinite(rgb).all():
            raise ValueError("a photo holds values that are not finite (NaN or infinite)")
