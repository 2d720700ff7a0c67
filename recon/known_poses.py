"""Photos whose poses are given: points for them, or the poses as a start that bundle adjustment improves."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap

from vision3d.core import CameraPrior, Progress, RigidTransform, Scene, Vision3DError, silent
from vision3d.geometry.epipolar import sampson_distance
from vision3d.geometry.rotation import angle_between
from vision3d.geometry.similarity import align_poses
from vision3d.io.colmap import camera_from_colmap, camera_to_colmap, rigid_to_colmap
from vision3d.recon.camera_starts import working_camera
from vision3d.recon.few_view import build_model
from vision3d.recon.mapping import MapperSettings, MappingProblem, incremental_options, quiet_colmap, write_database
from vision3d.recon.outlines import Outlines, align_outlines
from vision3d.recon.refine import adjust
from vision3d.recon.sfm import SfmConfig, SfmResult, mapping_problem, original_scene, score_model
from vision3d.recon.tracks import Pair, build_tracks
from vision3d.recon.triangulation import Observations, Pose, triangulate_tracks
from vision3d.recon.verification import fundamental_from_pose, working_scale
from vision3d.recon.view_graph import VerifiedPair

WIDE_PX = (40.0, 10.0, 2.0)  # thresholds of refine_known_poses, px at verification.REFERENCE_SIZE
OTHER_TURN_DEG = 20.0  # a rotation this far from the given one is another one
BY_OUTLINES = "known poses, refined by outlines"
OUTLINE_REACH_PX = 8.0  # matches of poses that outlines hold: two thirds of a degree, px at REFERENCE_SIZE
FAR_TURN_DEG = 10.0  # poses are roughly known if refinement turns none of them further


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


def refine_known_poses(
    priors: Mapping[str, CameraPrior],
    cam_from_world: Mapping[str, RigidTransform],
    pairs: Mapping[Pair, VerifiedPair],
    config: SfmConfig | None = None,
    progress: Progress = silent,
) -> SfmResult:
    """A scene from poses that are roughly known: bundle adjustment whose threshold falls from WIDE_PX to the usual.

    Matches are right or wrong whatever the poses are (they were verified in pairs), so points far from their
    observations are kept at first and pull the poses. Pairs that agree on quite another rotation than the given one
    are of look-alikes (the two sides of an animal, say) and left out. The result is in the frame and scale of the given
    poses. Photos without a pose or without points are left out. Vision3DError where the poses explain nothing at all,
    where no two photos match, and where a photo ends far from its given pose.
    """
    config = config or SfmConfig()
    progress("poses", 0, len(WIDE_PX))
    posed = {name: prior for name, prior in priors.items() if name in cam_from_world}
    usable = {
        pair: p
        for pair, p in pairs.items()
        if pair[0] in posed and pair[1] in posed and not _contradicts(p, *(cam_from_world[name] for name in pair))
    }
    problem, matches, weights = mapping_problem(posed, usable, config)
    if not problem.names:
        raise Vision3DError(
            "no two photos with poses have verified matches, so that nothing can refine the poses; known poses without "
            "refinement are kept as they are"
        )
    observations = Observations.of(problem)
    cameras = dict(problem.cameras)
    groups = sorted(cameras)
    fixed = frozenset(i + 1 for i, group in enumerate(groups) if group in problem.fixed)
    poses: dict[str, Pose] = {
        name: (cam_from_world[name].rotation.numpy(), cam_from_world[name].translation.numpy())
        for name in problem.names
    }
    for done, wide in enumerate(WIDE_PX):
        points, valid = triangulate_tracks(observations, problem, poses, cameras, wide, config.refine.min_angle_deg)
        if int(valid.sum()) < config.min_points:
            raise Vision3DError(
                f"the given poses are too far off to be refined: {int(valid.sum())} of {len(valid)} points fit them to"
                f" {wide:g} px; leave the poses out, and they are found from the photos alone"
            )
        model = build_model(problem, observations, poses, cameras, points, valid)
        settings = replace(config.refine, loss_scale_px=wide / 4, max_error_px=wide, threads=config.threads)
        adjust(model, fixed, settings)
        for image_id in model.reg_image_ids():
            matrix = np.array(model.images[image_id].cam_from_world().matrix())
            poses[model.images[image_id].name] = (matrix[:, :3], matrix[:, 3])
        cameras = {groups[i - 1]: camera_from_colmap(camera) for i, camera in model.cameras.items()}
        progress("poses", done + 1, len(WIDE_PX))
    score = score_model(model, problem, matches, weights, config)
    left_out = {name: "the file with known poses has none for it" for name in sorted(priors) if name not in posed}
    left_out |= {name: "no verified matches with other photos" for name in posed if name not in problem.names}
    scene = in_frame_of(original_scene(model, priors), cam_from_world)
    _refuse_far(scene, cam_from_world)
    return SfmResult(scene, left_out, (), score, "known poses, refined", "as given" if fixed else "refined")


def refine_by_outlines(
    priors: Mapping[str, CameraPrior],
    cam_from_world: Mapping[str, RigidTransform],
    pairs: Mapping[Pair, VerifiedPair],
    outlines: Outlines,
    config: SfmConfig | None = None,
    progress: Progress = silent,
    scratch: Path | None = None,
) -> SfmResult | None:
    """A scene from poses that are roughly known, of an object that all photos show whole: their outlines give the
    poses, matches that agree with these the points. Pixels make them exact afterwards: see photometric.align.

    Few matches between photos far apart bend under a relative pose of their own (measured on an animal in flat colours,
    40 degrees from photo to photo: right matches, rotations 20 to 90 degrees wrong); outlines do not depend on any.
    None where outlines do not hold every photo with a pose: they are too few, reach the border, or do not fit.
    """
    posed = {name: pose for name, pose in cam_from_world.items() if name in priors}
    if set(outlines.names) != set(posed):
        return None
    poses, spread = align_outlines(outlines, posed)
    if not math.isfinite(spread):
        return None
    near: dict[Pair, VerifiedPair] = {}
    for (a, b), found in pairs.items():
        if found.accepted and a in poses and b in poses:
            kept = _agreeing(found, priors[a], priors[b], poses[a], poses[b])
            if kept is not None:
                near[a, b] = kept
    result = triangulate_known_poses(priors, poses, near, config, progress, scratch)
    assert result.scene is not None
    scene = in_frame_of(result.scene, cam_from_world)
    _refuse_far(scene, cam_from_world)
    return replace(result, scene=scene, chosen=BY_OUTLINES, intrinsics="as given")


def _agreeing(
    pair: VerifiedPair, prior0: CameraPrior, prior1: CameraPrior, pose0: RigidTransform, pose1: RigidTransform
) -> VerifiedPair | None:
    """The matches near the epipolar lines of two poses, if they are most of the pair's; else it is of look-alikes."""
    fundamental = fundamental_from_pose(pose1 @ pose0.inverse(), prior0.camera, prior1.camera)
    error = sampson_distance(pair.matches.points0.double(), pair.matches.points1.double(), fundamental)
    scale = max(working_scale(prior.camera.width, prior.camera.height) for prior in (prior0, prior1))
    keep = error < OUTLINE_REACH_PX * scale
    if 2 * int(keep.sum()) < len(keep):
        return None
    return replace(pair, matches=pair.matches.select(keep))


