"""Focal length in px from EXIF: 35 mm equivalent, focal plane resolution, or focal length and sensor width."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from PIL.ExifTags import Base

# Make and model (regular expressions, case ignored) -> sensor width in mm, from the makers' data sheets.
# Only for cameras that write neither a 35 mm equivalent nor a focal plane resolution; first hit wins.
SENSOR_WIDTH_MM: tuple[tuple[str, str, float], ...] = (
    ("canon", r"eos (1ds|5d|6d|r|rp|r5|r6|r3|r8)\b", 36.0),
    ("canon", r"eos (1d|1d mark iv)\b", 27.9),
    ("canon", r"(eos|rebel|kiss)", 22.3),
    ("nikon", r"(d3|d3s|d3x|d4|d4s|d5|d6|d6[01]0|d7[05]0|d780|d8[0-9]0e?|df|z ?[5-9])\b", 35.9),
    ("nikon", r"nikon 1 ", 13.2),
    ("nikon", r"d[0-9]+|z ?(30|50|fc)", 23.5),
    ("sony", r"(ilce-[79]|dslr-a[89]|slt-a99|dsc-rx1\b)", 35.8),
    ("sony", r"(ilce-[3-6]|nex-|slt-|dslr-)", 23.5),
    ("sony", r"(rx100|rx10)", 13.2),
    ("fujifilm", r"x-?(t|e|pro|h|s|m|a|100)", 23.5),
    ("pentax|ricoh", r"k-1\b", 35.9),
    ("pentax|ricoh", r"(k-|k[0-9]|gr)", 23.5),
    ("olympus|om digital", r"(e-|om-)", 17.3),
    ("panasonic", r"dmc?-?g|dc-g", 17.3),
    ("leica", r"(m9|m10|m11|q|sl)", 36.0),
    ("dji", r"(fc6310|l1d-20c)", 13.2),
    ("dji", r"(fc220|fc330|fc300)", 6.17),
)
_DIAGONAL_35MM = math.hypot(36, 24)
_UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}  # FocalPlaneResolutionUnit: inch, cm, mm, um


def focal_from_exif(exif: Mapping[int, object], size: tuple[int, int]) -> tuple[float, str] | None:
    """Focal length in px of a photo of size (width, height) px and where it came from, or None.

    A 35 mm equivalent compares diagonals (CIPA DCG-001: 43.27 mm). Values that give less than 0.2 or more than 20
    times the longer side are taken as broken. The photo is assumed uncropped; resizing is accounted for.
    """
    longer = max(size)
    focal_mm = _number(exif.get(Base.FocalLength))
    equivalent = _number(exif.get(Base.FocalLengthIn35mmFilm))
    candidates: list[tuple[float, str]] = []
    if equivalent is not None:
        candidates.append((equivalent / _DIAGONAL_35MM * math.hypot(*size), "exif 35 mm equivalent"))
    if focal_mm is not None:
        resolution = _number(exif.get(Base.FocalPlaneXResolution))
        unit = _UNIT_MM.get(int(_number(exif.get(Base.FocalPlaneResolutionUnit)) or 2))
        stored_width = _number(exif.get(Base.ExifImageWidth))
        stored_height = _number(exif.get(Base.ExifImageHeight))
        if resolution is not None and unit is not None and stored_width is not None and stored_height is not None:
            resized = longer / max(stored_width, stored_height)
            candidates.append((focal_mm * resolution / unit * resized, "exif focal + focal plane resolution"))
        width_mm = sensor_width_mm(text(exif.get(Base.Make)), text(exif.get(Base.Model)))
        if width_mm is not None:
            candidates.append((focal_mm / width_mm * longer, "exif focal + sensor width of the model"))
    return next((c for c in candidates if 0.2 * longer <= c[0] <= 20 * longer), None)


def sensor_width_mm(make: str, model: str) -> float | None:
    """Width of the longer side of a known camera's sensor in mm."""
    for make_pattern, model_pattern, width in SENSOR_WIDTH_MM:
        if re.search(make_pattern, make, re.IGNORECASE) and re.search(model_pattern, model, re.IGNORECASE):
            return width
    return None


def text(value: object) -> str:
    """An EXIF text without padding; empty where it is missing or no text."""
    return value.replace("\0", " ").strip() if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    """A positive, finite EXIF number (also rationals and 0/0)."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return number if math.isfinite(number) and number > 0 else None
