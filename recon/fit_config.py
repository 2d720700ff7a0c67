"""Settings and results of fitting surfels to photos (see fit_surfels.py)."""

from __future__ import annotations

from dataclasses import dataclass, field

from vision3d.core import RigidTransform, Surfels, UsageError

TERMS = ("photometric", "normal", "distortion", "variance", "correspondence", "silhouette")


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Settings of the optimisation. Learning rates fall exponentially to `final_rate` of themselves."""

    iterations: int | None = None
    """steps of one photo each; by default 60 per photo, at least 400 and at most 3000"""
    coarse: tuple[float, ...] = (0.5, 1.0)
    """shares of the photos' size to work at, one after the other"""
    coarse_share: float = 0.4
    """share of the steps at sizes below the last"""
    sh_degree: int = 1
    """highest degree of spherical harmonics; one more degree every fifth of the steps"""
    ssim: float = 0.2
    """weight of 1 - SSIM against L1"""
    normal: float = 0.05
    """weight of the normal consistency"""
    distortion: float = 1.0
    """weight of the spread of weights along the ray, as a share of the depth"""
    variance: float = 0.5
    """weight of the colour variance along the ray at the start; falls to 0 by a cosine"""
    correspondence: float = 0.002
    """weight of the distance between matches and where rendered depth puts them, per px"""
    silhouette: float = 0.0
    """weight of the distance between opacity and mask, for masks that cut out an object; 0: what they hide is free"""
    rate_means: float = 0.05
    """step of positions, in median sizes of a surfel"""
    rate_quats: float = 0.002
    rate_scales: float = 0.005
    rate_opacities: float = 0.03
    rate_sh: float = 0.005
    rate_poses: float = 2e-4
    """step of camera increments: rad, and median depths"""
    rate_exposure: float = 1e-3
    final_rate: float = 0.05
    refine_cameras: bool = True
    """let the cameras move"""
    exposure: bool = True
    """fit gain and offset per photo and channel"""
    relocate: bool = False
    """move dead surfels to where they are needed, instead of leaving them out at the end"""
    tolerance: float = 0.0005
    """stop when a tenth of the steps lowered the loss by less than this share, at full size; 0: never"""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class FitCurves:
    """What happened: `steps` and `seconds` of the samples, and by name a value (nan: not measured) for each."""

    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, step: int, seconds: float, values: dict[str, float]) -> None:
        """One sample; all samples have the same names."""
        self.steps.append(step)
        self.seconds.append(seconds)
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)


@dataclass(frozen=True, slots=True)
class FitResult:
    """What came out, in the world frame and unit of the views.

    poses: cam_from_world by name, float64. exposure: gain and offset per channel by name, photo = gain * colour +
    offset. background: the colour behind the surfels. ended: why it ended, in words.
    """

    surfels: Surfels
    poses: dict[str, RigidTransform]
    exposure: dict[str, tuple[tuple[float, ...], tuple[float, ...]]]
    background: tuple[float, ...]
    curves: FitCurves
    ended: str


def check_config(config: FitConfig) -> None:
    """UsageError for settings that cannot be."""
    if config.iterations is not None and config.iterations < 1:
        raise UsageError(f"iterations must be at least 1, got {config.iterations}")
    if not config.coarse or any(not 0 < share <= 1 for share in config.coarse):
        raise UsageError(f"coarse sizes are shares in (0, 1], got {config.coarse}")
    if not 0 <= config.sh_degree <= 3:
        raise UsageError(f"spherical harmonics go to degree 3, got {config.sh_degree}")
