"""PCK of held-out pairs by nearest neighbour, the validation of tasks that train semantic features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from vision3d.data.semantic_pairs import SemanticPair
from vision3d.eval.pck import PckRule, PredictedPair, pck
from vision3d.matching.semantic.base import DenseFeatures
from vision3d.matching.semantic.frozen import TransferConfig, carry

ALPHA = 0.1


def held_out_pck(
    pairs: Sequence[SemanticPair], describe: Callable[[Path, tuple[int, int]], Float[Tensor, "c h w"]]
) -> dict[str, float]:
    """PCK@0.1 (box, original resolution) per image (`pck`) and per point (`pck_point`) in percent; {} without pairs.

    describe: the grid of unit vectors of a picture of (width, height) px; asked once per picture.
    """
    grids: dict[Path, DenseFeatures] = {}
    found = []
    for pair in pairs:
        for file, size in ((pair.image0, pair.size0), (pair.image1, pair.size1)):
            if file not in grids:
                grids[file] = DenseFeatures(describe(file, size), size)
        points = carry(grids[pair.image0], grids[pair.image1], pair.points0, TransferConfig())
        truth = pair.points1.double().numpy()
        found.append(PredictedPair(points.double().numpy(), truth, pair.size1, pair.box1))
    if not found:
        return {}
    per_image = pck(found, ALPHA, PckRule(average="image")) or 0.0
    per_point = pck(found, ALPHA, PckRule(average="point")) or 0.0
    return {"pck": 100 * per_image, "pck_point": 100 * per_point}
