"""Image pairs with ground truth: homographies (HPatches, CMP), annotated points (AdelaideRMF, Kusvod2), relative poses.

Files are converted to our pixel convention here. What was found by SIFT matches (OpenCV 5 with enable_precise_upscale,
without which OpenCV's keypoints lie 0.25 px too far right and down): HPatches' and CMP's homographies are for pixel
centres at integers (CMP ExtremeZoom, scale 0.16: median error 0.35 px so, 0.8 px for centres at 0.5, 1.4 px if counted
from 1), and 0.5 is added. MegaDepth's K comes from COLMAP with the principal point at exactly half the size, hence for
pixel centres at 0.5, although the benchmarks use it with integer centres: it is taken as it is.
In the CMP sets points1 is H times points0 to rounding: the points say nothing that H does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from vision3d.core import Camera, Image, RigidTransform, UsageError, Vision3DError
from vision3d.data.decoding import load_photo, open_photo
from vision3d.data.photo_folder import PHOTO_EXTENSIONS, natural_key
from vision3d.geometry.homography import shift_origin
from vision3d.io.cameras_json import read_json, read_matrix, read_pose

# Our pixel coordinates minus those with the centre of the top-left pixel at (0, 0).
_OURS_FROM_ZERO_BASED = 0.5


@dataclass(frozen=True, slots=True)
class HomographyTruth:
    """Pixels of image 0 map to image 1 by this homography (px of the originals)."""

    h_1_from_0: Float64[Tensor, "3 3"]


@dataclass(frozen=True, slots=True)
class PointsTruth:
    """Corresponding points annotated by hand (px of the originals)."""

    points0: Float64[Tensor, "n 2"]
    points1: Float64[Tensor, "n 2"]


@dataclass(frozen=True, slots=True)
class PoseTruth:
    """Cameras (px of the originals) and relative pose; the length of the translation means nothing."""

    camera0: Camera
    camera1: Camera
    cam1_from_cam0: RigidTransform


Truth = HomographyTruth | PointsTruth | PoseTruth


@dataclass(frozen=True, slots=True)
class ImagePair:
    """Two photos on disk and what is known of their relation. name: path of the pair below the folder read."""

    name: str
    path0: Path
    path1: Path
    truth: Truth


@dataclass(frozen=True, slots=True)
class PairSample:
    """A pair with its photos decoded; the truth stays in px of the originals (`Image.to_original` leads there)."""

    name: str
    image0: Image
    image1: Image
    truth: Truth


class PairDataset(torch.utils.data.Dataset[PairSample]):
    """Pairs decoded on access at a longer side of at most max_size px."""

    def __init__(self, pairs: Sequence[ImagePair], max_size: int | None = None) -> None:
        self.pairs = tuple(pairs)
        self.max_size = max_size

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> PairSample:
        pair = self.pairs[index]
        image0, image1 = (load_photo(path, self.max_size) for path in (pair.path0, pair.path1))
        return PairSample(pair.name, image0, image1, pair.truth)


def read_pairs(folder: str | Path) -> list[ImagePair]:
    """All pairs in a folder and its subfolders, in natural order of their paths.

    A folder with gt.json and photos 0 and 1 is one pair; one with homographies.json, or with HPatches' own H_1_2 to
    H_1_6, is a sequence of pairs (1, k).

    Raises:
        UsageError: no pair there. Vision3DError: a broken file, or a photo that is missing.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UsageError(f"the folder of pairs {root} does not exist")
    folders = [root, *sorted((p for p in root.rglob("*") if p.is_dir()), key=lambda p: natural_key(p.as_posix()))]
    pairs = [pair for sub in folders for pair in _pairs_in(sub, root)]
    if not pairs:
        raise UsageError(f"{root} holds no image pairs (folders with gt.json, homographies.json or H_1_2)")
    return pairs


