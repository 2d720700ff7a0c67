"""Rulebooks on the CPU: sites are found through a hash table of 64-bit keys, one kernel element at a time, in Numba."""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import numba
import numpy as np
import torch

from vision3d.core.sparse_tensor import Sites
from vision3d.sparse import run_maps
from vision3d.sparse.hash_table import capacity, fill, home, same_site, shift_of, site_keys
from vision3d.sparse.kernel_map import KernelMap
from vision3d.sparse.keys import factors, fits
from vision3d.sparse.threads import use_torch_threads
from vision3d.sparse.window import Window

SCRATCH = 1 << 24  # entries of temporary lists at once
_ONE = np.uint64(1)


@dataclass(frozen=True, slots=True, eq=False)
class SiteTable:
    """Sites with their keys in a hash table. rising: keys are exact and rows stand in lexicographic order."""

    indices: np.ndarray
    extents: np.ndarray
    factors: np.ndarray
    keys: np.ndarray
    exact: bool
    rising: bool
    slot_keys: np.ndarray
    slot_rows: np.ndarray
    shift: np.uint64


def site_table(sites: Sites) -> SiteTable:
    """The hash table of sites on the CPU, made once."""
    found = sites.cache.get("table")
    if isinstance(found, SiteTable):
        return found
    indices = np.ascontiguousarray(sites.indices.numpy())
    multipliers = factors(sites.extents)
    keys = np.empty(len(indices), np.uint64)
    rising = site_keys(indices, multipliers, keys)
    slots = capacity(len(indices))
    slot_keys, slot_rows = np.empty(slots, np.uint64), np.full(slots, -1, np.int32)
    fill(keys, slot_keys, slot_rows, shift_of(slots))
    exact = fits(sites.extents)
    table = SiteTable(
        indices=indices,
        extents=np.array(sites.extents, np.int64),
        factors=multipliers,
        keys=keys,
        exact=exact,
        rising=bool(rising) and exact,
        slot_keys=slot_keys,
        slot_rows=slot_rows,
        shift=shift_of(slots),
    )
    sites.cache["table"] = table
    return table


