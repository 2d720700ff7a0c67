"""Points for photos whose poses and intrinsics are given: triangulation only, nothing of the cameras changes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pycolmap

from vision3d.core import CameraPrior, Progress, RigidTransform, silent
from vision3d.io.colmap import camera_to_colmap, rigid_to_colmap
from vision3d.recon.camera_starts import working_camera
from vision3d.recon.mapping import MapperSettings, MappingProblem, incremental_options, quiet_colmap, write_database
from vision3d.recon.refine import adjust
from vision3d.recon.sfm import SfmConfig, SfmResult, mapping_problem, original_scene, score_model
from vision3d.recon.tracks import Pair, build_tracks
from vision3d.recon.view_graph import VerifiedPair


def triangulate_known_poses(
    priors: Mapping[str, CameraPrior],
    cam_from_world: Mapping[str, RigidTransform],
    pairs: Mapping[Pair, VerifiedPair],
    config: SfmConfig | None = None,
    progress: Progress = silent,
    scratch: Path | None = None,
) -> SfmResult:
    """A scene with exactly the given cameras and poses; photos without a pose are left out.

    Every photo with a pose is in the scene, even where it sees no point. scratch: folder for a temporary database, None
    for the system's.
    """
    config = config or SfmConfig()
    progress("poses", 0, 1)
    posed = {name: prior for name, prior in priors.items() if name in cam_from_world}
    usable = {pair: p for pair, p in pairs.items() if pair[0] in posed and pair[1] in posed}
    problem, matches, weights = mapping_problem(posed, usable, config)
    cameras = {prior.group: working_camera(prior.camera) for prior in posed.values()}
    everyone = {name: prior.group for name, prior in posed.items()}
    graph = build_tracks(sorted(everyone), matches, config.tracks)
    every = frozenset(cameras)
    problem = replace(
        problem, cameras=cameras, group_of=everyone, fixed=every, prior_focal=every, graph=graph, scratch=scratch
    )
    model = _triangulate(problem, cam_from_world, config)
    adjust(model, set(model.cameras), replace(config.refine, threads=config.threads), fixed_poses=True)
    score = score_model(model, problem, matches, weights, config)
    left_out = {name: "the file with known poses has none for it" for name in sorted(priors) if name not in posed}
    progress("poses", 1, 1)
    return SfmResult(original_scene(model, priors), left_out, (), score, "known poses", "given intrinsics")


def _triangulate(
    problem: MappingProblem, cam_from_world: Mapping[str, RigidTransform], config: SfmConfig
) -> pycolmap.Reconstruction:
    settings = MapperSettings(two_view_tracks=True, threads=config.threads, seed=config.seed)
    with tempfile.TemporaryDirectory(prefix="vision3d-tri-", dir=problem.scratch) as folder, quiet_colmap():
        database = Path(folder) / "database.db"
        ids = write_database(database, problem)
        model = pycolmap.Reconstruction()
        camera_id = {group: i + 1 for i, group in enumerate(sorted(problem.cameras))}
        for group, number in camera_id.items():
            model.add_camera_with_trivial_rig(camera_to_colmap(problem.cameras[group], number))
        for name in problem.names:
            image = pycolmap.Image(
                name=name,
                keypoints=problem.graph.points[name].double().numpy(),
                camera_id=camera_id[problem.group_of[name]],
                image_id=ids[name],
            )
            model.add_image_with_trivial_frame(image, rigid_to_colmap(cam_from_world[name]))
        output = Path(folder) / "model"
        output.mkdir()
        options = incremental_options(problem, settings)
        pycolmap.set_random_seed(config.seed)
        return pycolmap.triangulate_points(model, database, folder, output, True, options, False)
