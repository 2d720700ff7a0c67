"""`vision3d bench match`: Efficient LoFTR beside transformers' port on the same seeded weights, and kornia's LoFTR.

Every call runs in a process of its own, with denormals flushed for all. Batch norms are measured on the photos, so that
activations keep their scale. The number of our matches is set behind the real coarse matching, whose cost stays: the
first cells of the photo are paired with themselves. The peers refine what they find; the port always refines all cells.
Results compared are the transformed coarse features. With bf16 the first photo and itself, moved by whole cells, are
matched in fp32 as well, untimed, and the share of the matched cells that stay matched is printed: seeded weights find
little else.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from vision3d.bench.harness import Case, measure, report
from vision3d.errors import UsageError

Part = Literal["whole", "backbone and coarse attention"]
SIZES = ((640, 480), (1152, 864))
COUNTS = (200, 1000, 4800)
TOLERANCE = {"fp32": 1e-3, "bf16": 1.0}  # greatest difference of coarse features; bfloat16 itself is off by 6


@dataclass(frozen=True, kw_only=True)
class BenchMatchConfig:
    """Times Efficient LoFTR beside transformers' port (same weights) and kornia's LoFTR on one pair of photos."""

    photos: tuple[Path, ...]
    """two photos"""
    cases: tuple[str, ...] = ()
    """only cases whose name has one of these words (default: all)"""
    repeats: int = 3
    """calls of each, of which the median is reported"""
    threads: int = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    """threads of each"""
    json: bool = False
    """print the figures as JSON"""


def run(config: BenchMatchConfig) -> int:
    """Measures and prints; 0 when the port finds the same features."""
    if len(config.photos) != 2 or not all(photo.is_file() for photo in config.photos):
        raise UsageError("--photos needs two files")
    for name in ("repeats", "threads"):
        if getattr(config, name) < 1:
            raise UsageError(f"--{name} must be at least 1, got {getattr(config, name)}")
    cases = [c for c in all_cases(config) if not config.cases or any(word in c.name for word in config.cases)]
    if not cases:
        raise UsageError(f"no case has one of the words {', '.join(config.cases)}")
    environment = {name: str(config.threads) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
    rows = [measure(case, config.repeats, environment) for case in cases]
    code = report("match", rows, as_json_text=config.json)
    for size in SIZES:
        if any(case.name.startswith(f"{size[0]}x{size[1]}, bf16") for case in cases):
            same, matches = unchanged(config.photos, size, config.threads)
            share = f"{same} of {matches} matches in fp32 ({100 * same / max(matches, 1):.1f} %)"
            line = f"{size[0]}x{size[1]}: {share} are matches in bf16"
            print(line, file=sys.stderr if config.json else sys.stdout)
    return code


def all_cases(config: BenchMatchConfig) -> list[Case]:
    """Sizes, precisions and numbers of matches."""
    cases = []
    for size in SIZES:
        prepared = (config.photos, size, config.threads)
        has_port, has_kornia = (importlib.util.find_spec(name) is not None for name in ("transformers", "kornia"))
        for precision in ("fp32", "bf16"):
            for count in COUNTS:
                cases.append(
                    Case(
                        name=f"{size[0]}x{size[1]}, {precision}, {count} matches",
                        ours=partial(ours, *prepared, precision, count, "whole"),
                        peers={
                            "limit": partial(ours, *prepared, precision, count, "backbone and coarse attention"),
                            "transformers": partial(port, *prepared) if has_port else None,
                            "kornia": partial(kornia_loftr, *prepared) if has_kornia else None,
                        },
                        difference=difference,
                        tolerance=TOLERANCE[precision],
                        isolate=True,
                    )
                )
    return cases


def difference(ours: Any, peer: Any) -> float:
    """Greatest difference of coarse features; zero where a peer has others."""
    return 0.0 if peer is None else float(abs(ours - peer).max())


def ours(
    photos: tuple[Path, ...], size: tuple[int, int], threads: int, precision: str, count: int, part: Part
) -> Callable[[], Any]:
    """Our fused network."""
    import torch

    from vision3d.matching.eloftr import model
    from vision3d.matching.eloftr.coarse import CellPairs, match_cells
    from vision3d.matching.eloftr.precision import to_16_bits

    pictures = _pictures(photos, size, threads)
    net = _seeded(pictures).fuse()
    net = to_16_bits(net) if precision == "bf16" else net
    held: list[Any] = []

    def chosen(cells0: Any, cells1: Any, *rest: Any) -> CellPairs:
        match_cells(cells0, cells1, *rest)
        held.append(_sample(cells0))
        number = torch.arange(min(count, cells0.shape[2] * cells0.shape[3]))
        return CellPairs(torch.zeros_like(number), number, number, torch.ones(len(number)))

    setattr(model, "match_cells", chosen)  # noqa: B010 (in this process alone)

    @torch.inference_mode()
    def call() -> Any:
        if part != "whole":
            return _sample(net.features(*pictures).cells[0])
        net(*pictures)
        return held[-1]

    call()  # kernels are compiled and prepared once
    return call


def unchanged(photos: tuple[Path, ...], size: tuple[int, int], threads: int) -> tuple[int, int]:
    """Of how many cells that match in fp32 between the first photo and itself, moved, how many do in bf16."""
    import torch

    from vision3d.matching.eloftr.coarse import match_cells
    from vision3d.matching.eloftr.precision import to_16_bits
    from vision3d.matching.eloftr.transformer import CELL

    pictures = _pictures(photos, size, threads)
    exact = _seeded(pictures).fuse()
    moved = pictures[0].roll((4 * CELL, 8 * CELL), (2, 3))
    found = []
    with torch.inference_mode():
        for net in (exact, to_16_bits(copy.deepcopy(exact))):
            features = net.features(pictures[0], moved)
            (cells0, cells1), (extents0, extents1) = features.cells, features.extents
            pairs = match_cells(cells0, cells1, extents0.mask(CELL), extents1.mask(CELL), net.config)
            found.append(set(zip(pairs.cells0.tolist(), pairs.cells1.tolist(), strict=True)))
    return len(found[0] & found[1]), len(found[0])


def port(photos: tuple[Path, ...], size: tuple[int, int], threads: int) -> Callable[[], Any]:
    """Transformers' network with our weights, float32."""
    import torch
    from transformers import EfficientLoFTRConfig, EfficientLoFTRForKeypointMatching  # type: ignore[import-not-found, unused-ignore]

    from vision3d.matching.eloftr.checkpoint import transformers_name

    pictures = _pictures(photos, size, threads)
    state = _seeded(pictures).state_dict()
    net = EfficientLoFTRForKeypointMatching(EfficientLoFTRConfig()).eval()
    net.load_state_dict({name: state[transformers_name(name)] for name in net.state_dict()})
    held: list[Any] = []
    net.efficientloftr.local_feature_transformer.register_forward_hook(lambda _, __, out: held.append(out))
    both = torch.stack([picture[0].expand(3, -1, -1) for picture in pictures])[None]

    @torch.inference_mode()
    def call() -> Any:
        held.clear()
        net(both)
        out = held[-1]
        cells = out[0] if isinstance(out, tuple) else out
        return _sample(cells.reshape(-1, *cells.shape[-3:])[:1])

    with torch.inference_mode():
        net(both)
    return call


