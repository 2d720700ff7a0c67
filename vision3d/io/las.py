"""LAS point clouds, uncompressed: coordinates and intensities (ASPRS, "LAS Specification" 1.4, sections 2.4 and 2.6).

All point formats begin with x, y, z as scaled 32-bit integers and a 16-bit intensity, which is all that is read.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64

from vision3d.errors import Vision3DError

_HEADER = 227  # bytes, of LAS 1.0 to 1.2; later versions append
_HEADER_14 = 375


def read_las(path: str | Path) -> tuple[Float64[np.ndarray, "n 3"], Float32[np.ndarray, " n"]]:
    """Coordinates in the file's unit (mostly metres), and raw intensities 0 to 65535.

    Raises:
        Vision3DError: missing, no LAS, compressed (LAZ), a broken header, or cut off.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Vision3DError(f"cannot read {path}: {error.strerror or error}") from None
    if data[:4] != b"LASF" or len(data) < _HEADER:
        raise Vision3DError(f"{path} is not a LAS file, or its header is cut off")
    minor = data[25]
    (start,) = struct.unpack_from("<I", data, 96)
    kind, size, count = struct.unpack_from("<BHI", data, 104)
    if kind & 0xC0:
        raise Vision3DError(f"{path} is compressed (LAZ): decompress it to LAS first, for example with laszip")
    if minor >= 4 and len(data) >= _HEADER_14:
        (count,) = struct.unpack_from("<Q", data, 247)
    scale, offset = struct.unpack_from("<3d", data, 131), struct.unpack_from("<3d", data, 155)
    if size < 14 or start < _HEADER or not np.isfinite([*scale, *offset]).all() or 0 in scale:
        raise Vision3DError(f"{path}: the LAS header is damaged")
    if len(data) < start + count * size:
        raise Vision3DError(f"{path} is cut off: it holds {max(0, len(data) - start) // size} of {count} points")
    record = np.dtype(
        {"names": ["xyz", "intensity"], "formats": [("<i4", 3), "<u2"], "offsets": [0, 12], "itemsize": size}
    )
    table = np.frombuffer(data, record, count, start)
    return table["xyz"] * np.array(scale) + np.array(offset), table["intensity"].astype(np.float32)
