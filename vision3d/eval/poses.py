"""Accuracy of camera poses against a ground truth: relative poses of all pairs, camera centres, intrinsics.

Conventions, which PROTOCOL repeats in every output:
- A pair is two photos i < j in the order of their names; its relative pose is cam_i_from_world @ world_from_cam_j, as
  in VGGT's CO3D evaluation. The errors depend neither on the scale nor on the frame of the scene.
- Rotation error: angle of R_estimate R_truth^T. Direction error: angle between the two translations, with sign: a
  camera on the wrong side is 180 degrees off. The CO3D code drops the sign (min(e, 180 - e)); `co3d_auc` follows it.
- A pair with an unregistered photo counts as 180 degrees in both.
- Baselines up to 1e-6 of the scene's size have no direction: in the ground truth, the direction error is 0 and the
  rotation alone counts; in the estimate alone, it is 180 degrees.
- AUC is over max(rotation, direction) of each pair.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vision3d.core import RigidTransform
from vision3d.eval.auc import auc_exact, auc_one_degree_bins, recall
from vision3d.geometry.rotation import angle_between
from vision3d.geometry.similarity import align_poses, fit_similarity
from vision3d.io.cameras_json import KnownCamera

THRESHOLDS_DEG = (5, 10, 15, 30)
UNREGISTERED_DEG = 180.0
ZERO_BASELINE = 1e-6  # of the scene's size

PROTOCOL = (
    "all pairs of the photos; rotation angle and translation direction (with sign); a pair with an unregistered photo "
    "counts as 180 deg, a ground-truth baseline of zero as 0 deg of direction. AUC: exact integral over max(rotation, "
    "direction). CO3D AUC: 1-degree bins, sign of the direction ignored (PoseDiffusion, VGGT). Centres: after "
    "similarity alignment (Umeyama) of the registered photos; size: largest distance of two true centres"
)


@dataclass(frozen=True, slots=True)
class PairErrors:
    """Errors of the relative poses of all pairs of photos, degrees in [0, 180]; 180 for unregistered pairs."""

    pairs: tuple[tuple[str, str], ...]
    rotation_deg: Float[np.ndarray, " p"]
    direction_deg: Float[np.ndarray, " p"]
    registered: Bool[np.ndarray, " p"]

    @property
    def pose_deg(self) -> Float[np.ndarray, " p"]:
        """The larger of rotation and direction error."""
        return np.asarray(np.maximum(self.rotation_deg, self.direction_deg))

    @property
    def co3d_deg(self) -> Float[np.ndarray, " p"]:
        """`pose_deg` with the sign of the direction ignored; unregistered pairs stay at 180."""
        unsigned = np.minimum(self.direction_deg, 180 - self.direction_deg)
        return np.where(self.registered, np.maximum(self.rotation_deg, unsigned), UNREGISTERED_DEG)


@dataclass(frozen=True, slots=True)
class PhotoErrors:
    """Errors of one photo; None where it is unregistered or the value is not known.

    rotation_deg, direction_deg: medians over its pairs with registered photos. center: distance to the true centre
    after alignment, in units of the truth; center_relative: over the scene's size. focal_relative: |f / f_true - 1|,
    the larger of x and y, photos of different size being scaled to the truth's. principal_px: distance of the
    principal points, px of the truth's photo.
    """

    name: str
    registered: bool
    rotation_deg: float | None = None
    direction_deg: float | None = None
    center: float | None = None
    center_relative: float | None = None
    focal_relative: float | None = None
    principal_px: float | None = None


@dataclass(frozen=True, slots=True)
class PoseEvaluation:
    """Everything about one result. Percentages in [0, 100], keyed by the threshold in degrees."""

    photos: tuple[PhotoErrors, ...]
    pairs: PairErrors
    rra: dict[int, float]
    rta: dict[int, float]
    auc: dict[int, float]
    co3d_auc: dict[int, float]
    scene_size: float

    @property
    def registered(self) -> int:
        """How many of the photos have a pose in the result."""
        return sum(photo.registered for photo in self.photos)


def evaluate_poses(
    estimate: Mapping[str, KnownCamera], truth: Mapping[str, KnownCamera], photos: Sequence[str] | None = None
) -> PoseEvaluation:
    """Compares a result with the truth over the pairs of `photos` (default: all that the truth has a pose of).

    The result may be in any frame and scale; a photo that it does not name or gives no pose of is unregistered.
    ValueError for fewer than two photos or one without a true pose.
    """
    poses = poses_of(estimate)
    true_poses = poses_of(truth)
    names = sorted(set(true_poses if photos is None else photos))
    unknown = [name for name in names if name not in true_poses]
    if unknown:
        raise ValueError(f"no ground truth for {', '.join(unknown[:5])}{' ...' if len(unknown) > 5 else ''}")
    if len(names) < 2:
        raise ValueError(f"relative poses need at least two photos with ground truth, got {len(names)}")
    true_poses = {name: true_poses[name] for name in names}
    pairs = relative_pose_errors(poses, true_poses)
    size = scene_size(true_poses)
    centers = center_errors(poses, true_poses)
    found = {name: estimate[name] if name in poses else None for name in names}
    return PoseEvaluation(
        photos=tuple(_photo(name, found[name], truth[name], pairs, centers.get(name), size) for name in names),
        pairs=pairs,
        rra={t: recall(pairs.rotation_deg, t) for t in THRESHOLDS_DEG},
        rta={t: recall(pairs.direction_deg, t) for t in THRESHOLDS_DEG},
        auc={t: auc_exact(pairs.pose_deg, t) for t in THRESHOLDS_DEG},
        co3d_auc={t: auc_one_degree_bins(pairs.co3d_deg, t) for t in THRESHOLDS_DEG},
        scene_size=size,
    )


def poses_of(cameras: Mapping[str, KnownCamera]) -> dict[str, RigidTransform]:
    """The poses of those that have one, float64 on the CPU."""
    return {
        name: RigidTransform(
            known.cam_from_world.rotation.cpu().double(), known.cam_from_world.translation.cpu().double()
        )
        for name, known in cameras.items()
        if known.cam_from_world is not None
    }


def relative_pose_errors(estimate: Mapping[str, RigidTransform], truth: Mapping[str, RigidTransform]) -> PairErrors:
    """Rotation and direction errors over all pairs of photos of `truth`; see the conventions at the top."""
    names = sorted(truth)
    zero_truth = ZERO_BASELINE * scene_size(truth)
    zero = ZERO_BASELINE * scene_size({name: estimate[name] for name in names if name in estimate})
    pairs = tuple(combinations(names, 2))
    rotation = np.full(len(pairs), UNREGISTERED_DEG)
    direction = np.full(len(pairs), UNREGISTERED_DEG)
    registered = np.array([a in estimate and b in estimate for a, b in pairs])
    for k in np.flatnonzero(registered):
        a, b = pairs[k]
        relative, true = estimate[a] @ estimate[b].inverse(), truth[a] @ truth[b].inverse()
        rotation[k] = math.degrees(float(angle_between(relative.rotation, true.rotation)))
        if float(true.translation.norm()) <= zero_truth:
            direction[k] = 0.0
        elif float(relative.translation.norm()) > zero:
            direction[k] = math.degrees(vector_angle(relative.translation, true.translation))
    return PairErrors(pairs, rotation, direction, registered)


def center_errors(estimate: Mapping[str, RigidTransform], truth: Mapping[str, RigidTransform]) -> dict[str, float]:
    """Distance of each registered photo's centre to the truth after similarity alignment, in units of the truth.

    Umeyama's least squares over the centres of all photos that both have; for cameras on a line, whose centres leave
    the rotation open, `align_poses`. Empty with fewer than three photos, or where the centres of either side coincide:
    two centres can always be aligned, so their error would say nothing.
    """
    names = sorted(name for name in truth if name in estimate)
    if len(names) < 3:
        return {}
    stacked = [RigidTransform.stack([poses[name] for name in names]) for poses in (estimate, truth)]
    source, target = (poses.center() for poses in stacked)
    try:
        similarity = fit_similarity(source, target)
    except ValueError:
        try:
            similarity = align_poses(*stacked)
        except ValueError:
            return {}
    error = (similarity.apply(source) - target).norm(dim=1)
    return dict(zip(names, error.tolist(), strict=True))


def vector_angle(a: Float[Tensor, " 3"], b: Float[Tensor, " 3"]) -> float:
    """Angle between two vectors of any length but zero, in [0, pi] rad; exact to rounding at both ends."""
    return float(torch.atan2(torch.linalg.cross(a, b).norm(), a @ b))


def scene_size(poses: Mapping[str, RigidTransform]) -> float:
    """Largest distance between two camera centres; 0 for none or one."""
    if not poses:
        return 0.0
    centers = RigidTransform.stack(list(poses.values())).center()
    return float(torch.cdist(centers, centers, compute_mode="donot_use_mm_for_euclid_dist").max())


def _photo(
    name: str,
    estimate: KnownCamera | None,
    truth: KnownCamera,
    pairs: PairErrors,
    center: float | None,
    size: float,
) -> PhotoErrors:
    if estimate is None:
        return PhotoErrors(name, registered=False)
    mine = np.array([name in pair for pair in pairs.pairs]) & pairs.registered
    focal = principal = None
    if estimate.camera is not None and truth.camera is not None:
        camera = estimate.camera.resized(truth.camera.width, truth.camera.height)
        focal = max(abs(f / g - 1) for f, g in zip(camera.focal, truth.camera.focal, strict=True))
        principal = float(np.hypot(*np.subtract(camera.center, truth.camera.center)))
    return PhotoErrors(
        name,
        registered=True,
        rotation_deg=float(np.median(pairs.rotation_deg[mine])) if mine.any() else None,
        direction_deg=float(np.median(pairs.direction_deg[mine])) if mine.any() else None,
        center=center,
        center_relative=center / size if center is not None and size > 0 else None,
        focal_relative=focal,
        principal_px=principal,
    )
