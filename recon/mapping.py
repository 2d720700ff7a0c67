"""One run of COLMAP's incremental or global mapper on matches verified here (Schoenberger and Frahm, CVPR 2016;
Pan et al., "Global structure-from-motion revisited", ECCV 2024), with options for few, widely spaced photos."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pycolmap

from vision3d.core import Camera
from vision3d.io.colmap import camera_to_colmap, rigid_to_colmap
from vision3d.recon.tracks import Pair, TrackGraph
from vision3d.recon.verification import TwoViewGeometry


@dataclass(frozen=True, slots=True)
class MappingProblem:
    """What a mapper gets. All px are working px: photos scaled down to verification.REFERENCE_SIZE where larger.

    cameras: start intrinsics by group; group_of: camera group of each photo; fixed: groups whose intrinsics are given;
    prior_focal: groups with a focal length to trust (given or from EXIF); geometry: per accepted pair; scratch: folder
    for COLMAP's temporary database, None for the system's.
    """

    cameras: Mapping[int, Camera]
    group_of: Mapping[str, int]
    fixed: frozenset[int]
    prior_focal: frozenset[int]
    graph: TrackGraph
    geometry: Mapping[Pair, TwoViewGeometry] = field(default_factory=dict)
    scratch: Path | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Photos, sorted."""
        return tuple(sorted(self.group_of))


@dataclass(frozen=True, slots=True, kw_only=True)
class MapperSettings:
    """One way to run a mapper.

    two_view_tracks: also use points seen in two photos only (needed when three photos hardly share points);
    min_pose_inliers, min_pose_inlier_ratio: 2D-3D matches that register a photo; init_*: what a start pair needs
    (inliers, triangulation angle in degrees).
    """

    method: Literal["incremental", "global"] = "incremental"
    two_view_tracks: bool = False
    min_pose_inliers: int = 12
    min_pose_inlier_ratio: float = 0.15
    init_min_inliers: int = 25
    init_min_angle_deg: float = 4.0
    max_models: int = 4
    threads: int = 1
    seed: int = 0


def run_mapper(problem: MappingProblem, settings: MapperSettings) -> list[pycolmap.Reconstruction]:
    """Models, most registered photos first (possibly none). Deterministic."""
    with tempfile.TemporaryDirectory(prefix="vision3d-map-", dir=problem.scratch) as folder, quiet_colmap():
        database = Path(folder) / "database.db"
        write_database(database, problem)
        output = Path(folder) / "models"
        output.mkdir()
        pycolmap.set_random_seed(settings.seed)
        if settings.method == "global":
            models = pycolmap.global_mapping(database, folder, output, _global_options(problem, settings))
        else:
            models = pycolmap.incremental_mapping(database, folder, output, incremental_options(problem, settings))
    found = [m for m in models.values() if m.num_reg_images() >= 2 and m.num_points3D() > 0]
    return sorted(found, key=lambda m: (-m.num_reg_images(), -m.num_points3D()))


def write_database(path: Path, problem: MappingProblem) -> dict[str, int]:
    """Writes a COLMAP database with the verified matches; returns the image id of each photo."""
    ids: dict[str, int] = {}
    with contextlib.closing(pycolmap.Database.open(path)) as database:
        cameras = {
            group: database.write_camera(colmap_camera(camera, group in problem.prior_focal))
            for group, camera in sorted(problem.cameras.items())
        }
        for name in problem.names:
            image = pycolmap.Image(name=name, camera_id=cameras[problem.group_of[name]])
            ids[name] = database.write_image(image)
            database.write_keypoints(ids[name], problem.graph.points[name].numpy().astype(np.float32))
        for pair, matches in sorted(problem.graph.matches.items()):
            if len(matches) == 0:
                continue
            index = np.ascontiguousarray(matches.numpy(), dtype=np.uint32)
            database.write_matches(ids[pair[0]], ids[pair[1]], index)
            database.write_two_view_geometry(ids[pair[0]], ids[pair[1]], _two_view(problem.geometry.get(pair), index))
    return ids


