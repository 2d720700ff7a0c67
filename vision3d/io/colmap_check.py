"""Check that COLMAP's binary files are whole before pycolmap reads them: on a file cut off it loops for minutes.

Layout: COLMAP 4, src/colmap/scene/reconstruction_io_binary.cc (little endian, no padding).
"""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path

import pycolmap

from vision3d.errors import Vision3DError


class _Cursor:
    """Steps through a file's bytes; struct.error at its end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, layout: str) -> tuple[int, ...]:
        values: tuple[int, ...] = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def skip(self, size: int) -> None:
        self.at += size
        if self.at > len(self.data):
            raise struct.error

    def skip_text(self) -> None:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise struct.error
        self.at = end + 1


def check_binary_model(folder: Path) -> None:
    """Walk through the model's .bin files. Vision3DError names the first that is cut off or holds more than it says."""
    for name, walk in _WALKS.items():
        path = folder / f"{name}.bin"
        if not path.is_file():
            continue
        cursor = _Cursor(path.read_bytes())
        try:
            (count,) = cursor.take("Q")
            for _ in range(count):
                walk(cursor)
        except (struct.error, ValueError):
            raise Vision3DError(f"{path} is damaged or cut off: copy or make the COLMAP model again") from None
        if cursor.at != len(cursor.data):
            raise Vision3DError(f"{path} is damaged: it holds more than it says")


def _camera(cursor: _Cursor) -> None:
    _, model, _, _ = cursor.take("IiQQ")
    cursor.skip(8 * _parameters(model))


@cache
def _parameters(model: int) -> int:
    """Number of parameters of COLMAP's camera model number. ValueError if there is no such model."""
    known = {int(m): m for m in pycolmap.CameraModelId.__members__.values() if m.name != "INVALID"}
    if model not in known:
        raise ValueError(f"no camera model {model}")
    return len(pycolmap.Camera.create_from_model_id(1, known[model], 1.0, 1, 1).params)


def _image(cursor: _Cursor) -> None:
    cursor.skip(4 + 7 * 8 + 4)
    cursor.skip_text()
    (keypoints,) = cursor.take("Q")
    cursor.skip(24 * keypoints)


def _point(cursor: _Cursor) -> None:
    cursor.skip(8 + 3 * 8 + 3 + 8)
    (length,) = cursor.take("Q")
    cursor.skip(8 * length)


def _rig(cursor: _Cursor) -> None:
    _, sensors = cursor.take("II")
    if sensors:
        cursor.skip(8)
    for _ in range(sensors - 1):
        *_, has_pose = cursor.take("iIB")
        cursor.skip(7 * 8 if has_pose else 0)


def _frame(cursor: _Cursor) -> None:
    cursor.skip(8 + 7 * 8)
    (data,) = cursor.take("I")
    cursor.skip(16 * data)


_WALKS = {"cameras": _camera, "images": _image, "points3D": _point, "rigs": _rig, "frames": _frame}
