"""Sharper poses: corners followed by optical flow from photo to photo, then bundle adjustment with them.

Keypoints of SIFT or a network are off by half a pixel, and there are few. The Lucas-Kanade method (B. Lucas and T.
Kanade, 1981; J.-Y. Bouguet's pyramid) aligns patches to a tenth of a pixel in both directions, also across the
epipolar line, where stereo along the line says nothing about the poses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from scipy.spatial import cKDTree

from vision3d.core import Progress, RigidTransform, Scene, Tracks, silent
from vision3d.data.photos import PhotoInfo, load_photo
from vision3d.geometry.triangulation import reprojection_errors, triangulate_dlt, triangulation_angle
from vision3d.io.colmap import reconstruction_from_scene, scene_from_reconstruction
from vision3d.recon.gauge import canonical
from vision3d.recon.refine import RefineConfig, adjust


@dataclass(frozen=True, slots=True, kw_only=True)
class PolishConfig:
    """Settings of polish_poses; px at the size that photos are read at.

    corners: per photo; spacing_px: between corners; partners: photos that a photo's corners are followed into;
    shared: points that two photos must have in common for that; window_px: of the flow; back_px: how far forth and
    back may miss the corner; off_px: how far a corner may lie from where the present poses allow it; loss_px: scale of
    the Cauchy loss; min_angle_deg: between the rays of a point; enough: photos that observe as many points (in the
    median) gain nothing from more.
    """

    corners: int = 1500
    spacing_px: float = 7.0
    partners: int = 4
    shared: int = 12
    window_px: int = 15
    back_px: float = 0.15
    off_px: float = 2.0
    loss_px: float = 0.25
    min_angle_deg: float = 1.0
    enough: int = 1000
    threads: int = 1


@dataclass(frozen=True, slots=True)
class _Photo:
    """A grey photo with its corners; px of the reading size; scale: original px per px."""

    grey: np.ndarray
    corners: np.ndarray
    scale: np.ndarray


def polish_poses(
    scene: Scene,
    photos: Sequence[PhotoInfo],
    max_size: int,
    fixed_cameras: frozenset[int] = frozenset(),
    config: PolishConfig | None = None,
    progress: Progress = silent,
) -> Scene:
    """The scene with followed corners among its points, and poses and intrinsics adjusted to all of them.

    Args:
        fixed_cameras: ids of cameras whose intrinsics stay as they are.
        max_size: longer side in px at which photos are read.

    A scene whose photos observe enough points, or too few in common to follow anything, comes back as it is.
    """
    config = config or PolishConfig()
    if float(torch.bincount(scene.tracks.image, minlength=1).double().median()) >= config.enough:
        return scene
    info = {p.name: p for p in photos}
    names = [name for name in scene.tracks.images if name in info]
    partners = _partners(scene, names, config)
    read: dict[str, _Photo] = {}
    seen: list[tuple[int, str, np.ndarray]] = []  # (track, photo, px of the original)
    tracks = 0
    for done, name in enumerate(names):
        progress("following corners", done, len(names))
        found: dict[int, list[tuple[str, np.ndarray]]] = {}
        for other, (points0, points1) in partners[name].items():
            for wanted in (name, other):
                if wanted not in read:
                    read[wanted] = _read(info[wanted], max_size, config)
            index, xy = _follow(read[name], read[other], points0, points1, config)
            for k, at in zip(index.tolist(), xy, strict=True):
                found.setdefault(k, []).append((other, at * read[other].scale))
        for k, others in found.items():
            seen.append((tracks, name, read[name].corners[k] * read[name].scale))
            seen += [(tracks, other, at) for other, at in others]
            tracks += 1
    progress("following corners", len(names), len(names))
    if not tracks:
        return scene
    pixel = float(np.median([p.scale.mean() for p in read.values()]))
    grown = _with_tracks(scene, seen, tracks, config, pixel)
    refine = RefineConfig(
        loss_scale_px=config.loss_px * pixel,
        max_error_px=config.off_px * pixel,
        min_angle_deg=config.min_angle_deg,
        threads=config.threads,
    )
    model = reconstruction_from_scene(grown)
    adjust(model, fixed_cameras, refine)
    return canonical(scene_from_reconstruction(model))


def _partners(
    scene: Scene, names: Sequence[str], config: PolishConfig
) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """For each photo those that share most points with it, with the shared points in px of both originals."""
    tracks = scene.tracks
    at = {}
    for name in names:
        mine = tracks.image == tracks.images.index(name)
        at[name] = dict(zip(tracks.point[mine].tolist(), tracks.xy[mine].numpy(), strict=True))
    chosen: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for name in names:
        common = {other: sorted(at[name].keys() & at[other].keys()) for other in names if other != name}
        best = sorted((o for o, c in common.items() if len(c) >= config.shared), key=lambda o: (-len(common[o]), o))
        chosen[name] = {
            o: (np.array([at[name][p] for p in common[o]]), np.array([at[o][p] for p in common[o]]))
            for o in best[: config.partners]
        }
    return chosen


def _read(photo: PhotoInfo, max_size: int, config: PolishConfig) -> _Photo:
    image = load_photo(photo.path, max_size, photo.name)
    rgb = (image.rgb * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    found = cv2.goodFeaturesToTrack(grey, config.corners, 0.003, config.spacing_px)
    corners = np.zeros((0, 2)) if found is None else found[:, 0].astype(np.float64) + 0.5
    return _Photo(grey, corners, np.array(image.scale))


def _follow(
    photo0: _Photo, photo1: _Photo, points0: np.ndarray, points1: np.ndarray, config: PolishConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Corners of photo 0 (index) that are found in photo 1, and where, px.

    The flow starts where the affine map of the eight nearest shared points puts a corner.
    """
    if not len(photo0.corners):
        return np.zeros(0, dtype=np.int64), np.zeros((0, 2))
    start = _affine_guess(points0 / photo0.scale, points1 / photo1.scale, photo0.corners)
    height, width = photo1.grey.shape
    index = np.flatnonzero(((start > 0) & (start < [width, height])).all(axis=1))
    if not len(index):
        return index, np.zeros((0, 2))
    begin = (photo0.corners[index] - 0.5).astype(np.float32)[:, None]
    guess = (start[index] - 0.5).astype(np.float32)[:, None]
    there, ok = _flow(photo0.grey, photo1.grey, begin, guess, config)
    # The way back starts as far from the corner as the way there started from its end: it could miss as well.
    back, ok_back = _flow(photo1.grey, photo0.grey, there, begin + (there - guess), config)
    miss = np.linalg.norm(back - begin, axis=2)[:, 0]
    good = ok & ok_back & (miss < config.back_px)
    return index[good], there[good, 0].astype(np.float64) + 0.5


