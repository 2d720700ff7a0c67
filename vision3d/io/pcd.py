"""PCD point clouds (the Point Cloud Library's format 0.7): ascii, binary and binary_compressed, as a NumPy table.

The format is described in PCL's documentation, "The PCD (Point Cloud Data) file format". Compressed data are columns
behind each other in the LZF format (M. Lehmann, LibLZF).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import no_type_check

import numba
import numpy as np

from vision3d.errors import Vision3DError

_KINDS = {"F": "f", "I": "i", "U": "u"}
_MAX_HEADER = 100_000  # bytes


def read_pcd(path: str | Path) -> np.ndarray:
    """The points as a structured array, fields named as in the file (fields of several values: name_0, name_1, ...).

    Raises:
        Vision3DError: missing, no PCD, a broken header, damaged or cut off.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Vision3DError(f"cannot read {path}: {error.strerror or error}") from None
    header, kind, start = _parse_header(path, data)
    dtype, count = _layout(path, header)
    body = data[start:]
    if kind == "ascii":
        return _read_ascii(path, body, dtype, count)
    if kind == "binary":
        return _records(path, body, dtype, count)
    if len(body) < 8:
        raise Vision3DError(f"{path} is cut off: the compressed points are missing")
    packed, unpacked = struct.unpack("<II", body[:8])
    if len(body) < 8 + packed or unpacked < count * dtype.itemsize:
        raise Vision3DError(f"{path} is cut off: it holds {len(body) - 8} of {packed} compressed bytes")
    # LZF makes at most 264 bytes of 3: more is a damaged header, and not worth the memory.
    if unpacked > 100 * packed + 264:
        raise Vision3DError(f"{path} is damaged: {packed} compressed bytes cannot hold {unpacked}")
    out = np.zeros(unpacked, np.uint8)
    if _lzf(np.frombuffer(body, np.uint8, packed, 8), out) != unpacked:
        raise Vision3DError(f"{path} is damaged: the compressed points do not unpack")
    table, at = np.empty(count, dtype), 0
    for name in dtype.names or ():
        column = dtype[name]
        table[name] = np.frombuffer(out.data, column, count, at)
        at += column.itemsize * count
    return table


def _parse_header(path: Path, data: bytes) -> tuple[dict[str, list[str]], str, int]:
    header: dict[str, list[str]] = {}
    at = 0
    while at < min(len(data), _MAX_HEADER):
        end = data.find(b"\n", at)
        if end < 0:
            break
        words = data[at:end].decode("latin-1").split()
        at = end + 1
        if not words or words[0].startswith("#"):
            continue
        header[words[0].upper()] = words[1:]
        if words[0].upper() == "DATA":
            kind = words[1] if len(words) > 1 else ""
            if kind not in ("ascii", "binary", "binary_compressed"):
                raise Vision3DError(f"{path}: PCD data {kind!r} are not ascii, binary or binary_compressed")
            return header, kind, at
    raise Vision3DError(f"{path} is not a PCD file, or its header has no end (no line DATA)")


def _layout(path: Path, header: dict[str, list[str]]) -> tuple[np.dtype, int]:
    fields = header.get("FIELDS") or header.get("COLUMNS") or []
    sizes, kinds = header.get("SIZE", []), header.get("TYPE", [])
    counts = header.get("COUNT", ["1"] * len(fields))
    try:
        if not fields or not len(fields) == len(sizes) == len(kinds) == len(counts):
            raise ValueError("FIELDS, SIZE, TYPE and COUNT differ in length")
        entries: list[tuple[str, str]] = []
        for i, (name, size, kind, many) in enumerate(zip(fields, sizes, kinds, counts, strict=True)):
            repeat = int(many)
            label = f"padding_{i}" if name == "_" else name
            names = [label] if repeat == 1 else [f"{label}_{k}" for k in range(repeat)]
            entries += [(one, f"<{_KINDS[kind.upper()]}{int(size)}") for one in names]
        dtype = np.dtype(entries)
        points = int(header["POINTS"][0]) if "POINTS" in header else int(header["WIDTH"][0]) * int(header["HEIGHT"][0])
        if points < 0:
            raise ValueError("a negative number of points")
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise Vision3DError(f"{path}: the PCD header is not understood ({error})") from None
    return dtype, points


def _records(path: Path, body: bytes, dtype: np.dtype, count: int) -> np.ndarray:
    have = len(body) // dtype.itemsize
    if have < count:
        raise Vision3DError(f"{path} is cut off: it holds {have} of {count} points")
    return np.frombuffer(body, dtype, count).astype(dtype.newbyteorder("="))


def _read_ascii(path: Path, body: bytes, dtype: np.dtype, count: int) -> np.ndarray:
    rows = [words for words in (line.split() for line in body.splitlines()) if words][:count]
    width = len(dtype.names or ())
    whole = sum(len(row) == width for row in rows)
    if whole < count:
        raise Vision3DError(f"{path} is cut off or damaged: it holds {whole} of {count} points")
    table = np.empty(count, dtype)
    try:
        for k, name in enumerate(dtype.names or ()):
            column = np.array([row[k] for row in rows], dtype=np.bytes_)
            table[name] = (
                (column.astype(np.float64) if dtype[name].kind == "f" else column.astype(np.int64)) if rows else 0
            )
    except (ValueError, OverflowError) as error:
        raise Vision3DError(f"{path}: a point has a value that is no number ({error})") from None
    return table


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that the tests' shape checks have wrapped
def _lzf(packed, out):  # pragma: no cover (compiled)
    """Unpacks LZF; returns the number of bytes written, or -1 if the data are damaged."""
    n, m = packed.shape[0], out.shape[0]
    i, o = 0, 0
    while i < n:
        control = int(packed[i])
        i += 1
        if control < 32:  # a run of control + 1 bytes as they are
            length = control + 1
            if i + length > n or o + length > m:
                return -1
            for _ in range(length):
                out[o] = packed[i]
                i += 1
                o += 1
            continue
        length = control >> 5  # a copy of bytes written before
        if length == 7:
            if i >= n:
                return -1
            length += int(packed[i])
            i += 1
        if i >= n:
            return -1
        source = o - ((control & 31) << 8) - int(packed[i]) - 1
        i += 1
        length += 2
        if source < 0 or o + length > m:
            return -1
        for _ in range(length):  # byte by byte: the copy may overlap itself
            out[o] = out[source]
            source += 1
            o += 1
    return o
