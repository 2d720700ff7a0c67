"""The order of layers holds in every module, and the checker itself catches what it must."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("foundation_layers", Path(__file__).with_name("layers.py"))
assert _spec and _spec.loader
layers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(layers)


def _sources() -> list[Path]:
    folders = [ROOT / name for name in ("vision3d", "matching", "recon", "detection")]
    # rglob does not follow the links in vision3d/, so each file comes once.
    return sorted(
        path for folder in folders for path in folder.rglob("*.py") if not path.is_relative_to(ROOT / ".venv")
    )


def test_order_of_layers() -> None:
    found = [
        line
        for path in _sources()
        for line in layers.violations(path.read_text(), layers.module_name(path, ROOT), path.name == "__init__.py")
    ]
    assert not found, "\n".join(found)


def test_every_package_is_read() -> None:
    names = {layers.module_name(path, ROOT) for path in _sources()}
    assert {"vision3d.core.camera", "vision3d.matching.base", "vision3d.recon", "vision3d.cli.main"} <= names
    assert len(names) == len(_sources())


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("vision3d.core.camera", "from vision3d.geometry import epipolar"),
        ("vision3d.io.ply", "import vision3d.recon.sfm"),
        ("vision3d.io.ply", "from vision3d import matching"),
        ("vision3d.io.ply", "def f():\n    from vision3d.data.loader import load"),
        ("vision3d.io.ply", "from ..data import loader"),
        ("vision3d.detection.voxelize", "from vision3d.matching.base import Features"),
        ("vision3d.recon.sfm", "from vision3d.matching.sift import Sift"),
        ("vision3d.recon.sfm", "from vision3d.matching import sift"),
        ("vision3d.recon.sfm", "from ..matching.sift import Sift"),
        ("vision3d.recon.sfm", "from vision3d.eval.poses import auc"),
        ("vision3d.recon.sfm", "if TYPE_CHECKING:\n    from vision3d.cli import main"),
        ("vision3d.recon.sfm", "from matching.base import Features"),
        ("vision3d.recon.sfm", "import matching"),
        ("vision3d.eval.poses", "from vision3d.train import loop"),
        ("vision3d.cli.main", "import torch"),
        ("vision3d.cli.doctor", "from vision3d.core import Scene\nimport cv2"),
        ("vision3d.newcomer.file", "import os"),
        ("vision3d", "from vision3d.core import Scene"),
    ],
)
def test_checker_catches(module: str, source: str) -> None:
    assert len(layers.violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("vision3d.recon.sfm", "from vision3d.matching.base import Features"),
        ("vision3d.recon.sfm", "from vision3d.matching import base, catalogue, store"),
        ("vision3d.recon.sfm", "from vision3d.recon.view_graph import build"),
        ("vision3d.recon.report.page", "from ..view_graph import build"),
        ("vision3d.cli.main", "def f():\n    import torch"),
        ("vision3d.cli.match", "from vision3d.bench.harness import Case\nimport torch"),
        ("vision3d.data.folder", "import numpy as np\nfrom vision3d.io import colmap"),
        ("vision3d.core.scene", "from vision3d import __version__"),
    ],
)
def test_checker_allows(module: str, source: str) -> None:
    assert layers.violations(source, module) == []


def test_relative_import_in_a_package() -> None:
    assert layers.imports("from .camera import Camera", "vision3d.core", is_package=True)[0][1] == (
        "vision3d.core.camera.Camera"
    )


@pytest.mark.parametrize("module", ["vision3d.cli.main", "vision3d.cli.doctor", "vision3d.config"])
def test_light_modules_import_nothing_heavy(module: str) -> None:
    """In a fresh interpreter: a broken or slow torch must not reach `--help` and `doctor`."""
    code = f"import sys, {module}; print(sorted({set(layers.HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from vision3d.cli.main import main; code = main(['--help']); "
        f"sys.exit(code or ' '.join({set(layers.HEAVY)!r} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "reconstruct" in done.stdout
