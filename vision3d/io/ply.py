"""PLY point clouds, ascii and binary, with colour and normals.

G. Turk, "The PLY polygon file format", 1994. Read: the elements before and including `vertex`, any scalar properties in
any order; faces and other elements after it are ignored. Points with NaN or infinite coordinates are read as they are
unless `drop_invalid` is set; normals and colours may hold anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.core import PointCloud, Vision3DError
from vision3d.io.atomic import atomic_write_bytes

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_FORMATS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_XYZ, _NORMAL, _COLOR = ("x", "y", "z"), ("nx", "ny", "nz"), ("red", "green", "blue")
_MAX_HEADER = 100_000  # bytes


@dataclass(frozen=True, slots=True)
class _Element:
    name: str
    count: int
    fields: tuple[tuple[str, str], ...]  # (name, type without byte order)
    has_list: bool


@dataclass(frozen=True, slots=True)
class PlyCloud:
    """What a PLY holds: the cloud with colours in [0, 1] as features (or None), and unit normals (or None)."""

    cloud: PointCloud
    normals: Float[Tensor, "n 3"] | None


def read_ply(path: str | Path, drop_invalid: bool = False) -> PlyCloud:
    """Read the vertices of a PLY.

    Coordinates keep their precision (float32 or float64; integers become float64). Integer colours are divided by
    their type's largest value.

    Args:
        drop_invalid: leave out points with a NaN or infinite coordinate.

    Raises:
        Vision3DError: missing, no PLY, a malformed header, fewer points than promised, or a property list in the way.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Vision3DError(f"cannot read {path}: {error.strerror or error}") from None
    order, elements, body = _parse_header(path, data)
    vertices = _read_vertices(path, order, elements, data[body:])
    columns = vertices.dtype.names or ()
    if not set(_XYZ) <= set(columns):
        raise Vision3DError(f"{path}: the vertices have no x, y and z (they have {', '.join(columns)})")
    points = _stack(vertices, _XYZ)
    keep = np.isfinite(points).all(1) if drop_invalid else np.ones(len(points), dtype=bool)
    colors = None
    if set(_COLOR) <= set(columns):
        kind = vertices.dtype["red"]
        white = float(np.iinfo(kind).max) if kind.kind in "iu" else 1.0
        colors = torch.from_numpy((_stack(vertices, _COLOR)[keep] / white).astype(np.float32))
    normals = torch.from_numpy(_stack(vertices, _NORMAL)[keep]) if set(_NORMAL) <= set(columns) else None
    return PlyCloud(PointCloud(torch.from_numpy(points[keep]), colors), normals)


def write_ply(
    path: str | Path, cloud: PointCloud, normals: Float[Tensor, "n 3"] | None = None, ascii: bool = False
) -> None:
    """Write points, colours (features with 3 channels, clamped to [0, 1], 8 bit) and normals; little endian or ascii.

    Coordinates are written in the tensor's own precision (float or double) and come back exactly. NaN and infinite
    coordinates are written as such.

    Raises:
        ValueError: features that are not 3 channels. Vision3DError: it cannot be written.
    """
    if cloud.features is not None and cloud.features.shape[1] != 3:
        raise ValueError(f"a PLY holds colours of 3 channels, the features have {cloud.features.shape[1]}")
    real = "f8" if cloud.points.dtype == torch.float64 else "f4"
    fields = [(name, real) for name in _XYZ]
    columns = list(cloud.points.detach().cpu().numpy().T)
    if normals is not None:
        fields += [(name, "f4") for name in _NORMAL]
        columns += list(normals.detach().cpu().numpy().T)
    if cloud.features is not None:
        fields += [(name, "u1") for name in _COLOR]
        colors = cloud.features.detach().cpu().float().nan_to_num().clamp(0, 1)
        columns += list((colors * 255).round().to(torch.uint8).numpy().T)
    n = cloud.points.shape[0]
    names = {"f4": "float", "f8": "double", "u1": "uchar"}
    kind = "ascii" if ascii else "binary_little_endian"
    header = [f"ply\nformat {kind} 1.0\ncomment frame {cloud.frame}\nelement vertex {n}"]
    header += [f"property {names[t]} {name}" for name, t in fields]
    table = np.empty(n, dtype=[(name, "<" + t) for name, t in fields])
    for (name, _), column in zip(fields, columns, strict=True):
        table[name] = column
    if ascii:
        # repr of a NumPy float is the shortest text that reads back to the same number.
        lines = [" ".join(str(value) for value in row) for row in table]
        body = "".join(line + "\n" for line in lines).encode()
    else:
        body = table.tobytes()
    atomic_write_bytes(path, "\n".join([*header, "end_header\n"]).encode() + body)


