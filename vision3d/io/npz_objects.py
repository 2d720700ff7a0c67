"""Reads .npz files whose arrays hold Python objects (the indices of MegaDepth are such) without running what they say.

Such arrays are pickles. The reader admits what NumPy itself writes for arrays, dtypes and scalars beside plain lists,
tuples, dicts, numbers and strings, and refuses every other name.
"""

from __future__ import annotations

import io
import pickle  # noqa: TID251  # with a list of what it may make
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from vision3d.errors import Vision3DError


def _latin1(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes: as text in Latin-1, and nothing else."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text in {encoding}")
    return text.encode("latin-1")


_ADMITTED: dict[str, Any] = {
    "multiarray._reconstruct": np.empty(0).__reduce__()[0],
    "multiarray.scalar": np.float64(0).__reduce__()[0],
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "_codecs.encode": _latin1,
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = f"{module.removeprefix('numpy.core.').removeprefix('numpy._core.')}.{name}"
        if known not in _ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ADMITTED[known]


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of the file by name.

    Raises:
        Vision3DError: no such file, damaged, or it holds other objects than arrays, numbers, strings and lists of them.
    """
    path = Path(path)
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                arrays[name.removesuffix(".npy")] = _array(archive.read(name))
    except FileNotFoundError:
        raise Vision3DError(f"{path} does not exist") from None
    except pickle.UnpicklingError as error:
        raise Vision3DError(f"{path} holds more than arrays and is not read: {error}") from None
    except Exception as error:  # a damaged pickle or zip raises whatever its bytes lead to
        raise Vision3DError(f"{path} is damaged or no .npz file: {type(error).__name__}: {error}") from None
    return arrays


def _array(data: bytes) -> np.ndarray:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    _, _, dtype = read_header(stream)
    if not dtype.hasobject:
        made: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
        return made
    made = _Restricted(stream).load()
    if not isinstance(made, np.ndarray):
        raise pickle.UnpicklingError(f"a {type(made).__name__} where an array should be")
    return made
