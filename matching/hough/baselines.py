"""Other ways to register, by their own libraries, from the same thinned points, features and mutual matches as ours.

fpfh-ransac: R. Rusu et al., ICRA 2009, section IV (RANSAC of 100k iterations over mutual matches, with checks of edge
lengths and distance). fgr: Q.-Y. Zhou, J. Park and V. Koltun, "Fast Global Registration", ECCV 2016, by Open3D.
kiss: H. Lim et al., "KISS-Matcher", 2024, as published, with its own features. kiss-matches: its pruning and solver on
our mutual matches. Each gives its pose as `coarse`, and the pose after our ICP as `target_from_source`.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from vision3d.core import Correspondences, PointCloud, RigidTransform, Vision3DError
from vision3d.geometry.rotation import nearest_rotation
from vision3d.matching.hough.consensus import Pose
from vision3d.matching.hough.feature_matches import mutual_matches
from vision3d.matching.hough.features import Described, describe
from vision3d.matching.hough.registration import Evidence, Registration
from vision3d.matching.hough.surface import align, surface

RANSAC_ITERATIONS, RANSAC_CONFIDENCE = 100_000, 0.999
APT = "libgl1 libegl1 libx11-6 libgomp1 libidn2-0 libusb-1.0-0"

# Finds the pose between two described clouds, each about its centre; None: it found none.
Solve = Callable[[Described, Described, float, int], Pose | None]


def register_with(solve: Solve, source: PointCloud, target: PointCloud, voxel: float, seed: int) -> Registration:
    """target_from_source by one of `BASELINES`, refined by our ICP; registered means that it found a pose at all.

    No inliers are returned.

    Raises:
        Vision3DError: the library is not installed or does not load. ValueError: points that are not finite.
    """
    start = time.perf_counter()
    clouds = [cloud.points.double().numpy() for cloud in (source, target)]
    if not all(np.isfinite(points).all() for points in clouds):
        raise ValueError("points must be finite")
    first, second = (describe(points, voxel) for points in clouds)
    described = time.perf_counter()
    coarse = solve(first, second, voxel, seed)
    solved = time.perf_counter()
    timings = {"features": described - start, "pose": solved - described}
    if coarse is None:
        none = RigidTransform.identity()
        return Registration(
            registered=False,
            target_from_source=none,
            coarse=none,
            inliers=Correspondences.empty(3),
            evidence=Evidence(reason="it found no pose", voxel=voxel),
            timings=timings,
        )
    goal = surface(second.points, second.normals, 2 * voxel)
    refined = align(first.points, first.normals, goal, coarse, (2 * voxel, voxel))
    timings["refinement"] = time.perf_counter() - solved
    return Registration(
        registered=True,
        target_from_source=_between(refined, first, second),
        coarse=_between(coarse, first, second),
        inliers=Correspondences.empty(3),
        evidence=Evidence(
            reason="it found a pose; it gives no verdict",
            voxel=voxel,
            source_points=len(first.points),
            target_points=len(second.points),
        ),
        timings=timings,
    )


def open3d_ransac(source: Described, target: Described, voxel: float, seed: int) -> Pose | None:
    """Open3D's RANSAC: matches within 1.5 voxels, 100k iterations, confidence 0.999."""
    o3d = _open3d()
    o3d.utility.random.seed(seed)
    registration = o3d.pipelines.registration
    found = registration.registration_ransac_based_on_feature_matching(
        *_open3d_clouds(o3d, source, target),
        mutual_filter=True,
        max_correspondence_distance=1.5 * voxel,
        estimation_method=registration.TransformationEstimationPointToPoint(False),
        ransac_n=3,
        checkers=[
            registration.CorrespondenceCheckerBasedOnEdgeLength(0.9),
            registration.CorrespondenceCheckerBasedOnDistance(1.5 * voxel),
        ],
        criteria=registration.RANSACConvergenceCriteria(RANSAC_ITERATIONS, RANSAC_CONFIDENCE),
    )
    return _pose(found.transformation) if len(found.correspondence_set) else None


