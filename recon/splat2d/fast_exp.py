"""2^t for float32 in a form that LLVM vectorises: 2^n by writing the exponent bits, 2^f by a polynomial of degree 5."""

from __future__ import annotations

from typing import Any, no_type_check

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

# Minimax in relative error on [-1/2, 1/2] (Lawson's iteration): 7.5e-8, below 3e-7 once rounded to float32.
_C0 = np.float32(1.0000000716550257)
_C1 = np.float32(0.693146967063986)
_C2 = np.float32(0.2402211972214403)
_C3 = np.float32(0.055507132739400736)
_C4 = np.float32(0.00967554142648741)
_C5 = np.float32(0.0013276472110982382)
_LOWEST = np.float32(-100.0)  # products with what comes out stay clear of slow denormal numbers
_HALF = np.float32(0.5)


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def power_of_two(typing_context: Any, n: Any) -> Any:
    """2^n for a float32 that holds a whole number in [-126, 127]."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer = ir.IntType(32)
        biased = builder.add(builder.fptosi(arguments[0], integer), ir.Constant(integer, 127))
        return builder.bitcast(builder.shl(biased, ir.Constant(integer, 23)), ir.FloatType())

    return types.float32(types.float32), build


@numba.njit(cache=True, inline="always", fastmath={"contract", "nsz"})  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def exp2_negative(t):  # pragma: no cover (compiled)
    """2^t for a float32 t <= 0; 2^-100 for anything below -100."""
    t = max(t, _LOWEST)
    n = np.floor(t + _HALF)
    f = t - n
    return (_C0 + f * (_C1 + f * (_C2 + f * (_C3 + f * (_C4 + f * _C5))))) * power_of_two(n)
