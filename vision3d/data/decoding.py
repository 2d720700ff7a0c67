"""Decode one photo of any common kind to upright RGB, with bounded memory and errors a person can act on."""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from PIL.ExifTags import Base
from PIL.JpegImagePlugin import JpegImageFile

from vision3d.core import Image, Vision3DError

MIN_SIDE = 16  # px; nothing smaller shows enough to match
MAX_PIXELS = 400_000_000  # more is a mistake or a decompression bomb; Pillow stops at 179 million for all but JPEG

# EXIF orientation -> what turns the stored pixels upright (EXIF 2.32, tag 0x0112).
_UPRIGHT = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}

# Photos of 100 megapixels are welcome here: MAX_PIXELS is the limit, not the warning at 89 million pixels.
warnings.filterwarnings("ignore", category=PIL.Image.DecompressionBombWarning)


@dataclass(frozen=True, slots=True)
class PhotoHeader:
    """What a photo file says of itself: upright size (width, height) px, EXIF orientation 1-8, EXIF tags by number."""

    size: tuple[int, int]
    orientation: int
    exif: dict[int, object]


def open_photo(path: Path, name: str, data: bytes | None = None) -> tuple[PIL.Image.Image, PhotoHeader]:
    """Open a photo without decoding it.

    Args:
        path: the file; `data` is its content where it was read already.
        name: what errors call it.

    Raises:
        Vision3DError: missing, empty, not a photo, smaller than MIN_SIDE px or larger than MAX_PIXELS.
    """
    try:
        stream = BytesIO(path.read_bytes() if data is None else data)
    except OSError as error:
        raise Vision3DError(f"cannot read the photo {name}: {error.strerror or error}") from None
    start = stream.getvalue()[:3]
    if not start:
        raise Vision3DError(f"the photo {name} is empty (0 bytes): copy it again or remove it")
    try:
        # The class itself takes JPEGs of any size (200-megapixel phones), PIL.Image.open stops at 179 megapixels.
        stored = JpegImageFile(stream, str(path)) if start == b"\xff\xd8\xff" else PIL.Image.open(stream)
    except PIL.Image.DecompressionBombError:
        raise Vision3DError(_too_large(name, None)) from None
    except Exception:  # Pillow's readers raise nearly anything on a broken file
        raise Vision3DError(
            f"{name} is not a photo that can be read (its content is no known image format):"
            " remove it or save it as JPEG or PNG"
        ) from None
    width, height = stored.size
    if width * height > MAX_PIXELS:
        raise Vision3DError(_too_large(name, stored.size))
    if min(width, height) < MIN_SIDE:
        raise Vision3DError(
            f"the photo {name} has {width}x{height} px, at least {MIN_SIDE}x{MIN_SIDE} are needed: remove it"
        )
    exif = _exif(stored)
    orientation = exif.get(int(Base.Orientation), 1)
    orientation = orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
    size = (height, width) if orientation >= 5 else (width, height)
    return stored, PhotoHeader(size, orientation, exif)


def decode(stored: PIL.Image.Image, name: str, size: tuple[int, int]) -> PIL.Image.Image:
    """Decode what `open_photo` opened to RGB or to mode F with values in [0, 1], as stored, resized to size px.

    JPEGs much larger than `size` are decoded at 1/2, 1/4 or 1/8, so that memory follows the result. Downscaling
    averages over what each pixel covers (antialiased bicubic).

    Raises:
        Vision3DError: truncated or damaged data.
    """
    width, height = stored.size
    try:
        # A reduced JPEG ends with a partly filled pixel: draft's box is exactly the area of the photo.
        _, box = stored.draft(None, size) or (None, (0.0, 0.0, width, height))
        stored.load()
        pixels = _to_rgb(stored, name)
        if pixels.size != size:
            pixels = pixels.resize(size, PIL.Image.Resampling.BICUBIC, box=box)
    except Vision3DError:
        raise
    except MemoryError:
        raise Vision3DError(f"not enough memory to decode the photo {name} ({width}x{height} px)") from None
    except Exception as error:  # as above: truncated files give OSError, SyntaxError, struct.error, zlib.error, ...
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Vision3DError(f"the photo {name} is damaged or cut off ({reason}): copy it again or remove it") from None
    return pixels


