"""Where training pairs of photos with every pixel's match come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vision3d.data.dense_pairs import DensePair
from vision3d.data.homography_pairs import HomographyPairs
from vision3d.data.posed_photos import PosedPairs, PosedPhoto, megadepth_pairs, scannet_pairs
from vision3d.data.rendered.rooms import RenderedRooms, RenderedRoomsConfig
from vision3d.errors import UsageError
from vision3d.train.task import TrainingSet


@dataclass(frozen=True, kw_only=True)
class PhotoPairSourceConfig:
    """Which pairs to train and validate on."""

    data: Literal["rooms", "homographies", "megadepth", "scannet"] = "rooms"
    """rooms are rendered; the others need `root`: a folder of photos, or the data set's"""
    root: Path | None = None
    """folder of photos, of MegaDepth or of ScanNet's scenes"""
    index: Path | None = None
    """megadepth, scannet: folder of LoFTR's .npz of training scenes"""
    held_out_index: Path | None = None
    """megadepth, scannet: the same of scenes to validate on; null: none"""
    intrinsics: Path | None = None
    """scannet: LoFTR's intrinsics.npz"""
    keep: Path | None = None
    """folder that keeps rendered rooms; null: draw anew every time"""
    scenes: int = 400
    """rendered rooms to train on"""
    views: int = 6
    """pictures of each room"""
    size: tuple[int, int] = (256, 192)
    """width and height px of the pictures"""
    overlap: tuple[float, float] = (0.2, 0.8)
    """of rendered and listed pairs; of homographies the first is the least"""
    furniture: Path | None = None
    """folder of Sweet Home 3D's catalogues, which join the own furniture"""
    posters: Path | None = None
    """folder of photos that hang on the walls of rendered rooms"""
    held_out: int = 40
    """pairs to validate on: rooms with another seed, or photos at equal distances that are not trained on"""
    seed: int = 0
    """of the rendering, the choice of pairs and their disturbance"""

    def __post_init__(self) -> None:
        if self.data != "rooms" and self.root is None:
            raise ValueError(f"data: {self.data} needs root, the folder of photos")
        if self.data in ("megadepth", "scannet") and self.index is None:
            raise ValueError(f"data: {self.data} needs index, the folder of its training scenes' .npz")
        if self.data == "scannet" and self.intrinsics is None:
            raise ValueError("data: scannet needs intrinsics, the file of all scenes' cameras")
        if self.held_out < 0 or min(self.size) < 32:
            raise ValueError("held_out must not be negative and a picture at least 32 px a side")


def training_pairs(config: PhotoPairSourceConfig) -> TrainingSet:
    """What is trained on."""
    if config.data == "rooms":
        return _rooms(config, config.scenes, config.seed, "train", disturbed=True)
    if config.index is not None:
        return PosedPairs(_listed(config, config.index), config.size, config.seed)
    pairs = _homographies(config)
    kept = [p for k, p in enumerate(pairs.paths) if k not in _chosen(config, len(pairs))]
    if not kept:
        raise UsageError(f"{config.root} holds {len(pairs)} photos, all of which are held out: lower held_out")
    pairs.paths = kept
    return pairs


def held_out_pairs(config: PhotoPairSourceConfig) -> list[DensePair]:
    """What is validated on, always the same."""
    if config.held_out == 0:
        return []
    if config.data == "rooms":
        rooms = _rooms(config, config.held_out, config.seed + 1, "held_out", disturbed=False)
        return [rooms.sample(k, 0) for k in range(config.held_out)]
    if config.index is not None:
        if config.held_out_index is None:
            return []
        listed = _listed(config, config.held_out_index)
        chosen = [
            listed[k * len(listed) // min(config.held_out, len(listed))]
            for k in range(min(config.held_out, len(listed)))
        ]
        posed = PosedPairs(chosen, config.size, disturbed=False)
        return [posed.sample(k, 0) for k in range(len(posed))]
    pairs = _homographies(config)
    return [pairs.sample(k, 0) for k in sorted(_chosen(config, len(pairs)))]


def _listed(config: PhotoPairSourceConfig, index: Path) -> list[tuple[PosedPhoto, PosedPhoto]]:
    assert config.root is not None
    if config.intrinsics is not None:
        return scannet_pairs(config.root, index, config.intrinsics, config.overlap)
    return megadepth_pairs(config.root, index, config.overlap)


def _homographies(config: PhotoPairSourceConfig) -> HomographyPairs:
    assert config.root is not None
    return HomographyPairs(config.root, config.size, least_overlap=config.overlap[0], seed=config.seed)


def _chosen(config: PhotoPairSourceConfig, count: int) -> set[int]:
    held = min(config.held_out, max(count // 5, 1)) if config.held_out else 0
    return {k * count // held for k in range(held)} if held else set()


def _rooms(config: PhotoPairSourceConfig, scenes: int, seed: int, name: str, *, disturbed: bool) -> RenderedRooms:
    settings = RenderedRoomsConfig(
        scenes=scenes,
        views=config.views,
        width=config.size[0],
        height=config.size[1],
        overlap=config.overlap,
        seed=seed,
        furniture=config.furniture,
        photos=config.posters,
    )
    return RenderedRooms(settings, None if config.keep is None else config.keep / name, disturbed=disturbed)
