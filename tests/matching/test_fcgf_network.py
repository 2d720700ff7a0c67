"""FCGF: published sizes and layout, MinkowskiEngine's rules, features of clouds, weights files."""

import re
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from minkowski_twin import MinkowskiTwin, Sparse, beside, random_checkpoint, relu
from safetensors.torch import save_file

from vision3d.errors import MissingWeightsError, UsageError, Vision3DError
from vision3d.matching.hough.fcgf import COMPACT, KITTI, THREEDMATCH, Fcgf, FcgfConfig
from vision3d.matching.hough.isotropy import isotropic, keep_isotropic, orbits
from vision3d.matching.hough.learned import LearnedFeatures
from vision3d.matching.hough.minkowski_keys import from_minkowski, to_minkowski
from vision3d.matching.hough.network_files import find_fcgf, read_fcgf
from vision3d.matching.hough.voxels import voxel_inputs, voxel_tensor, voxelise

TINY = FcgfConfig(first_kernel=5, channels=(3, 4, 5, 6), up_channels=(4, 3, 5, 4), out_channels=7)


def room(count: int = 4000, seed: int = 0) -> torch.Tensor:
    """Points on a floor, two walls and a ball, metres."""
    random = np.random.default_rng(seed)
    flat = random.uniform(0, 2, (3 * count // 4, 3))
    flat[np.arange(len(flat)), np.arange(len(flat)) % 3] = 0
    ball = random.normal(size=(count - len(flat), 3))
    ball = ball / np.linalg.norm(ball, axis=1, keepdims=True) * 0.4 + 1
    return torch.from_numpy(np.concatenate([flat, ball]))


@pytest.mark.parametrize(("config", "count", "kernel"), [(THREEDMATCH, 8_760_384, 343), (KITTI, 8_753_408, 125)])
def test_published_size_and_layout(config: FcgfConfig, count: int, kernel: int) -> None:
    net = Fcgf(config)
    assert sum(p.numel() for p in net.parameters()) == count
    published = to_minkowski(net)
    assert published["conv1.kernel"].shape == (kernel, 1, 32)
    assert published["conv1_tr.kernel"].shape == (96, 64)  # 1x1 kernels have two dimensions
    assert published["final.bias"].shape == (1, 32)
    assert {"norm1.bn.running_mean", "block4_tr.norm2.bn.weight", "conv4_tr.kernel"} <= set(published)


def test_compact_is_small() -> None:
    assert sum(p.numel() for p in Fcgf(COMPACT).parameters()) < 1_000_000


def _twin_forward(twin: MinkowskiTwin, x: Sparse) -> Sparse:
    s1 = twin.block(twin.norm(twin.conv(x, "conv1", 1), "norm1"), "block1", 1)
    s2 = twin.block(twin.norm(twin.conv(relu(s1), "conv2", 1, 2), "norm2"), "block2", 2)
    s4 = twin.block(twin.norm(twin.conv(relu(s2), "conv3", 2, 2), "norm3"), "block3", 4)
    s8 = twin.block(twin.norm(twin.conv(relu(s4), "conv4", 4, 2), "norm4"), "block4", 8)
    up = relu(twin.block(twin.norm(twin.transposed(relu(s8), "conv4_tr", s4, 4), "norm4_tr"), "block4_tr", 4))
    up = beside(up, s4)
    up = relu(twin.block(twin.norm(twin.transposed(up, "conv3_tr", s2, 2), "norm3_tr"), "block3_tr", 2))
    up = beside(up, s2)
    up = relu(twin.block(twin.norm(twin.transposed(up, "conv2_tr", s1, 1), "norm2_tr"), "block2_tr", 1))
    out = twin.conv(relu(twin.conv(beside(up, s1), "conv1_tr", 1)), "final", 1)
    return {site: value / np.linalg.norm(value) for site, value in out.items()}


def test_a_published_checkpoint_gives_what_minkowski_engine_would() -> None:
    net = Fcgf(TINY).double().eval()
    state = random_checkpoint(to_minkowski(net), 1)
    net.load_state_dict(from_minkowski(net, {k: v.double() for k, v in state.items()}, "seeded"))
    indices = torch.unique(torch.randint(0, 11, (90, 3)), dim=0).int()
    with torch.no_grad():
        ours = net(voxel_tensor([indices], [torch.ones(len(indices), 1, dtype=torch.float64)]))
    sites = {tuple(int(v) for v in row): np.ones(1) for row in indices}
    twin = _twin_forward(MinkowskiTwin(state), sites)
    theirs = np.stack([twin[tuple(int(v) for v in row)] for row in indices])
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-10)
    # The order of kernel elements matters: the other one gives other features.
    state["conv2.kernel"] = state["conv2.kernel"].flip(0)
    assert np.abs(_twin_forward(MinkowskiTwin(state), sites)[tuple(indices[0].tolist())] - theirs[0]).max() > 1e-3


def test_keys_that_do_not_fit_are_refused_by_name() -> None:
    net = Fcgf(TINY)
    state = to_minkowski(net)
    without = {name: tensor for name, tensor in state.items() if name != "block2.norm1.bn.bias"}
    with pytest.raises(Vision3DError, match=re.escape("lacks block2.norm1.bn.bias")):
        from_minkowski(net, without, "x.pth")
    with pytest.raises(Vision3DError, match=r"unknown conv9\.kernel"):
        from_minkowski(net, {**state, "conv9.kernel": torch.zeros(1)}, "x.pth")
    with pytest.raises(Vision3DError, match=re.escape("conv1.kernel is [27, 1, 3]")):
        from_minkowski(net, {**state, "conv1.kernel": torch.zeros(27, 1, 3)}, "x.pth")


def test_layout_goes_there_and_back() -> None:
    net = Fcgf(TINY)
    again = from_minkowski(net, to_minkowski(net), "own")
    assert all(torch.equal(again[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("wrapped", [True, False])
def test_files_of_both_layouts_are_read(tmp_path: Path, wrapped: bool) -> None:
    net = Fcgf(TINY).eval()
    state = to_minkowski(net)
    if wrapped:
        path = tmp_path / "published.pth"
        torch.save({"epoch": 3, "state_dict": OrderedDict(state), "optimizer": {"x": torch.ones(2)}}, path)
    else:
        path = tmp_path / "own.safetensors"
        save_file(net.state_dict(), path)
    read = read_fcgf(path)
    assert read.config == TINY and not read.training
    indices = torch.unique(torch.randint(0, 9, (50, 3)), dim=0).int()
    x = voxel_tensor([indices], [torch.ones(len(indices), 1)])
    with torch.no_grad():
        assert torch.equal(read(x), net(x))


def test_what_is_no_weights_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISION3D_CACHE", str(tmp_path))
    with pytest.raises(MissingWeightsError, match=r"huggingface.co/chrischoy/FCGF.*2019-08-16_19-21-47.pth at"):
        find_fcgf("fcgf-3dmatch-5cm")
    with pytest.raises(UsageError, match="not one of fcgf-3dmatch"):
        find_fcgf("fcgf-nuscenes")
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    with pytest.raises(Vision3DError, match=r"not FCGF's: the file lacks conv1.weight"):
        read_fcgf(tmp_path / "a.safetensors")
    state = Fcgf(TINY).state_dict()
    state["block1.conv1.weight"][0, 0, 0, 0, 0] = torch.nan
    save_file(state, tmp_path / "b.safetensors")
    with pytest.raises(Vision3DError, match=r"block1.conv1.weight holds values that are not finite"):
        read_fcgf(tmp_path / "b.safetensors")


def test_features_follow_the_cloud() -> None:
    features = LearnedFeatures(Fcgf(TINY))
    points = room()
    thinned, rows = features.describe(points, 0.1)
    assert rows.shape == (len(thinned), 7) and thinned.shape[1] == 3
    assert torch.allclose(rows.norm(dim=1), torch.ones(len(rows)))
    # Moved by 8 voxels, the coarse grids fall on the same places; another scale with its voxel as well.
    moved, again = features.describe(points + 0.8, 0.1)
    torch.testing.assert_close(moved, thinned + 0.8)
    torch.testing.assert_close(again, rows, atol=1e-5, rtol=1e-5)
    scaled, large = features.describe(points * 4, 0.4)
    torch.testing.assert_close(scaled, thinned * 4)
    torch.testing.assert_close(large, rows, atol=1e-5, rtol=1e-5)


def test_untrained_compact_features_are_fpfh_and_turn_with_the_cloud() -> None:
    net = Fcgf(COMPACT).eval()
    thinned, _ = voxelise(room(), 0.1)
    inputs = voxel_inputs(thinned, 0.1, "fpfh")
    assert inputs.shape == (len(thinned), 33) and bool((inputs >= 0).all()) and float(inputs.max()) <= 1.001
    indices = voxelise(thinned, 0.1)[1]
    with torch.no_grad():
        got = net(voxel_tensor([indices], [inputs]))
        wanted = torch.nn.functional.normalize(net.shortcut(inputs), dim=1)
    torch.testing.assert_close(got, wanted)
    angle = torch.tensor(0.7, dtype=torch.float64)
    turn = torch.eye(3, dtype=torch.float64)
    turn[:2, :2] = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    torch.testing.assert_close(voxel_inputs(thinned @ turn.T, 0.1, "fpfh"), inputs, atol=0.02, rtol=0.02)


def test_bad_clouds_are_refused() -> None:
    with pytest.raises(ValueError, match="without points"):
        voxelise(torch.zeros(0, 3), 0.1)
    with pytest.raises(ValueError, match="finite"):
        voxelise(torch.tensor([[0.0, torch.nan, 1.0]]), 0.1)
    with pytest.raises(ValueError, match="larger voxels"):
        voxelise(torch.tensor([[0.0, 0.0, 0.0], [1e6, 0.0, 0.0]]), 0.1)
    with pytest.raises(ValueError, match="positive"):
        LearnedFeatures(Fcgf(TINY)).describe(torch.zeros(1, 3), 0.0)


def test_isotropic_kernels_are_the_mean_over_the_cubes_symmetries_and_stay_so() -> None:
    assert torch.bincount(orbits(3, 3)).tolist() == [1, 6, 12, 8]
    assert torch.bincount(orbits(3, 6)).tolist() == [1, 12, 60, 160, 240, 192, 64]
    weight = torch.randn(3, 3, 3, 2, 4)
    mean = isotropic(weight)
    torch.testing.assert_close(mean[0, 1, 1], torch.stack([weight[i] for i in _FACES]).mean(0))
    net = Fcgf(TINY)
    keep_isotropic(net)
    indices = torch.unique(torch.randint(0, 9, (60, 3)), dim=0).int()
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.01)
    for _ in range(2):
        target = net(voxel_tensor([indices], [torch.ones(len(indices), 1)]))[:, 0].sum()
        optimiser.zero_grad()
        target.backward()
        before = net.conv4_tr.weight.detach().clone()
        optimiser.step()
    assert not torch.equal(before, net.conv4_tr.weight)
    for layer in (net.conv1, net.block1.conv2, net.conv2, net.conv4_tr):
        torch.testing.assert_close(layer.weight, isotropic(layer.weight))


_FACES = [(0, 1, 1), (2, 1, 1), (1, 0, 1), (1, 2, 1), (1, 1, 0), (1, 1, 2)]
