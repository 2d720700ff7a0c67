"""Sizes and settings of DKM v3 (Edstedt et al., CVPR 2023, section 3 and supplement)."""

from __future__ import annotations

from dataclasses import dataclass

# per stride: channels of each photo's features there, of the embedded displacement, radius of the correlation (0: none)
REFINERS = {16: (512, 128, 7), 8: (512, 64, 3), 4: (256, 32, 2), 2: (64, 16, 0), 1: (3, 6, 0)}


@dataclass(frozen=True, kw_only=True, slots=True)
class DKMConfig:
    """The published outdoor setting by default; `indoor()` and `cpu()` are others for the same network.

    size, upsampled: (height, width) px that photos are resized to, whatever their aspect, for the warp and for the pass
    that refines it again from stride 8 (None: no such pass). temperature, noise: of the Gaussian process.
    certainty_threshold: above it all pixels are as likely to be sampled. density_std: of the kernel that estimates how
    densely samples lie, in coordinates where a photo spans [-1, 1]; samples with an expected density below min_density
    are all but never drawn.
    """

    size: tuple[int, int] = (540, 720)
    upsampled: tuple[int, int] | None = (864, 1152)
    temperature: float = 0.2
    noise: float = 0.1
    certainty_threshold: float = 0.05
    density_std: float = 0.1
    min_density: float = 10.0

    def __post_init__(self) -> None:
        if min(*self.size, *(self.upsampled or self.size)) < 32:
            raise ValueError(f"photos must be resized to at least 32 px: {self.size}, {self.upsampled}")
        if min(self.temperature, self.noise, self.density_std) <= 0:
            raise ValueError("temperature, noise and density_std must be positive")
        if not 0 < self.certainty_threshold <= 1 or self.min_density < 0:
            raise ValueError("certainty_threshold must lie in (0, 1], min_density must not be negative")

    @classmethod
    def indoor(cls) -> DKMConfig:
        """The published indoor setting."""
        return cls(size=(480, 640), upsampled=None)

    @classmethod
    def cpu(cls) -> DKMConfig:
        """A quarter of the outdoor setting's work, for processors: no second pass."""
        return cls(size=(384, 512), upsampled=None)
