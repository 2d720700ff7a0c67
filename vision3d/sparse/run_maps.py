"""Rulebooks on the CPU for sites in lexicographic order: whole runs of sites are looked up, then merged.

A run holds the sites that differ in the last dimension only. The hash table holds runs, one look-up serves all sites of
a run and all kernel elements along the last dimension; two runs are then merged like sorted lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import numba
import numpy as np
import torch

from vision3d.core.sparse_tensor import Sites
from vision3d.sparse.hash_table import capacity, fill, home, shift_of
from vision3d.sparse.kernel_map import KernelMap
from vision3d.sparse.keys import factors
from vision3d.sparse.threads import use_torch_threads
from vision3d.sparse.window import Window

SCRATCH = 1 << 24  # entries of temporary lists at once
_ONE = np.uint64(1)


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Sites first[r] to first[r + 1] form run r; the table leads from the key of all columns but the last to r."""

    indices: np.ndarray
    last: np.ndarray
    first: np.ndarray
    extents: np.ndarray
    factors: np.ndarray
    slot_keys: np.ndarray
    slot_rows: np.ndarray
    shift: np.uint64


def runs_of(sites: Sites) -> Runs:
    """The runs of sites in lexicographic order, found once."""
    found = sites.cache.get("runs")
    if isinstance(found, Runs):
        return found
    indices = np.ascontiguousarray(sites.indices.numpy())
    multipliers = factors(sites.extents[:-1])
    first, keys = np.empty(len(indices) + 1, np.int32), np.empty(len(indices), np.uint64)
    last = np.empty(len(indices), np.int64)
    count = _cut_into_runs(indices, multipliers, first, keys, last)
    slots = capacity(count)
    slot_keys, slot_rows = np.empty(slots, np.uint64), np.full(slots, -1, np.int32)
    fill(keys[:count], slot_keys, slot_rows, shift_of(slots))
    runs = Runs(
        indices=indices,
        last=last,
        first=first[: count + 1],
        extents=np.array(sites.extents, np.int64),
        factors=multipliers,
        slot_keys=slot_keys,
        slot_rows=slot_rows,
        shift=shift_of(slots),
    )
    sites.cache["runs"] = runs
    return runs


