"""MegaDepth's and ScanNet's training layouts on miniature copies, and the reader of their indices."""

import os
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch

from vision3d.data.dense_pairs import overlap, pixel_centers
from vision3d.data.posed_photos import PosedPairs, megadepth_pairs, scannet_pairs
from vision3d.data.rendered.rooms import RenderedRooms, RenderedRoomsConfig, RenderedScene
from vision3d.errors import UsageError, Vision3DError
from vision3d.io.npz_objects import read_npz


@pytest.fixture(scope="module")
def scene() -> RenderedScene:
    return RenderedRooms(RenderedRoomsConfig(scenes=1, views=3, width=128, height=96)).scene(0)


def _matrix(pose: np.ndarray) -> np.ndarray:
    return np.vstack([pose, [0, 0, 0, 1]])


def _megadepth(root: Path, scene: RenderedScene) -> Path:
    """Views 0 to 2 and, as in the real index, holes where an image is missing."""
    photos, depths, cameras, poses = ([None] * 4 for _ in range(4))
    for v in range(3):
        name = f"Undistorted_SfM/0001/images/{v}.jpg"
        photos[v], depths[v] = name, f"phoenix/0001/depths/{v}.h5"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / str(depths[v])).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / name), scene.pictures[v, ..., 0], [cv2.IMWRITE_JPEG_QUALITY, 95])
        with h5py.File(root / str(depths[v]), "w") as file:
            file["depth"] = scene.depth[v]
        cameras[v], poses[v] = scene.k, np.linalg.inv(_matrix(scene.world_from_cam[v]))
    pairs = [((int(a), int(b)), float(o), []) for (a, b), o in zip(scene.pairs, scene.overlaps, strict=True)]
    pairs += [((0, 3), 0.5, []), ((0, 1), 0.01, [])]
    index = root / "scene_info"
    index.mkdir()
    table = {
        "image_paths": photos, "depth_paths": depths, "intrinsics": cameras, "poses": poses, "pair_infos": pairs,
    }  # fmt: skip
    objects = {}
    for name, values in table.items():
        objects[name] = np.empty(len(values), object)
        for k, value in enumerate(values):
            objects[name][k] = value
    np.savez(index / "0001.npz", **objects)
    return index


def _check(pairs: PosedPairs, size: tuple[int, int]) -> None:
    for index in range(len(pairs)):
        pair = pairs.sample(index, 2)
        h, w = pair.size0.tolist()
        assert pair.grey0.shape == (1, size[1], size[0])
        assert not pair.grey0[0, h:].any()
        assert not pair.grey0[0, :, w:].any()
        assert not torch.isfinite(pair.to1[h:]).any()
        assert overlap(pair.to1[:h, :w], pair.to0[:h, :w]) > 0.15
        seen = torch.isfinite(pair.to1[..., 0])
        at = pair.to1[seen].floor().long()
        pictures = torch.stack([pair.grey1[0, at[:, 1], at[:, 0]], pair.grey0[0][seen]])
        assert float(torch.corrcoef(pictures)[0, 1]) > 0.7
        away = (pair.to0[at[:, 1], at[:, 0]] - pixel_centers(size[1], size[0])[seen]).norm(dim=1)
        assert float(away[torch.isfinite(away)].median()) < 1.0


def test_megadepth(tmp_path: Path, scene: RenderedScene) -> None:
    index = _megadepth(tmp_path, scene)
    listed = megadepth_pairs(tmp_path, index, (0.1, 0.9))
    assert len(listed) == len(scene.pairs)
    _check(PosedPairs(listed, (96, 96), disturbed=False), (96, 96))  # scaled to 96 x 72 and padded below
    first = PosedPairs(listed, (96, 96)).sample(0, 0)
    assert torch.equal(first.grey0, PosedPairs(listed, (96, 96)).sample(0, 0).grey0)
    listed[0][0].depth.write_bytes(b"no depth")
    with pytest.raises(Vision3DError, match="depth map"):
        PosedPairs([listed[0]], (96, 96)).sample(0, 0)
    with pytest.raises(UsageError, match="no pair"):
        megadepth_pairs(tmp_path, index, (0.95, 1.0))
    with pytest.raises(UsageError, match="no index"):
        megadepth_pairs(tmp_path, tmp_path / "nowhere")
    np.savez(index / "0002.npz", image_paths=np.array(["a.jpg"]))
    with pytest.raises(Vision3DError, match="no scene of MegaDepth"):
        megadepth_pairs(tmp_path, index)


