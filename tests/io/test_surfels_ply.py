"""surfels.ply: exact layout, round trips, splats of other programs, and errors on what is none."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vision3d.core import PointCloud, Surfels, Vision3DError
from vision3d.geometry.rotation import quaternion_to_matrix
from vision3d.io.ply import read_ply, write_ply
from vision3d.io.surfels_ply import read_surfels, write_surfels

NAMES = "x y z nx ny nz f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3"
FIELDS = NAMES.split(" ")


def _surfels(n: int, k: int = 1) -> Surfels:
    g = torch.Generator().manual_seed(n + k)
    return Surfels(
        torch.randn(n, 3, generator=g),
        torch.randn(n, 4, generator=g) * 3,
        torch.exp(torch.randn(n, 2, generator=g) * 3),
        torch.rand(n, generator=g),
        torch.randn(n, k, 3, generator=g),
    )


@pytest.mark.parametrize("k", [1, 4, 9, 16])
@pytest.mark.parametrize("n", [0, 1, 200])
def test_round_trip(tmp_path: Path, n: int, k: int) -> None:
    written = _surfels(n, k)
    write_surfels(tmp_path / "s.ply", written)
    back = read_surfels(tmp_path / "s.ply")
    assert torch.equal(back.means, written.means)
    assert torch.equal(back.quats, written.quats)
    assert torch.equal(back.sh, written.sh)
    assert torch.allclose(back.scales, written.scales, rtol=1e-5, atol=0)
    assert torch.allclose(back.opacities, written.opacities, rtol=1e-5, atol=0)
    # What was read is written to the same bytes, so nothing drifts over many rounds.
    write_surfels(tmp_path / "t.ply", back)
    again = read_surfels(tmp_path / "t.ply")
    assert torch.equal(again.means, back.means) and torch.allclose(again.scales, back.scales, rtol=1e-6, atol=0)


def test_header_and_one_record_literally(tmp_path: Path) -> None:
    one = Surfels(
        torch.tensor([[1.0, 2, 3]]),
        torch.tensor([[1.0, 1, 0, 0]]),  # 90 degrees about x: the normal is -y
        torch.tensor([[0.5, 0.25]]),
        torch.tensor([0.75]),
        torch.tensor([[[0.1, 0.2, 0.3], [1, 10, 100], [2, 20, 200], [3, 30, 300]]]),
    )
    write_surfels(tmp_path / "s.ply", one)
    data = (tmp_path / "s.ply").read_bytes()
    names = [*FIELDS[:9], *(f"f_rest_{i}" for i in range(9)), *FIELDS[9:]]
    header = "ply\nformat binary_little_endian 1.0\ncomment surfels in the layout of 3D Gaussian splatting\n"
    header += "element vertex 1\n" + "".join(f"property float {name}\n" for name in names) + "end_header\n"
    assert data.startswith(header.encode())
    values = np.frombuffer(data[len(header) :], "<f4")
    expected = [1, 2, 3, 0, -1, 0, 0.1, 0.2, 0.3, 1, 2, 3, 10, 20, 30, 100, 200, 300]  # f_rest: all of red first
    expected += [np.log(3), np.log(0.5), np.log(0.25), np.log(0.0025), 1, 1, 0, 0]
    assert np.allclose(values, expected, rtol=1e-6, atol=1e-7)


def test_readers_of_clouds_see_points_and_normals(tmp_path: Path) -> None:
    surfels = _surfels(10)
    write_surfels(tmp_path / "s.ply", surfels)
    back = read_ply(tmp_path / "s.ply")
    assert torch.equal(back.cloud.points, surfels.means) and back.normals is not None
    normals = quaternion_to_matrix(surfels.quats)[:, :, 2]
    assert torch.allclose(back.normals, normals, atol=1e-6)


def test_opacities_at_the_ends_stay_finite(tmp_path: Path) -> None:
    surfels = _surfels(2)
    ends = Surfels(surfels.means, surfels.quats, surfels.scales, torch.tensor([0.0, 1.0]), surfels.sh)
    write_surfels(tmp_path / "s.ply", ends)
    opacities = read_surfels(tmp_path / "s.ply").opacities
    assert 0 <= float(opacities[0]) < 1e-12 and float(opacities[1]) == 1


def _foreign(path: Path, rows: np.ndarray, names: list[str]) -> Path:
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(rows)}\n"
    header += "".join(f"property float {name}\n" for name in names) + "end_header\n"
    path.write_bytes(header.encode() + rows.astype("<f4").tobytes())
    return path


@pytest.mark.parametrize("thinnest", [0, 1, 2])
def test_true_gaussians_become_disks_across_their_thinnest_axis(tmp_path: Path, thinnest: int) -> None:
    rng = np.random.default_rng(thinnest)
    n, names = 20, [name for name in FIELDS if name[0] != "n"]
    rows = rng.normal(size=(n, len(names)))
    log_scales = rng.uniform(-1, 1, size=(n, 3))
    log_scales[:, thinnest] = -3
    rows[:, names.index("scale_0") : names.index("scale_0") + 3] = log_scales
    read = read_surfels(_foreign(tmp_path / "s.ply", rows, names))
    quats = torch.tensor(rows[:, -4:]).float()
    axes, scales = quaternion_to_matrix(quats).numpy(), np.exp(log_scales)
    got = quaternion_to_matrix(read.quats).numpy()
    # The same ellipsoid without its thin axis: the sum of the squared tangents is the covariance.
    others = [a for a in range(3) if a != thinnest]
    expected = np.einsum("nij,nj,nkj->nik", axes[:, :, others], scales[:, others] ** 2, axes[:, :, others])
    found = np.einsum("nij,nj,nkj->nik", got[:, :, :2], read.scales.numpy() ** 2, got[:, :, :2])
    assert np.allclose(found, expected, atol=1e-4)
    assert np.allclose(got[:, :, 2], axes[:, :, thinnest], atol=1e-5)
    assert np.allclose(np.linalg.det(got), 1, atol=1e-5)
    assert torch.allclose(read.opacities, torch.sigmoid(torch.tensor(rows[:, names.index("opacity")]).float()))


def test_two_scales_and_ascii(tmp_path: Path) -> None:
    names = [name for name in FIELDS if name[0] != "n" and name != "scale_2"]
    header = "ply\nformat ascii 1.0\nelement vertex 1\n" + "".join(f"property float {name}\n" for name in names)
    (tmp_path / "s.ply").write_text(header + "end_header\n" + "1 2 3 0 0 0 0 -1 -2 0 0 0 1\n")
    read = read_surfels(tmp_path / "s.ply")
    assert read.scales.numpy() == pytest.approx(np.exp([[-1, -2]])) and read.quats.tolist() == [[0, 0, 0, 1]]
    assert read.opacities.tolist() == [0.5] and read.sh.shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("means", float("nan"), "means hold NaN"),
        ("quats", float("inf"), "quats hold NaN"),
        ("quats", 0.0, "length 0"),
        ("scales", 0.0, "positive"),
        ("scales", -1.0, "positive"),
        ("scales", 1e39, "infinity"),
        ("opacities", 1.5, "opacities must lie"),
        ("sh", float("nan"), "sh hold NaN"),
    ],
)
def test_bad_surfels_are_not_written(tmp_path: Path, field: str, value: float, message: str) -> None:
    good = _surfels(3)
    parts = {name: getattr(good, name).double().clone() for name in ("means", "quats", "scales", "opacities", "sh")}
    parts[field][1] = value
    with pytest.raises(ValueError, match=message):
        write_surfels(tmp_path / "s.ply", Surfels(**parts))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="coefficients"):
        write_surfels(tmp_path / "s.ply", Surfels(good.means, good.quats, good.scales, good.opacities, good.sh[:, :0]))


def test_files_that_are_no_splats(tmp_path: Path) -> None:
    write_ply(tmp_path / "points.ply", PointCloud(torch.randn(4, 3), torch.rand(4, 3)))
    with pytest.raises(Vision3DError, match=r"no Gaussian splats: the vertices have no f_dc_0.*rot_3"):
        read_surfels(tmp_path / "points.ply")
    (tmp_path / "photo.ply").write_bytes(b"\x89PNG")
    with pytest.raises(Vision3DError, match="not a PLY"):
        read_surfels(tmp_path / "photo.ply")
    with pytest.raises(Vision3DError, match="cannot read"):
        read_surfels(tmp_path / "none.ply")
    names = ["x", "y", "z", "packed_position"]
    with pytest.raises(Vision3DError, match="compressed"):
        read_surfels(_foreign(tmp_path / "packed.ply", np.zeros((1, 4)), names))
    names = [*FIELDS, "f_rest_0", "f_rest_1"]
    with pytest.raises(Vision3DError, match="2 f_rest"):
        read_surfels(_foreign(tmp_path / "rest.ply", np.ones((1, len(names))), names))


def test_damaged_files(tmp_path: Path) -> None:
    write_surfels(tmp_path / "s.ply", _surfels(50, 4))
    data = (tmp_path / "s.ply").read_bytes()
    for cut in (2, 100, 400, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.ply").write_bytes(data[:cut])
        with pytest.raises(Vision3DError):
            read_surfels(tmp_path / "cut.ply")
    ones = np.ones((2, len(FIELDS)))
    for name, value, message in (
        ("x", np.nan, "x holds NaN"),
        ("opacity", np.inf, "opacity holds NaN or infinity"),
        ("scale_1", 95.0, "scale is too large"),
    ):
        rows = ones.copy()
        rows[1, FIELDS.index(name)] = value
        with pytest.raises(Vision3DError, match=message):
            read_surfels(_foreign(tmp_path / "bad.ply", rows, FIELDS))
    rows = ones.copy()
    rows[1, -4:] = 0
    with pytest.raises(Vision3DError, match="length 0"):
        read_surfels(_foreign(tmp_path / "bad.ply", rows, FIELDS))
    # A scale of e^-200 is no number of float32: it is read as the smallest one, so that scales are positive.
    rows = ones.copy()
    rows[:, FIELDS.index("scale_0")] = -200
    assert float(read_surfels(_foreign(tmp_path / "thin.ply", rows, FIELDS)).scales.min()) > 0
