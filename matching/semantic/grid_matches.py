"""Matches of two pictures by any semantic matcher: grid points that come back when they are carried over and back.

The round trip is the cycle consistency that T. Zhou et al., "Learning Dense Correspondence via 3D-guided Cycle
Consistency", CVPR 2016, train with; here it only chooses. Nothing geometric is asked: other things have other shapes.
"""

from __future__ import annotations

import torch

from vision3d.core import Correspondences, Image
from vision3d.matching.semantic.base import SemanticMatcher

POINTS = 24  # of the grid, along the longer side


def grid_matches(
    matcher: SemanticMatcher, image0: Image, image1: Image, points: int = POINTS
) -> tuple[Correspondences, int]:
    """Matches (px of the originals) and the number of points tried.

    A point is kept if it comes back to within a step of the grid; its score falls from 1 (exactly) to 0. points: of the
    grid along the longer side of image 0.

    Raises:
        ValueError: a picture that cannot be described, or fewer than one point.
    """
    if points < 1:
        raise ValueError(f"the grid has 1 point or more along a side, got {points}")
    described0, described1 = matcher.describe(image0), matcher.describe(image1)
    width, height = image0.original_size
    step = max(width, height) / points
    columns, rows = max(1, round(width / step)), max(1, round(height / step))
    x = (torch.arange(columns) + 0.5) * (width / columns)
    y = (torch.arange(rows) + 0.5) * (height / rows)
    start = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)
    there = matcher.transfer(described0, described1, start)
    back = matcher.transfer(described1, described0, there)
    distance = (back - start).norm(dim=1)
    keep = distance <= step
    found = Correspondences(start[keep], there[keep], (1 - distance[keep] / step).clamp(0, 1))
    return found, len(start)
