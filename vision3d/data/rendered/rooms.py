"""The rendered rooms as a dataset: pairs of pictures with every pixel's match, drawn once and kept in a folder."""

from __future__ import annotations

import functools
import io
import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Float64, UInt8

from vision3d.core import Progress, RigidTransform, UsageError, silent
from vision3d.data.dense_pairs import DensePair, overlap, warp_by_depth
from vision3d.data.photos import load_photo, scan_folder
from vision3d.data.rendered.drawing import draw_room
from vision3d.data.rendered.photometry import disturb, expose
from vision3d.data.rendered.scene import TexturedRoom, sample_textured_room
from vision3d.data.rendered.textures import SIDE, Texture, photo_poster, poster_texture, pyramid, surface_texture
from vision3d.data.simulation.depth_camera import look
from vision3d.data.simulation.furniture_files import read_models
from vision3d.data.simulation.solids import Soup
from vision3d.io.atomic import atomic_write_bytes, atomic_write_json

DEPTH_UNIT = 0.00025  # m: depths are kept as 16 bits in this unit, up to 16 m
_SURFACES, _POSTERS = 120, 40  # textures of a set of scenes
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class RenderedRoomsConfig:
    """A scene depends on these settings and its number alone, not on `scenes`."""

    scenes: int = 400
    """Number of rooms."""
    views: int = 6
    """Pictures of each."""
    width: int = 320
    """px"""
    height: int = 256
    """px"""
    field_deg: tuple[float, float] = (50.0, 70.0)
    """Horizontal field of view, drawn for each scene."""
    overlap: tuple[float, float] = (0.2, 0.8)
    """Pairs are those whose lesser share of pixels seen in the other lies in this range."""
    color: bool = False
    """Keep colours; else grey."""
    seed: int = 0
    """Other seeds give other rooms and other textures."""
    furniture: Path | None = None
    """Folder of Sweet Home 3D's catalogues (.sh3f) whose models join the own furniture."""
    photos: Path | None = None
    """Folder of photos that hang on the walls as posters."""

    def __post_init__(self) -> None:
        low, high = self.overlap
        if self.scenes < 1 or self.views < 2 or min(self.width, self.height) < 32 or self.seed < 0:
            raise ValueError("rendered rooms need a scene, two views of 32 px a side and a seed of at least 0")
        if not 0 <= low < high <= 1:
            raise ValueError(f"overlap is a range within 0 to 1, got {self.overlap}")


@dataclass(frozen=True, slots=True)
class RenderedScene:
    """Views of one room. depth: z in metres at pixel centres (to 1/8 mm), 0 where nothing is. pairs: view numbers."""

    pictures: UInt8[np.ndarray, "v h w c"]
    depth: Float32[np.ndarray, "v h w"]
    k: Float64[np.ndarray, "3 3"]
    world_from_cam: Float64[np.ndarray, "v 3 4"]
    pairs: np.ndarray
    overlaps: Float64[np.ndarray, " p"]


