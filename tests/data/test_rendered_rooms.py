"""Rendered rooms: exact depth and warps, overlaps, seeds, the folder that keeps them, textures that repeat."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from vision3d.core import RigidTransform
from vision3d.data.dense_pairs import overlap, pixel_centers, warp_by_depth, warp_by_homography
from vision3d.data.homography_pairs import HomographyPairs
from vision3d.data.mesh_raster import first_hits
from vision3d.data.pairs import PoseTruth, read_pairs
from vision3d.data.rendered.drawing import draw_room
from vision3d.data.rendered.pair_folder import write_pair_folder
from vision3d.data.rendered.rooms import RenderedRooms, RenderedRoomsConfig
from vision3d.data.rendered.scene import TexturedRoom, sample_textured_room
from vision3d.data.rendered.textures import SIDE, poster_texture, pyramid, surface_texture
from vision3d.data.simulation.depth_camera import look
from vision3d.errors import UsageError

SMALL = RenderedRoomsConfig(scenes=2, views=3, width=96, height=64)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> RenderedRooms:
    made = RenderedRooms(SMALL, tmp_path_factory.mktemp("rooms") / "kept")
    assert made.fill() == 2
    return made


def test_pictures_agree_with_depth_and_pose(rooms: RenderedRooms) -> None:
    """What a pixel shows lies where the warp says: grey values agree far better than those at the same place."""
    for index in range(2):
        scene = rooms.scene(index)
        for a, b in scene.pairs:
            pair = rooms.pair(scene, int(a), int(b))
            seen = torch.isfinite(pair.to1[..., 0])
            low, high = SMALL.overlap
            assert low - 0.1 <= overlap(pair.to1, pair.to0) <= high + 0.1
            at = pair.to1[seen].floor().long()
            there, own = pair.grey1[0, at[:, 1], at[:, 0]], pair.grey0[0][seen]
            # Photos are exposed on their own: compare by correlation.
            assert float(torch.corrcoef(torch.stack([there, own]))[0, 1]) > 0.75
            # There and back again.
            back = pair.to0[at[:, 1], at[:, 0]]
            away = (back - pixel_centers(64, 96)[seen]).norm(dim=1)
            assert float(away[torch.isfinite(away)].median()) < 1.0


def test_warp_equals_projection_in_float64() -> None:
    """A slanted plane: the homography that it induces, written from its closed form."""
    k = torch.tensor([[80.0, 0, 48], [0, 80.0, 32], [0, 0, 1]], dtype=torch.float64)
    normal, distance = torch.tensor([0.2, -0.1, 1.0], dtype=torch.float64), 3.0  # normal . x = distance
    angle = torch.tensor(0.1, dtype=torch.float64)
    rotation = torch.tensor(
        [[angle.cos(), 0, angle.sin()], [0, 1, 0], [-angle.sin(), 0, angle.cos()]], dtype=torch.float64
    )
    shift = torch.tensor([-0.3, 0.05, 0.1], dtype=torch.float64)
    homography = k @ (rotation + shift[:, None] * normal / distance) @ torch.linalg.inv(k)

    def depth(r: torch.Tensor, n: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        rays = torch.cat([pixel_centers(64, 96).double(), torch.ones(64, 96, 1, dtype=torch.float64)], -1)
        return d / (rays @ torch.linalg.inv(k).T @ n)

    normal1 = rotation @ normal
    depth1 = depth(rotation, normal1, distance + normal1 @ shift)
    depth0 = depth(rotation, normal, torch.tensor(distance, dtype=torch.float64))
    warped = warp_by_depth(depth0, depth1, k, k, RigidTransform(rotation, shift))
    expected = warp_by_homography(homography, (64, 96), (64, 96))
    torch.testing.assert_close(warped, expected, atol=1e-3, rtol=0, equal_nan=True)
    hidden = warp_by_depth(depth0, depth1 * 0.5, k, k, RigidTransform(rotation, shift))  # something in front
    assert torch.isnan(hidden).all()
    unknown = depth0.clone()
    unknown[:10], unknown[10:20] = 0, float("nan")
    assert torch.isnan(warp_by_depth(unknown, depth1, k, k, RigidTransform(rotation, shift))[:20]).all()


def test_a_scene_depends_on_seed_and_number_alone(rooms: RenderedRooms) -> None:
    again = RenderedRooms(SMALL).scene(1)
    kept = rooms.scene(1)
    for name in ("pictures", "depth", "world_from_cam", "pairs"):
        np.testing.assert_array_equal(getattr(again, name), getattr(kept, name))
    other = RenderedRooms(RenderedRoomsConfig(scenes=2, views=3, width=96, height=64, seed=1)).scene(1)
    assert not np.array_equal(other.pictures, kept.pictures)
    same, next_epoch = rooms.sample(0, 3), rooms.sample(0, 4)
    assert torch.equal(same.grey0, rooms.sample(0, 3).grey0)
    assert not torch.equal(same.grey0, next_epoch.grey0)


def test_a_damaged_file_is_drawn_anew(tmp_path: Path) -> None:
    config = RenderedRoomsConfig(scenes=1, views=3, width=64, height=48)
    made = RenderedRooms(config, tmp_path / "kept")
    true = made.scene(0)
    file = tmp_path / "kept" / "00000.npz"
    whole = file.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", whole[:3000] + b"\0" * 64 + whole[3064:]):
        file.write_bytes(broken)
        np.testing.assert_array_equal(made.scene(0).pictures, true.pictures)
        assert file.read_bytes() == whole
    with pytest.raises(UsageError, match="other settings"):
        RenderedRooms(RenderedRoomsConfig(scenes=1, views=4, width=64, height=48), tmp_path / "kept")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(UsageError, match="something else"):
        RenderedRooms(config, tmp_path / "full")


def test_texture_lies_where_it_should_and_light_falls_off() -> None:
    """A wall of known texels from a known distance: the pixel's colour is the texel's, lit as the formula says."""
    rng = np.random.default_rng(0)
    texture = np.zeros((SIDE, SIDE, 3), np.uint8)
    texture[:, : SIDE // 2] = (200, 100, 50)
    corners = np.array([[[0, -4, -4], [0, 4, -4], [0, 4, 4]], [[0, -4, -4], [0, 4, 4], [0, -4, 4]]], np.float64)
    texels = np.stack([corners[..., 1] * 8 + SIDE / 2, corners[..., 2] * 8], axis=-1)
    lamps = np.array([[2.0, 0, 0, 1.0]])
    room = TexturedRoom(corners, np.zeros(2, np.int64), texels, np.ones((2, 3)), lamps, 0.3, (8, 8, 8))
    pose = look(np.array([2.0, 0, 0]), np.pi, 0.0, 0.0)
    light, depth = draw_room(room, pyramid([texture]), pose, (64.0, 64.0, 32.0, 24.0), 64, 48)
    np.testing.assert_allclose(depth, 2.0, rtol=1e-6)
    dark, lit = light[24, 10], light[24, 54]
    right = (54.5 - 32) / 64 * 2
    shade = 0.3 + 1.0 * (2 / np.hypot(2, np.hypot(right, 0.5 / 64 * 2))) / (0.3 + 0.4 * (4 + right**2))
    sides = sorted((dark, lit), key=lambda c: float(c.sum()))
    np.testing.assert_allclose(sides[0], 0, atol=1e-6)
    np.testing.assert_allclose(sides[1], np.array([200, 100, 50]) / 255 * shade, rtol=1e-2)
    assert poster_texture(rng).shape == (SIDE, SIDE, 3)


def test_textures_repeat_without_a_seam_and_vary() -> None:
    rng = np.random.default_rng(5)
    made = [surface_texture(rng).astype(np.float64) for _ in range(24)]
    # Across the border neighbours differ no more than tiles and stripes make them differ anywhere.
    inner = [np.abs(np.diff(t, axis=0)).mean((1, 2)).max() for t in made]
    border = [np.abs(t[0] - t[-1]).mean() for t in made]
    assert all(b <= i + 2 for b, i in zip(border, inner, strict=True))
    assert all(t.std() > 2 for t in made)
    assert len({t.tobytes() for t in made}) == len(made)


def test_culled_triangles_are_not_seen() -> None:
    """The rasterizer's bounds leave out nothing: small scenes around the camera against rays and planes one by one."""
    rng = np.random.default_rng(3)
    corners = rng.normal(0, 1.5, (60, 3, 3))
    face, _, depth = first_hits(corners, (20.0, 22.0, 11.0, 9.0), 24, 18)
    for row in range(0, 18, 3):
        for column in range(0, 24, 3):
            ray = np.array([(column + 0.5 - 11) / 20, (row + 0.5 - 9) / 22, 1.0])
            with np.errstate(all="ignore"):
                weights = np.linalg.solve(corners.transpose(0, 2, 1), np.tile(ray, (60, 1))[..., None])[..., 0]
                z = 1 / weights.sum(1)
            z[~(((weights >= 0).all(1)) & (z > 0))] = np.inf
            assert face[row, column] == (int(z.argmin()) if np.isfinite(z.min()) else -1)
            if np.isfinite(z.min()):
                assert depth[row, column] == pytest.approx(z.min(), rel=1e-9)


