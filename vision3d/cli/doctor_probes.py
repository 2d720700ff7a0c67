"""Probes of `vision3d doctor`, each run in an interpreter of its own: `python -m vision3d.cli.doctor_probes NAME`.

A probe uses the library, prints one line of what it found, and fails by raising, by crashing or by hanging; none of
these reaches the caller. Exit code 3: not installed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout

ABSENT = 3


def _version(distribution: str) -> str:
    return importlib.metadata.version(distribution)


def torch_probe() -> str:
    """Multiplies two matrices."""
    import torch

    total = float(torch.ones(64, 64).mm(torch.ones(64, 64)).sum())
    if total != 64**3:
        raise RuntimeError(f"a matrix product came out as {total}")
    return f"{torch.__version__}, {torch.get_num_threads()} threads"


def cuda_probe() -> str:
    """Multiplies two matrices on the first GPU."""
    import torch

    if not torch.cuda.is_available():
        sys.exit(ABSENT)
    total = float(torch.ones(64, 64, device="cuda").sum())
    if total != 64**2:
        raise RuntimeError(f"a sum on the GPU came out as {total}")
    free, size = torch.cuda.mem_get_info()
    return (
        f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, {free / 2**30:.0f} of {size / 2**30:.0f} GiB free"
    )


def numba_probe() -> str:
    """Compiles and runs a parallel loop."""
    import numba
    import numpy as np

    def total(values: np.ndarray) -> float:
        out = 0.0
        for i in numba.prange(values.size):
            out += values[i]
        return out

    start = time.perf_counter()
    result = numba.njit(total, parallel=True)(np.ones(1000))
    if result != 1000:
        raise RuntimeError(f"a compiled sum came out as {result}")
    seconds = time.perf_counter() - start
    return f"{numba.__version__}, compiled a loop in {seconds:.1f} s, threads by {numba.threading_layer()}"


def opencv_probe() -> str:
    """Finds SIFT features."""
    import cv2
    import numpy as np

    picture = np.random.default_rng(0).integers(0, 255, (160, 160), dtype=np.uint8)
    if not cv2.SIFT.create().detect(picture):
        raise RuntimeError("SIFT found nothing in a noise picture")
    return str(cv2.__version__)


def pycolmap_probe() -> str:
    """Solves a pose from exact points."""
    import numpy as np
    import pycolmap

    camera = pycolmap.Camera(model="SIMPLE_PINHOLE", width=100, height=100, params=[100, 50, 50])
    points = np.random.default_rng(0).uniform((-1, -1, 3), (1, 1, 5), (20, 3))
    pixels = points[:, :2] / points[:, 2:] * 100 + 50
    found = pycolmap.estimate_and_refine_absolute_pose(pixels, points, camera)
    if found is None or found["num_inliers"] < 20:
        raise RuntimeError("a pose from 20 exact points was not found")
    return str(pycolmap.__version__)


def libraries_probe() -> str:
    """Imports the rest of what vision3d needs."""
    names = {
        "torchvision": "torchvision",
        "kornia": "kornia",
        "poselib": "poselib",
        "h5py": "h5py",
        "scipy.optimize": "scipy",
        "skimage.measure": "scikit-image",
        "PIL.Image": "pillow",
        "trimesh": "trimesh",
        "pydantic": "pydantic",
        "tyro": "tyro",
    }
    for module in names:
        importlib.import_module(module)
    return ", ".join(f"{name} {_version(name)}" for name in names.values())


def open3d_probe() -> str:
    """Makes a point cloud."""
    _need("open3d")
    import open3d

    open3d.geometry.PointCloud()
    return str(open3d.__version__)


def gsplat_probe() -> str:
    """Imports it; its kernels are built on first use."""
    _need("gsplat")
    import gsplat

    return str(gsplat.__version__)


def spconv_probe() -> str:
    """Imports its torch layers."""
    _need("spconv")
    importlib.import_module("spconv.pytorch")
    return str(importlib.import_module("spconv").__version__)


def weights_probe() -> str:
    """JSON: name of the weights -> [where they lie, what to run if they do not]."""
    from vision3d.weights import WEIGHTS, find_weights

    found = {name: find_weights(name) for name in WEIGHTS}
    advice = {name: entry.install or f"fetched at first use from {entry.url}" for name, entry in WEIGHTS.items()}
    return json.dumps({name: [str(hit[0]) if hit else None, advice[name]] for name, hit in found.items()})


def _need(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        sys.exit(ABSENT)


PROBES: dict[str, Callable[[], str]] = {
    "torch": torch_probe,
    "numba": numba_probe,
    "opencv": opencv_probe,
    "pycolmap": pycolmap_probe,
    "libraries": libraries_probe,
    "cuda": cuda_probe,
    "gsplat": gsplat_probe,
    "spconv": spconv_probe,
    "open3d": open3d_probe,
    "weights": weights_probe,
}


def main(name: str) -> None:
    """Runs one probe and prints its line; what libraries print themselves goes to stderr."""
    with redirect_stdout(sys.stderr):
        line = PROBES[name]()
    print(line, flush=True)
    os._exit(0)  # some libraries crash while the interpreter shuts down


if __name__ == "__main__":
    main(sys.argv[1])