def colmap_camera(camera: Camera, prior_focal: bool) -> pycolmap.Camera:
    """Our camera as COLMAP's, to be numbered by a database; `prior_focal`: its focal length is known about."""
    out = camera_to_colmap(camera, pycolmap.INVALID_CAMERA_ID)
    out.has_prior_focal_length = prior_focal
    return out


def incremental_options(problem: MappingProblem, settings: MapperSettings) -> pycolmap.IncrementalPipelineOptions:
    """COLMAP's options for the incremental mapper and for triangulation with known poses."""
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = settings.threads
    options.random_seed = settings.seed
    options.extract_colors = False
    options.min_model_size = 2
    options.max_num_models = settings.max_models
    options.min_num_matches = 10
    # Intermediate adjustments need not converge, the final one does: half the time, the same models.
    options.ba_global_function_tolerance = options.ba_local_function_tolerance = 1e-5
    options.ba_global_max_num_iterations = 30
    options.ba_local_max_num_iterations = 15
    options.ba_global_frames_ratio = options.ba_global_points_ratio = 1.3
    options.ba_global_max_refinements = 3
    mapper = options.mapper
    mapper.num_threads = settings.threads
    mapper.random_seed = settings.seed
    mapper.abs_pose_min_num_inliers = settings.min_pose_inliers
    mapper.abs_pose_min_inlier_ratio = settings.min_pose_inlier_ratio
    mapper.init_min_num_inliers = settings.init_min_inliers
    mapper.init_min_tri_angle = settings.init_min_angle_deg
    options.triangulation.ignore_two_view_tracks = not settings.two_view_tracks
    options.triangulation.random_seed = settings.seed
    if set(problem.cameras) == set(problem.fixed):
        options.ba_refine_focal_length = False
        options.ba_refine_extra_params = False
        mapper.abs_pose_refine_focal_length = False
        mapper.abs_pose_refine_extra_params = False
    elif problem.fixed:
        # Camera ids count from 1 in the order in which write_database writes the groups.
        constant = {i + 1 for i, group in enumerate(sorted(problem.cameras)) if group in problem.fixed}
        options.constant_cameras = constant
        mapper.constant_cameras = constant
    return options


def _global_options(problem: MappingProblem, settings: MapperSettings) -> pycolmap.GlobalPipelineOptions:
    options = pycolmap.GlobalPipelineOptions()
    options.num_threads = settings.threads
    options.random_seed = settings.seed
    options.min_model_size = 2
    options.min_num_matches = 10
    options.mapper.num_threads = settings.threads
    options.mapper.random_seed = settings.seed
    options.mapper.rotation_averaging.random_seed = settings.seed
    options.mapper.global_positioning.random_seed = settings.seed
    options.mapper.retriangulation.random_seed = settings.seed
    if settings.two_view_tracks:
        options.mapper.track_min_num_views_per_track = 2
        options.mapper.global_positioning.min_num_view_per_track = 2
        options.mapper.bundle_adjustment.min_track_length = 2
        options.mapper.retriangulation.ignore_two_view_tracks = False
    if set(problem.cameras) == set(problem.fixed):
        options.mapper.bundle_adjustment.refine_focal_length = False
        options.mapper.bundle_adjustment.refine_extra_params = False
    return options


def _two_view(geometry: TwoViewGeometry | None, index: np.ndarray) -> pycolmap.TwoViewGeometry:
    out = pycolmap.TwoViewGeometry()
    out.inlier_matches = index
    kinds = pycolmap.TwoViewGeometryConfiguration
    out.config = kinds.UNCALIBRATED
    if geometry is None:
        return out
    if geometry.fundamental is not None:
        out.F = geometry.fundamental.double().numpy()
    if geometry.cam1_from_cam0 is not None:
        out.config = kinds.CALIBRATED
        out.cam2_from_cam1 = rigid_to_colmap(geometry.cam1_from_cam0)
        out.E = pycolmap.essential_matrix_from_pose(out.cam2_from_cam1)
    if geometry.kind == "panoramic":
        out.config = kinds.PANORAMIC
    return out


@contextlib.contextmanager
def quiet_colmap(level: int = 3) -> Iterator[None]:
    """Keeps COLMAP's log lines below `level` (0 info, 1 warning, 2 error, 3 fatal) off stderr."""
    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = max(before, level)
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before
