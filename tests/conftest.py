"""Where the real test data lies, and what every test shares."""

import os
from pathlib import Path

# Before torch is imported, as `vision3d` does: the pools of torch and Numba would spin against each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
from hypothesis import settings

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real photos and scans with ground truth: VISION3D_TEST_DATA, or ../shared/data beside the checkout."""
    root = Path(os.environ.get("VISION3D_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"test data not found at {root} (set VISION3D_TEST_DATA)")
    return root


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