def test_scannet(tmp_path: Path, scene: RenderedScene) -> None:
    """Photos of 1.5 times the size of the depth maps; intrinsics for 640 x 480 with whole-numbered centres."""
    folder = tmp_path / "scans" / "scene0007_01"
    for name in ("color", "depth", "pose"):
        (folder / name).mkdir(parents=True)
    for v in range(3):
        large = cv2.resize(scene.pictures[v, ..., 0], (192, 144), interpolation=cv2.INTER_LINEAR)
        cv2.imwrite(str(folder / "color" / f"{10 * v}.jpg"), large, [cv2.IMWRITE_JPEG_QUALITY, 95])
        cv2.imwrite(str(folder / "depth" / f"{10 * v}.png"), np.round(scene.depth[v] * 1000).astype(np.uint16))
        np.savetxt(folder / "pose" / f"{10 * v}.txt", _matrix(scene.world_from_cam[v]))
    np.savetxt(folder / "pose" / "99.txt", np.full((4, 4), -np.inf))
    index = tmp_path / "scene_data"
    index.mkdir()
    rows = [[7, 1, 10 * a, 10 * b] for a, b in scene.pairs.tolist()] + [[7, 1, 0, 99]]
    np.savez(index / "scene0007_01.npz", name=np.array(rows, np.uint16), score=np.full(len(rows), 0.5))
    k = np.diag([5.0, 5.0, 1.0]) @ scene.k
    k[:2, 2] -= 0.5
    np.savez(tmp_path / "intrinsics.npz", scene0007_01=k)
    listed = scannet_pairs(tmp_path / "scans", index, tmp_path / "intrinsics.npz")
    assert len(listed) == len(scene.pairs)  # the lost frame's pair is left out
    _check(PosedPairs(listed, (128, 96), disturbed=False), (128, 96))
    (folder / "pose" / "0.txt").unlink()
    with pytest.raises(Vision3DError, match=r"0\.txt"):
        scannet_pairs(tmp_path / "scans", index, tmp_path / "intrinsics.npz")


class _Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


def test_the_reader_admits_arrays_and_runs_nothing(tmp_path: Path) -> None:
    values = np.empty(5, object)
    values[:] = [None, "a/b.jpg", (1, 2.5, [np.float32(3), np.arange(4)]), {"k": np.eye(3)}, np.str_("x")]
    np.savez(tmp_path / "good.npz", values=values, plain=np.arange(6).reshape(2, 3), names=np.array(["x", "yz"]))
    read = read_npz(tmp_path / "good.npz")
    assert read["values"][1] == "a/b.jpg"
    assert read["values"][2][2][1].tolist() == [0, 1, 2, 3]
    assert read["values"][3]["k"].tolist() == np.eye(3).tolist()
    assert read["plain"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read["names"].tolist() == ["x", "yz"]
    older = read_npz(Path(__file__).with_name("objects_of_older_writers.npz"))  # the same values by protocols 2 to 4
    assert len(older) == 3
    for array in older.values():
        assert array[1] == "a/b.jpg"
        assert array[2][:2] == (1, 2.5)
        assert array[2][2][1].tolist() == [0, 1, 2, 3]
        assert array[3]["k"].tolist() == np.eye(3).tolist()

    values[0] = _Bomb(str(tmp_path / "made"))
    np.savez(tmp_path / "bad.npz", values=values)
    with pytest.raises(Vision3DError, match="mkdir"):
        read_npz(tmp_path / "bad.npz")
    assert not (tmp_path / "made").exists()
    (tmp_path / "cut.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:300])
    with pytest.raises(Vision3DError, match="damaged"):
        read_npz(tmp_path / "cut.npz")
    with pytest.raises(Vision3DError, match="does not exist"):
        read_npz(tmp_path / "none.npz")
