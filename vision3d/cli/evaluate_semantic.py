"""`vision3d evaluate spair71k`: semantic correspondence on SPair-71k, or on a set in its layout."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class EvaluateSpairConfig:
    """PCK of semantic matchers on SPair-71k by any of the protocols in use."""

    root: Path
    """SPair-71k's folder: PairAnnotation, ImageAnnotation, JPEGImages, Layout."""
    method: tuple[str, ...]
    """One or more semantic matchers (see matching/semantic/README.md): position, efficientnet-lite0, ..."""
    out: Path
    """Folder for predictions (one file a method, reused on a re-run), report.json, report.md and pictures."""
    split: str = "test"
    """trn, val or test."""
    layout: Literal["large", "small"] = "large"
    """List of pairs: Layout/large (all) or Layout/small."""
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


def run_spair(config: EvaluateSpairConfig) -> int:
    """Predicts and scores SPair-71k."""
    import torch

    from vision3d.cli.progress import progress_bars
    from vision3d.data.spair import read_spair
    from vision3d.errors import UsageError
    from vision3d.eval.semantic_pictures import draw_pairs
    from vision3d.eval.semantic_report import SemanticProtocol, chosen_pairs, evaluate_semantic
    from vision3d.eval.tables import print_tables

    if config.json and config.markdown:
        raise UsageError("choose one of --json and --markdown")
    if config.pictures < 0:
        raise UsageError(f"--pictures is 0 or more, got {config.pictures}")
    protocol = SemanticProtocol(
        alphas=config.alphas, reference=config.reference, strict=config.strict, square=config.square
    )
    split = read_spair(config.root, config.split, config.layout, config.categories)
    if split.synthetic:
        print("vision3d: the set says that it is synthetic", file=sys.stderr)
    name = "synthetic set in SPair-71k's layout" if split.synthetic else "SPair-71k"
    title = f"{name}, {config.split}" + (" (small)" if config.layout == "small" else "")
    with progress_bars() as progress:
        report = evaluate_semantic(
            split,
            title,
            config.method,
            config.out,
            protocol,
            limit=config.limit,
            workers=min(torch.get_num_threads(), 4) if config.workers is None else config.workers,
            progress=progress,
        )
        pairs = chosen_pairs(split, config.limit)
        for method in config.method if config.pictures else ():
            draw_pairs(pairs, method, config.out, protocol, config.pictures, progress)
    if config.json:
        print(json.dumps(report.json(), indent=1))
    elif config.markdown:
        print(report.markdown())
    else:
        print_tables(report.tables)
    return 0