def _parse_header(path: Path, data: bytes) -> tuple[str, list[_Element], int]:
    """Byte order ("" for ascii), elements, and where the body starts."""
    if data[:3] != b"ply":
        raise Vision3DError(f"{path} is not a PLY file (it does not start with 'ply')")
    end = data.find(b"end_header", 0, _MAX_HEADER)
    newline = data.find(b"\n", end)
    if end < 0 or newline < 0:
        raise Vision3DError(f"{path}: the PLY header has no end, the file is cut off or damaged")
    order: str | None = None
    elements: list[_Element] = []
    for line in data[:end].decode("latin-1").replace("\r", "\n").split("\n"):
        words = line.split()
        if not words or words[0] in ("ply", "comment", "obj_info"):
            continue
        try:
            if words[0] == "format":
                order = _FORMATS[words[1]]
            elif words[0] == "element":
                elements.append(_Element(words[1], _count(words[2]), (), False))
            elif words[0] == "property":
                last = elements[-1]
                if words[1] == "list":
                    elements[-1] = _Element(last.name, last.count, last.fields, True)
                else:
                    field = (words[2], _TYPES[words[1]])
                    elements[-1] = _Element(last.name, last.count, (*last.fields, field), last.has_list)
            else:
                raise ValueError
        except (KeyError, IndexError, ValueError):
            raise Vision3DError(f"{path}: the PLY header line {line.strip()[:80]!r} is not understood") from None
    if order is None:
        raise Vision3DError(f"{path}: the PLY header names no format")
    return order, elements, newline + 1


def _count(word: str) -> int:
    count = int(word)
    if count < 0:
        raise ValueError
    return count


def _read_vertices(path: Path, order: str, elements: list[_Element], body: bytes) -> np.ndarray:
    names = [e.name for e in elements]
    if "vertex" not in names:
        raise Vision3DError(f"{path}: the PLY has no element 'vertex'")
    before, vertex = elements[: names.index("vertex")], elements[names.index("vertex")]
    if vertex.has_list or (order and any(e.has_list for e in before)):
        raise Vision3DError(f"{path}: a list property before or in 'vertex' is not supported: save it with points only")
    if len({name for name, _ in vertex.fields}) < len(vertex.fields):
        raise Vision3DError(f"{path}: the vertices have two properties of one name")
    dtype = np.dtype([(name, order + kind) for name, kind in vertex.fields])
    if order:
        skip = sum(e.count * np.dtype([(n, order + k) for n, k in e.fields]).itemsize for e in before)
        have = max(0, len(body) - skip) // max(1, dtype.itemsize)
        if have < vertex.count:
            raise Vision3DError(f"{path} is cut off: it holds {have} of {vertex.count} points")
        return np.frombuffer(body, dtype, vertex.count, skip).astype(dtype.newbyteorder("="))
    lines = BytesIO(body)
    for _ in range(sum(e.count for e in before)):
        lines.readline()
    rows = [row for row in (lines.readline().split() for _ in range(min(vertex.count, len(body) + 1))) if row]
    if len(rows) < vertex.count or any(len(row) != len(vertex.fields) for row in rows):
        whole = sum(len(row) == len(vertex.fields) for row in rows)
        raise Vision3DError(f"{path} is cut off or damaged: it holds {whole} of {vertex.count} points")
    out = np.empty(vertex.count, dtype)
    try:
        for k, (name, kind) in enumerate(vertex.fields):
            column = np.array([row[k] for row in rows], dtype=np.bytes_)
            whole_numbers = kind[0] in "iu"
            out[name] = column.astype(np.int64 if whole_numbers else np.float64) if len(rows) else 0
    except (ValueError, OverflowError) as error:
        raise Vision3DError(f"{path}: a vertex has a value that is no number ({error})") from None
    return out


def _stack(table: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    columns = [table[name] for name in names]
    single = all(c.dtype == np.float32 for c in columns)
    return np.stack(columns, axis=1).astype(np.float32 if single else np.float64)