def fgr(source: Described, target: Described, voxel: float, seed: int) -> Pose | None:
    """Open3D's Fast Global Registration, within half a voxel."""
    o3d = _open3d()
    o3d.utility.random.seed(seed)
    option = o3d.pipelines.registration.FastGlobalRegistrationOption(maximum_correspondence_distance=0.5 * voxel)
    found = o3d.pipelines.registration.registration_fgr_based_on_feature_matching(
        *_open3d_clouds(o3d, source, target), option
    )
    return _pose(found.transformation)


def kiss(source: Described, target: Described, voxel: float, seed: int) -> Pose | None:
    """KISS-Matcher with its own features, on the thinned points. It has no seed."""
    solution = _kiss_matcher(voxel).estimate(list(source.points.astype("f4")), list(target.points.astype("f4")))
    return _solution(solution)


def kiss_matches(source: Described, target: Described, voxel: float, seed: int) -> Pose | None:
    """KISS-Matcher's graph pruning and solver on our mutual matches. It has no seed."""
    indices, _ = mutual_matches(source.features, target.features)
    matched = source.points[indices[:, 0]], target.points[indices[:, 1]]
    solution = _kiss_matcher(voxel).prune_and_solve(*(list(points.astype("f4")) for points in matched))
    return _solution(solution)


BASELINES: dict[str, Solve] = {
    "fpfh-ransac": open3d_ransac,
    "fgr": fgr,
    "kiss": kiss,
    "kiss-matches": kiss_matches,
}


def why_not(name: str) -> str | None:
    """Why a baseline cannot run here, None if it can."""
    try:
        _open3d() if BASELINES[name] in (open3d_ransac, fgr) else _kiss()
    except Vision3DError as error:
        return str(error)
    return None


def _open3d() -> Any:
    try:
        return importlib.import_module("open3d")
    except ModuleNotFoundError as error:
        if error.name == "open3d":
            raise Vision3DError("open3d is not installed: in vision3d's folder, pip install '.[clouds]'") from None
        raise Vision3DError(f"open3d does not load without {error.name}: pip install {error.name}") from None
    except (ImportError, OSError) as error:
        raise Vision3DError(f"open3d does not load ({error}); on Debian and Ubuntu: apt-get install {APT}") from None


def _open3d_clouds(o3d: Any, *clouds: Described) -> list[Any]:
    """The two clouds, then the features of each."""
    points, features = [], []
    for cloud in clouds:
        points.append(o3d.geometry.PointCloud(o3d.utility.Vector3dVector(cloud.points)))
        feature = o3d.pipelines.registration.Feature()
        feature.data = np.ascontiguousarray(cloud.features.T.astype(np.float64))
        features.append(feature)
    return points + features


def _kiss() -> Any:
    try:
        return importlib.import_module("kiss_matcher")
    except ImportError:
        raise Vision3DError("KISS-Matcher is not installed: pip install kiss-matcher") from None


def _kiss_matcher(voxel: float) -> Any:
    library = _kiss()
    return library.KISSMatcher(library.KISSMatcherConfig(voxel_size=voxel, use_voxel_sampling=False))


def _solution(solution: Any) -> Pose | None:
    if not solution.valid:
        return None
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = solution.rotation, np.ravel(solution.translation)
    return _pose(matrix)


def _pose(matrix: np.ndarray) -> Pose | None:
    if not np.isfinite(matrix).all():
        return None
    rotation = nearest_rotation(torch.from_numpy(np.array(matrix[:3, :3], np.float64)))
    return rotation.numpy(), np.array(matrix[:3, 3], np.float64)


def _between(pose: Pose, source: Described, target: Described) -> RigidTransform:
    """The pose between centred clouds as one between the clouds as given."""
    rotation, translation = pose
    return RigidTransform(
        torch.from_numpy(rotation.copy()), torch.from_numpy(translation + target.center - rotation @ source.center)
    )
