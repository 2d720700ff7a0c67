"""PatchMatch stereo on planes rendered in closed form: depth, normals, order of threads, unit of the scene."""

import numpy as np
import pytest
import torch
from textured_planes import render, ring_poses, scene_of

from vision3d.core import View
from vision3d.recon.stereo.consistency import FilterConfig, KeptDepth, keep_consistent
from vision3d.recon.stereo.neighbours import choose_neighbours
from vision3d.recon.stereo.patchmatch import PlaneMap, StereoConfig, estimate_planes

SLANTED = (np.array([0.5, 0.2, -np.sqrt(1 - 0.29)]), -1.7)
BACK = (np.array([0.0, 0.0, -1.0]), -2.4)
FRONT = (np.array([0.0, 0.0, -1.0]), -1.6)


def _planes(views: list[View], seed: int = 0) -> tuple[list[PlaneMap], list[KeptDepth]]:
    hood = choose_neighbours(views, scene_of(views), 3)
    maps = estimate_planes(views, hood.sources, hood.inverse_depths, hood.unit, StereoConfig(seed=seed))
    return maps, keep_consistent(views, maps, hood.sources, FilterConfig())


def test_slanted_plane_comes_out_with_its_depth_and_normal() -> None:
    views, depths, normals = render([SLANTED], ring_poses(3))
    maps, kept = _planes(views)
    inner = np.s_[10:-10, 25:-25]
    relative = np.abs(maps[1].depth / depths[1] - 1)[inner]
    assert np.median(relative) < 0.001
    assert (relative < 0.01).mean() > 0.98
    angle = np.degrees(np.arccos((maps[1].normal * normals[1]).sum(-1).clip(-1, 1)))[inner]
    assert np.median(angle) < 4
    assert (kept[1].depth[inner] > 0).mean() > 0.97
    assert (kept[1].confidence[inner] > 0.5).mean() > 0.9


def test_two_planes_keep_their_edge_and_what_is_wrong_is_dropped() -> None:
    views, depths, _ = render([FRONT, BACK], ring_poses(4, baseline=0.2))
    maps, kept = _planes(views)
    relative = np.abs(kept[1].depth / depths[1] - 1)[kept[1].depth > 0]
    assert (kept[1].depth > 0).mean() > 0.7
    assert np.median(relative) < 0.002
    assert (relative < 0.02).mean() > 0.97  # the window reaches over the edge, a few pixels are fattened
    for side in (np.s_[20:-20, 15:40], np.s_[20:-20, 90:-15]):
        assert (np.abs(maps[1].depth / depths[1] - 1)[side] < 0.01).mean() > 0.95


def test_threads_and_repetition_change_nothing_and_the_seed_does() -> None:
    views, _, _ = render([SLANTED], ring_poses(2), size=(72, 56))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = _planes(views)[0]
        torch.set_num_threads(max(2, before))
        many = _planes(views)[0]
    finally:
        torch.set_num_threads(before)
    for a, b in zip(one, many, strict=True):
        assert np.array_equal(a.depth, b.depth)
        assert np.array_equal(a.normal, b.normal)
        assert np.array_equal(a.cost, b.cost)
    assert not np.array_equal(one[0].depth, _planes(views, seed=1)[0][0].depth)


@pytest.mark.parametrize("scale", [2.0**-13, 2.0**17])
def test_result_scales_with_the_scene(scale: float) -> None:
    one, small = (_planes(render([SLANTED], ring_poses(2), size=(72, 56), scale=s)[0])[1] for s in (1.0, scale))
    both = (one[0].depth > 0) & (small[0].depth > 0)
    assert both.mean() > 0.5
    assert ((one[0].depth > 0) == (small[0].depth > 0)).mean() > 0.98
    assert np.median(np.abs(small[0].depth[both] / scale / one[0].depth[both] - 1)) < 1e-3


def test_masked_pixels_stay_unknown() -> None:
    views, _, _ = render([SLANTED], ring_poses(2), size=(72, 56))
    views[0].mask[:, :40] = False
    maps, kept = _planes(views)
    assert (maps[0].depth[:, :40] == 0).all()
    assert (kept[0].depth[:, 40:] > 0).any()
    assert (kept[0].confidence[:, :40] == 0).all()
