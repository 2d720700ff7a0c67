"""Miniature copies of HPatches, MegaDepth-1500 and ScanNet-1500, made of planes whose matches are known everywhere."""

from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import cv2
import numpy as np
import torch
from textured_planes import render, ring_poses

from vision3d.core import Correspondences, Image, View

PLANES = [(np.array([0.0, 0.1, -np.sqrt(0.99)]), -1.6), (np.array([0.5, 0.2, -np.sqrt(0.71)]), -2.2)]
SIZE = (160, 120)
H = np.array([[0.9, 0.1, 12], [-0.05, 1.05, 6], [1e-4, -5e-5, 1]])


def texture(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = sum(cv2.resize(rng.random((n, n)), (200, 120), interpolation=cv2.INTER_CUBIC) for n in (5, 12, 30, 60))
    return (255 * (coarse - coarse.min()) / np.ptp(coarse)).astype(np.uint8)


def hpatches(root: Path, sequences: tuple[str, ...] = ("i_light", "v_turn")) -> Path:
    """Photos k are photo 1 under the k-1 th power of H for v_*, darker for i_*; OpenCV's pixel centres at integers."""
    for number, name in enumerate(sequences):
        folder = root / name
        folder.mkdir(parents=True)
        first = texture(number)
        cv2.imwrite(str(folder / "1.ppm"), np.repeat(first[..., None], 3, 2))
        for k in range(2, 7):
            h = np.linalg.matrix_power(H, k - 1) if name.startswith("v_") else np.eye(3)
            other = cv2.warpPerspective(first, h, (200, 120)) if name.startswith("v_") else first // k * 2
            cv2.imwrite(str(folder / f"{k}.ppm"), np.repeat(other[..., None], 3, 2))
            np.savetxt(folder / f"H_1_{k}", h)
    return root


def views() -> tuple[list[View], list[np.ndarray]]:
    found, depths, _ = render(PLANES, ring_poses(3, baseline=0.3), size=SIZE)
    return found, depths


def save_photo(path: Path, view: View, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = (view.rgb[0].numpy() * 255).round().astype(np.uint8)
    if size != SIZE:
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, 98])


def megadepth(root: Path, bare: bool) -> Path:
    """Photos under Undistorted_SfM; an index as published: one pickle named .npz (`bare`), or a real .npz.

    Pairs (0, 1), (1, 2), (0, 2) in one list; in the other (0, 1), one with a lost pose and one without a photo.
    """
    found, _ = views()
    table: dict[str, list[object]] = {"image_paths": [], "depth_paths": [], "intrinsics": [], "poses": []}
    for k, view in enumerate(found):
        name = f"Undistorted_SfM/0015/images/{k}_o.jpg"
        save_photo(root / name, view)
        table["image_paths"].append(name)
        table["intrinsics"].append(view.camera.matrix().numpy().astype(np.float64))
        table["poses"].append(view.cam_from_world.matrix().numpy())
    table["image_paths"] += ["Undistorted_SfM/0015/images/0_o.jpg", None]
    table["intrinsics"] += [table["intrinsics"][0], None]
    table["poses"] += [np.full((4, 4), np.nan), None]
    table["depth_paths"] = [None] * 5
    lists = {"0015_0.1_0.3": [(0, 1), (1, 2), (0, 2)], "0022_0.5_0.7": [(0, 1), (3, 1), (1, 4)]}
    index = root / "megadepth_test_1500_scene_info"
    index.mkdir()
    for name, pairs in lists.items():
        infos = [(np.array(pair), np.float64(0.2), np.array([1.0, 2, 3, 4])) for pair in pairs]
        arrays: dict[str, object] = {}
        for key, values in table.items():
            arrays[key] = np.empty(len(values), object)
            for k, value in enumerate(values):
                arrays[key][k] = value
        if bare:
            (index / f"{name}.npz").write_bytes(ForkingPickler.dumps({**arrays, "pair_infos": infos}, 4))
        else:
            objects = np.empty(len(infos), object)
            for k, info in enumerate(infos):
                objects[k] = info
            np.savez(index / f"{name}.npz", **arrays, pair_infos=objects)
    return root


