"""MegaDepth-1500 and ScanNet-1500: pairs of photos with cameras and relative pose, from the official index files.

J. Sun et al., "LoFTR", CVPR 2021, section 4.2 (its assets folder holds the indices); P.-E. Sarlin et al., "SuperGlue",
CVPR 2020, for ScanNet. Training pairs of the same layouts are read by posed_photos.py, which drops what is not fit to
train on; here every listed pair stays, and one whose truth or photo is not known says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64

from vision3d.core import RigidTransform
from vision3d.data.listed_pairs import CalibratedTruth, ListedPair
from vision3d.errors import UsageError, Vision3DError
from vision3d.io.npz_objects import read_npz

SCANNET_SIZE = (640, 480)  # px; the intrinsics of the index are for photos of this size
MEGADEPTH_INDICES = ("megadepth_test_1500_scene_info", "scene_info_val_1500", "index/scene_info_val_1500", "scene_info")
MEGADEPTH_PHOTOS = ("", "test", "images", "megadepth_test_1500")
SCANNET_PHOTOS = ("", "scannet_test_1500", "test")


def megadepth_1500(root: str | Path, index: str | Path | None = None) -> list[ListedPair]:
    """The pairs of LoFTR's scene_info files (0015_0.1_0.3.npz, ...) or of glue-factory's pairs_calibrated.txt.

    The principal points are half the photos' sizes: those of pixels whose centres lie at 0.5.

    Args:
        root: holds the photos, in it or in test/ or images/.
        index: folder of the .npz files, or the text file; looked for in `root` by default.

    Raises:
        UsageError: no index there. Vision3DError: a broken index, or a photo that it names is missing.
    """
    root = Path(root)
    place = _megadepth_index(root) if index is None else Path(index)
    if place.is_dir():
        files = sorted(place.glob("*.npz"))
        if not files:
            raise UsageError(f"{place} holds no index of MegaDepth-1500 (0015_0.1_0.3.npz and the like)")
        listed = [pair for file in files for pair in _scene_info(file)]
    elif place.is_file():
        listed = _calibrated_lines(place)
    else:
        raise UsageError(f"the index {place} does not exist")
    return _with_photos(_unique(listed), root, place)


def scannet_1500(root: str | Path, index: str | Path | None = None) -> list[ListedPair]:
    """The pairs of test.npz (name [n 4]: scene, scan, two frames) with intrinsics.npz beside it.

    Poses are those of SCENE/pose/FRAME.txt (world from camera); where a scene has no such folder, the index's rel_pose.
    The intrinsics have pixel centres at whole numbers: 0.5 is added.

    Args:
        root: holds scene0707_00/color/15.jpg, ..., in it or in scannet_test_1500/ or test/.
        index: folder of test.npz and intrinsics.npz; looked for in `root` by default.

    Raises:
        UsageError: no index there. Vision3DError: a broken index, or a photo or pose that it names is missing.
    """
    root = Path(root)
    places = [Path(index)] if index is not None else [root, root / "scannet_test_1500", root / "index"]
    place = next((p for p in places if (p / "test.npz").is_file() and (p / "intrinsics.npz").is_file()), None)
    if place is None:
        raise UsageError(f"{places[0]} holds no index of ScanNet-1500 (test.npz and intrinsics.npz)")
    table, cameras = read_npz(place / "test.npz"), read_npz(place / "intrinsics.npz")
    try:
        names = table["name"].reshape(-1, 4).astype(np.int64).tolist()
        relative = table["rel_pose"].reshape(len(names), 3, 4) if "rel_pose" in table else None
        folders = [f"scene{scene:04d}_{scan:02d}" for scene, scan, _, _ in names]
        ks = {folder: np.array(cameras[folder], np.float64)[:3, :3] for folder in set(folders)}
    except (KeyError, ValueError, TypeError) as error:
        raise Vision3DError(
            f"{place} holds no index of ScanNet-1500: {type(error).__name__}: {error} (test.npz must have the array"
            " name [n 4], intrinsics.npz a 3x3 matrix for each of its scenes)"
        ) from None
    photos = {f"{f}/color/{n}.jpg" for f, (_, _, a, b) in zip(folders, names, strict=True) for n in (a, b)}
    base = _photo_folder(root, SCANNET_PHOTOS, photos, place)
    poses: dict[Path, Float64[np.ndarray, "4 4"]] = {}
    pairs = []
    for row, (folder, (_, _, a, b)) in enumerate(zip(folders, names, strict=True)):
        if relative is not None and not (base / folder / "pose").is_dir():
            moved = np.vstack([np.asarray(relative[row], np.float64), [0, 0, 0, 1]])
        else:
            worlds = [_world_from_cam(base / folder / "pose" / f"{n}.txt", poses) for n in (a, b)]
            moved = _relative(_inverse(worlds[0]), _inverse(worlds[1]))
        k = ks[folder].copy()
        k[:2, 2] += 0.5
        truth = _truth(k, k, SCANNET_SIZE, moved)
        color = base / folder / "color"
        pairs.append(ListedPair(f"{folder}/{a}-{b}", "ScanNet", color / f"{a}.jpg", color / f"{b}.jpg", truth))
    return _unique(pairs)


def _megadepth_index(root: Path) -> Path:
    for name in MEGADEPTH_INDICES:
        if any((root / name).glob("*.npz")):
            return root / name
    if (root / "pairs_calibrated.txt").is_file():
        return root / "pairs_calibrated.txt"
    if any(root.glob("*.npz")):
        return root
    raise UsageError(
        f"{root} holds no index of MegaDepth-1500: neither {', '.join(f'{n}/*.npz' for n in MEGADEPTH_INDICES)} nor"
        " pairs_calibrated.txt; name its place with --index"
    )


def _scene_info(file: Path) -> list[ListedPair]:
    table = read_npz(file)
    try:
        photos, ks, worlds = (table[key] for key in ("image_paths", "intrinsics", "poses"))
        pairs = []
        for numbers, *_ in table["pair_infos"]:
            i, j = (int(n) for n in numbers)
            if min(i, j) < 0:
                raise ValueError(f"a pair of photos {i} and {j}")
            moved = _relative(*(_matrix(worlds[n], (4, 4)) for n in (i, j)))
            truth = _truth(_matrix(ks[i], (3, 3)), _matrix(ks[j], (3, 3)), None, moved)
            paths = [None if photos[n] is None else Path(str(photos[n])) for n in (i, j)]
            stems = [str(n) if path is None else path.stem for n, path in zip((i, j), paths, strict=True)]
            pairs.append(ListedPair(f"{file.stem}/{stems[0]}-{stems[1]}", file.stem, paths[0], paths[1], truth))
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise Vision3DError(f"{file} is no index of MegaDepth-1500: {type(error).__name__}: {error}") from None
    if not pairs:
        raise Vision3DError(f"{file} lists no pairs")
    return pairs


def _calibrated_lines(file: Path) -> list[ListedPair]:
    """Lines of two names, K0 and K1 (nine numbers each), and cam1_from_cam0: R and t (12), or 16 of a 4x4 matrix."""
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise Vision3DError(f"the index {file} cannot be read: {error}") from None
    pairs = []
    for number, (name0, name1, *words) in ((n, [*line, "", ""]) for n, line in enumerate(lines, 1)):
        words = words[:-2]
        try:
            values = np.array([float(word) for word in words])
        except ValueError:
            values = np.zeros(0)
        if len(values) not in (30, 34):
            raise Vision3DError(
                f"{file}, line {number}: two names, K0, K1 (9 numbers each) and R, t (12) or a 4x4 matrix (16) are"
                f" expected, got {len(words)} words after the names"
            )
        k0, k1, rest = values[:9].reshape(3, 3), values[9:18].reshape(3, 3), values[18:]
        moved = np.eye(4)
        if len(rest) == 16:
            moved = rest.reshape(4, 4)
        else:
            moved[:3, :3], moved[:3, 3] = rest[:9].reshape(3, 3), rest[9:]
        group = next((part for part in Path(name0).parts if part.isdigit()), "MegaDepth")
        name = f"{group}/{Path(name0).stem}-{Path(name1).stem}"
        pairs.append(ListedPair(name, group, Path(name0), Path(name1), _truth(k0, k1, None, moved)))
    if not pairs:
        raise Vision3DError(f"the index {file} lists no pairs")
    return pairs


def _matrix(value: object, shape: tuple[int, int]) -> Float64[np.ndarray, "r c"]:
    """NaN for what the index leaves out; ValueError for another shape."""
    if value is None:
        return np.full(shape, np.nan)
    matrix = np.array(value, np.float64)
    if matrix.shape != shape:
        raise ValueError(f"a matrix of shape {matrix.shape} instead of {shape}")
    return matrix


def _relative(cam0: Float64[np.ndarray, "4 4"], cam1: Float64[np.ndarray, "4 4"]) -> Float64[np.ndarray, "4 4"]:
    """cam1_from_cam0 of two cam_from_world; NaN where one is lost."""
    if not (np.isfinite(cam0).all() and np.isfinite(cam1).all()):
        return np.full((4, 4), np.nan)
    return np.asarray(cam1 @ _inverse(cam0))


def _inverse(matrix: Float64[np.ndarray, "4 4"]) -> Float64[np.ndarray, "4 4"]:
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
        return np.full((4, 4), np.nan)
    return np.asarray(np.linalg.inv(matrix))


def _world_from_cam(path: Path, read: dict[Path, Float64[np.ndarray, "4 4"]]) -> Float64[np.ndarray, "4 4"]:
    if path not in read:
        try:
            read[path] = np.loadtxt(path, dtype=np.float64).reshape(4, 4)
        except (OSError, ValueError) as error:
            raise Vision3DError(f"the pose {path} cannot be read: {error}") from None
    return read[path]


def _truth(
    k0: Float64[np.ndarray, "3 3"],
    k1: Float64[np.ndarray, "3 3"],
    size: tuple[int, int] | None,
    moved: Float64[np.ndarray, "4 4"],
) -> CalibratedTruth:
    cameras = [torch.from_numpy(np.array(k, np.float64)) for k in (k0, k1)]
    valid = all(np.isfinite(k).all() and min(k[0, 0], k[1, 1]) > 0 for k in (k0, k1)) and np.isfinite(moved).all()
    pose = None
    if valid:
        try:
            rough = RigidTransform.from_matrix(torch.from_numpy(moved))
            u, _, vt = torch.linalg.svd(rough.rotation)  # the files round to five digits
            pose = RigidTransform(u @ vt, rough.translation) if bool(rough.translation.norm() > 0) else None
        except ValueError:
            pose = None
    return CalibratedTruth(cameras[0], cameras[1], size, pose)


def _unique(pairs: Sequence[ListedPair]) -> list[ListedPair]:
    """With a number after names that come again: photos of two folders may share one, a list may repeat itself."""
    seen: dict[str, int] = {}
    out = []
    for pair in pairs:
        seen[pair.name] = seen.get(pair.name, 0) + 1
        out.append(pair if seen[pair.name] == 1 else replace(pair, name=f"{pair.name}-{seen[pair.name]}"))
    return out


def _with_photos(pairs: Sequence[ListedPair], root: Path, index: Path) -> list[ListedPair]:
    base = _photo_folder(
        root, MEGADEPTH_PHOTOS, {str(p) for pair in pairs for p in (pair.path0, pair.path1) if p}, index
    )
    placed = [[None if path is None else base / path for path in (pair.path0, pair.path1)] for pair in pairs]
    return [replace(pair, path0=a, path1=b) for pair, (a, b) in zip(pairs, placed, strict=True)]


def _photo_folder(root: Path, places: Sequence[str], names: Iterable[str], index: Path) -> Path:
    """The folder below `root` that the photos lie in. Vision3DError: some are missing."""
    if not root.is_dir():
        raise UsageError(f"the folder {root} does not exist")
    names = sorted(names)
    base = next((root / place for place in places if any((root / place / n).is_file() for n in names)), root)
    missing = [name for name in names if not (base / name).is_file()]
    if missing:
        raise Vision3DError(
            f"{len(missing)} of {len(names)} photos that {index} names are missing, the first is {base / missing[0]}"
        )
    return base
