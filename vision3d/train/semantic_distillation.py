"""Distils the features of teachers into one small network with low-rank adapters, without labels.

F. Fundel et al., "Distillation of Diffusion Features for Semantic Correspondence", WACV 2025, section 3: cross-entropy
between similarity maps of pictures of one category, and views of one thing whose common points are known.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vision3d.data.collate import Batch, collate
from vision3d.errors import UsageError
from vision3d.matching.semantic.backbones import Backbone
from vision3d.matching.semantic.catalogue import make_semantic_matcher
from vision3d.matching.semantic.distillation_loss import joint_grid, similarity_cross_entropy
from vision3d.matching.semantic.frozen import FrozenFeatures
from vision3d.matching.semantic.head_loss import keypoint_cross_entropy
from vision3d.matching.semantic.student import STRIDE, Student, StudentConfig
from vision3d.train.semantic_features import KeptFeatures, View
from vision3d.train.semantic_renderings import MeshView, RenderingsConfig, common_points, mesh_views
from vision3d.train.semantic_sources import Picture, SemanticSourceConfig, held_out_pairs, training_pictures
from vision3d.train.semantic_validation import held_out_pck
from vision3d.train.task import TrainingSet


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """Who learns from whom, on what. Of `source` the pictures of trn count, not their keypoints."""

    source: SemanticSourceConfig
    keep: Path
    """folder that keeps what is computed once: teachers' features, the student's frozen part, renderings"""
    teachers: tuple[str, ...] = ("efficientnet-lite0", "xfeat-dense")
    """semantic matchers with a backbone, by their names in the catalogue (head:FILE, too), at their own sizes"""
    student: StudentConfig = field(default_factory=StudentConfig)
    renderings: RenderingsConfig = field(default_factory=RenderingsConfig)
    distillation_weight: float = 1.0
    """of the teachers' similarity maps in the loss; 0 leaves them out"""
    renderings_weight: float = 1.0
    """of the renderings' points in the loss; 0 leaves them out"""
    temperature: float = 0.05
    """of both terms, on cosines"""
    sigma: float = 1.0
    """cells; how far the truth of the renderings is smoothed"""
    mirror: bool = True
    """train on mirror images of both pictures or views, too"""
    seed: int = 0
    """of the pairs"""

    def __post_init__(self) -> None:
        if not self.temperature > 0 or not self.sigma > 0:
            raise ValueError(f"temperature and sigma must be above 0, got {self.temperature:g}, {self.sigma:g}")
        if min(self.distillation_weight, self.renderings_weight) < 0:
            raise ValueError(
                f"weights must not be negative, got {self.distillation_weight:g}, {self.renderings_weight:g}"
            )
        if not (self.taught or self.rendered):
            raise ValueError("nothing to train on: give teachers, or renderings.furniture, and a weight above 0")

    @property
    def taught(self) -> bool:
        """Whether teachers take part."""
        return bool(self.teachers) and self.distillation_weight > 0

    @property
    def rendered(self) -> bool:
        """Whether renderings take part."""
        return self.renderings.furniture is not None and self.renderings_weight > 0


@dataclass(frozen=True, slots=True)
class TaughtPair:
    """Two pictures of a category: the trunk's maps, and the teachers' joint grids at the student's cells."""

    map0: Tensor
    map1: Tensor
    teacher0: Tensor
    teacher1: Tensor


@dataclass(frozen=True, slots=True)
class RenderedPair:
    """Two views of a mesh: the trunk's maps, and the student's cells (column, row) [n 2] of their common points."""

    map0: Tensor
    map1: Tensor
    cells0: Tensor
    cells1: Tensor


@dataclass(frozen=True, slots=True)
class DistillationSample:
    """What takes part; the other is None."""

    taught: TaughtPair | None
    rendered: RenderedPair | None