def _flow(
    grey0: np.ndarray, grey1: np.ndarray, begin: np.ndarray, guess: np.ndarray, config: PolishConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Where OpenCV's points [n, 1, 2] of photo 0 lie in photo 1, and which were found."""
    window = (config.window_px, config.window_px)
    until = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.003)
    found, ok, _ = cv2.calcOpticalFlowPyrLK(
        grey0,
        grey1,
        begin,
        guess.copy(),
        winSize=window,
        maxLevel=2,
        criteria=until,
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    return found, ok[:, 0] == 1


def _affine_guess(points0: np.ndarray, points1: np.ndarray, at: np.ndarray, nearest: int = 8) -> np.ndarray:
    """Where `at` lies in photo 1 by a damped affine map of the nearest matches."""
    nearest = min(nearest, len(points0))
    _, index = cKDTree(points0).query(at, k=nearest)
    near0, near1 = points0[index], points1[index]
    mean0, mean1 = near0.mean(axis=1, keepdims=True), near1.mean(axis=1, keepdims=True)
    a, b = near0 - mean0, near1 - mean1
    normal = np.einsum("nki,nkj->nij", a, a)
    damping = 25.0 * nearest  # px^2: beside it, points close together say nothing of the map's linear part
    change = np.einsum("nki,nkj->nij", a, b - a)
    linear = np.eye(2) + np.linalg.solve(normal + damping * np.eye(2), change)
    return np.asarray(np.einsum("ni,nij->nj", at - mean0[:, 0], linear) + mean1[:, 0])


def _with_tracks(
    scene: Scene, seen: list[tuple[int, str, np.ndarray]], tracks: int, config: PolishConfig, pixel: float
) -> Scene:
    """The scene with the tracks that fit its present poses as further points."""
    number = {name: k for k, name in enumerate(scene.tracks.images)}
    track = torch.tensor([t for t, _, _ in seen])
    image = torch.tensor([number[name] for _, name, _ in seen])
    xy = torch.from_numpy(np.array([at for _, _, at in seen]))
    slot = torch.zeros(len(seen), dtype=torch.int64)
    for k in range(1, len(seen)):
        slot[k] = slot[k - 1] + 1 if track[k] == track[k - 1] else 0
    width = int(slot.max()) + 1
    rays = torch.zeros(tracks, width, 2, dtype=torch.float64)
    mask = torch.zeros(tracks, width, dtype=torch.bool)
    which = torch.zeros(tracks, width, dtype=torch.int64)
    for name, k in number.items():
        rows = image == k
        rays[track[rows], slot[rows]] = scene.camera_of(name).unproject(xy[rows])
    mask[track, slot], which[track, slot] = True, image
    poses = [scene.images[name].cam_from_world for name in scene.tracks.images]
    stacked = RigidTransform.stack(poses)
    points = triangulate_dlt(RigidTransform(stacked.rotation[which], stacked.translation[which]), rays, mask)
    centers = stacked.center()[which]
    angle = triangulation_angle(points[:, None].expand(-1, width, 3), centers[:, :1].expand(-1, width, 3), centers)
    fits = (torch.where(mask, angle, 0.0).amax(dim=1) > np.radians(config.min_angle_deg)) & points.isfinite().all(dim=1)
    points = points.nan_to_num()
    worst = torch.zeros(tracks, dtype=torch.float64)
    for name, k in number.items():
        rows = image == k
        errors = reprojection_errors(points[track[rows]], scene.camera_of(name), poses[k], xy[rows])
        worst = worst.scatter_reduce(0, track[rows], errors, "amax")
    fits &= worst < config.off_px * pixel
    new = torch.cumsum(fits, 0) - 1 + len(scene.points)
    keep = fits[track]
    grown = Tracks(
        scene.tracks.images,
        torch.cat([scene.tracks.point, new[track[keep]]]),
        torch.cat([scene.tracks.image, image[keep]]),
        torch.cat([scene.tracks.xy.double(), xy[keep]]),
    )
    grey = torch.full((int(fits.sum()), 3), 128, dtype=torch.uint8)
    return replace(
        scene,
        points=torch.cat([scene.points, points[fits]]),
        colors=torch.cat([scene.colors, grey]),
        errors=torch.cat([scene.errors, worst[fits]]),
        tracks=grown,
    )