def map_between(inputs: Sites, outputs: Sites, window: Window) -> KernelMap:
    """As `hash_maps.map_between`, for sites in lexicographic order; within an element, input rows rise as well."""
    source, target = runs_of(inputs), runs_of(outputs)
    symmetric = outputs is inputs and window.is_symmetric
    geometry, heads = _geometry(window)
    along = window.kernel_size[-1]
    wanted = window.volume // 2 if symmetric else window.volume
    most = min(len(inputs), len(outputs))
    group = max(1, SCRATCH // max(1, most * along))
    in_parts, out_parts, counts = [], [], np.zeros(window.volume, np.int64)
    use_torch_threads()
    for begin in range(0, -(-wanted // along), group):
        chosen = heads[begin : begin + group]
        limit = min(len(chosen) * along, wanted - begin * along)
        in_rows, out_rows = np.empty((limit, most), np.int32), np.empty((limit, most), np.int32)
        found = np.zeros(limit, np.int64)
        _merge_runs(
            target.indices,
            target.last,
            target.first,
            geometry,
            chosen,
            along,
            source.extents,
            source.factors,
            source.last,
            source.first,
            source.slot_keys,
            source.slot_rows,
            source.shift,
            in_rows,
            out_rows,
            found,
        )
        counts[begin * along : begin * along + limit] = found
        in_parts += [in_rows[k, : found[k]] for k in range(limit)]
        out_parts += [out_rows[k, : found[k]] for k in range(limit)]
    if symmetric:
        counts[wanted] = len(outputs)
        counts[wanted + 1 :] = counts[:wanted][::-1]
        own = [np.arange(len(outputs), dtype=np.int32)]
        in_parts, out_parts = in_parts + own + out_parts[::-1], out_parts + own + in_parts[::-1]
    return KernelMap(
        in_rows=torch.from_numpy(np.concatenate(in_parts)),
        out_rows=torch.from_numpy(np.concatenate(out_parts)),
        starts=(0, *np.cumsum(counts).tolist()),
        inputs=len(inputs),
        outputs=len(outputs),
        symmetric=symmetric,
    )


def touched_sites(inputs: Sites, window: Window, shape: tuple[int, ...], transposed: bool) -> Sites:
    """As the sites of `hash_maps.map_onto_touched`, for sites in lexicographic order."""
    source = runs_of(inputs)
    geometry, heads = _geometry(window)
    extents = (inputs.batch_size, *shape)
    size, multipliers = np.array(extents, np.int64), factors(extents[:-1])
    keys = np.empty((len(source.first) - 1) * len(heads), np.uint64)  # memory that is not written costs nothing
    touched = _touch_heads(source.indices, source.first, geometry, heads, size, transposed, multipliers, keys)
    keys = np.unique(keys[:touched])
    prefixes = np.empty((len(keys), len(shape)), np.int64)
    found = np.empty((len(keys), len(heads)), np.int32)
    room = np.zeros(len(keys) + 1, np.int64)
    use_torch_threads()
    _find_sources(
        keys,
        multipliers,
        geometry,
        heads,
        transposed,
        source.extents,
        source.factors,
        source.first,
        source.slot_keys,
        source.slot_rows,
        source.shift,
        window.kernel_size[-1],
        prefixes,
        found,
        room,
    )
    offsets = np.cumsum(room)
    scratch = np.empty(int(offsets[-1]), np.int64)
    counts = np.zeros(len(keys), np.int64)
    _touch_along(
        found,
        offsets,
        source.first,
        source.last,
        geometry,
        window.kernel_size[-1],
        shape[-1],
        transposed,
        scratch,
        counts,
    )
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    indices = np.empty((int(starts[-1]), len(extents)), source.indices.dtype)
    _write_sites(prefixes, offsets, scratch, counts, starts, indices)
    return Sites(torch.from_numpy(indices), shape, inputs.batch_size)


def _geometry(window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Stride, padding and dilation with a batch column in front; kernel elements without their last dimension."""
    geometry = np.array([(1, *window.stride), (0, *window.padding), (1, *window.dilation)], np.int64)
    along = window.kernel_size[-1]
    heads = np.array([(0, *element[:-1]) for element in window.elements()[::along]], np.int64)
    return geometry, heads


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _cut_into_runs(indices, factors, first, keys, last):  # pragma: no cover (compiled)
    """Writes where runs begin, their keys and the last column; returns the number of runs."""
    columns = indices.shape[1] - 1
    count = 0
    previous = np.uint64(0)
    for i in range(indices.shape[0]):
        key = np.uint64(0)
        for d in range(columns):
            key += np.uint64(indices[i, d]) * factors[d]
        last[i] = indices[i, columns]
        if i == 0 or key != previous:
            first[count] = i
            keys[count] = key
            count += 1
            previous = key
    first[count] = indices.shape[0]
    return count


@numba.njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _find(key, slot_keys, slot_rows, shift):  # pragma: no cover (compiled)
    """The run with this key, or -1."""
    mask = np.uint64(slot_rows.shape[0] - 1)
    slot = home(key, shift)
    while slot_rows[slot] >= 0 and slot_keys[slot] != key:
        slot = (slot + _ONE) & mask
    return slot_rows[slot]


@numba.njit(cache=True, nogil=True, parallel=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _merge_runs(
    targets,
    target_last,
    target_first,
    geometry,
    heads,
    along,
    extents,
    factors,
    source_last,
    source_first,
    slot_keys,
    slot_rows,
    shift,
    in_rows,
    out_rows,
    found,
):  # pragma: no cover (compiled)
    """For every kernel element the pairs of sites, in rising order of both."""
    columns = heads.shape[1]
    stride, padding, dilation = geometry[0, columns], geometry[1, columns], geometry[2, columns]
    for q in numba.prange(heads.shape[0]):
        elements = min(along, found.shape[0] - q * along)
        for r in range(target_first.shape[0] - 1):
            begin, end = target_first[r], target_first[r + 1]
            key = np.uint64(0)
            inside = True
            for d in range(columns):
                at = targets[begin, d] * geometry[0, d] - geometry[1, d] + heads[q, d] * geometry[2, d]
                inside &= (at >= 0) & (at < extents[d])
                key += np.uint64(at) * factors[d]
            if not inside:
                continue
            run = _find(key, slot_keys, slot_rows, shift)
            if run < 0:
                continue
            stop = source_first[run + 1]
            for e in range(elements):
                k = q * along + e
                count = found[k]
                j = source_first[run]
                for i in range(begin, end):
                    wanted = target_last[i] * stride - padding + e * dilation
                    while j < stop and source_last[j] < wanted:
                        j += 1
                    if j == stop:
                        break
                    if source_last[j] == wanted:
                        in_rows[k, count] = j
                        out_rows[k, count] = i
                        count += 1
                found[k] = count


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _touch_heads(indices, first, geometry, heads, size, transposed, factors, keys):  # pragma: no cover (compiled)
    """Writes the keys of the runs of outputs that runs of inputs touch, repeatedly; returns how many."""
    count = 0
    for r in range(first.shape[0] - 1):
        for q in range(heads.shape[0]):
            key = np.uint64(0)
            good = True
            for d in range(heads.shape[1]):
                at = np.int64(indices[first[r], d])
                if transposed:
                    at = at * geometry[0, d] - geometry[1, d] + heads[q, d] * geometry[2, d]
                else:
                    at = at + geometry[1, d] - heads[q, d] * geometry[2, d]
                    good &= at % geometry[0, d] == 0
                    at //= geometry[0, d]
                good &= (at >= 0) & (at < size[d])
                key += np.uint64(at) * factors[d]
            if good:
                keys[count] = key
                count += 1
    return count


@numba.njit(cache=True, nogil=True, parallel=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _find_sources(
    keys,
    key_factors,
    geometry,
    heads,
    transposed,
    extents,
    factors,
    first,
    slot_keys,
    slot_rows,
    shift,
    along,
    prefixes,
    found,
    room,
):  # pragma: no cover (compiled)
    """For every run of outputs: its indices, the run of inputs each kernel element sees, and how many sites at most."""
    for o in numba.prange(keys.shape[0]):
        rest = keys[o]
        for d in range(heads.shape[1]):
            prefixes[o, d] = rest // key_factors[d]
            rest = rest % key_factors[d]
        for q in range(heads.shape[0]):
            key = np.uint64(0)
            good = True
            for d in range(heads.shape[1]):
                at = prefixes[o, d]
                if transposed:
                    at = at + geometry[1, d] - heads[q, d] * geometry[2, d]
                    good &= at % geometry[0, d] == 0
                    at //= geometry[0, d]
                else:
                    at = at * geometry[0, d] - geometry[1, d] + heads[q, d] * geometry[2, d]
                good &= (at >= 0) & (at < extents[d])
                key += np.uint64(at) * factors[d]
            run = np.int32(-1)
            if good:
                run = _find(key, slot_keys, slot_rows, shift)
            found[o, q] = run
            if run >= 0:
                room[o + 1] += (first[run + 1] - first[run]) * along


@numba.njit(cache=True, nogil=True, parallel=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _touch_along(
    found, offsets, first, last, geometry, along, extent, transposed, scratch, counts
):  # pragma: no cover (compiled)
    """Writes the last indices of every run of outputs, rising, each once."""
    column = geometry.shape[1] - 1
    stride, padding, dilation = geometry[0, column], geometry[1, column], geometry[2, column]
    for o in numba.prange(counts.shape[0]):
        begin = offsets[o]
        end = begin
        for q in range(found.shape[1]):
            run = found[o, q]
            if run < 0:
                continue
            for e in range(along):
                for j in range(first[run], first[run + 1]):
                    if transposed:
                        at = last[j] * stride - padding + e * dilation
                    else:
                        at = last[j] + padding - e * dilation
                        if at % stride != 0:
                            continue
                        at //= stride
                    if at >= 0 and at < extent:
                        scratch[end] = at
                        end += 1
        scratch[begin:end].sort()
        count = 0
        for i in range(begin, end):
            if i == begin or scratch[i] != scratch[begin + count - 1]:
                scratch[begin + count] = scratch[i]
                count += 1
        counts[o] = count


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _write_sites(prefixes, offsets, scratch, counts, starts, indices):  # pragma: no cover (compiled)
    columns = prefixes.shape[1]
    for o in range(counts.shape[0]):
        for i in range(counts[o]):
            for d in range(columns):
                indices[starts[o] + i, d] = prefixes[o, d]
            indices[starts[o] + i, columns] = scratch[offsets[o] + i]
