"""Scans from .bin, .ply, .pcd and .las: values, damaged files, points that are not finite."""

import struct

import numpy as np
import pytest
import torch

from vision3d.core import PointCloud, Vision3DError
from vision3d.io.scans import read_scan, write_bin

POINTS = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32) * 20
INTENSITY = np.random.default_rng(1).random(50).astype(np.float32)


def _pack(data: bytes) -> bytes:
    """LZF written as the format allows it: literal runs, and copies of the four bytes four back where they repeat."""
    out, run, i = bytearray(), bytearray(), 0

    def flush() -> None:
        for k in range(0, len(run), 32):
            part = run[k : k + 32]
            out.extend(bytes([len(part) - 1]) + part)
        run.clear()

    while i < len(data):
        length = 0
        while i >= 4 and i + length < len(data) and length < 264 and data[i + length] == data[i + length - 4]:
            length += 1
        if length >= 3:
            flush()
            tag = length - 2
            out.extend(bytes([min(tag, 7) << 5]) + (bytes([tag - 7]) if tag >= 7 else b"") + bytes([3]))
            i += length
        else:
            run.append(data[i])
            i += 1
    flush()
    return bytes(out)


def _pcd(kind: str, points=POINTS, intensity=INTENSITY) -> bytes:
    n = len(points)
    header = (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS x y z _ intensity ring\nSIZE 4 4 4 1 4 2\n"
        f"TYPE F F F U F U\nCOUNT 1 1 1 2 1 1\nWIDTH {n}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {n}\nDATA {kind}\n"
    )
    table = np.zeros(n, [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("p", "u1", 2), ("i", "<f4"), ("r", "<u2")])
    for k, axis in enumerate("xyz"):
        table[axis] = points[:, k]
    table["i"], table["r"] = intensity, 7
    if kind == "ascii":
        rows = [" ".join(map(str, [*row[:3].tolist(), 0, 0, v, 7])) for row, v in zip(points, intensity, strict=True)]
        return header.encode() + "\n".join(rows).encode()
    if kind == "binary":
        return header.encode() + table.tobytes()
    columns = [table["x"], table["y"], table["z"], table["p"][:, 0], table["p"][:, 1], table["i"], table["r"]]
    plain = b"".join(np.ascontiguousarray(column).tobytes() for column in columns)
    packed = _pack(plain)
    return header.encode() + struct.pack("<II", len(packed), len(plain)) + packed


def _ply(points=POINTS, intensity=INTENSITY) -> bytes:
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n" + "".join(
        f"property float {name}\n" for name in ("x", "y", "z", "intensity")
    )
    return header.encode() + b"end_header\n" + np.column_stack([points, intensity]).astype("<f4").tobytes()


def _las(points=POINTS, intensity=INTENSITY, minor=2, compressed=False) -> bytes:
    header = bytearray(375 if minor == 4 else 227)
    size = 30 if minor == 4 else 20
    header[:4], header[24], header[25] = b"LASF", 1, minor
    struct.pack_into("<I", header, 96, len(header))
    kind = (6 if minor == 4 else 0) | (0x80 if compressed else 0)
    struct.pack_into("<BHI", header, 104, kind, size, 0 if minor == 4 else len(points))
    struct.pack_into("<6d", header, 131, 0.001, 0.001, 0.001, 100, 200, 300)
    if minor == 4:
        struct.pack_into("<Q", header, 247, len(points))
    whole = np.round((points - [100, 200, 300]) / 0.001).astype(int)
    rows = [
        struct.pack("<3iH", *p, int(i * 1000)).ljust(size, b"\0")
        for p, i in zip(whole.tolist(), intensity, strict=True)
    ]
    return bytes(header) + b"".join(rows)


@pytest.mark.parametrize("kind", ["ascii", "binary", "binary_compressed"])
def test_pcd(tmp_path, kind) -> None:
    (tmp_path / "a.pcd").write_bytes(_pcd(kind))
    cloud = read_scan(tmp_path / "a.pcd")
    np.testing.assert_array_equal(cloud.points.numpy(), POINTS)
    np.testing.assert_array_equal(cloud.features.numpy()[:, 0], INTENSITY)
    assert cloud.frame == "lidar"


def test_compressed_pcd_with_repetitions(tmp_path) -> None:
    """Equal points make long copies that overlap themselves."""
    same = np.repeat(POINTS[:2], 300, axis=0)
    data = _pcd("binary_compressed", same, np.ones(600, np.float32))
    assert len(data) < 2000
    (tmp_path / "a.pcd").write_bytes(data)
    np.testing.assert_array_equal(read_scan(tmp_path / "a.pcd").points.numpy(), same)


