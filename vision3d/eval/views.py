"""How like the photos the renders of a run are: PSNR and SSIM per photo, from saved pictures (two phases).

SSIM: Wang et al., IEEE TIP 2004, on colour, 11x11 Gaussian window of 1.5 px (see vision3d.recon.ssim).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.core import UsageError, Vision3DError
from vision3d.eval.tables import Cell, Table
from vision3d.recon.likeness import psnr, ssim

GROUPS = ("heldout", "train")
_RENDER, _PHOTO, _MASK = "_render.png", "_photo.png", "_mask.png"


@dataclass(frozen=True, slots=True)
class PhotoLikeness:
    """One photo: group is "heldout" or "train"; size in px; counted: share of pixels; None where nothing counts."""

    name: str
    group: str
    width: int
    height: int
    counted: float
    psnr: float | None
    ssim: float | None


@dataclass(frozen=True, slots=True)
class ViewsReport:
    """All photos of a run."""

    result: Path
    photos: tuple[PhotoLikeness, ...]

    def tables(self) -> list[Table]:
        """Means per group, then one row per photo."""
        titles = {"heldout": "held out", "train": "trained on"}
        means: list[tuple[Cell, ...]] = []
        for group in GROUPS:
            of_group = [photo for photo in self.photos if photo.group == group]
            if of_group:
                means.append((titles[group], len(of_group), self.mean(group, "psnr"), self.mean(group, "ssim")))
        rows: list[tuple[Cell, ...]] = [
            (p.name, titles[p.group], f"{p.width}x{p.height}", 100 * p.counted, p.psnr, p.ssim) for p in self.photos
        ]
        columns = ("photo", "group", "size px", "counted %", "PSNR dB", "SSIM")
        caption = f"Protocol: {self.protocol()}."
        short = ("group", "photos", "PSNR dB", "SSIM")
        return [
            Table("Renders beside photos, means", caption, short, (0, 0, 2, 4), tuple(means)),
            Table("Per photo", "Means above are over photos, not pixels.", columns, (0, 0, 0, 1, 2, 4), tuple(rows)),
        ]

    def json(self) -> dict[str, object]:
        """Plain values: means per group (null where there is none) and every photo."""
        return {
            "result": str(self.result),
            "protocol": self.protocol(),
            "mean": {g: {"psnr": self.mean(g, "psnr"), "ssim": self.mean(g, "ssim")} for g in GROUPS},
            "photos": [asdict(photo) for photo in self.photos],
        }

    def mean(self, group: str, measure: str) -> float | None:
        """Over the photos of a group that have a value."""
        values = [getattr(photo, measure) for photo in self.photos if photo.group == group]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    def protocol(self) -> str:
        """What was compared and how."""
        masked = sum(photo.counted < 1 for photo in self.photos)
        masks = f"masked in {masked} of {len(self.photos)} photos" if masked else "all pixels"
        return (
            f"8-bit pictures as saved, undistorted and at the size they were rendered at; {masks}; PSNR from the mean "
            "squared error over pixels and channels; SSIM on RGB, 11x11 Gaussian window (1.5 px), mirrored border, "
            "mean over the same pixels, masked ones being replaced by the photo"
        )


def evaluate_views(result: Path) -> ViewsReport:
    """Compare every `STEM_render.png` with `STEM_photo.png` in `renders/heldout` and `renders/train` of a run.

    `STEM_mask.png`, where it is there, says which pixels count (white).

    Raises:
        UsageError: no renders. Vision3DError: a missing or broken picture, or two sizes.
    """
    folder = result / "renders"
    photos = []
    for group in GROUPS:
        for render in sorted((folder / group).glob(f"*{_RENDER}")):
            photos.append(_compare(render, render.name.removesuffix(_RENDER), group))
    if not photos:
        raise UsageError(
            f"{result} has no renders (renders/heldout or renders/train with *{_RENDER}): give the output folder of "
            "`reconstruct` run beyond --until poses"
        )
    return ViewsReport(result, tuple(photos))


def _compare(render: Path, stem: str, group: str) -> PhotoLikeness:
    a, b = _read(render), _read(render.with_name(stem + _PHOTO))
    if a.shape != b.shape:
        sizes = f"{a.shape[2]}x{a.shape[1]} and {b.shape[2]}x{b.shape[1]} px"
        raise Vision3DError(f"{render} and its photo have different sizes: {sizes}")
    mask = None
    mask_path = render.with_name(stem + _MASK)
    if mask_path.is_file():
        mask = _read(mask_path)[0] > 0.5
        if mask.shape != a.shape[1:]:
            raise Vision3DError(f"{mask_path} has another size than its photo")
    counted = 1.0 if mask is None else float(mask.float().mean())
    return PhotoLikeness(stem, group, a.shape[2], a.shape[1], counted, psnr(a, b, mask), ssim(a, b, mask))


def _read(path: Path) -> Float[Tensor, "3 h w"]:
    try:
        with PIL.Image.open(path) as picture:
            pixels = np.array(picture.convert("RGB"), dtype=np.float32) / 255
    except Exception as error:  # broken files raise nearly anything
        raise Vision3DError(f"cannot read the picture {path}: {error}") from None
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