def _refuse_far(scene: Scene, cam_from_world: Mapping[str, RigidTransform]) -> None:
    """Vision3DError where photos hang together so loosely that adjustment has carried some of them away."""
    turns = {
        name: math.degrees(float(angle_between(image.cam_from_world.rotation, cam_from_world[name].rotation.double())))
        for name, image in scene.images.items()
    }
    far = {name: turn for name, turn in turns.items() if turn > FAR_TURN_DEG}
    if far:
        worst = max(far, key=far.__getitem__)
        raise Vision3DError(
            f"refinement turned {len(far)} of {len(turns)} photos by more than {FAR_TURN_DEG:g} degrees from their "
            f"given poses ({worst} by {far[worst]:.0f}): either these are wrong or too few matches hold the photos "
            "together; keep the poses as they are, or leave them out"
        )


def _contradicts(pair: VerifiedPair, pose0: RigidTransform, pose1: RigidTransform) -> bool:
    """Whether a pair's own rotation is sure, and far from that between two poses (which planes and points at infinity
    leave unsure)."""
    own = pair.geometry.cam1_from_cam0
    if own is None or pair.geometry.kind != "calibrated":
        return False
    given = (pose1 @ pose0.inverse()).rotation.double()
    return math.degrees(float(angle_between(own.rotation.double(), given))) > OTHER_TURN_DEG


def in_frame_of(scene: Scene, cam_from_world: Mapping[str, RigidTransform]) -> Scene:
    """The scene moved by the similarity that takes its poses closest to the given ones."""
    names = list(scene.images)

    world_from_scene = align_poses(
        RigidTransform.stack([scene.images[name].cam_from_world for name in names]),
        RigidTransform.stack([cam_from_world[n] for n in names]),
    )
    images = {
        name: replace(image, cam_from_world=world_from_scene.move_pose(image.cam_from_world))
        for name, image in scene.images.items()
    }
    return replace(scene, images=images, points=world_from_scene.apply(scene.points))


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
