"""The vertex table of a PLY, ascii and binary: one NumPy record per vertex. Clouds and surfels stand on it.

G. Turk, "The PLY polygon file format", 1994. Read: the elements before and including `vertex`, any scalar properties in
any order; faces and other elements after it are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from vision3d.errors import Vision3DError
from vision3d.io.atomic import atomic_write_bytes

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_FORMATS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_NAMES = {"f4": "float", "f8": "double", "u1": "uchar"}
_MAX_HEADER = 100_000  # bytes


@dataclass(frozen=True, slots=True)
class PlyElement:
    """One element of a header: fields are (name, type without byte order)."""

    name: str
    count: int
    fields: tuple[tuple[str, str], ...]
    has_list: bool


def read_vertices(path: str | Path) -> np.ndarray:
    """The vertices of a PLY as a structured array in native byte order, its fields named as in the file.

    Raises:
        Vision3DError: missing, no PLY, a malformed header, fewer vertices than promised, or a property list in the way.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Vision3DError(f"cannot read {path}: {error.strerror or error}") from None
    order, elements, body = parse_header(path, data)
    return _read_vertices(path, order, elements, data[body:])


def read_header(path: str | Path) -> list[PlyElement]:
    """The elements of a PLY, whose bodies may be missing. Vision3DError as `read_vertices`."""
    path = Path(path)
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_HEADER)
    except OSError as error:
        raise Vision3DError(f"cannot read {path}: {error.strerror or error}") from None
    return parse_header(path, data)[1]


def write_vertices(path: str | Path, vertices: np.ndarray, comments: tuple[str, ...] = (), ascii: bool = False) -> None:
    """Write a structured array of float, double and uchar fields; little endian or ascii. Values come back exactly.

    Raises:
        Vision3DError: it cannot be written.
    """
    kind = "ascii" if ascii else "binary_little_endian"
    fields = [(name, vertices.dtype[name].newbyteorder("<")) for name in vertices.dtype.names or ()]
    header = [f"ply\nformat {kind} 1.0", *(f"comment {comment}" for comment in comments)]
    header += [f"element vertex {len(vertices)}"]
    header += [f"property {_NAMES[dtype.str[1:]]} {name}" for name, dtype in fields]
    if ascii:
        # str of a NumPy float is the shortest text that reads back to the same number.
        lines = [" ".join(str(value) for value in row) for row in vertices]
        body = "".join(line + "\n" for line in lines).encode()
    else:
        body = vertices.astype(np.dtype(fields), copy=False).tobytes()
    atomic_write_bytes(path, "\n".join([*header, "end_header\n"]).encode() + body)


def parse_header(path: Path, data: bytes) -> tuple[str, list[PlyElement], int]:
    """Byte order ("" for ascii), elements, and where the body starts. Vision3DError: no PLY, or a broken header."""
    if data[:3] != b"ply":
        raise Vision3DError(f"{path} is not a PLY file (it does not start with 'ply')")
    end = data.find(b"end_header", 0, _MAX_HEADER)
    newline = data.find(b"\n", end)
    if end < 0 or newline < 0:
        raise Vision3DError(f"{path}: the PLY header has no end, the file is cut off or damaged")
    order: str | None = None
    elements: list[PlyElement] = []
    for line in data[:end].decode("latin-1").replace("\r", "\n").split("\n"):
        words = line.split()
        if not words or words[0] in ("ply", "comment", "obj_info"):
            continue
        try:
            if words[0] == "format":
                order = _FORMATS[words[1]]
            elif words[0] == "element":
                elements.append(PlyElement(words[1], _count(words[2]), (), False))
            elif words[0] == "property":
                last = elements[-1]
                if words[1] == "list":
                    elements[-1] = PlyElement(last.name, last.count, last.fields, True)
                else:
                    field = (words[2], _TYPES[words[1]])
                    elements[-1] = PlyElement(last.name, last.count, (*last.fields, field), last.has_list)
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


def _read_vertices(path: Path, order: str, elements: list[PlyElement], body: bytes) -> np.ndarray:
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
