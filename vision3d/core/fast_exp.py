"""2^t for float32 as LLVM vectorises it: 2^f by a polynomial of degree 5, 2^n by adding to the exponent bits.

A type whose values are LLVM vectors of float32, with operators, goes as well.
"""

from __future__ import annotations

from typing import Any, no_type_check

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped, unused-ignore]
from numba import types
from numba.extending import intrinsic

# Minimax in relative error on [-1/2, 1/2] (Lawson's iteration): 7.5e-8, below 3e-7 once rounded to float32.
_C0 = np.float32(1.0000000716550257)
_C1 = np.float32(0.693146967063986)
_C2 = np.float32(0.2402211972214403)
_C3 = np.float32(0.055507132739400736)
_C4 = np.float32(0.00967554142648741)
_C5 = np.float32(0.0013276472110982382)


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def _nearest(typing_context: Any, t: Any) -> Any:
    """The whole number next to t, as a float."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = arguments[0].type
        suffix = f"v{kind.count}f32" if isinstance(kind, ir.VectorType) else "f32"
        function = builder.module.declare_intrinsic(f"llvm.rint.{suffix}", (), ir.FunctionType(kind, (kind,)))
        return builder.call(function, arguments)

    kind = types.float32 if isinstance(t, types.Number) else t
    return kind(kind), build


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def _times_power(typing_context: Any, value: Any, n: Any) -> Any:
    """value * 2^n for a whole number n."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind, integer = arguments[0].type, ir.IntType(32)
        bits = ir.Constant(integer, 23)
        if isinstance(kind, ir.VectorType):
            integer = ir.VectorType(integer, kind.count)
            bits = ir.Constant(integer, [23] * kind.count)
        power = builder.shl(builder.fptosi(arguments[1], integer), bits)
        return builder.bitcast(builder.add(builder.bitcast(arguments[0], integer), power), kind)

    kind = types.float32 if isinstance(value, types.Number) else value
    return kind(kind, kind), build


@numba.njit(cache=True, inline="always", fastmath={"contract", "nsz"})  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def fast_exp2(t):  # pragma: no cover (compiled)
    """2^t for a float32 between -126 and 127; anything at all outside, to be selected away."""
    n = _nearest(t)
    f = t - n
    g = f * f  # in pairs: a shorter chain than term by term
    return _times_power((_C0 + f * _C1) + g * ((_C2 + f * _C3) + g * (_C4 + f * _C5)), n)
