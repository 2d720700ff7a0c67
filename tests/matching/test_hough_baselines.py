"""Registration by other libraries: our conversions to and from them, and what is said where they are not installed."""

import importlib
import re

import numpy as np
import pytest
import torch

from vision3d.core import PointCloud, Vision3DError
from vision3d.geometry.rigid import se3_exp
from vision3d.geometry.rotation import angle_between
from vision3d.matching.hough.baselines import BASELINES, register_with, why_not

TRUTH = se3_exp(torch.tensor([0.8, -0.4, 0.3, 0.5, -0.7, 1.1], dtype=torch.float64))


def pieces(seed: int) -> torch.Tensor:
    """Points on tilted patches of different sizes: features that can be told apart."""
    shape = np.random.default_rng(7)
    random = np.random.default_rng(seed)
    parts = []
    for _ in range(14):
        frame = np.linalg.qr(shape.normal(size=(3, 3)))[0]
        size, middle = shape.uniform(0.2, 0.9, 2), shape.uniform(-1, 1, 3)
        flat = np.concatenate([random.uniform(-1, 1, (2000, 2)) * size, np.zeros((2000, 1))], axis=1)
        parts.append(flat @ frame.T + middle)
    return torch.from_numpy(np.concatenate(parts))


@pytest.mark.parametrize("name", BASELINES)
def test_a_known_motion(name) -> None:
    """The clouds are given far from the origin: a slip between centred and given frames would show as metres."""
    reason = why_not(name)
    if reason is not None:
        pytest.skip(reason)
    source = pieces(1) + torch.tensor([5.0, 0, -3])
    found = register_with(BASELINES[name], PointCloud(source), PointCloud(TRUTH.apply(source)), 0.05, 0)
    assert found.registered
    place = source.mean(0)[None]
    for pose, most_m, most_rad in ((found.coarse, 0.1, 0.1), (found.target_from_source, 0.01, 0.01)):
        assert float((pose.apply(place) - TRUTH.apply(place)).norm()) < most_m
        assert float(angle_between(pose.rotation, TRUTH.rotation)) < most_rad
    assert set(found.timings) == {"features", "pose", "refinement"}


def test_a_stand_in_is_brought_into_the_given_frames() -> None:
    """The solver sees centred clouds; its pose comes back between the clouds as given. No pose is no registration."""
    source = pieces(1) + torch.tensor([5.0, 0, -3])
    target = TRUTH.apply(source)

    def knows(first, second, voxel, seed):
        assert abs(first.points.mean(0)).max() < 1e-9
        moved = TRUTH.apply(torch.from_numpy(first.center)[None])[0].numpy() - second.center
        return TRUTH.rotation.numpy().copy(), moved

    found = register_with(knows, PointCloud(source), PointCloud(target), 0.05, 0)
    torch.testing.assert_close(found.coarse.matrix(), TRUTH.matrix(), atol=1e-9, rtol=0)
    none = register_with(lambda *_: None, PointCloud(source), PointCloud(target), 0.05, 0)
    assert not none.registered
    assert none.evidence.reason == "it found no pose"
    source[0, 0] = torch.nan
    with pytest.raises(ValueError, match="must be finite"):
        register_with(knows, PointCloud(source), PointCloud(target), 0.05, 0)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("No module named 'open3d'", name="open3d"), r"pip install '.\[clouds\]'"),
        (ModuleNotFoundError("No module named 'dash'", name="dash"), "pip install dash"),
        (ImportError("libX11.so.6: cannot open shared object file"), "libX11.*apt-get install .*libx11-6"),
        (OSError("libusb-1.0.so.0: cannot open shared object file"), "libusb.*apt-get install .*libusb-1.0-0"),
    ],
)
def test_advice_where_open3d_does_not_load(monkeypatch, error, message) -> None:
    def fail(name):
        raise error

    monkeypatch.setattr(importlib, "import_module", fail)
    for name in ("fpfh-ransac", "fgr"):
        reason = why_not(name)
        assert reason is not None
        assert re.search(message, reason)
    with pytest.raises(Vision3DError, match=message):
        register_with(BASELINES["fgr"], PointCloud(pieces(1)), PointCloud(pieces(2)), 0.05, 0)


def test_advice_without_kiss_matcher(monkeypatch) -> None:
    def fail(name):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(importlib, "import_module", fail)
    assert why_not("kiss") == "KISS-Matcher is not installed: pip install kiss-matcher"