def test_bin_and_ply(tmp_path) -> None:
    cloud = PointCloud(torch.from_numpy(POINTS), torch.from_numpy(INTENSITY)[:, None], "lidar")
    write_bin(tmp_path / "a.bin", cloud)
    assert (tmp_path / "a.bin").stat().st_size == 50 * 16
    (tmp_path / "a.ply").write_bytes(_ply())
    for name in ("a.bin", "a.ply"):
        found = read_scan(tmp_path / name)
        torch.testing.assert_close(found.points, cloud.points, rtol=0, atol=0)
        torch.testing.assert_close(found.features, cloud.features, rtol=0, atol=0)
    five = np.column_stack([POINTS, INTENSITY, np.zeros(50)]).astype("<f4")
    (tmp_path / "five.bin").write_bytes(five.tobytes())
    torch.testing.assert_close(read_scan(tmp_path / "five.bin", columns=5).points, cloud.points)


@pytest.mark.parametrize("minor", [2, 4])
def test_las(tmp_path, minor) -> None:
    (tmp_path / "a.las").write_bytes(_las(minor=minor))
    cloud = read_scan(tmp_path / "a.las")
    assert cloud.points.dtype == torch.float64
    np.testing.assert_allclose(cloud.points.numpy(), POINTS, atol=0.000501)
    np.testing.assert_array_equal(cloud.features.numpy()[:, 0], np.floor(INTENSITY.astype(float) * 1000))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.bin", b"", "no points"),
        ("a.bin", bytes(30), "cut off.*30 bytes"),
        ("a.xyz", b"1 2 3", "not .xyz"),
        ("a.laz", b"LASF", "laszip"),
        ("a.pcd", b"hello\n", "not a PCD"),
        ("a.pcd", _pcd("binary")[:-1], "holds 49 of 50"),
        ("a.pcd", _pcd("ascii")[:-200], "points"),
        ("a.pcd", _pcd("ascii").replace(b"FIELDS x y z", b"FIELDS x y w"), "no x, y and z"),
        ("a.pcd", _pcd("ascii").replace(b"SIZE 4", b"SIZE 3"), "header is not understood"),
        ("a.pcd", _pcd("ascii").replace(b"DATA ascii", b"DATA zip"), "'zip'"),
        ("a.pcd", _pcd("binary_compressed")[:-10], "cut off"),
        ("a.pcd", _pcd("binary_compressed", POINTS[:0], INTENSITY[:0]), "no points"),
        ("a.las", b"LASF", "not a LAS file"),
        ("a.las", _las()[:-1], "holds 49 of 50"),
        ("a.las", _las(compressed=True), "compressed"),
        ("a.ply", _ply()[:-1], "49 of 50"),
    ],
)
def test_damaged_scans(tmp_path, name, content, message) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Vision3DError, match=message):
        read_scan(tmp_path / name)


def test_damaged_compression_does_not_read_beyond(tmp_path) -> None:
    """Any damaged byte gives an error or other points, never a crash."""
    good = _pcd("binary_compressed", np.repeat(POINTS[:2], 20, axis=0), np.ones(40, np.float32))
    start = good.index(b"compressed\n") + 11
    rng = np.random.default_rng(0)
    failed = 0
    for _ in range(100):
        bad = bytearray(good)
        bad[int(rng.integers(start, len(bad)))] = int(rng.integers(256))
        (tmp_path / "a.pcd").write_bytes(bad)
        try:
            assert len(read_scan(tmp_path / "a.pcd", "drop").points) <= 40
        except Vision3DError:
            failed += 1
    assert failed > 5


def test_missing_scan(tmp_path) -> None:
    for suffix in ("bin", "ply", "pcd", "las"):
        with pytest.raises(Vision3DError, match="cannot read"):
            read_scan(tmp_path / f"none.{suffix}")


@pytest.mark.parametrize("name", ["a.bin", "a.pcd", "a.ply"])
def test_points_that_are_not_finite(tmp_path, name) -> None:
    points, intensity = POINTS.copy(), INTENSITY.copy()
    points[3, 1], points[7], intensity[9] = np.nan, np.inf, np.nan
    write = {"a.bin": lambda: np.column_stack([points, intensity]).tobytes(),
             "a.pcd": lambda: _pcd("ascii", points, intensity), "a.ply": lambda: _ply(points, intensity)}  # fmt: skip
    (tmp_path / name).write_bytes(write[name]())
    with pytest.raises(Vision3DError, match="3 of 50 points are NaN or infinite, the first is point 3"):
        read_scan(tmp_path / name)
    dropped = read_scan(tmp_path / name, "drop")
    assert dropped.points.shape == (47, 3)
    assert dropped.features.shape == (47, 1)
    (tmp_path / "b.bin").write_bytes(np.full((3, 4), np.nan, "<f4").tobytes())
    with pytest.raises(Vision3DError, match="all 3 points"):
        read_scan(tmp_path / "b.bin", "drop")