def test_walls_posters_and_furniture_have_textures_of_their_own() -> None:
    room = sample_textured_room(np.random.default_rng(1), 50, 10, SIDE)
    assert len(room.corners) == len(room.texture) == len(room.texels) == len(room.tint)
    assert room.texture.max() >= 50
    assert len(np.unique(room.texture)) > 10
    floor = (np.abs(room.corners[:, :, 2]) < 0.004).all(1)
    assert len(np.unique(room.texture[floor])) == 1


def _photos(folder: Path, count: int) -> Path:
    folder.mkdir()
    for k in range(count):
        PIL.Image.fromarray(poster_texture(np.random.default_rng(k))).save(folder / f"{k}.png")
    return folder


def test_homography_pairs_show_what_the_warp_says(tmp_path: Path) -> None:
    pairs = HomographyPairs(_photos(tmp_path / "photos", 2), (96, 64))
    assert len(pairs) == 2
    for index in range(2):
        pair = pairs.sample(index, 7)
        assert overlap(pair.to1, pair.to0) >= 0.25
        seen = torch.isfinite(pair.to1[..., 0])
        at = pair.to1[seen].floor().long()
        pictures = torch.stack([pair.grey1[0, at[:, 1], at[:, 0]], pair.grey0[0][seen]])
        assert float(torch.corrcoef(pictures)[0, 1]) > 0.6
        back = pair.to0[at[:, 1], at[:, 0]] - pixel_centers(64, 96)[seen]
        away = back.norm(dim=1)
        assert float(away[torch.isfinite(away)].median()) < 1.5
        assert torch.equal(pair.grey1, pairs.sample(index, 7).grey1)
        assert not torch.equal(pair.grey1, pairs.sample(index, 8).grey1)


