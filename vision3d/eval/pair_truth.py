"""Image pairs with ground truth: homographies, annotated points, relative poses, disparity.

`find_pairs` walks a folder and knows these layouts:

- `NAME/gt.json` beside `0.jpg`, `1.jpg`: `H_1_from_0` with `points0`, `points1` (homography), `points0`, `points1`
  alone (epipolar), or `K0`, `K1`, `cam1_from_cam0` (relative pose, translation up to scale);
- `NAME/homographies.json` beside `1.png` ... (`{"H": {"1_2": 3x3}}`), and an original HPatches sequence (`1.ppm` ...,
  `H_1_2` ...): homographies from image 1 to each other image.

These sources put the centre of the top-left pixel at (0, 0); everything is moved to (0.5, 0.5) here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.core import RigidTransform
from vision3d.errors import UsageError, Vision3DError
from vision3d.geometry.homography import shift_origin
from vision3d.io.cameras_json import read_json, read_matrix, read_pose

Kind = Literal["homography", "epipolar", "pose", "stereo"]
Points = Float[Tensor, "n 2"]
Matrix = Float[Tensor, "3 3"]


@dataclass(frozen=True, slots=True)
class PairTruth:
    """Two photos and what is known of them; pixel (0.5, 0.5) is the centre of the top-left pixel.

    name: unique, path-like; group: the set of pairs it is reported with. By kind there are `homography` (1 from 0, and
    annotated points, if any), the annotated points, `k0`, `k1` (px) and `cam1_from_cam0` (up to scale), or `disparity`
    (px, see `two_view.disparity_errors`). float64.
    """

    name: str
    group: str
    kind: Kind
    photo0: Path
    photo1: Path
    homography: Matrix | None = None
    points0: Points | None = None
    points1: Points | None = None
    k0: Matrix | None = None
    k1: Matrix | None = None
    cam1_from_cam0: RigidTransform | None = None
    disparity: Float[Tensor, "h w"] | None = None


def find_pairs(folder: Path) -> list[PairTruth]:
    """All pairs with ground truth below a folder, sorted by name. UsageError if there are none."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; name one with image pairs and their ground truth")
    pairs: list[PairTruth] = []
    for path in sorted(folder.rglob("gt.json")):
        pairs.append(_pair(path, folder))
    for path in sorted(folder.rglob("homographies.json")):
        table = read_json(path).get("H")
        if not isinstance(table, dict):
            raise Vision3DError(f'{path} has no object "H" with homographies "1_2", ...')
        keys = [key for key in table if key.startswith("1_")]
        pairs += _sequence(path.parent, folder, {k[2:]: read_matrix(f"{path}, {k}", table[k], ((3, 3),)) for k in keys})
    for path in sorted(folder.rglob("H_1_2")):
        pairs += _sequence(path.parent, folder, {h.name[4:]: _text_matrix(h) for h in path.parent.glob("H_1_*")})
    if not pairs:
        raise UsageError(f"{folder} holds no pairs: no gt.json, homographies.json or HPatches H_1_2 below it")
    return sorted(pairs, key=lambda pair: pair.name)


def motorcycle_pair() -> PairTruth:
    """The rectified pair with dense disparity that scikit-image ships (Middlebury 2014, 741x500 px)."""
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    left, right = folder / "motorcycle_left.png", folder / "motorcycle_right.png"
    *_, disparity = skimage.data.stereo_motorcycle()
    return PairTruth(
        "stereo_motorcycle",
        "stereo_motorcycle",
        "stereo",
        left,
        right,
        disparity=torch.from_numpy(disparity.astype(np.float64)),
    )


def _pair(path: Path, root: Path) -> PairTruth:
    data = read_json(path)
    folder = path.parent
    photos = _photo(folder, "0"), _photo(folder, "1")
    name = _name(folder, root)
    if "cam1_from_cam0" in data:
        k0, k1 = (_matrix(path, data, key) + _CENTER_SHIFT for key in ("K0", "K1"))
        pose = read_pose(f"{path}, cam1_from_cam0", data["cam1_from_cam0"])
        return PairTruth(name, "relative poses", "pose", *photos, k0=k0, k1=k1, cam1_from_cam0=pose)
    if "points0" not in data or "points1" not in data:
        raise Vision3DError(f"{path} has neither cam1_from_cam0 nor points0 and points1")
    points0, points1 = (_points(path, data, key) + 0.5 for key in ("points0", "points1"))
    if len(points0) != len(points1) or len(points0) == 0:
        raise Vision3DError(f"{path} has {len(points0)} points0 and {len(points1)} points1")
    if "H_1_from_0" in data:
        h = shift_origin(_matrix(path, data, "H_1_from_0"), 0.5)
        group: tuple[str, Kind] = ("annotated homographies", "homography")
        return PairTruth(name, *group, *photos, homography=h, points0=points0, points1=points1)
    return PairTruth(name, "annotated epipolar pairs", "epipolar", *photos, points0=points0, points1=points1)


def _sequence(folder: Path, root: Path, homographies: dict[str, Matrix]) -> list[PairTruth]:
    # HPatches is reported as i_ (light changes) and v_ (viewpoint changes).
    change = {"i_": "illumination", "v_": "viewpoint"}.get(folder.name[:2])
    group = f"HPatches {change}" if change else folder.name
    first = _photo(folder, "1")
    return [
        PairTruth(
            f"{_name(folder, root)}/1-{i}",
            group,
            "homography",
            first,
            _photo(folder, i),
            homography=shift_origin(h, 0.5),
        )
        for i, h in sorted(homographies.items())
    ]


_CENTER_SHIFT = torch.tensor([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]], dtype=torch.float64)


def _name(folder: Path, root: Path) -> str:
    return folder.relative_to(root).as_posix() if folder != root else folder.name


def _photo(folder: Path, stem: str) -> Path:
    for ending in (".jpg", ".png", ".ppm", ".jpeg"):
        if (folder / f"{stem}{ending}").is_file():
            return folder / f"{stem}{ending}"
    raise Vision3DError(f"{folder} has ground truth but no photo {stem}.jpg, .png or .ppm")


def _matrix(path: Path, data: dict[str, object], key: str) -> Matrix:
    return read_matrix(f"{path}, {key}", data.get(key), ((3, 3),))


def _text_matrix(path: Path) -> Matrix:
    try:
        values = [[float(word) for word in line.split()] for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError:
        values = []
    return read_matrix(str(path), [row for row in values if row], ((3, 3),))


def _points(path: Path, data: dict[str, object], key: str) -> Points:
    value = data[key]
    return read_matrix(f"{path}, {key}", value, ((len(value) if isinstance(value, list) else 0, 2),))