def _pairs_in(folder: Path, root: Path) -> Iterator[ImagePair]:
    name = folder.resolve().name if folder == root else folder.relative_to(root).as_posix()
    if (folder / "gt.json").is_file():
        path0, path1 = find_photo(folder, "0"), find_photo(folder, "1")
        yield ImagePair(name, path0, path1, _truth(folder / "gt.json", path0, path1))
    elif (folder / "homographies.json").is_file():
        path = folder / "homographies.json"
        table = read_json(path).get("H")
        if not isinstance(table, dict):
            raise Vision3DError(f'{path}: "H" must be an object with keys like "1_2"')
        for key in sorted(table, key=natural_key):
            if not re.fullmatch(r"[0-9]+_[0-9]+", key):
                raise Vision3DError(f'{path}: keys of "H" are like "1_2", got {key!r}')
            h = read_matrix(f"{path}, {key}", table[key], ((3, 3),))
            first, second = key.split("_")
            yield ImagePair(f"{name}/{key}", find_photo(folder, first), find_photo(folder, second), _homography(h))
    else:
        for path in sorted(folder.glob("H_1_[2-9]"), key=lambda p: natural_key(p.name)):
            second = path.name[-1]
            truth = read_hpatches_homography(path)
            yield ImagePair(f"{name}/1_{second}", find_photo(folder, "1"), find_photo(folder, second), truth)


def read_hpatches_homography(path: Path) -> HomographyTruth:
    """A text file of HPatches with three rows of three numbers. Vision3DError: there is none, or it holds others."""
    try:
        rows = [line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError as error:
        raise Vision3DError(f"cannot read the homography {path}: {error.strerror or error}") from None
    h = read_matrix(str(path), _numbers(rows), ((3, 3),))
    if not abs(float(torch.linalg.det(h))) > 0:
        raise Vision3DError(f"{path}: the matrix has no inverse, so it is no homography")
    return _homography(h)


def _truth(path: Path, path0: Path, path1: Path) -> Truth:
    content = read_json(path)
    if "H_1_from_0" in content:
        return _homography(read_matrix(f"{path}, H_1_from_0", content["H_1_from_0"], ((3, 3),)))
    if "cam1_from_cam0" in content:
        pose = read_pose(f"{path}, cam1_from_cam0", content["cam1_from_cam0"])
        return PoseTruth(_camera(path, "K0", content, path0), _camera(path, "K1", content, path1), pose)
    if "points0" in content and "points1" in content:
        n = len(content["points0"]) if isinstance(content["points0"], list) else 0
        points0, points1 = (read_matrix(f"{path}, {key}", content[key], ((n, 2),)) for key in ("points0", "points1"))
        return PointsTruth(points0 + _OURS_FROM_ZERO_BASED, points1 + _OURS_FROM_ZERO_BASED)
    raise Vision3DError(f"{path} has none of H_1_from_0, cam1_from_cam0 with K0 and K1, points0 with points1")


def _homography(zero_based: Float64[Tensor, "3 3"]) -> HomographyTruth:
    return HomographyTruth(shift_origin(zero_based, _OURS_FROM_ZERO_BASED))


def _camera(path: Path, key: str, content: dict[str, Any], photo: Path) -> Camera:
    k = read_matrix(f"{path}, {key}", content.get(key), ((3, 3),))
    stored, header = open_photo(photo, str(photo))
    stored.close()
    return Camera.from_matrix(*header.size, k)


def find_photo(folder: Path, stem: str) -> Path:
    """The photo of that name with any ending. Vision3DError: none."""
    for path in sorted(folder.glob(f"{stem}.*")):
        if path.suffix.lower() in PHOTO_EXTENSIONS:
            return path
    raise Vision3DError(f"{folder} has no photo {stem} ({', '.join(PHOTO_EXTENSIONS)})")


def _numbers(rows: list[list[str]]) -> list[list[float | str]]:
    def number(word: str) -> float | str:
        try:
            return float(word)
        except ValueError:
            return word

    return [[number(word) for word in row] for row in rows if row]
