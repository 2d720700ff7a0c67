"""Things that LLVM has and Numba does not offer: reading ahead, counting bits."""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped, unused-ignore]
from numba import types
from numba.extending import intrinsic

_INT32 = ir.IntType(32)


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


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def count_bits(typing_context: Any, bits: Any) -> Any:
    """How many bits are set, as int64."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.zext(builder.ctpop(arguments[0]), ir.IntType(64))

    return types.int64(types.uint32), build


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def column_of_bits(typing_context: Any, array: Any, bit: Any) -> Any:
    """Bit i of the result, for i < 32: the given bit of array[i], uint32 in a flat array of at least 32."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(_INT32, 32)
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        rows = builder.load(builder.bitcast(data, vector.as_pointer()), align=4)
        one = builder.insert_element(ir.Constant(vector, ir.Undefined), arguments[1], ir.Constant(_INT32, 0))
        shift = builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), ir.Constant(vector, [0] * 32))
        top = builder.shl(rows, builder.sub(ir.Constant(vector, [31] * 32), shift))  # a sign: one instruction takes it
        return builder.bitcast(builder.icmp_signed("<", top, ir.Constant(vector, [0] * 32)), _INT32)

    return types.uint32(array, types.uint32), build