def calibrated_text(root: Path) -> Path:
    """glue-factory's layout: images/ and pairs_calibrated.txt, poses as R and t, then as 4x4."""
    found, _ = views()
    lines = []
    for k, view in enumerate(found):
        save_photo(root / f"images/0015/{k}.jpg", view)
    for a, b in ((0, 1), (1, 2)):
        moved = (found[b].cam_from_world @ found[a].cam_from_world.inverse()).matrix().numpy()
        pose = moved if a else np.concatenate([moved[:3, :3].ravel(), moved[:3, 3]])
        numbers = [found[a].camera.matrix().numpy(), found[b].camera.matrix().numpy(), pose]
        words = [f"{v:.8f}" for m in numbers for v in np.ravel(m)]
        lines.append(" ".join([f"0015/{a}.jpg", f"0015/{b}.jpg", *words]))
    (root / "pairs_calibrated.txt").write_text("\n".join(lines) + "\n")
    return root


def scannet(root: Path, relative: bool = False) -> Path:
    """Photos of twice the rendered size; intrinsics for 640x480 with whole-numbered centres; frame 30 is lost.

    relative: no pose files, but rel_pose in the index.
    """
    found, _ = views()
    folder = root / "scannet_test_1500" / "scene0707_00"
    for k, view in enumerate(found):
        save_photo(folder / f"color/{10 * k}.jpg", view, (320, 240))
        if not relative:
            (folder / "pose").mkdir(exist_ok=True)
            np.savetxt(folder / f"pose/{10 * k}.txt", view.cam_from_world.inverse().matrix().numpy())
    rows = [(0, 1), (1, 2)]
    if not relative:
        save_photo(folder / "color/30.jpg", found[0], (320, 240))
        np.savetxt(folder / "pose/30.txt", np.full((4, 4), -np.inf))
        rows.append((1, 3))
    names = np.array([(707, 0, 10 * a, 10 * b) for a, b in rows], np.uint16)
    moved = [(found[b % 3].cam_from_world @ found[a].cam_from_world.inverse()).matrix().numpy()[:3] for a, b in rows]
    extra = {"rel_pose": np.array(moved, np.float32).reshape(-1, 12)} if relative else {}
    np.savez(root / "test.npz", name=names, **extra)
    k = np.diag([4.0, 4.0, 1.0]) @ found[0].camera.matrix().numpy()
    k[:2, 2] -= 0.5
    np.savez(root / "intrinsics.npz", scene0707_00=k)
    return root


class Oracle:
    """Knows the planes: true matches of two photos (told by their names' numbers), in px of the originals."""

    name, max_size = "oracle", 1024

    def __init__(self, noise: float = 0.0) -> None:
        self.noise, self.calls, self.views = noise, 0, views()

    @property
    def settings(self) -> dict[str, object]:
        return {"noise": self.noise}

    def match(self, image0: Image, image1: Image) -> Correspondences:
        self.calls += 1
        found, depths = self.views
        a, b = ({"0": 0, "1": 1, "2": 2, "3": 0}[i.name[0]] for i in (image0, image1))
        y, x = (g.ravel() for g in np.mgrid[8 : SIZE[1] - 8 : 8, 8 : SIZE[0] - 8 : 8])
        points = torch.from_numpy(np.stack([x, y], 1) + 0.5)
        depth = torch.from_numpy(depths[a][y, x])
        rays = torch.nn.functional.pad(found[a].camera.unproject(points), (0, 1), value=1.0)
        moved = found[b].cam_from_world @ found[a].cam_from_world.inverse()
        there, _ = found[b].camera.project(moved.apply(rays * depth[:, None]))
        there += self.noise * torch.from_numpy(np.random.default_rng(0).standard_normal(there.shape))
        scales = [i.original_size[0] / SIZE[0] for i in (image0, image1)]
        return Correspondences(points * scales[0], there * scales[1], torch.ones(len(points)).double())
