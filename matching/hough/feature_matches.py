"""Which features of two clouds are nearest to each other, in both directions from one product."""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Float, Int

from vision3d.sparse.threads import use_torch_threads

ROWS = 512  # of the table of products that is held at once
PARTS = 8  # of these, each with the best of its columns


def nearest_features(
    features0: Float[np.ndarray, "n c"], features1: Float[np.ndarray, "m c"]
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]:
    """The nearest (Euclidean) of features1 for each of features0, and the other way round; both one or more.

    Where features are equally near, the first. -|a - b|^2 / 2 is the product of (a, 1, -|a|^2 / 2) and
    (b, -|b|^2 / 2, 1); features are centred and scaled first, so that float32 keeps the digits.
    """
    a, b = torch.from_numpy(features0).float(), torch.from_numpy(features1).float()
    middle = (a.mean(0) + b.mean(0)) / 2
    a, b = a - middle, b - middle
    scale = torch.sqrt((a.square().sum(1).mean() + b.square().sum(1).mean()) / 2).clamp(min=1e-20)
    a, b = a / scale, b / scale
    half0, half1 = a.square().sum(1, keepdim=True) / 2, b.square().sum(1, keepdim=True) / 2
    left = torch.cat([a, torch.ones_like(half0), -half0], 1)
    right = torch.cat([b, -half1, torch.ones_like(half1)], 1).T.contiguous()
    n, m = len(a), len(b)
    index0, index1 = np.empty(n, np.int32), np.zeros(m, np.int32)
    best = np.full(m, -np.inf, np.float32)
    product = torch.empty(min(ROWS, n), m)
    part_best, part_index = np.empty((PARTS, m), np.float32), np.empty((PARTS, m), np.int32)
    use_torch_threads()
    for i in range(0, n, ROWS):
        out = product[: min(ROWS, n - i)]
        torch.mm(left[i : i + ROWS], right, out=out)
        _sweep(out.numpy(), np.int32(i), index0, part_best, part_index)
        for k in range(PARTS):
            better = part_best[k] > best
            np.copyto(best, part_best[k], where=better)
            np.copyto(index1, part_index[k], where=better)
    return index0, index1


def mutual_matches(
    features0: Float[np.ndarray, "n c"], features1: Float[np.ndarray, "m c"]
) -> tuple[Int[np.ndarray, "k 2"], Float[np.ndarray, " k"]]:
    """Pairs whose features are each other's nearest (Euclidean), and their distances."""
    if not len(features0) or not len(features1):
        return np.zeros((0, 2), np.int64), np.zeros(0)
    pairs = mutual(*nearest_features(features0, features1))
    return pairs, np.linalg.norm(features0[pairs[:, 0]].astype(np.float64) - features1[pairs[:, 1]], axis=1)


def mutual(index0: Int[np.ndarray, " n"], index1: Int[np.ndarray, " m"]) -> Int[np.ndarray, "k 2"]:
    """The pairs on which both directions agree."""
    rows = np.flatnonzero(index1[index0] == np.arange(len(index0)))
    return np.stack([rows, index0[rows]], axis=1).astype(np.int64)


def either(index0: Int[np.ndarray, " n"], index1: Int[np.ndarray, " m"]) -> Int[np.ndarray, "k 2"]:
    """The pairs of both directions; those on which they agree come twice, and so count double in a sum."""
    return np.stack(
        [np.append(np.arange(len(index0)), index1), np.append(index0, np.arange(len(index1)))], axis=1
    ).astype(np.int64)


@numba.njit(cache=True, nogil=True, parallel=True, fastmath={"nnan", "nsz", "reassoc"})  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _sweep(product, start, index0, part_best, part_index):  # pragma: no cover (compiled)
    """The best of each row, and of each column in each part of the rows; vector code, but for the search of a row."""
    n, m = product.shape
    for k in numba.prange(PARTS):
        best, index = part_best[k], part_index[k]
        for j in range(m):
            best[j] = np.float32(-3e38)
            index[j] = 0
        for i in range(n * k // PARTS, n * (k + 1) // PARTS):
            row = product[i]
            number = np.int32(start + i)
            top = np.float32(-3e38)
            for j in range(m):
                top = max(top, row[j])
            for j in range(m):
                x = row[j]
                better = x > best[j]
                best[j] = x if better else best[j]
                index[j] = number if better else index[j]
            at = 0
            while row[at] < top:
                at += 1
            index0[number] = at
