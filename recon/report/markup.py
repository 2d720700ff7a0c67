"""Text, numbers, pictures and JSON made safe for a page."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import re
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

_NOT_HTML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def text(value: object) -> str:
    """Any value as escaped text; characters that a page cannot hold become a replacement character."""
    return html.escape(_NOT_HTML.sub("\ufffd", str(value)))


def number(value: float | None, digits: int = 0) -> str:
    """With thousands separators, an en dash for None, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.{digits}f}"


def json_script(identifier: str, value: object) -> str:
    """A script element with JSON data; NaN and infinity become null, and nothing in it can end the element."""
    encoded = json.dumps(_plain(value), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{text(identifier)}">{encoded}</script>'


def packed(values: np.ndarray) -> str:
    """Base64 of the raw little-endian bytes."""
    return base64.b64encode(np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<")).tobytes()).decode()


def shrunk(rgb: UInt8[np.ndarray, "_h _w 3"], longest: int) -> UInt8[np.ndarray, "_h2 _w2 3"]:
    """A photo whose longer side is at most `longest` px."""
    h, w = rgb.shape[:2]
    if max(h, w) <= longest:
        return rgb
    size = (max(1, round(w * longest / max(h, w))), max(1, round(h * longest / max(h, w))))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA))


def jpeg_uri(
    rgb: UInt8[np.ndarray, "_h _w 3"], max_bytes: int, steps: Sequence[tuple[int, int]] | None = None
) -> tuple[str, int, int]:
    """A JPEG as data URI of about `max_bytes` or less, and its width and height: lower quality first, then size.

    steps: (longest side in px, quality) in the order they are tried.
    """
    whole = max(rgb.shape)
    for longest, quality in steps or ((whole, 84), (whole, 70), (256, 70), (192, 60), (128, 50), (64, 40)):
        small = shrunk(rgb, longest)
        stream = io.BytesIO()
        Image.fromarray(small).save(stream, "JPEG", quality=quality, optimize=True)
        if stream.tell() * 4 / 3 <= max_bytes:
            break
    return _uri("jpeg", stream), small.shape[1], small.shape[0]


def _uri(kind: str, stream: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _plain(value: object) -> object:
    """The value as JSON can hold it; what it cannot becomes its text."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    if value is None or isinstance(value, str | int):
        return value
    return str(value)
