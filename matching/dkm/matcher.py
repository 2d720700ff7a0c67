"""DKM as a matcher of photos: loads the weights at first use; warps both ways, and samples in px of the originals."""

from __future__ import annotations

import functools
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vision3d.core import Correspondences, Image, Warp
from vision3d.errors import UsageError
from vision3d.matching.dkm.checkpoint import load_dkm
from vision3d.matching.dkm.config import DKMConfig
from vision3d.matching.dkm.gaussian_process import pixel_grid
from vision3d.matching.dkm.model import DKM
from vision3d.matching.dkm.sampling import balanced_sample
from vision3d.weights import content_of

MIN_SIDE = 32  # px; a smaller photo is no more than one cell of the coarsest stride


class DKMMatcher:
    """Dense matches of two photos, sampled evenly over what both show.

    Photos are resized to the setting's size whatever their aspect, as the weights were trained: "outdoor" 540 x 720
    then 864 x 1152, "indoor" 480 x 640, "cpu" 384 x 512 px (height x width). scene: which published weights.
    count: matches drawn at most. The same photos give the same matches: drawing is seeded with `seed`.
    """

    name = "dkm"

    def __init__(
        self,
        *,
        setting: Literal["outdoor", "indoor", "cpu"] = "outdoor",
        scene: Literal["outdoor", "indoor"] | None = None,
        count: int = 5000,
        seed: int = 0,
        device: str = "cpu",
        weights: Path | None = None,
        config: DKMConfig | None = None,
    ) -> None:
        """scene None: as the setting ("cpu": outdoor). config: in place of the setting's."""
        settings = {"outdoor": DKMConfig, "indoor": DKMConfig.indoor, "cpu": DKMConfig.cpu}
        if setting not in settings or scene not in (None, "outdoor", "indoor"):
            raise UsageError(f"settings are outdoor, indoor and cpu, scenes outdoor and indoor; got {setting}, {scene}")
        if count < 1:
            raise UsageError(f"count must be at least 1, got {count}")
        self.config: DKMConfig = config or settings[setting]()
        self.scene: Literal["outdoor", "indoor"] = scene or ("indoor" if setting == "indoor" else "outdoor")
        self.count, self.seed, self.weights = count, seed, weights
        self.device = torch.device(device)
        self.max_size = max(self.config.upsampled or self.config.size)

    @property
    def settings(self) -> dict[str, object]:
        """Everything that changes the result, as plain JSON values."""
        config = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self.config).items()}
        return {
            "name": self.name,
            "version": 1,
            "scene": self.scene,
            "count": self.count,
            "seed": self.seed,
            "weights": self._weights_content,
            **config,
        }

    def match(self, image0: Image, image1: Image) -> Correspondences:
        """Match two photos; scores are the certainties. Empty where one is smaller than 32 px."""
        if min(*image0.size, *image1.size) < MIN_SIDE:
            return Correspondences.empty()
        warps, certainty = self._warps(image0, image1)
        with torch.inference_mode():
            grid = pixel_grid(warps.shape[1], warps.shape[2], warps)
            there, back = torch.cat([grid, warps[0]], -1), torch.cat([warps[1], grid], -1)
            matches, flat = torch.cat([there.reshape(-1, 4), back.reshape(-1, 4)]), certainty.flatten()
            generator = torch.Generator(matches.device).manual_seed(self.seed)
            chosen = balanced_sample(matches, flat, self.count, self.config, generator)
            drawn, scores = matches[chosen].cpu(), flat[chosen].cpu()
        at0, at1 = ((side + 1) / 2 * side.new_tensor(image.size) for side, image in
                    ((drawn[:, :2], image0), (drawn[:, 2:], image1)))  # fmt: skip
        return Correspondences(image0.to_original(at0).clone(), image1.to_original(at1).clone(), scores.clone())

    def warp(self, image0: Image, image1: Image) -> tuple[Warp, Warp]:
        """The warps of photo 0 into photo 1 and of photo 1 into photo 0, on grids of the setting's size.

        UsageError for photos smaller than 32 px and for cropped ones (their offset has no place in a `Warp`).
        """
        for image in (image0, image1):
            if min(image.size) < MIN_SIDE:
                raise UsageError(f"{image.name}: a warp needs photos of at least {MIN_SIDE} px, got {image.size}")
            if image.offset != (0.0, 0.0):
                raise UsageError(f"{image.name}: a warp needs whole photos, this one is cropped; use match instead")
        warps, certainty = self._warps(image0, image1)
        h, w = certainty.shape[1:]
        target = (warps + 1) / 2 * warps.new_tensor([w, h])
        scales = [(i.size[0] / w * i.scale[0], i.size[1] / h * i.scale[1]) for i in (image0, image1)]
        there, back = target.clone().cpu().unbind()
        sure, sure_back = certainty.clone().cpu().unbind()
        return Warp(there, sure, (scales[0], scales[1])), Warp(back, sure_back, (scales[1], scales[0]))

    def _warps(self, image0: Image, image1: Image) -> tuple[Float[Tensor, "2 h w 2"], Float[Tensor, "2 h w"]]:
        for image in (image0, image1):
            if not image.rgb.is_floating_point():
                raise ValueError(f"{image.name}: a photo must hold floating point values, got {image.rgb.dtype}")
            if not bool(torch.isfinite(image.rgb).all()):
                raise ValueError(f"{image.name}: the photo holds values that are not finite (NaN or infinite)")
        with torch.inference_mode():
            finer = self._pair(image0, image1, self.config.upsampled) if self.config.upsampled else None
            warps, certainty = self._network.match(self._pair(image0, image1, self.config.size), finer)
        return warps, certainty

    def _pair(self, image0: Image, image1: Image, size: tuple[int, int]) -> Float[Tensor, "2 3 h w"]:
        return torch.cat([self._resized(image0, size), self._resized(image1, size)])

    def _resized(self, image: Image, size: tuple[int, int]) -> Tensor:
        rgb = image.rgb[None].to(self.device, torch.float32)
        return F.interpolate(rgb, size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)

    @functools.cached_property
    def _weights_content(self) -> str:
        return content_of(self.weights)

    @functools.cached_property
    def _network(self) -> DKM:
        return load_dkm(self.scene, self.weights, self.config).to(self.device)
