"""The pairs that `evaluate pairs` runs on, sorted into the sets that its tables report.

vision3d.data.pairs reads them; added here are scikit-image's stereo pair and, for annotated homographies, the points.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from vision3d.data.pairs import HomographyTruth, ImagePair, PointsTruth, PoseTruth, Truth, read_pairs
from vision3d.geometry.homography import apply_homography
from vision3d.io.cameras_json import read_json, read_matrix

Kind = Literal["homography", "epipolar", "pose", "stereo"]


@dataclass(frozen=True, slots=True)
class DisparityTruth:
    """A rectified pair: pixel (x, y) of image 0 lies at (x - d, y) in image 1, px; not finite where unknown."""

    disparity: Float[Tensor, "h w"]


@dataclass(frozen=True, slots=True)
class BenchmarkPair:
    """Two photos and what is known of them, in px of the originals.

    name: unique, path-like; group: the set of pairs it is reported with. on_plane: for homographies of a plane in a
    larger scene, annotated points of photo 0 that lie on the plane and where the true homography takes them.
    """

    name: str
    group: str
    path0: Path
    path1: Path
    truth: Truth | DisparityTruth
    on_plane: PointsTruth | None = None

    @property
    def kind(self) -> Kind:
        """What the pair measures."""
        match self.truth:
            case HomographyTruth():
                return "homography"
            case PointsTruth():
                return "epipolar"
            case PoseTruth():
                return "pose"
            case DisparityTruth():
                return "stereo"


def find_pairs(folder: Path) -> list[BenchmarkPair]:
    """All pairs with ground truth below a folder (see `read_pairs` for layouts and errors)."""
    return [_benchmark_pair(pair) for pair in read_pairs(folder)]


def motorcycle_pair() -> BenchmarkPair:
    """The rectified pair with dense disparity that scikit-image ships (Middlebury 2014, 741x500 px)."""
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    *_, disparity = skimage.data.stereo_motorcycle()
    truth = DisparityTruth(torch.from_numpy(disparity.astype(np.float64)))
    name = "stereo_motorcycle"
    return BenchmarkPair(name, name, folder / "motorcycle_left.png", folder / "motorcycle_right.png", truth)


def _benchmark_pair(pair: ImagePair) -> BenchmarkPair:
    group, on_plane = "relative poses", None
    if isinstance(pair.truth, PointsTruth):
        group = "annotated epipolar pairs"
    elif isinstance(pair.truth, HomographyTruth):
        annotation = pair.path0.parent / "gt.json"
        if annotation.is_file():
            group, on_plane = "annotated homographies", _on_plane(annotation, pair.truth.h_1_from_0)
        else:  # HPatches names its sequences i_* (light changes) and v_* (viewpoint changes)
            sequence = pair.path0.parent.name
            change = {"i_": "illumination", "v_": "viewpoint"}.get(sequence[:2])
            group = f"HPatches {change}" if change else sequence
    return BenchmarkPair(pair.name, group, pair.path0, pair.path1, pair.truth, on_plane)


def _on_plane(path: Path, h_1_from_0: Float64[Tensor, "3 3"]) -> PointsTruth | None:
    """The annotated points of photo 0 (pixel centres at integers in the file) and the truth for photo 1."""
    value = read_json(path).get("points0")
    if not isinstance(value, list) or not value:
        return None
    points0 = read_matrix(f"{path}, points0", value, ((len(value), 2),)) + 0.5
    return PointsTruth(points0, apply_homography(h_1_from_0, points0))
