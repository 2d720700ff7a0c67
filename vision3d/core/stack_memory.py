"""Memory on the stack of a Numba kernel, which LLVM has and Numba does not offer.

Numbers in it alias with nothing: loops that read and write them are vectorised without checks.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped, unused-ignore]
from numba import types
from numba.extending import intrinsic


def floats_on_stack(count: int) -> Any:
    """A function for kernels: a pointer to `count` float32 of the calling kernel, one per place where it is called."""

    @intrinsic  # type: ignore[untyped-decorator, unused-ignore]
    def on_stack(typing_context: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            with builder.goto_entry_block():
                memory = builder.alloca(ir.ArrayType(ir.FloatType(), count))
                memory.align = 64
            return builder.bitcast(memory, ir.FloatType().as_pointer())

        return types.CPointer(types.float32)(), build

    return on_stack