def kornia_loftr(photos: tuple[Path, ...], size: tuple[int, int], threads: int) -> Callable[[], Any]:
    """kornia's LoFTR with weights drawn at random: another network, for its time alone."""
    import torch
    from kornia.feature import LoFTR

    pictures = _pictures(photos, size, threads)
    torch.manual_seed(0)
    net = LoFTR(pretrained=None).eval()

    @torch.inference_mode()
    def call() -> None:
        net({"image0": pictures[0], "image1": pictures[1]})

    return call


def _sample(cells: Any) -> Any:
    return cells[0, ::8, ::4, ::4].float().numpy().copy()  # a tensor would be shared, and its process ends


def _pictures(photos: tuple[Path, ...], size: tuple[int, int], threads: int) -> list[Any]:
    import cv2
    import torch

    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    grey = [cv2.imread(str(photo), cv2.IMREAD_GRAYSCALE) for photo in photos]
    for photo, picture in zip(photos, grey, strict=True):
        if picture is None:
            raise UsageError(f"{photo} is no photo")
    return [torch.from_numpy(cv2.resize(g, size, interpolation=cv2.INTER_AREA))[None, None] / 255 for g in grey]


def _seeded(pictures: list[Any]) -> Any:
    """The published size with seeded weights and batch norms measured on the middle of the photos; positions in large
    photos are not scaled down, as the port does not."""
    import torch
    from torch import nn

    from vision3d.matching.eloftr import EfficientLoFTR, EfficientLoFTRConfig

    net = EfficientLoFTR(EfficientLoFTRConfig(training_size=max(pictures[0].shape)))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() > 1:
                spread = (2.0 / parameter[0].numel()) ** 0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
        norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        net.train()
        net.fine(net.features(*(picture[..., 96:352, 96:416] for picture in pictures)))
    return net.eval()
