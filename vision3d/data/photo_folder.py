"""Find the photos of a folder, and say of each file that is left out why."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from jaxtyping import Bool
from PIL.ExifTags import Base
from torch import Tensor

from vision3d.core import UsageError, Vision3DError
from vision3d.data.decoding import decode, open_photo, resized_size
from vision3d.data.exif import focal_from_exif, text

PHOTO_EXTENSIONS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".ppm", ".pgm", ".mpo")
# Photos all the same, but their readers are not in Pillow: named to the user rather than passed over.
UNREAD_EXTENSIONS = (".heic", ".heif", ".dng", ".nef", ".cr2", ".cr3", ".arw", ".raf", ".orf", ".rw2")
RUN_MARKER = (
    "stages/RUN"  # a folder that holds this is the output of `vision3d reconstruct`: its pictures are no photos
)
_CHECK_SIZE = 512  # px; small enough that JPEGs are checked at an eighth of their size


@dataclass(frozen=True, slots=True)
class PhotoInfo:
    """One photo of a folder.

    name: path below the folder with forward slashes; path: the file; size: upright (width, height) px; orientation:
    EXIF 1-8 of the stored pixels; sha256: of the file, hexadecimal; focal_px: focal length in px from EXIF and
    focal_source its origin, both None where EXIF does not say; make, model: of the camera, may be empty; mask: the
    photo's mask file, if any.
    """

    name: str
    path: Path
    size: tuple[int, int]
    orientation: int
    sha256: str
    focal_px: float | None = None
    focal_source: str | None = None
    make: str = ""
    model: str = ""
    mask: Path | None = None


@dataclass(frozen=True, slots=True)
class SkippedPhoto:
    """A file of the folder that is left out, and why."""

    name: str
    reason: str


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts 2.jpg before 10.jpg, and a.jpg before "a copy.jpg"."""
    stem = re.sub(r"\.[^./]*$", "", name)
    parts = re.split(r"([0-9]+)", unicodedata.normalize("NFC", stem).casefold())
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part)


def scan_folder(
    folder: str | Path,
    masks: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    exclude: str | Path | None = None,
) -> tuple[list[PhotoInfo], list[SkippedPhoto]]:
    """The photos of a folder and its subfolders in natural order, and the files left out with the reason.

    Every photo is decoded once (reduced, in threads), so that damaged files are known before the work starts. Hidden
    files and folders are ignored, as are the folder of masks and results of earlier runs; a subfolder called `masks` is
    never read as photos. Of byte-identical photos the first is kept.

    Args:
        folder: where the photos are.
        masks: folder with a mask for some or all photos, see `find_mask`.
        progress: called with (photos checked, photos in all).
        exclude: a folder whose files are not photos to read, such as one that results are written to.

    Raises:
        UsageError: the folder (or masks) is missing, is a file or cannot be read, or holds no photo at all.
    """
    root = _existing_folder(folder, "folder of photos")
    mask_root = None if masks is None else _existing_folder(masks, "folder of masks")
    files, skipped = _list_files(root, mask_root, None if exclude is None else Path(exclude).resolve())
    found: list[PhotoInfo] = []
    first_of: dict[str, str] = {}
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for done, result in enumerate(pool.map(_inspect, (root / name for name in files), files), start=1):
            if progress is not None:
                progress(done, len(files))
            if isinstance(result, SkippedPhoto):
                skipped.append(result)
            elif (first := first_of.setdefault(result.sha256, result.name)) != result.name:
                skipped.append(SkippedPhoto(result.name, f"the same photo as {first}"))
            else:
                found.append(result if mask_root is None else replace(result, mask=find_mask(mask_root, result.name)))
    if not found:
        why = f"; {len(skipped)} left out, first: {skipped[0].name}: {skipped[0].reason}" if skipped else ""
        raise UsageError(f"no photos in {root} that can be read ({', '.join(PHOTO_EXTENSIONS)}){why}")
    return found, sorted(skipped, key=lambda s: natural_key(s.name))


