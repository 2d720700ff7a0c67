"""Features of a frozen backbone for training: computed once for every view of a picture, then kept.

A view is the whole picture or a window of it, plain or mirrored (left and right swapped), squashed to the square that
the matcher works on; so a head on top can be trained with crops and mirror images without running the backbone again.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vision3d.core import Image
from vision3d.data.photos import load_photo
from vision3d.errors import UsageError, Vision3DError
from vision3d.io.atomic import atomic_write_bytes, atomic_write_json
from vision3d.matching.semantic.backbones import Backbone
from vision3d.matching.semantic.frozen import squash

LEAST_WINDOW = 0.6  # of each side, for windows drawn at random
WHOLE = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class View:
    """A window of a picture: left, top, right, bottom as shares of its sides; mirrored after cutting."""

    window: tuple[float, float, float, float] = WHOLE
    mirrored: bool = False

    def to_cells(
        self, points: Float[Tensor, "n 2"], size: tuple[int, int], grid: tuple[int, int]
    ) -> Float[Tensor, "n 2"]:
        """px of the original of `size` (width, height) to (column, row) of this view's grid of (columns, rows)."""
        left, top, right, bottom = self.window
        start, extent = points.new_tensor([left, top]), points.new_tensor([right - left, bottom - top])
        share = (points / points.new_tensor(size) - start) / extent
        if self.mirrored:
            share = torch.stack([1 - share[:, 0], share[:, 1]], dim=1)
        return share * points.new_tensor(grid) - 0.5


PLAIN = View()


def random_view(file: Path, number: int, mirrored: bool) -> View:
    """View `number` of a picture: 0 is the whole, others are windows of 0.6 to 1 of each side; always the same."""
    if number == 0:
        return View(mirrored=mirrored)
    name = int.from_bytes(hashlib.blake2b(f"{file.parent.name}/{file.name}".encode(), digest_size=8).digest(), "little")
    rng = np.random.default_rng((name, number))
    side = rng.uniform(LEAST_WINDOW, 1.0, 2)
    start = rng.uniform(0, 1 - side)
    left, top, right, bottom = (round(float(v), 4) for v in (*start, *(start + side)))
    return View((left, top, right, bottom), mirrored)


@dataclass
class KeptFeatures:
    """Grids of unit vectors [c h w] of views of pictures, in memory, or as FOLDER/DIGEST.npy (half precision).

    They go by what is in a picture's file, not by its path: a set that was made anew or moved does not confuse them.

    unit: False keeps what the backbone gives, not unit vectors.

    UsageError if the folder holds features of another backbone or size, or something else.
    """

    backbone: Backbone
    size: int
    folder: Path | None = None
    unit: bool = True
    _memory: dict[str, Float[Tensor, "c h w"]] = field(default_factory=dict, repr=False)
    _contents: dict[Path, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.size < self.backbone.multiple or self.size % self.backbone.multiple:
            raise UsageError(f"size must be a multiple of {self.backbone.multiple} px, got {self.size}")
        if self.folder is None:
            return
        note, wanted = self.folder / "features.json", {"size": self.size, **self.backbone.settings}
        if note.is_file():
            if json.loads(note.read_text(encoding="utf-8")) != json.loads(json.dumps(wanted)):
                raise UsageError(f"{self.folder} keeps features made with other settings; give another folder")
        elif self.folder.is_dir() and any(self.folder.iterdir()):
            raise UsageError(f"{self.folder} holds something else; give an empty folder for the features")
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            atomic_write_json(note, wanted)

    @property
    def cells(self) -> tuple[int, int]:
        """(columns, rows) of every grid."""
        return (self.size // self.backbone.stride,) * 2

    def __call__(self, file: Path, size: tuple[int, int], view: View = PLAIN) -> Float[Tensor, "c h w"]:
        """The grid of a view of a picture of `size` (width, height) px.

        Raises:
            Vision3DError: the picture or the kept file cannot be read, or the picture has another size.
        """
        name = hashlib.blake2b(f"{self._content(file)}|{size}|{view}".encode(), digest_size=12).hexdigest()
        if self.folder is None:
            if name not in self._memory:
                self._memory[name] = self._compute(file, size, view)
            return self._memory[name].float()
        path = self.folder / f"{name}.npy"
        if not path.is_file():
            buffer = io.BytesIO()
            np.save(buffer, self._compute(file, size, view).numpy(), allow_pickle=False)
            atomic_write_bytes(path, buffer.getvalue())
        try:
            return torch.from_numpy(np.load(path, allow_pickle=False)).float()
        except (OSError, ValueError) as error:
            raise Vision3DError(f"cannot read the kept features {path}: {error}; remove the file") from None

    def _content(self, file: Path) -> str:
        """A digest of the file, read once."""
        if file not in self._contents:
            try:
                self._contents[file] = hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
            except OSError as error:
                raise Vision3DError(f"cannot read the picture {file}: {error.strerror or error}") from None
        return self._contents[file]

    def _compute(self, file: Path, size: tuple[int, int], view: View) -> Float[Tensor, "c h w"]:
        image = load_photo(file, self.size if view.window == WHOLE else None, name=str(file))
        if image.original_size != size:
            found, said = ("x".join(map(str, s)) for s in (image.original_size, size))
            raise Vision3DError(f"{file} has {found} px, its annotation says {said}: unpack the data set again")
        try:
            square = squash(_window(image, view), self.size)
        except ValueError as error:
            raise Vision3DError(f"{file}: {error}") from None
        with torch.random.fork_rng(devices=[]):  # loading a network draws numbers, which a resumed run does not
            grid = self.backbone(square.flip(3) if view.mirrored else square)[0]
        return (F.normalize(grid, dim=0) if self.unit else grid).half().cpu()


def _window(image: Image, view: View) -> Image:
    """The view's window, cut with subpixel edges by resampling where they are not whole pixels."""
    left, top, right, bottom = view.window
    if view.window == WHOLE:
        return image
    _, h, w = image.rgb.shape
    rows, columns = max(2, round((bottom - top) * h)), max(2, round((right - left) * w))
    x = 2 * (left + (right - left) * (torch.arange(columns) + 0.5) / columns) - 1
    y = 2 * (top + (bottom - top) * (torch.arange(rows) + 0.5) / rows) - 1
    at = torch.stack([x.expand(rows, -1), y[:, None].expand(-1, columns)], dim=2)[None]
    rgb = F.grid_sample(image.rgb.float()[None], at, mode="bilinear", padding_mode="border", align_corners=False)[0]
    return Image(rgb.clamp(0, 1), image.name, image.original_size)