@dataclass(frozen=True)
class DistillationPairs:
    """For each picture of trn another one of its category and two views of a mesh, drawn anew in every epoch."""

    pictures: Sequence[Picture]
    views: Sequence[Sequence[MeshView]]
    trunk: KeptFeatures
    teachers: Sequence[KeptFeatures]
    cells: int
    mirror: bool
    seed: int

    def __len__(self) -> int:
        return len(self.pictures)

    def sample(self, index: int, epoch: int) -> DistillationSample:
        """Both pictures are mirrored or neither; so are both views."""
        rng = np.random.default_rng((self.seed, epoch, index))
        mirrored = self.mirror & (rng.integers(2, size=2) > 0)
        taught = self._taught(rng, index, View(mirrored=bool(mirrored[0]))) if self.teachers else None
        rendered = self._rendered(rng, View(mirrored=bool(mirrored[1]))) if self.views else None
        return DistillationSample(taught, rendered)

    def _taught(self, rng: np.random.Generator, index: int, view: View) -> TaughtPair:
        first = self.pictures[index]
        others = [p for p in self.pictures if p.category == first.category and p.file != first.file] or [first]
        pair = (first, others[int(rng.integers(len(others)))])
        maps = [self.trunk(p.file, p.size, view) for p in pair]
        grids = [
            joint_grid([teacher(p.file, p.size, view) for teacher in self.teachers], (self.cells, self.cells))
            for p in pair
        ]
        return TaughtPair(*maps, *grids)

    def _rendered(self, rng: np.random.Generator, view: View) -> RenderedPair:
        mesh = self.views[int(rng.integers(len(self.views)))]
        a, b = (mesh[int(k)] for k in rng.permutation(len(mesh))[:2])
        cells = [
            view.to_cells(points, shot.size, (self.cells, self.cells))
            for shot, points in zip((a, b), common_points(a, b), strict=True)
        ]
        return RenderedPair(self.trunk(a.file, a.size, view), self.trunk(b.file, b.size, view), *cells)


class Distillation:
    """The task: adapters of the student; validation by PCK of held-out pairs."""

    main_metric = "pck"
    collate = staticmethod(collate)

    def __init__(self, config: DistillationConfig) -> None:
        self.config = config
        teachers = [teacher_named(name) for name in config.teachers] if config.taught else []
        pictures = training_pictures(config.source)
        self.held_out = held_out_pairs(config.source)
        self.model = Student(config.student)
        self.trunk = _kept(self.model.trunk, config.student.size, config.keep, unit=False)
        views = []
        if config.rendered:
            views = mesh_views(config.renderings, config.source.root, pictures, config.keep / "renderings")
        self.dataset: TrainingSet = DistillationPairs(
            pictures,
            views,
            self.trunk,
            [_kept(teacher.backbone, teacher.max_size, config.keep) for teacher in teachers],
            config.student.size // STRIDE,
            config.mirror,
            config.seed,
        )

    def losses(self, batch: Batch[DistillationSample]) -> dict[str, Tensor]:
        """Means over the batch: of the cells of both pictures, of the points of both views, and their weighted sum."""
        config, count = self.config, len(batch)
        parts = [pair for pair, on in ((batch.taught, config.taught), (batch.rendered, config.rendered)) if on]
        grids = self.model(torch.cat([maps for pair in parts for maps in (pair.map0, pair.map1)])).split(count)
        out: dict[str, Tensor] = {}
        if config.taught:
            taught = batch.taught
            terms = [
                similarity_cross_entropy(
                    taught.teacher0[i], taught.teacher1[i], grids[0][i], grids[1][i], config.temperature
                )
                for i in range(count)
            ]
            out["distillation"] = torch.stack(terms).mean()
        if config.rendered:
            views = batch.rendered
            points = [
                keypoint_cross_entropy(
                    grids[-2][i], grids[-1][i], views.cells0[i], views.cells1[i],
                    temperature=config.temperature, sigma=config.sigma,
                )
                for i in range(count)
            ]  # fmt: skip
            every = torch.cat(points)
            out["renderings"] = every.sum() / (every > 0).sum().clamp(min=1)
        weights = {"distillation": config.distillation_weight, "renderings": config.renderings_weight}
        return {"loss": torch.stack([weights[name] * value for name, value in out.items()]).sum(), **out}

    def validate(self) -> dict[str, float]:
        """See `held_out_pck`."""
        device = next(self.model.parameters()).device
        return held_out_pck(
            self.held_out, lambda file, size: self.model(self.trunk(file, size)[None].to(device))[0].cpu()
        )


def teacher_named(name: str) -> FrozenFeatures:
    """The teacher called `name` at its own size. UsageError unless it is one of a backbone; what the catalogue raises
    for unknown names and missing files."""
    matcher = make_semantic_matcher(name)
    if not isinstance(matcher, FrozenFeatures):
        raise UsageError(f"a teacher needs a backbone, as efficientnet-lite0 or head:FILE, got {name}")
    return matcher


def _kept(backbone: Backbone, size: int, folder: Path, unit: bool = True) -> KeptFeatures:
    """In a folder of its own for every backbone, so that runs with other teachers can share them."""
    text = json.dumps({"size": size, **backbone.settings}, sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    return KeptFeatures(backbone, size, folder / f"{backbone.name}-{digest}", unit)


def build(config: DistillationConfig) -> Distillation:
    """The task of these settings. UsageError for data or teachers that are not there."""
    return Distillation(config)
