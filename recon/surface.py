"""From cameras to surface: dense start, surfels fitted to the photos, renders, mesh, orbit video; stage by stage."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from vision3d.core import DepthView, Mesh, Progress, RigidTransform, Scene, Surfels, UsageError, View, Vision3DError
from vision3d.data.photos import PhotoInfo
from vision3d.geometry.similarity import align_poses
from vision3d.io.mesh import read_mesh_ply, write_mesh_glb, write_mesh_ply
from vision3d.io.surfels_ply import write_surfels
from vision3d.recon.dense_init import DenseInit, DenseInitConfig, initialise_surfels
from vision3d.recon.fit_config import FitConfig, FitResult
from vision3d.recon.fit_file import read_fit, read_surfel_arrays, write_fit, write_surfel_arrays
from vision3d.recon.fit_surfels import fit_surfels
from vision3d.recon.mesh import MeshConfig, fuse_depths
from vision3d.recon.orbit_video import write_orbit
from vision3d.recon.renders import RenderedPhoto, render_photos, write_renders
from vision3d.recon.run_folder import RunFolder
from vision3d.recon.view_matches import matches_from_tracks
from vision3d.recon.views import load_views

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SurfaceSettings:
    """What the stages after the poses need to know; see ReconstructConfig for the words."""

    view_size: int
    holdout: int | None
    max_time: float | None
    dense: DenseInitConfig
    fit: FitConfig
    mesh: MeshConfig
    until_mesh: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """What came out. poses: refined cam_from_world of every registered photo. mesh: None where it was not wanted or
    nothing was seen. held_out: photos that were only measured. started: surfels at the start."""

    fit: FitResult
    poses: Mapping[str, RigidTransform]
    photos: Sequence[RenderedPhoto]
    mesh: Mesh | None
    held_out: frozenset[str]
    started: int
    warnings: tuple[str, ...]


Timed = Callable[[str], AbstractContextManager[None]]


def build_surface(
    folder: RunFolder,
    scene: Scene,
    photos: Sequence[PhotoInfo],
    settings: SurfaceSettings,
    timed: Timed,
    progress: Progress,
) -> Surface:
    """Runs the stages that are not done yet and writes surfels.ply, renders/, orbit.mp4, mesh.ply and mesh.glb.

    Raises:
        UsageError: fewer than two photos left to learn from. Vision3DError: nothing could be started from.
    """
    with timed("dense start"):
        views = load_views(scene, photos, settings.view_size, progress)
        held_out = held_out_photos([view.name for view in views], settings.holdout)
        train = [view for view in views if view.name not in held_out]
        dense_key: dict[str, object] = {
            "scene": scene_digest(scene),
            "photos": [[p.name, p.sha256, file_digest(p.mask)] for p in photos if p.name in scene.images],
            "held_out": sorted(held_out),
            "view_size": settings.view_size,
            "dense": asdict(settings.dense),
        }
        start, reason = folder.stage(
            "dense", dense_key, lambda target: _build_dense(target, train, scene, settings.dense, progress), _read_dense
        )
    if not len(start):
        raise Vision3DError(f"no surface could be started: {reason}; --until poses stops before")
    with timed("surfels"):
        fit_key: dict[str, object] = dense_key | {"fit": asdict(settings.fit), "max_time": settings.max_time}
        checkpoint = folder.stages / "fit.checkpoint"

        def build(target: Path) -> None:
            matches = matches_from_tracks(scene, train, seed=settings.fit.seed)
            result = fit_surfels(
                start,
                train,
                matches,
                settings.fit,
                held_out=[view for view in views if view.name in held_out],
                progress=progress,
                checkpoint=checkpoint,
                key=digest(repr(dense_key).encode()),
                max_time=settings.max_time,
            )
            write_fit(target, result)

        fit = folder.stage("surfels", fit_key, build, read_fit)
        checkpoint.unlink(missing_ok=True)
        write_surfels(folder.path / "surfels.ply", fit.surfels)
    poses = _all_poses(scene, views, fit)
    with timed("renders"):
        rendered = render_photos(fit, views, poses, held_out, progress)
        folder.once("renders", fit_key, ["renders"], lambda: write_renders(folder.path / "renders", rendered))
        orbit = folder.path / "orbit.mp4"
        folder.once("orbit", fit_key, ["orbit.mp4"], lambda: write_orbit(orbit, fit, views, poses, progress))
    mesh, warnings = None, []
    if settings.until_mesh:
        with timed("mesh"):
            depths = [photo.depth for photo in rendered if photo.depth.name not in held_out]
            mesh = _mesh(folder, fit_key | {"mesh": asdict(settings.mesh)}, depths, settings.mesh, scene, progress)
            if mesh is None:
                warnings.append("the surfels show no surface that could be fused: there is no mesh")
    return Surface(
        fit=fit,
        poses=poses,
        photos=rendered,
        mesh=mesh,
        held_out=held_out,
        started=len(start),
        warnings=tuple(warnings),
    )


def _mesh(
    folder: RunFolder,
    key: dict[str, object],
    depths: Sequence[DepthView],
    config: MeshConfig,
    scene: Scene,
    progress: Progress,
) -> Mesh | None:
    """mesh.ply of an earlier run with the same key, else made and written now; None where nothing was seen."""
    made: list[Mesh] = []

    def build() -> None:
        made.append(fuse_depths(depths, config, progress))
        if len(made[0].faces):
            write_mesh_ply(folder.path / "mesh.ply", made[0])
            write_mesh_glb(folder.path / "mesh.glb", made[0], scene)

    folder.once("mesh", key, ["mesh.ply", "mesh.glb"], build)
    if not made:
        try:
            return read_mesh_ply(folder.path / "mesh.ply")
        except Vision3DError as error:  # damaged since
            log.warning("%s: it is made again", error)
            build()
    return made[0] if len(made[0].faces) else None


def held_out_photos(names: Sequence[str], every: int | None) -> frozenset[str]:
    """The first of every `every` photos, as is usual since mip-NeRF 360. UsageError: fewer than two are left."""
    if every is None:
        return frozenset()
    held = frozenset(names[::every])
    if len(names) - len(held) < 2:
        left = len(names) - len(held)
        raise UsageError(
            f"--holdout {every} leaves {left} of {len(names)} photos to learn from; at least two are needed"
        )
    return held


def _build_dense(target: Path, views: list[View], scene: Scene, config: DenseInitConfig, progress: Progress) -> None:
    found: DenseInit = initialise_surfels(views, scene, config, progress)
    write_surfel_arrays(target / "surfels.npz", found.surfels)
    (target / "reason.txt").write_text(found.reason, encoding="utf-8")


def _read_dense(folder: Path) -> tuple[Surfels, str]:
    return read_surfel_arrays(folder / "surfels.npz"), (folder / "reason.txt").read_text(encoding="utf-8")


def _all_poses(scene: Scene, views: Sequence[View], fit: FitResult) -> dict[str, RigidTransform]:
    """Refined poses; held-out photos follow the others by the similarity that takes the old poses to the new ones."""
    names = list(fit.poses)

    old = [scene.images[name].cam_from_world for name in names]
    new_from_old = align_poses(RigidTransform.stack(old), RigidTransform.stack([fit.poses[name] for name in names]))
    return {
        view.name: fit.poses[view.name]
        if view.name in fit.poses
        else new_from_old.move_pose(scene.images[view.name].cam_from_world)
        for view in views
    }


def scene_digest(scene: Scene) -> str:
    """A hash of cameras, poses, points and tracks."""
    found = hashlib.sha256(repr(sorted(scene.cameras.items())).encode())
    for name, image in sorted(scene.images.items()):
        found.update(f"{name} {image.camera_id}".encode())
        found.update(image.cam_from_world.matrix().numpy().tobytes())
    for values in (scene.points, scene.tracks.point, scene.tracks.image, scene.tracks.xy):
        found.update(values.contiguous().numpy().tobytes())
    return found.hexdigest()[:32]


def digest(data: bytes) -> str:
    """A short hash."""
    return hashlib.sha256(data).hexdigest()[:32]


def file_digest(path: Path | None) -> str:
    """A short hash of what a file holds, empty without one."""
    return "" if path is None else digest(path.read_bytes())
