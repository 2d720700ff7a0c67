"""`vision3d evaluate spair71k`, `pf-pascal`, `pf-willow`, `cub`, `ap10k`: semantic correspondence by its protocols."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from vision3d.data.semantic_pairs import PairSplit


@dataclass(frozen=True, kw_only=True)
class _Common:
    method: tuple[str, ...]
    """One or more semantic matchers (see matching/semantic/README.md): position, efficientnet-lite0, ... Options of one
    alone stand at its end: efficientnet-lite0,rule=soft,flip,size=384."""
    out: Path
    """Folder for predictions (one file a method, reused on a re-run), report.json, report.md and pictures."""
    rule: Literal["nearest", "mutual", "soft"] | None = None
    """How points find their cell, of all methods (default: the method's own, nearest)."""
    flip: bool = False
    """Carry points from the mirror image where that looks more like the target, all methods."""
    size: int | None = None
    """px of the square that pictures are squashed to, of all methods (default: the method's own)."""
    categories: tuple[str, ...] = ()
    """Only these (default: all)."""
    alphas: tuple[float, ...] = (0.1, 0.05, 0.01)
    """Thresholds as shares of the longer side of the target's box or image."""
    reference: Literal["box", "image"] = "box"
    """What alpha is a share of."""
    strict: bool = False
    """A distance equal to the threshold is wrong (`<` instead of `<=`)."""
    square: int | None = None
    """Measure in pictures squashed to a square of so many px (default: in the originals)."""
    cycles: int = 0
    """Also k-CyPCK for k = 2, 3, 4, each from so many random cycles of pictures per category (ASIC takes 200)."""
    limit: int | None = None
    """At most so many pairs, spread evenly over the split."""
    pictures: int = 0
    """Draw so many pairs of each method, spread evenly, with found and true points."""
    workers: int | None = None
    """Processes that share the pairs (default: one per core, at most 4)."""
    json: bool = False
    """Print JSON instead of tables."""
    markdown: bool = False
    """Print Markdown instead of tables."""


@dataclass(frozen=True, kw_only=True)
class EvaluateSpairConfig(_Common):
    """PCK of semantic matchers on SPair-71k by any of the protocols in use."""

    root: Path
    """SPair-71k's folder: PairAnnotation, ImageAnnotation, JPEGImages, Layout."""
    split: str = "test"
    """trn, val or test."""
    layout: Literal["large", "small"] = "large"
    """List of pairs: Layout/large (all) or Layout/small."""


@dataclass(frozen=True, kw_only=True)
class EvaluatePfPascalConfig(_Common):
    """PCK of semantic matchers on PF-PASCAL; by custom alpha is a share of the image."""

    root: Path
    """PF-PASCAL's folder: test_pairs.csv (or test_pairs_pf_pascal.csv), JPEGImages, Annotations."""
    split: str = "test"
    """trn, val or test."""
    alphas: tuple[float, ...] = (0.1, 0.05, 0.15)
    """Thresholds as shares of the longer side of the target's image or box."""
    reference: Literal["box", "image"] = "image"
    """What alpha is a share of."""


@dataclass(frozen=True, kw_only=True)
class EvaluatePfWillowConfig(_Common):
    """PCK of semantic matchers on PF-WILLOW; by custom alpha is a share of the box of the target's keypoints."""

    root: Path
    """PF-WILLOW's folder: test_pairs.csv (or test_pairs_pf.csv) and a folder per category."""
    alphas: tuple[float, ...] = (0.1, 0.05, 0.15)
    """Thresholds as shares of the longer side of the box of the target's keypoints, or of its image."""


@dataclass(frozen=True, kw_only=True)
class EvaluateCubConfig(_Common):
    """PCK of semantic matchers on all pairs of pictures of a species of CUB-200-2011."""

    root: Path
    """CUB_200_2011: images.txt, bounding_boxes.txt, train_test_split.txt, parts, images."""
    split: str = "test"
    """trn or test."""
    strict: bool = True
    """A distance equal to the threshold is wrong (`<`), as in ASIC."""


@dataclass(frozen=True, kw_only=True)
class EvaluateAp10kConfig(_Common):
    """PCK of semantic matchers on the pairs made of AP-10K for "Telling Left from Right"."""

    root: Path
    """ap-10k: PairAnnotation, ImageAnnotation, JPEGImages."""
    split: str = "test"
    """trn, val, test, val_cross_species, test_cross_species, val_cross_family or test_cross_family."""
    strict: bool = True
    """A distance equal to the threshold is wrong (`<`), as in "Telling Left from Right"."""


def run_spair(config: EvaluateSpairConfig) -> int:
    """Predicts and scores SPair-71k."""
    from vision3d.data.spair import read_spair

    split = read_spair(config.root, config.split, config.layout, config.categories)
    if split.synthetic:
        print("vision3d: the set says that it is synthetic", file=sys.stderr)
    name = "synthetic set in SPair-71k's layout" if split.synthetic else "SPair-71k"
    return _run(config, split, f"{name}, {config.split}" + (" (small)" if config.layout == "small" else ""))


def run_pf_pascal(config: EvaluatePfPascalConfig) -> int:
    """Predicts and scores PF-PASCAL."""
    from vision3d.data.pf_pascal import read_pf_pascal

    return _run(config, read_pf_pascal(config.root, config.split, config.categories), f"PF-PASCAL, {config.split}")


def run_pf_willow(config: EvaluatePfWillowConfig) -> int:
    """Predicts and scores PF-WILLOW."""
    from vision3d.data.pf_willow import read_pf_willow

    return _run(config, read_pf_willow(config.root, "test", config.categories), "PF-WILLOW, boxes of keypoints")


def run_cub(config: EvaluateCubConfig) -> int:
    """Predicts and scores pairs of CUB."""
    from vision3d.data.cub import read_cub

    return _run(config, read_cub(config.root, config.split, config.categories), f"CUB-200-2011, {config.split}")


def run_ap10k(config: EvaluateAp10kConfig) -> int:
    """Predicts and scores pairs of AP-10K."""
    from vision3d.data.ap10k import read_ap10k

    return _run(config, read_ap10k(config.root, config.split, config.categories), f"AP-10K, {config.split}")


def _run(config: _Common, split: PairSplit, title: str) -> int:
    import torch

    from vision3d.cli.progress import progress_bars
    from vision3d.errors import UsageError
    from vision3d.eval.semantic_cycles import evaluate_cycles
    from vision3d.eval.semantic_pictures import draw_pairs
    from vision3d.eval.semantic_report import SemanticProtocol, chosen_pairs, evaluate_semantic, with_table
    from vision3d.eval.tables import print_tables
    from vision3d.matching.semantic.catalogue import with_options

    if config.json and config.markdown:
        raise UsageError("choose one of --json and --markdown")
    if config.cycles < 0:
        raise UsageError(f"--cycles is 0 or more, got {config.cycles}")
    if config.pictures < 0:
        raise UsageError(f"--pictures is 0 or more, got {config.pictures}")
    methods = tuple(with_options(m, rule=config.rule, flip=config.flip, size=config.size) for m in config.method)
    protocol = SemanticProtocol(
        alphas=config.alphas, reference=config.reference, strict=config.strict, square=config.square
    )
    with progress_bars() as progress:
        report = evaluate_semantic(
            split,
            title,
            methods,
            config.out,
            protocol,
            limit=config.limit,
            workers=min(torch.get_num_threads(), 4) if config.workers is None else config.workers,
            progress=progress,
        )
        pairs = chosen_pairs(split, config.limit)
        if config.cycles:
            table = evaluate_cycles(pairs, title, methods, config.out, protocol, config.cycles, progress)
            report = with_table(report, table, config.out)
        for method in methods if config.pictures else ():
            draw_pairs(pairs, method, config.out, protocol, config.pictures, progress)
    if config.json:
        print(json.dumps(report.json(), indent=1))
    elif config.markdown:
        print(report.markdown())
    else:
        print_tables(report.tables)
    return 0