def load_photo(path: str | Path, max_size: int | None = None, name: str | None = None) -> Image:
    """Decode a photo: upright, RGB in [0, 1], longer side at most max_size px (never enlarged).

    Grey, palette, 16-bit, CMYK and transparent photos are converted (transparency over black). The result's
    `to_original` maps px back to the upright original exactly.

    Args:
        path: JPEG, PNG, TIFF, WebP, BMP or PNM file.
        max_size: longer side of the result in px; None keeps the size.
        name: the photo's name in the result and in errors; the file's name by default.

    Raises:
        Vision3DError: the file is missing, empty, no photo, damaged, smaller than 16 px or beyond 400 megapixels.
        ValueError: max_size below 1.
    """
    return load_photo_at(path, lambda size: resized_size(size, max_size), name)


def load_photo_at(
    path: str | Path, size_for: Callable[[tuple[int, int]], tuple[int, int]], name: str | None = None
) -> Image:
    """As `load_photo`, at the size (width, height) px that `size_for` gives for that of the upright original."""
    path = Path(path)
    name = path.name if name is None else name
    stored, header = open_photo(path, name)
    width, height = size_for(header.size)
    pixels = decode(stored, name, (height, width) if header.orientation >= 5 else (width, height))
    if header.orientation in _UPRIGHT:
        pixels = pixels.transpose(_UPRIGHT[header.orientation])
    values: NDArray[np.float32] = np.array(pixels, dtype=np.float32)
    if pixels.mode == "RGB":
        rgb = torch.from_numpy(values).permute(2, 0, 1).contiguous().div_(255)
    else:
        rgb = torch.from_numpy(values).clamp_(0, 1).expand(3, -1, -1).contiguous()
    scale = (header.size[0] / width, header.size[1] / height)
    return Image(rgb, name, header.size, scale)


def resized_size(size: tuple[int, int], max_size: int | None) -> tuple[int, int]:
    """(width, height) with the longer side at most max_size px and the aspect kept to rounding; never larger."""
    if max_size is None:
        return size
    if max_size < 1:
        raise ValueError(f"max_size is in px and at least 1, got {max_size}")
    factor = min(1.0, max_size / max(size))
    return max(1, math.floor(size[0] * factor + 0.5)), max(1, math.floor(size[1] * factor + 0.5))


def _to_rgb(image: PIL.Image.Image, name: str) -> PIL.Image.Image:
    """Mode RGB, or F in [0, 1] for grey of more than 8 bits (Pillow reads 16-bit colour as 8-bit RGB)."""
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float32)
        white = 1.0 if image.mode == "F" else 65535.0
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > white:
            raise Vision3DError(f"the photo {name} has values outside 0 to {white:g}: save it with 8 or 16 bits")
        return PIL.Image.fromarray(values / white)
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        black = PIL.Image.new("RGBA", image.size, (0, 0, 0, 255))
        return PIL.Image.alpha_composite(black, image.convert("RGBA")).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _exif(stored: PIL.Image.Image) -> dict[int, object]:
    try:
        tags = stored.getexif()
        return {**dict(tags), **dict(tags.get_ifd(0x8769))}  # 0x8769: the Exif block, with focal length and lens
    except (OSError, ValueError, TypeError, KeyError, SyntaxError, struct.error, OverflowError):
        return {}  # damaged EXIF is as good as none


def _too_large(name: str, size: tuple[int, int] | None) -> str:
    what = "is far too large" if size is None else f"has {size[0]}x{size[1]} px"
    return f"the photo {name} {what}, at most {MAX_PIXELS // 1_000_000} (JPEG) or 179 megapixels are read: resize it"
