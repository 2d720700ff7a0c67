"""LANES float32 in one vector register as a Numba type: + - * / with each other and with float32, comparisons, select.

LLVM's own vectoriser, given a row of 16 pixels, unrolls it over two registers of AVX2 and runs out of the 16 that there
are; and what is chosen per pixel becomes masked stores, which AMD's processors run as microcode. Here a value is a
register, however the loop around it looks.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped, unused-ignore]
from numba import types
from numba.core.datamodel import models
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, register_model

from vision3d.sparse.microkernels import lanes

LANES = max(lanes(4), 8)
"""Numbers in a register of AVX-512 or AVX2; elsewhere two registers stand for one."""

_FLAGS = ("contract", "nsz", "arcp")  # not reassoc: x - number becomes a scalar sum, then shuffled
_INT32 = ir.IntType(32)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_BITS = ir.VectorType(ir.IntType(1), LANES)


class Floats(types.Type):  # type: ignore[misc, unused-ignore]
    def __init__(self) -> None:
        super().__init__(name="Floats")


class Mask(types.Type):  # type: ignore[misc, unused-ignore]
    def __init__(self) -> None:
        super().__init__(name="Mask")


@register_model(Floats)  # type: ignore[untyped-decorator, unused-ignore]
class _FloatsModel(models.PrimitiveModel):  # type: ignore[misc, unused-ignore]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)


@register_model(Mask)  # type: ignore[untyped-decorator, unused-ignore]
class _MaskModel(models.PrimitiveModel):  # type: ignore[misc, unused-ignore]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _BITS)


floats = Floats()
mask = Mask()
_float = types.float32


def _wide(builder: Any, value: Any) -> Any:
    """A number in all lanes."""
    if isinstance(value.type, ir.VectorType):
        return value
    vector = ir.VectorType(value.type, LANES)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(_INT32, 0))
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), _places([0] * LANES))


def _places(places: list[int]) -> Any:
    return ir.Constant(ir.VectorType(_INT32, len(places)), places)


def _define(functions: list[Any], emit: Any, result: Any) -> None:
    """Makes operators take Floats on one side or both."""
    for function in functions:

        @infer_global(function)  # type: ignore[untyped-decorator, unused-ignore]
        class _Typed(AbstractTemplate):  # type: ignore[misc, unused-ignore]
            def generic(self, args: Any, kws: Any) -> Any:
                if len(args) == 2 and floats in args:
                    return signature(result, *(a if a == floats else _float for a in args))
                return None

        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return emit(builder, *(_wide(builder, a) for a in args))

        for kinds in ((Floats, Floats), (Floats, types.Float), (types.Float, Floats)):
            lower_builtin(function, *kinds)(build)


def _comparison(sign: str) -> Any:
    return lambda builder, a, b: builder.fcmp_ordered(sign, a, b)


_define([operator.add, operator.iadd], lambda builder, a, b: builder.fadd(a, b, flags=_FLAGS), floats)
_define([operator.sub, operator.isub], lambda builder, a, b: builder.fsub(a, b, flags=_FLAGS), floats)
_define([operator.mul, operator.imul], lambda builder, a, b: builder.fmul(a, b, flags=_FLAGS), floats)
_define([operator.truediv, operator.itruediv], lambda builder, a, b: builder.fdiv(a, b, flags=_FLAGS), floats)
_define([operator.lt], _comparison("<"), mask)
_define([operator.le], _comparison("<="), mask)
_define([operator.gt], _comparison(">"), mask)
_define([operator.ge], _comparison(">="), mask)


@infer_global(operator.and_)  # type: ignore[untyped-decorator, unused-ignore]
class _And(AbstractTemplate):  # type: ignore[misc, unused-ignore]
    def generic(self, args: Any, kws: Any) -> Any:
        return signature(mask, mask, mask) if tuple(args) == (mask, mask) else None


lower_builtin(operator.and_, Mask, Mask)(lambda context, builder, signature, args: builder.and_(*args))


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def select(typing_context: Any, condition: Any, a: Any, b: Any) -> Any:
    """a in the lanes where the condition holds, b in the others."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(args[0], _wide(builder, args[1]), _wide(builder, args[2]))

    return floats(mask, *(kind if kind == floats else _float for kind in (a, b))), build


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def minimum(typing_context: Any, a: Any, b: Any) -> Any:
    """The lesser of Floats and Floats or a number."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        b = _wide(builder, args[1])
        return builder.select(builder.fcmp_ordered("<", args[0], b), args[0], b)

    return floats(floats, b if b == floats else _float), build


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def any_of(typing_context: Any, condition: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        integer = ir.IntType(LANES)
        return builder.icmp_unsigned("!=", builder.bitcast(args[0], integer), ir.Constant(integer, 0))

    return types.boolean(mask), build


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def in_all_lanes(typing_context: Any, value: Any) -> Any:
    return floats(_float), lambda context, builder, signature, args: _wide(builder, args[0])


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def centres(typing_context: Any) -> Any:
    """0.5, 1.5, ...: where the pixels of a strip lie along it."""
    return floats(), lambda context, builder, signature, args: ir.Constant(_FLOATS, [i + 0.5 for i in range(LANES)])


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, at: Any) -> Any:
    data = array
    if isinstance(array_type, types.Array):
        data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), _FLOATS.as_pointer())


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def load(typing_context: Any, array: Any, at: Any) -> Any:
    """array[at : at + LANES] of a flat contiguous array; not checked."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_pointer(context, builder, array, *args), align=4)

    return floats(array, types.uint64), build


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def store(typing_context: Any, array: Any, at: Any, value: Any) -> Any:
    """array[at : at + LANES] = value, of a flat contiguous array; not checked."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(_wide(builder, args[2]), _pointer(context, builder, array, *args[:2]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.uint64, value if value == floats else _float), build


def _added(builder: Any, vectors: list[Any]) -> Any:
    """Sums of LANES vectors, one in each lane. Every step adds halves of pairs of vectors, which takes two shuffles
    within 128 bits, or of these, for two sums."""
    quarters: list[tuple[tuple[int, ...], tuple[int, ...], int]] = [((0, 1), (2, 3), 4), ((0, 2), (1, 3), 4)]
    outer = quarters if LANES == 16 else [((0,), (1,), 2)]
    steps = [(*step, 1) for step in quarters] + [(*step, 4) for step in outer]
    for low, high, size, unit in steps:
        parts = []
        for half in (low, high):
            places = []
            for block in range(0, LANES, size * unit):
                for source in (0, LANES):
                    places += [source + block + unit * place + i for place in half for i in range(unit)]
            parts.append(_places(places))
        vectors = [
            builder.fadd(*(builder.shuffle_vector(a, b, places) for places in parts), flags=_FLAGS)
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    return vectors[0]


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def store_sums(typing_context: Any, array: Any, at: Any, sums: Any, first: Any) -> Any:
    """sums[first + i] = the sum of array[at + i * LANES : at + (i + 1) * LANES] for i < LANES; flat, not checked."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vectors = []
        for i in range(LANES):
            place = builder.add(args[1], ir.Constant(ir.IntType(64), i * LANES))
            vectors.append(builder.load(_pointer(context, builder, array, args[0], place), align=4))
        builder.store(_added(builder, vectors), _pointer(context, builder, sums, args[2], args[3]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.uint64, sums, types.uint64), build
