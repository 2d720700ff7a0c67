"""Final bundle adjustment: robust, with as many intrinsics as the photos determine.

The loss is Cauchy with a scale of half a pixel: points seen in two photos only are checked by nothing but an epipolar
line, and wrong ones among them bend the poses of three or four photos under a squared loss. Intrinsics are chosen by
maximum a posteriori over nested camera models: principal point and distortion become free only where the gain in
residuals outweighs their priors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pycolmap

from vision3d.recon.mapping import quiet_colmap


@dataclass(frozen=True, slots=True, kw_only=True)
class RefineConfig:
    """Settings of refine_model; px at verification.REFERENCE_SIZE.

    noise_px: standard deviation that one observation is trusted with when intrinsics are chosen (systematic errors
    make it larger than the residuals look). Priors, as standard deviations: principal_point_share of the longer side,
    distortion (COLMAP's k). choice_points: longest tracks that intrinsics are chosen on; more only cost time.
    """

    loss_scale_px: float = 0.5
    max_error_px: float = 2.0
    min_angle_deg: float = 1.5
    rounds: int = 2
    choose_intrinsics: bool = True
    noise_px: float = 1.0
    principal_point_share: float = 0.01
    distortion: float = 0.1
    choice_points: int = 1000
    max_iterations: int = 50
    threads: int = 1


def refine_model(
    model: pycolmap.Reconstruction, fixed_cameras: frozenset[int], config: RefineConfig | None = None
) -> tuple[pycolmap.Reconstruction, str]:
    """The adjusted copy of a model and the camera model chosen, in words. `fixed_cameras`: COLMAP ids kept as given."""
    config = config or RefineConfig()
    used = {model.images[i].camera_id for i in model.reg_image_ids()}
    free = used - fixed_cameras
    if not free or not config.choose_intrinsics:
        adjusted = pycolmap.Reconstruction(model)
        adjust(adjusted, fixed_cameras, config)
        return adjusted, "given intrinsics" if not free else "camera model as it was"
    thin = _longest_tracks(model, config.choice_points)
    start = _with_intrinsics(thin, free, radial=False)
    adjust(start, fixed_cameras, config)
    best, chosen, label = start, (False, False), "focal length"
    cost = math.inf if _any_implausible(start, free) else _cost(start, thin, free, config)
    for radial, center, words in (
        (True, False, "focal length and distortion"),
        (False, True, "focal length and principal point"),
        (True, True, "focal length, distortion and principal point"),
    ):
        other = _with_intrinsics(start, free, radial)
        adjust(other, fixed_cameras, replace(config, rounds=1), principal_point=center)
        if not _any_implausible(other, free) and _cost(other, thin, free, config) < cost:
            best, cost, chosen, label = other, _cost(other, thin, free, config), (radial, center), words
    if thin.num_points3D() < model.num_points3D():
        best = _with_intrinsics(model, free, chosen[0])
        adjust(best, fixed_cameras, config, principal_point=chosen[1])
    return best, label


def _with_intrinsics(model: pycolmap.Reconstruction, cameras: Iterable[int], radial: bool) -> pycolmap.Reconstruction:
    copy = pycolmap.Reconstruction(model)
    for camera_id in cameras:
        _set_model(copy.cameras[camera_id], radial)
    return copy


def _longest_tracks(model: pycolmap.Reconstruction, points: int) -> pycolmap.Reconstruction:
    """A copy with only the points seen in most photos."""
    copy = pycolmap.Reconstruction(model)
    order = sorted(copy.points3D, key=lambda i: (-copy.points3D[i].track.length(), i))
    for point_id in order[points:]:
        copy.delete_point3D(point_id)
    return copy


def adjust(
    model: pycolmap.Reconstruction,
    fixed_cameras: Iterable[int],
    config: RefineConfig,
    *,
    principal_point: bool = False,
    fixed_poses: bool = False,
) -> None:
    """Robust bundle adjustment in place, alternating with removal of points that do not fit."""
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    options.refine_principal_point = principal_point
    options.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    options.ceres.loss_function_scale = config.loss_scale_px
    options.ceres.solver_options.num_threads = config.threads
    options.ceres.solver_options.max_num_iterations = config.max_iterations
    options.ceres.solver_options.function_tolerance = 1e-6
    for _ in range(config.rounds):
        setup = pycolmap.BundleAdjustmentConfig()
        for image_id in model.reg_image_ids():
            setup.add_image(image_id)
            if fixed_poses:
                setup.set_constant_rig_from_world_pose(model.images[image_id].frame_id)
        for camera_id in fixed_cameras:
            if camera_id in model.cameras:
                setup.set_constant_cam_intrinsics(camera_id)
        if not fixed_poses:
            setup.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
        with quiet_colmap():
            pycolmap.create_default_bundle_adjuster(options, setup, model).solve()
            pycolmap.ObservationManager(model).filter_all_points3D(config.max_error_px, config.min_angle_deg)
    model.update_point_3d_errors()


def _set_model(camera: pycolmap.Camera, radial: bool) -> None:
    """One focal length, the principal point where it is, and distortion k or none."""
    params = [camera.mean_focal_length(), camera.principal_point_x, camera.principal_point_y]
    if radial:
        before = list(camera.params) if camera.model.name == "SIMPLE_RADIAL" else []
        camera.model = pycolmap.CameraModelId.SIMPLE_RADIAL
        camera.params = [*params, before[3] if before else 0.0]
    else:
        camera.model = pycolmap.CameraModelId.SIMPLE_PINHOLE
        camera.params = params


def _data_cost(model: pycolmap.Reconstruction, before: pycolmap.Reconstruction, config: RefineConfig) -> float:
    """Cauchy cost in units of noise_px over the observations of `before`; lost ones cost as much as the limit.

    Each point counts with its mean error for all its observations.
    """
    points = list(model.points3D.values())
    squared = np.array([point.error for point in points], dtype=np.float64) ** 2
    lengths = np.array([point.track.length() for point in points], dtype=np.float64)
    scale = config.loss_scale_px**2
    lost = max(0.0, float(before.compute_num_observations()) - float(lengths.sum()))
    kept = float((lengths * np.log1p(squared / scale)).sum())
    return (kept + lost * float(np.log1p(config.max_error_px**2 / scale))) * scale / config.noise_px**2


def _cost(
    model: pycolmap.Reconstruction, before: pycolmap.Reconstruction, free: Iterable[int], config: RefineConfig
) -> float:
    return _data_cost(model, before, config) + sum(_prior_cost(model.cameras[c], config) for c in free)


def _any_implausible(model: pycolmap.Reconstruction, cameras: Iterable[int]) -> bool:
    return any(_implausible(model.cameras[c]) for c in cameras)


def _prior_cost(camera: pycolmap.Camera, config: RefineConfig) -> float:
    sigma = config.principal_point_share * max(camera.width, camera.height)
    dx = (camera.principal_point_x - camera.width / 2) / sigma
    dy = (camera.principal_point_y - camera.height / 2) / sigma
    k = float(camera.params[3]) / config.distortion if camera.model.name == "SIMPLE_RADIAL" else 0.0
    return float(dx * dx + dy * dy + k * k)


def _implausible(camera: pycolmap.Camera) -> bool:
    """Focal length outside 0.3 to 10 longer sides, centre outside the middle fifth, distortion beyond 1."""
    side = max(camera.width, camera.height)
    share = camera.mean_focal_length() / side
    off = max(
        abs(camera.principal_point_x - camera.width / 2) / camera.width,
        abs(camera.principal_point_y - camera.height / 2) / camera.height,
    )
    k = abs(float(camera.params[3])) if camera.model.name == "SIMPLE_RADIAL" else 0.0
    return not (0.3 < share < 10) or off > 0.1 or k > 1
