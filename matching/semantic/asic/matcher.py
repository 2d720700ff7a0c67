"""ASIC as a semantic matcher: it is fitted to collections of pictures first and then knows these pictures alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vision3d.core import Image, Progress, silent
from vision3d.data.photos import load_photo
from vision3d.errors import UsageError, Vision3DError
from vision3d.matching.semantic.asic.alignment import GUIDE, Alignment, CanonicalFeatures, carry_canonical
from vision3d.matching.semantic.asic.collection import MOST, make_collection
from vision3d.matching.semantic.asic.config import AsicConfig
from vision3d.matching.semantic.asic.fit import fit_collection
from vision3d.matching.semantic.backbones import Backbone
from vision3d.matching.semantic.base import DenseFeatures
from vision3d.matching.semantic.frozen import squash


class AsicMatcher:
    """Fitted per collection. guided: see `carry_canonical`; without it, points go by canonical coordinates alone."""

    def __init__(self, backbone: Backbone, config: AsicConfig, *, guided: bool = True, size: int = 512) -> None:
        if size < backbone.multiple or size % backbone.multiple:
            raise UsageError(f"the square's side must be a multiple of {backbone.multiple} px for {backbone.name}")
        self.backbone = backbone
        self.config = config
        self.guided = guided
        self.max_size = size
        self.name = "asic" if guided else "asic-canonical"
        self._known: dict[str, tuple[Alignment, int]] = {}

    @property
    def settings(self) -> dict[str, object]:
        """Everything but the collections that changes the result."""
        guide = {"guide": GUIDE} if self.guided else {}
        return {"name": self.name, **guide, **self._fit_settings()}

    def fit(
        self, collections: Mapping[str, Sequence[Path]], folder: Path, progress: Progress = silent
    ) -> dict[str, object]:
        """Fits what is not in `folder` yet, from files; returns a digest of each collection.

        A killed fit goes on where it stopped.

        Raises:
            UsageError: a collection of fewer than 2 or more than MOST pictures. Vision3DError: a picture that cannot
                be read or described, or the folder cannot be written.
        """
        keys: dict[str, object] = {}
        for number, (name, files) in enumerate(sorted(collections.items())):
            progress(f"{self.name}: collections", number, len(collections))
            if not 2 <= len(files) <= MOST:
                raise UsageError(f"ASIC aligns 2 to {MOST} pictures at a time, {name} has {len(files)}")
            keys[name] = self._fit_one(name, files, self._place(folder))
        progress(f"{self.name}: collections", len(collections), len(collections))
        self.use(folder)
        return keys

    def use(self, folder: Path) -> None:
        """Takes the fits of these settings in `folder` into use. Vision3DError if there is none or one is damaged."""
        paths = sorted(self._place(folder).glob("*.npz"))
        if not paths:
            raise Vision3DError(f"{folder} holds no fit of these settings")
        for path in paths:
            alignment = Alignment.load(path)
            self._known |= {name: (alignment, i) for i, name in enumerate(alignment.names)}

    def describe(self, image: Image) -> CanonicalFeatures:
        """Of a picture of a fitted collection, which is known by its name.

        Raises:
            ValueError: a picture of no fitted collection, or one that cannot be described.
        """
        if image.name not in self._known:
            raise ValueError(
                f"{image.name} is in no collection that was fitted: ASIC aligns collections, "
                "`vision3d align DIR` a folder of photos"
            )
        alignment, i = self._known[image.name]
        return CanonicalFeatures(
            self.grid(image), image.original_size, coordinates=alignment.coordinates[i], mask=alignment.mask[i]
        )

    def transfer(
        self, source: DenseFeatures, target: DenseFeatures, points: Float[Tensor, "n 2"]
    ) -> Float[Tensor, "n 2"]:
        """See `SemanticMatcher`. ValueError for features that are not this matcher's."""
        if not (isinstance(source, CanonicalFeatures) and isinstance(target, CanonicalFeatures)):
            raise ValueError("ASIC carries points between pictures that it described itself")
        return carry_canonical(source, target, points, guided=self.guided)

    def grid(self, image: Image) -> Float[Tensor, "c h w"]:
        """The backbone's unit features. ValueError as `squash`."""
        return F.normalize(self.backbone(squash(image, self.max_size))[0], dim=0).cpu()

    def _fit_settings(self) -> dict[str, object]:
        return {"size": self.max_size, **self.backbone.settings, **asdict(self.config)}

    def _place(self, folder: Path) -> Path:
        digest = hashlib.blake2b(json.dumps(self._fit_settings()).encode(), digest_size=6).hexdigest()
        return folder / f"asic-{digest}"

    def _fit_one(self, name: str, files: Sequence[Path], place: Path) -> str:
        digest = hashlib.blake2b(json.dumps(self._fit_settings()).encode(), digest_size=16)
        images = []
        for file in files:
            try:
                digest.update(json.dumps(str(file)).encode() + hashlib.sha256(file.read_bytes()).digest())
            except OSError as error:
                raise Vision3DError(f"cannot read the picture {file}: {error.strerror or error}") from None
        key, path = digest.hexdigest(), place / f"{name}.npz"
        if path.is_file() and Alignment.load(path).key == key:
            return key
        for file in files:
            image = load_photo(file, self.max_size, name=str(file))
            try:
                images.append(self.grid(image))
            except ValueError as error:
                raise Vision3DError(f"{file}: {error}") from None
        collection = make_collection(images)
        checkpoint = place / f"{name}.ckpt"
        fitted = fit_collection(collection, self.config, checkpoint=checkpoint)
        Alignment(key, tuple(str(file) for file in files), fitted.coordinates, collection.mask).save(path)
        checkpoint.unlink(missing_ok=True)
        return key
