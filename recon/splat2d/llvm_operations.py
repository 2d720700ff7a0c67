"""Three things that LLVM has and Numba does not offer: memory on the stack, reading ahead, counting zero bits.

Numbers in an array on the stack alias with nothing: a loop that adds to them keeps them in vector registers.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped, unused-ignore]
from numba import types
from numba.extending import intrinsic

from vision3d.recon.splat2d.tiles import TILE

_INT32 = ir.IntType(32)


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def row_on_stack(typing_context: Any) -> Any:
    """A pointer to TILE float32 of the calling function, one per place where this is written."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        with builder.goto_entry_block():
            row = builder.alloca(ir.ArrayType(ir.FloatType(), TILE))
            row.align = 4 * TILE
        return builder.bitcast(row, ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(), build


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def prefetch(typing_context: Any, array: Any, row: Any) -> Any:
    """Asks for array[row, 0] of a contiguous array [n m] to be brought into the cache; row is not checked."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        held = context.make_array(signature.args[0])(context, builder, arguments[0])
        stride = builder.extract_value(held.strides, 0)
        place = builder.add(builder.ptrtoint(held.data, ir.IntType(64)), builder.mul(stride, arguments[1]))
        pointer = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, _INT32, _INT32, _INT32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        read, near, data = ir.Constant(_INT32, 0), ir.Constant(_INT32, 3), ir.Constant(_INT32, 1)
        builder.call(function, [builder.inttoptr(place, pointer), read, near, data])
        return context.get_dummy_value()

    return types.void(array, types.uint64), build


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def lowest_bit(typing_context: Any, bits: Any) -> Any:
    """Place of the lowest bit that is set, as uint64; bits must not be 0."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.zext(builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1)), ir.IntType(64))

    return types.uint64(types.uint32), build
