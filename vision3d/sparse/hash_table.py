"""Open addressing with linear probing on mixed 64-bit keys: from a site of a grid to its row, in Numba."""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ONE = np.uint64(1)


@numba.njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def home(key, shift):  # pragma: no cover (compiled)
    """The slot where the search for a key begins."""
    return (key ^ (key >> np.uint64(32))) * _GOLDEN >> shift


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def site_keys(indices, factors, out):  # pragma: no cover (compiled)
    """Writes the keys of indices [m 1+D]; returns whether they rise strictly."""
    rising = True
    for i in range(indices.shape[0]):
        key = np.uint64(0)
        for d in range(indices.shape[1]):
            key += np.uint64(indices[i, d]) * factors[d]
        out[i] = key
        if i > 0 and out[i - 1] >= key:
            rising = False
    return rising


@numba.njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def same_site(indices, row, other, i):  # pragma: no cover (compiled)
    """Whether row `row` of indices is row i of other."""
    same = True
    for d in range(indices.shape[1]):
        same &= indices[row, d] == other[i, d]
    return same


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def fill(keys, slot_keys, slot_rows, shift):  # pragma: no cover (compiled)
    """Puts every row into the table; rows are distinct sites. slot_rows is -1 where a slot is free."""
    mask = np.uint64(slot_rows.shape[0] - 1)
    for i in range(keys.shape[0]):
        slot = home(keys[i], shift)
        while slot_rows[slot] >= 0:
            slot = (slot + _ONE) & mask
        slot_keys[slot] = keys[i]
        slot_rows[slot] = i


def capacity(rows: int) -> int:
    """Slots for so many rows, a power of two: at most a third of them will be taken."""
    return 1 << max(4, (3 * rows - 1).bit_length())


def shift_of(slots: int) -> np.uint64:
    """What leaves the top bits of a product that number the slots."""
    return np.uint64(64 - (slots.bit_length() - 1))