def test_a_folder_without_photos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no photos"):
        HomographyPairs(tmp_path, (96, 64))
    with pytest.raises(UsageError, match="not"):
        HomographyPairs(tmp_path / "nowhere", (96, 64))


def test_pairs_as_files_are_read_by_the_evaluation(tmp_path: Path) -> None:
    config = RenderedRoomsConfig(scenes=2, views=3, width=96, height=64)
    out = tmp_path / "pairs"
    assert write_pair_folder(out, config) == (2, 0)
    (out / "00001" / "gt.json").unlink()  # cut short: written again
    assert write_pair_folder(out, config) == (1, 1)
    pairs = read_pairs(out)
    assert [p.name for p in pairs] == ["00000", "00001"]
    for pair in pairs:
        truth = pair.truth
        assert isinstance(truth, PoseTruth)
        depth = [np.array(PIL.Image.open(pair.path0.parent / f"depth_{side}.png")) / 1000 for side in (0, 1)]
        cameras = (truth.camera0.matrix(), truth.camera1.matrix())
        maps = [torch.from_numpy(d) for d in depth]
        to1 = warp_by_depth(maps[0], maps[1], *cameras, truth.cam1_from_cam0)
        to0 = warp_by_depth(maps[1], maps[0], *cameras[::-1], truth.cam1_from_cam0.inverse())
        assert 0.1 <= overlap(to1, to0) <= 0.9
    with pytest.raises(UsageError, match="other settings"):
        write_pair_folder(out, RenderedRoomsConfig(scenes=2, views=3, width=96, height=64, seed=4))


def test_colours_are_kept_if_asked_for() -> None:
    config = RenderedRoomsConfig(scenes=1, views=2, width=64, height=48, color=True)
    rooms = RenderedRooms(config)
    scene = rooms.scene(0)
    assert scene.pictures.shape == (2, 48, 64, 3)
    assert scene.pictures.std(axis=3).mean() > 2
    grey = rooms.pair(scene, 0, 1).grey0
    assert grey.shape == (1, 48, 64)
    assert float(grey.max()) <= 1