def map_between(inputs: Sites, outputs: Sites, window: Window) -> KernelMap:
    """The rulebook from given input sites to given output sites; those that see nothing have no pairs."""
    table = site_table(inputs)
    targets = table if outputs is inputs else site_table(outputs)
    if table.rising and targets.rising:
        return run_maps.map_between(inputs, outputs, window)
    symmetric = outputs is inputs and window.is_symmetric
    elements = window.elements()
    half = len(elements) // 2 if symmetric else len(elements)
    group = max(1, SCRATCH // max(1, len(outputs)))
    in_parts, out_parts, counts = [], [], np.zeros(len(elements), np.int64)
    geometry = np.array([window.stride, window.padding, window.dilation], np.int64)
    use_torch_threads()
    for first in range(0, half, group):
        chosen = np.array(elements[first : min(first + group, half)], np.int64)
        in_rows = np.empty((len(chosen), len(outputs)), np.int32)
        out_rows = np.empty((len(chosen), len(outputs)), np.int32)
        found = np.zeros(len(chosen), np.int64)
        _look_up(
            targets.indices,
            geometry,
            chosen,
            table.extents,
            table.factors,
            table.indices,
            table.exact,
            table.slot_keys,
            table.slot_rows,
            table.shift,
            in_rows,
            out_rows,
            found,
        )
        counts[first : first + len(chosen)] = found
        in_parts += [in_rows[k, : found[k]] for k in range(len(chosen))]
        out_parts += [out_rows[k, : found[k]] for k in range(len(chosen))]
    if symmetric:
        counts[half] = len(outputs)
        counts[half + 1 :] = counts[:half][::-1]
        rows = np.arange(len(outputs), dtype=np.int32)
        mirrored = [(b, a) for a, b in zip(in_parts[::-1], out_parts[::-1], strict=True)]
        if not table.rising:
            mirrored = [(a[order], b[order]) for a, b in mirrored for order in [np.argsort(b)]]
        in_parts += [rows, *(a for a, _ in mirrored)]
        out_parts += [rows, *(b for _, b in mirrored)]
    return KernelMap(
        in_rows=torch.from_numpy(np.concatenate(in_parts)),
        out_rows=torch.from_numpy(np.concatenate(out_parts)),
        starts=(0, *np.cumsum(counts).tolist()),
        inputs=len(inputs),
        outputs=len(outputs),
        symmetric=symmetric,
    )


def map_onto_touched(
    inputs: Sites, window: Window, shape: tuple[int, ...], transposed: bool
) -> tuple[Sites, KernelMap]:
    """All output sites of a grid `shape` that an input touches, in lexicographic order, and the rulebook to them.

    transposed: element k of input i touches i * stride - padding + k * dilation, instead of the outputs that see i.
    """
    table = site_table(inputs)
    extents = (inputs.batch_size, *shape)
    if table.exact and fits(extents):
        return _onto_touched_by_runs(inputs, table, window, shape, transposed)
    multipliers = factors(extents)
    elements = np.array(window.elements(), np.int64)
    geometry = np.array([window.stride, window.padding, window.dilation], np.int64)
    size = np.array(extents, np.int64)
    counts = np.zeros(len(elements), np.int64)
    candidates = _count_touched(table.indices, geometry, elements, size, transposed, counts)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    slots = capacity(candidates)
    slot_keys, slot_rows = np.empty(slots, np.uint64), np.full(slots, -1, np.int32)
    in_rows, ids = np.empty(candidates, np.int32), np.empty(candidates, np.int32)
    out_indices = np.empty((candidates, len(extents)), table.indices.dtype)
    distinct = _collect_touched(
        table.indices,
        geometry,
        elements,
        size,
        transposed,
        multipliers,
        fits(extents),
        slot_keys,
        slot_rows,
        shift_of(slots),
        starts[:-1].copy(),
        in_rows,
        ids,
        out_indices,
    )
    out_indices = out_indices[:distinct]
    order = np.lexsort(out_indices.T[::-1])
    rank = np.empty(distinct, np.int32)
    rank[order] = np.arange(distinct, dtype=np.int32)
    out_rows = rank[ids]
    for k in range(len(elements)):
        part = slice(starts[k], starts[k + 1])
        if not table.rising and len(out_rows[part]):
            by_output = np.argsort(out_rows[part])
            in_rows[part], out_rows[part] = in_rows[part][by_output], out_rows[part][by_output]
    outputs = Sites(torch.from_numpy(out_indices[order]), shape, inputs.batch_size)
    rulebook = KernelMap(
        in_rows=torch.from_numpy(in_rows),
        out_rows=torch.from_numpy(out_rows),
        starts=tuple(starts.tolist()),
        inputs=len(inputs),
        outputs=distinct,
    )
    return outputs, rulebook


def _onto_touched_by_runs(
    inputs: Sites, table: SiteTable, window: Window, shape: tuple[int, ...], transposed: bool
) -> tuple[Sites, KernelMap]:
    """`map_onto_touched` by way of sorted sites."""
    order = None if table.rising else np.argsort(table.keys)
    if order is not None:
        inputs = Sites(torch.from_numpy(table.indices[order]), inputs.spatial_shape, inputs.batch_size)
    outputs = run_maps.touched_sites(inputs, window, shape, transposed)
    if transposed:
        backwards = run_maps.map_between(outputs, inputs, window)
        in_rows, out_rows, starts = backwards.out_rows, backwards.in_rows, backwards.starts
    else:
        forwards = run_maps.map_between(inputs, outputs, window)
        in_rows, out_rows, starts = forwards.in_rows, forwards.out_rows, forwards.starts
    if order is not None:
        in_rows = torch.from_numpy(order.astype(np.int32)[in_rows.numpy()])
    return outputs, KernelMap(in_rows, out_rows, starts, len(inputs), len(outputs))


@numba.njit(cache=True, nogil=True, parallel=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _look_up(
    targets, geometry, elements, extents, factors, sites, exact, slot_keys, slot_rows, shift, in_rows, out_rows, found
):  # pragma: no cover (compiled)
    """For every kernel element, in parallel: the outputs (rising) that have an input there, and that input."""
    mask = np.uint64(slot_rows.shape[0] - 1)
    columns = targets.shape[1]
    for k in numba.prange(elements.shape[0]):
        count = 0
        wanted = np.empty((1, columns), np.int64)
        for i in range(targets.shape[0]):
            wanted[0, 0] = targets[i, 0]
            key = np.uint64(targets[i, 0]) * factors[0]
            inside = targets[i, 0] < extents[0]
            for d in range(1, columns):
                at = targets[i, d] * geometry[0, d - 1] - geometry[1, d - 1] + elements[k, d - 1] * geometry[2, d - 1]
                inside &= (at >= 0) & (at < extents[d])
                key += np.uint64(at) * factors[d]
                wanted[0, d] = at
            if not inside:
                continue
            slot = home(key, shift)
            while slot_rows[slot] >= 0:
                row = slot_rows[slot]
                if slot_keys[slot] == key and (exact or same_site(sites, row, wanted, 0)):
                    in_rows[k, count] = row
                    out_rows[k, count] = i
                    count += 1
                    break
                slot = (slot + _ONE) & mask
        found[k] = count


@numba.njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _touched(indices, i, geometry, elements, k, size, transposed, out):  # pragma: no cover (compiled)
    """Writes the output site that input i touches through element k; returns whether there is one."""
    out[0] = indices[i, 0]
    for d in range(1, indices.shape[1]):
        stride, padding, dilation = geometry[0, d - 1], geometry[1, d - 1], geometry[2, d - 1]
        if transposed:
            at = indices[i, d] * stride - padding + elements[k, d - 1] * dilation
        else:
            at = indices[i, d] + padding - elements[k, d - 1] * dilation
            if at < 0 or at % stride != 0:
                return False
            at //= stride
        if at < 0 or at >= size[d]:
            return False
        out[d] = at
    return True


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _count_touched(indices, geometry, elements, size, transposed, counts):  # pragma: no cover (compiled)
    out = np.empty(indices.shape[1], np.int64)
    total = 0
    for i in range(indices.shape[0]):
        for k in range(elements.shape[0]):
            if _touched(indices, i, geometry, elements, k, size, transposed, out):
                counts[k] += 1
                total += 1
    return total


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _collect_touched(
    indices,
    geometry,
    elements,
    size,
    transposed,
    factors,
    exact,
    slot_keys,
    slot_rows,
    shift,
    position,
    in_rows,
    ids,
    out_indices,
):  # pragma: no cover (compiled)
    """Numbers the touched sites in the order of first appearance; writes the pairs sorted by element, then input."""
    mask = np.uint64(slot_rows.shape[0] - 1)
    columns = indices.shape[1]
    out = np.empty((1, columns), np.int64)
    distinct = 0
    for i in range(indices.shape[0]):
        for k in range(elements.shape[0]):
            if not _touched(indices, i, geometry, elements, k, size, transposed, out[0]):
                continue
            key = np.uint64(0)
            for d in range(columns):
                key += np.uint64(out[0, d]) * factors[d]
            slot = home(key, shift)
            while True:
                row = slot_rows[slot]
                if row < 0:
                    row = distinct
                    slot_keys[slot] = key
                    slot_rows[slot] = row
                    for d in range(columns):
                        out_indices[row, d] = out[0, d]
                    distinct += 1
                    break
                if slot_keys[slot] == key and (exact or same_site(out_indices, row, out, 0)):
                    break
                slot = (slot + _ONE) & mask
            at = position[k]
            position[k] += 1
            in_rows[at] = i
            ids[at] = row
    return distinct
