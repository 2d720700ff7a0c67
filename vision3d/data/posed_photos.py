"""Training pairs of photos with depth and pose in the layouts of MegaDepth and ScanNet, as LoFTR's indices list them.

J. Sun et al., "LoFTR", CVPR 2021, supplement A. MegaDepth: scene_info/*.npz with image_paths, depth_paths (HDF5, data
set "depth"), intrinsics, poses (camera from world) and pair_infos ((i, j), overlap, ...). ScanNet: scene_data/*.npz
with name [n 4] (scene, scan, two frames) and score, intrinsics.npz, and SCENE/{color/N.jpg, depth/N.png in mm,
pose/N.txt world from camera}.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import h5py
import numpy as np
import torch
from jaxtyping import Float32, Float64

from vision3d.core import RigidTransform
from vision3d.data.dense_pairs import DensePair, warp_by_depth
from vision3d.data.photos import load_photo
from vision3d.data.rendered.photometry import disturb
from vision3d.errors import UsageError, Vision3DError
from vision3d.io.npz_objects import read_npz

_SCANNET_SIZE = (640, 480)  # of its depth maps, and what its intrinsics in the index are for


@dataclass(frozen=True, slots=True)
class PosedPhoto:
    """A photo with the file of its depth; k: px with the first pixel's centre at 0.5, for photos of `size` (width,
    height), None: the photo's own. cam_from_world [4 4]."""

    photo: Path
    depth: Path
    k: Float64[np.ndarray, "3 3"]
    size: tuple[int, int] | None
    cam_from_world: Float64[np.ndarray, "4 4"]


@dataclass(frozen=True)
class PosedPairs:
    """Training set of listed pairs, photos scaled into `size` (width, height px) and padded at the right and bottom.

    disturbed: exposure, blur and noise as the epoch draws.
    """

    pairs: Sequence[tuple[PosedPhoto, PosedPhoto]]
    size: tuple[int, int]
    seed: int = 0
    disturbed: bool = True

    def __len__(self) -> int:
        return len(self.pairs)

    def sample(self, index: int, epoch: int) -> DensePair:
        """Pure in (seed, epoch, index). Vision3DError: a file is missing or damaged, with its name."""
        rng = np.random.default_rng((self.seed, epoch, index))
        first, second = self.pairs[index]
        if rng.random() < 0.5 and self.disturbed:
            first, second = second, first
        grey, depth, k, sizes = zip(*(_load(p, self.size) for p in (first, second)), strict=True)
        if self.disturbed:
            grey = tuple(_pad(disturb(rng, g[: s[0], : s[1]]), self.size) for g, s in zip(grey, sizes, strict=True))
        poses = [RigidTransform.from_matrix(torch.from_numpy(p.cam_from_world)) for p in (first, second)]
        moved = poses[1] @ poses[0].inverse()
        cameras = [torch.from_numpy(m) for m in k]
        maps = [torch.from_numpy(d) for d in depth]
        return DensePair(
            torch.from_numpy(grey[0])[None],
            torch.from_numpy(grey[1])[None],
            warp_by_depth(maps[0], maps[1], cameras[0], cameras[1], moved),
            warp_by_depth(maps[1], maps[0], cameras[1], cameras[0], moved.inverse()),
            cameras[0].float(),
            cameras[1].float(),
            moved.matrix().float(),
            torch.tensor(sizes[0]),
            torch.tensor(sizes[1]),
        )


def megadepth_pairs(
    root: str | Path, scene_info: str | Path, overlap: tuple[float, float] = (0.1, 0.7)
) -> list[tuple[PosedPhoto, PosedPhoto]]:
    """Pairs of all scene_info/*.npz; paths in them are below `root`. Its principal points are those of pixels whose
    centres lie at 0.5. UsageError: none there. Vision3DError: an index that cannot be read."""
    pairs = []
    for file in _indices(scene_info):
        table = read_npz(file)
        try:
            views = [
                None if photo is None or depth is None else _posed(Path(root), photo, depth, k, pose)
                for photo, depth, k, pose in zip(
                    *(table[key] for key in ("image_paths", "depth_paths", "intrinsics", "poses")), strict=True
                )
            ]
            for numbers, share, *_ in table["pair_infos"]:
                first, second = (views[int(n)] for n in numbers)
                if first is not None and second is not None and overlap[0] <= float(share) <= overlap[1]:
                    pairs.append((first, second))
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise Vision3DError(f"{file} is no scene of MegaDepth: {type(error).__name__}: {error}") from None
    return _some(pairs, scene_info, overlap)