class RenderedRooms:
    """Training set of pairs; sample i shows scene i, which pair of its views and how disturbed depends on the epoch.

    folder: where scenes are kept once drawn, None: nowhere; a file that cannot be read is drawn anew. disturbed: noise,
    blur and exposure. UsageError: the folder holds something else, no furniture or photos where they should be.
    """

    def __init__(self, config: RenderedRoomsConfig, folder: Path | None = None, *, disturbed: bool = True) -> None:
        self.config, self.folder, self.disturbed = config, folder, disturbed
        if folder is not None:
            claim_folder(folder, config)

    def __len__(self) -> int:
        return self.config.scenes

    def sample(self, index: int, epoch: int) -> DensePair:
        """Pure in the settings, index and epoch."""
        scene = self.scene(index)
        rng = np.random.default_rng((self.config.seed, epoch, index, 1))
        choice = int(rng.integers(len(scene.pairs)))
        a, b = (int(v) for v in rng.permutation(scene.pairs[choice]))
        return self.pair(scene, a, b, rng if self.disturbed else None)

    def pair(self, scene: RenderedScene, a: int, b: int, rng: np.random.Generator | None = None) -> DensePair:
        """Views a and b of a scene; rng: disturbs them."""
        pictures = [scene.pictures[v].astype(np.float32) / 255 for v in (a, b)]
        grey = [p[..., 0] if p.shape[-1] == 1 else p @ np.array([0.299, 0.587, 0.114], np.float32) for p in pictures]
        if rng is not None:
            grey = [disturb(rng, g) for g in grey]
        k = torch.from_numpy(scene.k)
        depth = [torch.from_numpy(scene.depth[v]) for v in (a, b)]
        moved = pose_of(scene.world_from_cam[b]).inverse() @ pose_of(scene.world_from_cam[a])
        return DensePair(
            torch.from_numpy(np.ascontiguousarray(grey[0]))[None],
            torch.from_numpy(np.ascontiguousarray(grey[1]))[None],
            warp_by_depth(depth[0], depth[1], k, k, moved),
            warp_by_depth(depth[1], depth[0], k, k, moved.inverse()),
            k.float(),
            k.float(),
            moved.matrix().float(),
            torch.tensor([self.config.height, self.config.width]),
            torch.tensor([self.config.height, self.config.width]),
        )

    def scene(self, index: int) -> RenderedScene:
        """From the folder if it is there. IndexError beyond the number of scenes."""
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        if self.folder is None:
            return self.draw(index)
        path = self.folder / f"{index:05d}.npz"
        if path.is_file():
            try:
                return _read(path, self.config)
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                pass  # cut short or damaged: it is drawn and written again
        scene = self.draw(index)
        atomic_write_bytes(path, _packed(scene))
        return scene

    def draw(self, index: int) -> RenderedScene:
        """Draws the views; tries other rooms and ways until some pair has the overlap asked for."""
        config = self.config
        for attempt in range(50):
            rng = np.random.default_rng((config.seed, index, attempt))
            room = sample_textured_room(rng, _SURFACES, _POSTERS, SIDE, self._models)
            focal = config.width / 2 / np.tan(np.radians(rng.uniform(*config.field_deg)) / 2)
            intrinsics = (focal, focal, config.width / 2, config.height / 2)
            pictures, depths, poses = [], [], []
            for pose in _poses(rng, room, config.views):
                light, depth = draw_room(room, self._levels, pose, intrinsics, config.width, config.height)
                shown = expose(rng, light)
                if not config.color:
                    shown = (shown @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
                pictures.append((shown * 255 + 0.5).astype(np.uint8))
                depths.append((depth / DEPTH_UNIT + 0.5).astype(np.uint16).astype(np.float32) * np.float32(DEPTH_UNIT))
                poses.append(pose)
            k = np.array([[focal, 0, config.width / 2], [0, focal, config.height / 2], [0, 0, 1]])
            pairs, overlaps = _pairs(np.stack(depths), k, np.stack(poses), config.overlap)
            if len(pairs):
                return RenderedScene(np.stack(pictures), np.stack(depths), k, np.stack(poses), pairs, overlaps)
        raise UsageError(f"no pair of views of 50 rooms has an overlap within {config.overlap}; widen the range")

    def fill(self, progress: Progress = silent) -> int:
        """Draws all scenes that the folder lacks; their number."""
        if self.folder is None:
            raise UsageError("without a folder there is nothing to fill")
        drawn = 0
        for index in range(len(self)):
            progress("rooms", index, len(self))
            path = self.folder / f"{index:05d}.npz"
            try:
                _read(path, self.config)
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                self.scene(index)
                drawn += 1
        progress("rooms", len(self), len(self))
        return drawn

    @functools.cached_property
    def _models(self) -> list[Soup]:
        return [] if self.config.furniture is None else [m.corners for m in read_models(self.config.furniture)]

    @functools.cached_property
    def _levels(self) -> list[np.ndarray]:
        textures = list(_textures(self.config.seed))
        if self.config.photos is not None:
            rng = np.random.default_rng((self.config.seed, 2**31, 1))
            files = [photo.path for photo in scan_folder(self.config.photos)[0]]
            for k in range(_SURFACES, _SURFACES + _POSTERS, 2):
                textures[k] = photo_poster(rng, load_photo(files[int(rng.integers(len(files)))], 768))
        return pyramid(textures)


@functools.lru_cache(maxsize=2)
def _textures(seed: int) -> tuple[Texture, ...]:
    """Surfaces, then posters; other seeds give others."""
    rng = np.random.default_rng((seed, 2**31))
    made = [surface_texture(rng) for _ in range(_SURFACES)]
    return (*made, *(poster_texture(rng) for _ in range(_POSTERS)))


def _poses(rng: np.random.Generator, room: TexturedRoom, count: int) -> list[Float64[np.ndarray, "3 4"]]:
    """Cameras that look at about the same part of the room from places up to some metres apart."""
    half = np.array(room.size) / 2
    first = np.array([*(rng.uniform(-0.7, 0.7, 2) * half[:2]), rng.uniform(0.9, 1.8)])
    toward = rng.uniform(-0.9, 0.9, 2) * half[:2]
    while np.hypot(*(toward - first[:2])) < 0.5 * half[:2].min() + 0.8:
        first[:2], toward = rng.uniform(-0.85, 0.85, 2) * half[:2], rng.uniform(-0.95, 0.95, 2) * half[:2]
    target = np.array([*toward, rng.uniform(0.4, 1.6)])
    spread = rng.uniform(0.15, 0.9)
    poses = []
    for step in range(count):
        at = first + (step > 0) * rng.normal(0, spread, 3) * (1, 1, 0.35)
        at = np.clip(at, (-half[0] + 0.25, -half[1] + 0.25, 0.4), (half[0] - 0.25, half[1] - 0.25, room.size[2] - 0.3))
        ahead = target + rng.normal(0, 0.3, 3) - at
        yaw, pitch = np.arctan2(ahead[1], ahead[0]), np.arctan2(ahead[2], np.hypot(ahead[0], ahead[1]))
        poses.append(look(at, float(yaw + rng.normal(0, 0.08)), float(np.clip(pitch, -1.0, 0.6)), rng.normal(0, 0.12)))
    return poses


def _pairs(
    depth: Float32[np.ndarray, "v h w"], k: np.ndarray, poses: np.ndarray, wanted: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of views and their overlaps, measured on every fourth pixel, whose overlap is as wanted."""
    small = torch.from_numpy(depth[:, 2::4, 2::4].copy())
    scaled = torch.from_numpy(np.diag([0.25, 0.25, 1.0]) @ k)
    pairs, overlaps = [], []
    for a in range(len(depth)):
        for b in range(a + 1, len(depth)):
            moved = pose_of(poses[b]).inverse() @ pose_of(poses[a])
            if float(moved.translation.norm()) < 0.05:
                continue  # a pose needs a base line
            share = overlap(
                warp_by_depth(small[a], small[b], scaled, scaled, moved),
                warp_by_depth(small[b], small[a], scaled, scaled, moved.inverse()),
            )
            if wanted[0] <= share <= wanted[1]:
                pairs.append((a, b))
                overlaps.append(share)
    return np.array(pairs, np.int64).reshape(-1, 2), np.array(overlaps)


def pose_of(pose: Float64[np.ndarray, "3 4"]) -> RigidTransform:
    """A pose as rotation and position side by side."""
    return RigidTransform(torch.from_numpy(pose[:, :3].copy()), torch.from_numpy(pose[:, 3].copy()))


def claim_folder(folder: Path, config: RenderedRoomsConfig) -> None:
    """Notes in the folder what it holds; UsageError if that is something else."""
    note = folder / "rooms.json"
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items() if k != "scenes"}
    wanted = json.loads(json.dumps({"format": _FORMAT, **settings}))
    if note.is_file():
        try:
            found = json.loads(note.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if found != wanted:
            raise UsageError(f"{folder} holds rooms drawn with other settings; give another folder")
    elif folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"{folder} holds something else; give an empty folder for the rooms")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write_json(note, wanted)


def _packed(scene: RenderedScene) -> bytes:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        pictures=scene.pictures,
        depth=np.round(scene.depth / DEPTH_UNIT).astype(np.uint16),
        k=scene.k,
        world_from_cam=scene.world_from_cam,
        pairs=scene.pairs,
        overlaps=scene.overlaps,
    )
    return buffer.getvalue()


def _read(path: Path, config: RenderedRoomsConfig) -> RenderedScene:
    """ValueError and the like for what is not such a file."""
    with np.load(path, allow_pickle=False) as kept:
        scene = RenderedScene(
            kept["pictures"],
            kept["depth"].astype(np.float32) * np.float32(DEPTH_UNIT),
            kept["k"],
            kept["world_from_cam"],
            kept["pairs"],
            kept["overlaps"],
        )
    shape = (config.views, config.height, config.width, 3 if config.color else 1)
    if scene.pictures.shape != shape or scene.depth.shape != shape[:3] or not len(scene.pairs):
        raise ValueError(f"{path} holds pictures of another shape")
    return scene