def find_mask(masks: Path, name: str) -> Path | None:
    """The mask of photo `name`: masks/NAME.png (COLMAP's rule) or the same path with the ending .png."""
    for candidate in (masks / f"{name}.png", (masks / name).with_suffix(".png")):
        if candidate.is_file():
            return candidate
    return None


def load_mask(path: str | Path, size: tuple[int, int]) -> Bool[Tensor, "h w"]:
    """A mask for an upright photo of size (width, height) px: False (black) is ignored, all else counts.

    A mask of another size with the same aspect is resized without smoothing.

    Raises:
        Vision3DError: unreadable, or another aspect than the photo's.
    """
    path = Path(path)
    try:
        with PIL.Image.open(path) as image:
            grey = image if image.mode in ("1", "L") or image.mode.startswith("I") else image.convert("L")
            values = np.asarray(grey) > 0
    except Exception as error:  # see vision3d.data.decoding: broken files raise nearly anything
        raise Vision3DError(f"cannot read the mask {path}: {error}") from None
    height, width = values.shape
    if (width, height) != size:
        if abs(width * size[1] - height * size[0]) > max(width, height, *size):
            raise Vision3DError(
                f"the mask {path} has {width}x{height} px, its photo upright {size[0]}x{size[1]}: the aspects differ"
            )
        resized = PIL.Image.fromarray(values.astype(np.uint8)).resize(size, PIL.Image.Resampling.NEAREST)
        values = np.asarray(resized) > 0
    return torch.from_numpy(np.array(values, dtype=bool))


def _existing_folder(folder: str | Path, what: str) -> Path:
    path = Path(folder)
    if path.is_file():
        raise UsageError(f"{path} is a file, a {what} is needed")
    if not path.is_dir():
        raise UsageError(f"the {what} {path} does not exist")
    if not os.access(path, os.R_OK | os.X_OK):
        raise UsageError(f"the {what} {path} cannot be read: no permission")
    return path


def _list_files(root: Path, mask_root: Path | None, exclude: Path | None) -> tuple[list[str], list[SkippedPhoto]]:
    names: list[str] = []
    skipped: list[SkippedPhoto] = []
    mask_folder = None if mask_root is None else mask_root.resolve()
    for parent, folders, files in os.walk(root):
        below = Path(parent).relative_to(root)
        for sub in list(folders):
            if (Path(parent) / sub).resolve() == exclude or (Path(parent) / sub / RUN_MARKER).is_file():
                folders.remove(sub)
                continue
            is_masks = (Path(parent) / sub).resolve() == mask_folder
            if not is_masks and sub.lower() == "masks":
                skipped.append(SkippedPhoto((below / sub).as_posix(), "a folder of masks, not of photos"))
            if sub.startswith(".") or is_masks or sub.lower() == "masks":
                folders.remove(sub)
        for file in files:
            name = (below / file).as_posix()
            extension = Path(file).suffix.lower()
            if file.startswith("."):
                continue
            if extension in UNREAD_EXTENSIONS:
                skipped.append(SkippedPhoto(name, f"{extension} photos are not read: save it as JPEG or PNG"))
            elif extension in PHOTO_EXTENSIONS:
                try:
                    name.encode()
                except UnicodeEncodeError:
                    shown = name.encode(errors="replace").decode()
                    skipped.append(SkippedPhoto(shown, "its name is not valid UTF-8: rename it"))
                    continue
                names.append(name)
    return sorted(names, key=lambda n: (natural_key(n), n)), skipped


def _inspect(path: Path, name: str) -> PhotoInfo | SkippedPhoto:
    try:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise Vision3DError(f"cannot read the photo {name}: {error.strerror or error}") from None
        stored, header = open_photo(path, name, data)
        width, height = resized_size(stored.size, _CHECK_SIZE)
        decode(stored, name, (width, height))
    except Vision3DError as error:
        return SkippedPhoto(name, str(error))
    focal, source = focal_from_exif(header.exif, header.size) or (None, None)
    make, model = text(header.exif.get(Base.Make)), text(header.exif.get(Base.Model))
    digest = hashlib.sha256(data).hexdigest()
    return PhotoInfo(name, path, header.size, header.orientation, digest, focal, source, make, model)