def scannet_pairs(
    root: str | Path, scene_data: str | Path, intrinsics: str | Path, overlap: tuple[float, float] = (0.4, 1.0)
) -> list[tuple[PosedPhoto, PosedPhoto]]:
    """Pairs of all scene_data/*.npz; intrinsics: the .npz of all scenes, for 640 x 480 px with pixel centres at whole
    numbers. Poses are read here, pairs whose pose is not finite left out, as ScanNet marks lost frames."""
    cameras, pairs = read_npz(intrinsics), []
    poses: dict[Path, PosedPhoto | None] = {}
    for file in _indices(scene_data):
        table = read_npz(file)
        try:
            names = table["name"].reshape(-1, 4).astype(np.int64)
            scores = table["score"] if "score" in table else np.full(len(names), overlap[0])
            for (scene, scan, a, b), share in zip(names.tolist(), scores.tolist(), strict=True):
                if not overlap[0] <= share <= overlap[1]:
                    continue
                folder = f"scene{scene:04d}_{scan:02d}"
                first, second = (_scanned(Path(root) / folder, n, cameras[folder], poses) for n in (a, b))
                if first is not None and second is not None:
                    pairs.append((first, second))
        except (KeyError, ValueError, TypeError) as error:
            raise Vision3DError(f"{file} does not fit ScanNet's layout: {type(error).__name__}: {error}") from None
    return _some(pairs, scene_data, overlap)


def _indices(folder: str | Path) -> list[Path]:
    files = sorted(Path(folder).glob("*.npz"))
    if not files:
        raise UsageError(f"{folder} holds no index (*.npz); give the folder of LoFTR's indices of training scenes")
    return files


def _some(
    pairs: list[tuple[PosedPhoto, PosedPhoto]], folder: str | Path, overlap: tuple[float, float]
) -> list[tuple[PosedPhoto, PosedPhoto]]:
    if not pairs:
        raise UsageError(f"the indices in {folder} list no pair with an overlap within {overlap}")
    return pairs


def _posed(root: Path, photo: object, depth: object, k: object, pose: object) -> PosedPhoto:
    matrix, world = (np.array(m, np.float64) for m in (k, pose))
    if matrix.shape != (3, 3) or world.shape != (4, 4) or not np.isfinite(world).all():
        raise ValueError(f"camera of {photo}: shapes {matrix.shape} and {world.shape}")
    return PosedPhoto(root / str(photo), root / str(depth), matrix, None, world)


def _scanned(folder: Path, number: int, k: np.ndarray, poses: dict[Path, PosedPhoto | None]) -> PosedPhoto | None:
    path = folder / "pose" / f"{number}.txt"
    if path not in poses:
        try:
            pose = np.loadtxt(path, dtype=np.float64).reshape(4, 4)
        except (OSError, ValueError) as error:
            raise Vision3DError(f"{path} cannot be read: {error}") from None
        camera = np.array(k, np.float64)[:3, :3]
        camera[:2, 2] += 0.5
        photo, depth = folder / "color" / f"{number}.jpg", folder / "depth" / f"{number}.png"
        lost = not np.isfinite(pose).all()
        poses[path] = None if lost else PosedPhoto(photo, depth, camera, _SCANNET_SIZE, np.linalg.inv(pose))
    return poses[path]


def _load(
    view: PosedPhoto, size: tuple[int, int]
) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"], Float64[np.ndarray, "3 3"], tuple[int, int]]:
    """Grey photo, depth and camera on a canvas of `size`, and the part that is photo (height, width)."""
    grey = load_photo(view.photo).rgb.permute(1, 2, 0).numpy() @ np.array([0.299, 0.587, 0.114], np.float32)
    depth = _depth(view.depth)
    width, height = view.size or (grey.shape[1], grey.shape[0])
    scale = min(size[0] / width, size[1] / height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(np.ascontiguousarray(grey), inner, interpolation=cv2.INTER_AREA)
    # Depth is that of the nearest pixel: a mean over an edge would be of no surface.
    rows = ((np.arange(inner[1]) + 0.5) * depth.shape[0] / inner[1]).astype(int)
    columns = ((np.arange(inner[0]) + 0.5) * depth.shape[1] / inner[0]).astype(int)
    k = np.diag([inner[0] / width, inner[1] / height, 1.0]) @ view.k
    padded = (_pad(m.astype(np.float32), size) for m in (small, depth[rows[:, None], columns]))
    return *padded, k, (inner[1], inner[0])


def _pad(map_: Float32[np.ndarray, "h w"], size: tuple[int, int]) -> Float32[np.ndarray, "i j"]:
    return np.pad(map_, ((0, size[1] - map_.shape[0]), (0, size[0] - map_.shape[1])))


def _depth(path: Path) -> Float32[np.ndarray, "h w"]:
    """Metres (ScanNet) or the scene's unit (MegaDepth); 0 where unknown."""
    try:
        if path.suffix == ".h5":
            with h5py.File(path, "r") as file:
                values = np.array(file["depth"], np.float32)
        else:
            stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            if stored is None:
                raise OSError("no picture")
            values = stored.astype(np.float32) / 1000
        if values.ndim != 2:
            raise ValueError(f"shape {values.shape}")
    except (OSError, KeyError, ValueError) as error:
        raise Vision3DError(f"the depth map {path} cannot be read: {error}") from None
    return values
