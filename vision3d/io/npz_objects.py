"""Reads .npz files whose arrays hold Python objects (the indices of MegaDepth are such) without unpickling them.

Such arrays are written as pickles, programs for a small machine; the indices of MegaDepth-1500 are one pickle each, of
a dictionary of arrays and lists, under the name of an .npz file. Here their instructions are only walked over: those
that stack plain values are followed, and of those that name a function only the ones with which NumPy writes arrays,
dtypes and scalars are understood; what they mean is built here. Nothing is imported or called by name. The instructions
are described in Python's module pickletools.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vision3d.errors import Vision3DError


class _RefusedError(Exception):
    """The instructions ask for more than arrays and plain values."""


@dataclass
class _Made:
    """An array or dtype whose state comes later, or a name that may be called."""

    kind: str
    value: Any = None


_NAMES = {"multiarray._reconstruct": "array", "numpy.dtype": "dtype", "multiarray.scalar": "scalar",
          "numpy.ndarray": "type", "_codecs.encode": "bytes"}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict}
_NOTHING = {"PROTO", "FRAME", "STOP"}
_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "INT", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
           "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}  # fmt: skip
_MARK = object()


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of the file by name.

    Raises:
        Vision3DError: no such file, damaged, or it holds other objects than arrays, numbers, strings and lists of them.
    """
    path = Path(path)
    arrays = {}
    try:
        with path.open("rb") as stream:
            if stream.read(1) == b"\x80":  # how a pickle begins
                return _bare(b"\x80" + stream.read())
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                arrays[name.removesuffix(".npy")] = _array(archive.read(name))
    except FileNotFoundError:
        raise Vision3DError(f"{path} does not exist") from None
    except _RefusedError as error:
        raise Vision3DError(f"{path} holds more than arrays and is not read: {error}") from None
    except Exception as error:  # damaged bytes raise whatever they lead to
        raise Vision3DError(f"{path} is damaged or no .npz file: {type(error).__name__}: {error}") from None
    return arrays


def _bare(data: bytes) -> dict[str, np.ndarray]:
    found = _plain(_Walk().over(data))
    if not isinstance(found, dict) or not all(isinstance(value, np.ndarray | list) for value in found.values()):
        raise _RefusedError("it is no dictionary of arrays and lists")
    return {str(name): value if isinstance(value, np.ndarray) else _listed(value) for name, value in found.items()}


def _listed(values: list[Any]) -> np.ndarray:
    array = np.empty(len(values), object)
    for i, value in enumerate(values):
        array[i] = value
    return array


def _array(data: bytes) -> np.ndarray:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    _, _, dtype = read_header(stream)
    if not dtype.hasobject:
        made: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
        return made
    found = _plain(_Walk().over(stream.read()))
    if not isinstance(found, np.ndarray):
        raise _RefusedError(f"a {type(found).__name__} where an array should be")
    return found


@dataclass
class _Walk:
    """The values stacked so far, and those kept by number."""

    stack: list[Any] = field(default_factory=list)
    kept: dict[int, Any] = field(default_factory=dict)

    def over(self, data: bytes) -> Any:
        """What the instructions leave."""
        for instruction, argument, _ in pickletools.genops(data):
            self._follow(instruction.name, argument)
        return self.stack.pop()

    def _follow(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "EMPTY_TUPLE":
            stack.append(())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "TUPLE":
            stack.append(tuple(self._to_mark()))
        elif name in ("APPEND", "APPENDS"):
            items = self._to_mark() if name == "APPENDS" else [stack.pop()]
            stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._to_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"):
            self.kept[len(self.kept) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.kept[argument])
        elif name == "GLOBAL":
            stack.append(_named(*argument.split(" ")))
        elif name == "STACK_GLOBAL":
            stack[-2:] = [_named(*stack[-2:])]
        elif name == "REDUCE":
            stack[-2:] = [_called(*stack[-2:])]
        elif name == "BUILD":
            state = stack.pop()
            _finish(stack[-1], state)
        elif name not in _NOTHING:
            raise _RefusedError(f"it asks for {name}")

    def _to_mark(self) -> list[Any]:
        at = max(i for i, value in enumerate(self.stack) if value is _MARK)
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items


def _named(module: str, name: str) -> _Made:
    known = f"{module.removeprefix('numpy.core.').removeprefix('numpy._core.')}.{name}"
    if known not in _NAMES:
        raise _RefusedError(f"it asks for {module}.{name}")
    return _Made("name", _NAMES[known])


def _called(function: Any, arguments: Any) -> Any:
    what = function.value if isinstance(function, _Made) and function.kind == "name" else None
    if what == "array":
        return _Made("array")
    if what == "dtype":
        return _Made("dtype", np.dtype(str(arguments[0])))
    if what == "scalar":
        dtype = _plain(arguments[0])
        if dtype.hasobject:
            raise _RefusedError("a scalar that is an object")
        return np.frombuffer(arguments[1], dtype, 1)[0]
    if what == "bytes" and arguments[1] == "latin1":  # how protocol 2 writes bytes
        return arguments[0].encode("latin-1")
    raise _RefusedError("it calls what is no array, dtype, scalar or text")


def _finish(made: Any, state: Any) -> None:
    """Gives an array its values, a dtype its byte order."""
    if not isinstance(made, _Made) or made.kind == "name":
        raise _RefusedError("it sets the state of what is no array or dtype")
    if made.kind == "dtype":
        if state[1] in "<>":
            made.value = made.value.newbyteorder(state[1])
        return
    _, shape, dtype, fortran, values = state
    dtype = _plain(dtype)
    order: Literal["F", "C"] = "F" if fortran else "C"
    if dtype.hasobject:
        if len(values) != math.prod(shape):
            raise ValueError(f"{len(values)} values for an array of shape {shape}")
        flat = np.empty(len(values), object)
        for i, value in enumerate(values):
            flat[i] = _plain(value)
        made.value = flat.reshape(shape, order=order)
    else:
        made.value = np.frombuffer(values, dtype).reshape(shape, order=order).copy()


def _plain(value: Any) -> Any:
    """With arrays and dtypes in the places that were kept for them."""
    if isinstance(value, _Made):
        if value.kind == "name" or value.value is None:
            raise _RefusedError("a name or an unfinished array among the values")
        return value.value
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    return value
