"""Rulebooks of the four convolutions, made once for given sites and kept with them."""

from __future__ import annotations

from types import ModuleType

from vision3d.core.sparse_tensor import Sites
from vision3d.sparse import hash_maps, sorted_maps
from vision3d.sparse.kernel_map import KernelMap
from vision3d.sparse.window import Window


def submanifold(sites: Sites, window: Window) -> KernelMap:
    """From sites to themselves."""
    key = ("submanifold", window)
    if key not in sites.cache:
        sites.cache[key] = _builder(sites).map_between(sites, sites, window)
    found = sites.cache[key]
    assert isinstance(found, KernelMap)
    return found


def strided(sites: Sites, window: Window) -> tuple[Sites, KernelMap]:
    """To all sites that see at least one of the input sites, in lexicographic order (spconv's regular convolution)."""
    key = ("strided", window)
    if key not in sites.cache:
        shape = window.output_shape(sites.spatial_shape)
        sites.cache[key] = _builder(sites).map_onto_touched(sites, window, shape, transposed=False)
    outputs, rulebook = sites.cache[key]
    assert isinstance(outputs, Sites) and isinstance(rulebook, KernelMap)
    return outputs, rulebook


def transposed(sites: Sites, window: Window, output_padding: tuple[int, ...]) -> tuple[Sites, KernelMap]:
    """To all sites that the transposed convolution touches, in lexicographic order."""
    key = ("transposed", window, output_padding)
    if key not in sites.cache:
        shape = window.transposed_shape(sites.spatial_shape, output_padding)
        sites.cache[key] = _builder(sites).map_onto_touched(sites, window, shape, transposed=True)
    outputs, rulebook = sites.cache[key]
    assert isinstance(outputs, Sites) and isinstance(rulebook, KernelMap)
    return outputs, rulebook


def inverse(coarse: Sites, fine: Sites, window: Window) -> KernelMap:
    """From coarse sites back to fine ones: the strided rulebook of `fine` backwards, if that one led to `coarse`.

    If it did not, a new rulebook between both is made and kept with `fine`. ValueError if the coarse grid is neither
    the window's nor that of the cells of stride^D fine sites.
    """
    known = fine.cache.get(("strided", window))
    if known is not None and known[0] is coarse:
        rulebook = known[1]
        assert isinstance(rulebook, KernelMap)
        return rulebook.transposed()
    fits = coarse.spatial_shape == window.cells(fine.spatial_shape)
    fits = fits or coarse.spatial_shape == window.output_shape(fine.spatial_shape)
    if not fits or coarse.batch_size != fine.batch_size:
        raise ValueError(
            f"{window} leads from {fine.spatial_shape} (batch size {fine.batch_size}) to "
            f"{window.output_shape(fine.spatial_shape)}, not to {coarse.spatial_shape} (batch size {coarse.batch_size})"
        )
    return between(fine, coarse, window).transposed()


def between(fine: Sites, coarse: Sites, window: Window) -> KernelMap:
    """From fine sites to given coarse ones, kept with `fine`."""
    key = ("between", window)
    kept = fine.cache.get(key)
    if kept is None or kept[0] is not coarse:
        kept = (coarse, _builder(fine).map_between(fine, coarse, window))
        fine.cache[key] = kept
    rulebook = kept[1]
    assert isinstance(rulebook, KernelMap)
    return rulebook


def _builder(sites: Sites) -> ModuleType:
    """The module that builds: a hash table on the CPU, sorted keys elsewhere."""
    return hash_maps if sites.indices.device.type == "cpu" else sorted_maps
