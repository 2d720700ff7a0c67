"""Canary of the shape-checking hook: under pytest, a wrong shape or type raises in every package."""

import jaxtyping
import pytest
import torch

from vision3d.core import Camera, Correspondences, RigidTransform
from vision3d.matching.base import Features


def test_wrong_shape_in_a_dataclass_raises() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        Correspondences(torch.zeros(3, 2), torch.zeros(4, 2), torch.zeros(3))


def test_wrong_shape_in_a_call_raises() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        RigidTransform.identity().apply(torch.zeros(5, 2, dtype=torch.float64))


def test_wrong_type_in_a_call_raises() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        Camera(10, 10, (5.0, 5.0), (5.0, 5.0)).unproject("no tensor")  # type: ignore[arg-type]


def test_hook_follows_the_links() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        Features(torch.zeros(3, 2), torch.zeros(2, 8), torch.zeros(3), torch.zeros(3), torch.zeros(3), (10, 10))
