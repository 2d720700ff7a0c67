"""Register-blocked inner loops of sparse products, emitted as LLVM vector code, since Numba has no vector type.

A block of ROWS x COLUMNS sums stays in registers while the shared dimension is walked through, as in a dense matrix
product (Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 2008, section 6), but the
rows are read where they lie and added where they belong: gathering and scattering cost no pass over memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, no_type_check

import llvmlite.binding  # type: ignore[import-untyped, unused-ignore]
from llvmlite import ir  # type: ignore[import-untyped, unused-ignore]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

_FEATURES = llvmlite.binding.get_host_cpu_features()
_WIDE = bool(_FEATURES.get("avx512f"))
VECTOR_BYTES = 64 if _WIDE else 32 if _FEATURES.get("avx2") else 16
VECTORS = 2 if VECTOR_BYTES == 32 else 4
"""Most vectors of columns at once: 6 rows x 4 vectors fill the 32 registers of AVX-512 and NEON, x 2 the 16 of AVX2."""
ROWS = 6
HAS_BFLOAT16 = _WIDE and bool(_FEATURES.get("avx512bf16"))
"""Whether the CPU multiplies pairs of bfloat16 and adds them up in float32."""
HAS_SHORT_PAIRS = bool(_FEATURES.get("avx512bw" if _WIDE else "avx2"))
"""Whether the CPU multiplies pairs of 16-bit integers and adds them up in 32 bits: about twice as fast as float32."""

_I64 = ir.IntType(64)
_I32 = ir.IntType(32)
_I16 = ir.IntType(16)


class _BFloat(ir.Type):  # type: ignore[misc, unused-ignore]
    """LLVM's bfloat, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


def lanes(itemsize: int) -> int:
    """Numbers of so many bytes in a vector."""
    return VECTOR_BYTES // itemsize


def vectors_at_once(columns: int, itemsize: int) -> int:
    """How many vectors of columns a block takes, so that blocks fill `columns`, a multiple of a vector's numbers."""
    return next(v for v in (VECTORS, 2, 1) if columns // lanes(itemsize) % v == 0)


def _data(context: Any, builder: Any, array_type: Any, array: Any) -> Any:
    """Pointer to the first element."""
    pointer = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(pointer, context.get_value_type(array_type.dtype).as_pointer())


def _splat(builder: Any, value: Any, width: int) -> Any:
    vector = ir.VectorType(value.type, width)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, width), [0] * width)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)


def _fused_multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    width, kind = c.type.count, "f64" if isinstance(c.type.element, ir.DoubleType) else "f32"
    function = builder.module.declare_intrinsic(
        f"llvm.fma.v{width}{kind}", (), ir.FunctionType(c.type, (c.type, c.type, c.type))
    )
    return builder.call(function, (a, b, c))


def _dot_pairs(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """c + a[0] b[0] + a[1] b[1] in every lane, a and b being pairs of bfloat16."""
    pairs = ir.VectorType(_BFloat(), 32)
    function = builder.module.declare_intrinsic(
        "llvm.x86.avx512bf16.dpbf16ps.512", (), ir.FunctionType(c.type, (c.type, pairs, pairs))
    )
    return builder.call(function, (c, builder.bitcast(a, pairs), builder.bitcast(b, pairs)))


def _dot_short_pairs(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """c + a[0] b[0] + a[1] b[1] in every lane, a and b being pairs of 16-bit integers, c of 32 bits."""
    width = c.type.count
    pairs = ir.VectorType(_I16, 2 * width)
    name = "llvm.x86.avx512.pmaddw.d.512" if width == 16 else "llvm.x86.avx2.pmadd.wd"
    function = builder.module.declare_intrinsic(name, (), ir.FunctionType(c.type, (pairs, pairs)))
    return builder.add(c, builder.call(function, (builder.bitcast(a, pairs), builder.bitcast(b, pairs))))


_PRODUCTS = {types.uint32: _dot_pairs, types.int32: _dot_short_pairs}


def _widened(builder: Any, value: Any, kind: Any, sum_kind: Any) -> Any:
    """A number as the sums have it: uint16 is bfloat16, the upper half of a float32."""
    if kind != types.uint16:
        return value
    return builder.bitcast(builder.shl(builder.zext(value, _I32), ir.Constant(_I32, 16)), sum_kind)


def _accumulate(
    builder: Any,
    steps: Any,
    sums: list[Any],
    rows: Any,
    row_step: Any,
    vectors: int,
    left: Callable[[Any, int], Any],
    product: Callable[[Any, Any, Any, Any], Any] = _fused_multiply_add,
    fresh: bool = False,
) -> None:
    """sums[r] += left(step, r) * rows[step * row_step :] over all steps (at least one), the sums being in registers.

    fresh: what was in the sums is forgotten.
    sums, rows: pointers to numbers, of which `vectors` vectors are taken; sums are float32, float64 or int32.
    """
    width = lanes(8 if isinstance(sums[0].type.pointee, ir.DoubleType) else 4)

    def vector_at(pointer: Any, v: int) -> Any:
        kind = ir.VectorType(pointer.type.pointee, width)
        return builder.bitcast(builder.gep(pointer, [ir.Constant(_I64, v * width)]), kind.as_pointer())

    places = [[vector_at(pointer, v) for v in range(vectors)] for pointer in sums]
    if fresh:
        totals = [[ir.Constant(place.type.pointee, None) for place in row] for row in places]
    else:
        totals = [[builder.load(place, align=4) for place in row] for row in places]
    before = builder.block
    loop, done = builder.append_basic_block("loop"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    step, here = builder.phi(_I64), builder.phi(rows.type)
    step.add_incoming(ir.Constant(_I64, 0), before)
    here.add_incoming(rows, before)
    running = [[builder.phi(total.type) for total in row] for row in totals]
    factors = [builder.load(vector_at(here, v), align=4) for v in range(vectors)]
    after = []
    for r, row in enumerate(running):
        value = _splat(builder, left(step, r), width)
        after.append([product(builder, value, factor, total) for factor, total in zip(factors, row, strict=True)])
    following = builder.add(step, ir.Constant(_I64, 1))
    step.add_incoming(following, loop)
    here.add_incoming(builder.gep(here, [row_step]), loop)
    for phis, first, then in zip(running, totals, after, strict=True):
        for phi, value, next_value in zip(phis, first, then, strict=True):
            phi.add_incoming(value, before)
            phi.add_incoming(next_value, loop)
    builder.cbranch(builder.icmp_signed("<", following, steps), loop, done)
    builder.position_at_end(done)
    for row, then in zip(places, after, strict=True):
        for place, value in zip(row, then, strict=True):
            builder.store(value, place, align=4)


def _add_rows(vectors: int, fresh: bool) -> Any:
    """Adds rows of features times a block of weights to rows of sums, at most ROWS rows at once; fresh: to zero."""

    @intrinsic  # type: ignore[untyped-decorator, unused-ignore]
    def add_rows(
        typing_context: Any,
        features: Any,
        weight: Any,
        weight_at: Any,
        sums: Any,
        sums_at: Any,
        in_rows: Any,
        out_rows: Any,
        first: Any,
        count: Any,
        base: Any,
        spare: Any,
        depth: Any,
        columns: Any,
    ) -> Any:
        """sums[out_rows[p] - base, :] += features[in_rows[p], :] @ weight for first <= p < first + count, count >= 1.

        weight_at, sums_at: where the block begins in the flat weight and sums, whose rows are `columns` apart; it is
        `vectors` vectors wide. depth: numbers in a row of features: float32, float64, bfloat16 as uint16, or pairs (of
        the weights as well): of bfloat16 as uint32, of 16-bit integers as int32, whose sums are int32. spare: a row of
        sums that may be overwritten.
        """
        integer = types.int64
        signature = types.void(features, weight, integer, sums, integer, in_rows, out_rows, *(integer,) * 6)

        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = context.get_value_type(sums.dtype)
            first, count, base, spare, depth, columns = args[7:]
            x = _data(context, builder, features, args[0])
            block = builder.gep(_data(context, builder, weight, args[1]), [args[2]])
            acc = builder.gep(_data(context, builder, sums, args[3]), [args[4]])
            sources, targets = _data(context, builder, in_rows, args[5]), _data(context, builder, out_rows, args[6])
            x_rows, sum_rows = [], []
            for r in range(ROWS):  # a block that is not full reads its last row again and adds it to the spare row
                row = ir.Constant(_I64, r)
                used = builder.icmp_signed("<", row, count)
                at = builder.add(first, builder.select(used, row, builder.sub(count, ir.Constant(_I64, 1))))
                source = builder.sext(builder.load(builder.gep(sources, [at])), _I64)
                target = builder.sub(builder.sext(builder.load(builder.gep(targets, [at])), _I64), base)
                x_rows.append(builder.gep(x, [builder.mul(source, depth)]))
                sum_rows.append(builder.gep(acc, [builder.mul(builder.select(used, target, spare), columns)]))

            def left(step: Any, r: int) -> Any:
                return _widened(builder, builder.load(builder.gep(x_rows[r], [step])), features.dtype, kind)

            product = _PRODUCTS.get(features.dtype, _fused_multiply_add)
            _accumulate(builder, depth, sum_rows, block, columns, vectors, left, product, fresh)
            return context.get_dummy_value()

        return signature, build

    return add_rows


def _add_outer(vectors: int) -> Any:
    """Adds outer products of rows to a block of ROWS x columns sums."""

    @intrinsic  # type: ignore[untyped-decorator, unused-ignore]
    def add_outer(
        typing_context: Any,
        left: Any,
        left_at: Any,
        left_step: Any,
        right: Any,
        right_at: Any,
        right_step: Any,
        sums: Any,
        sums_at: Any,
        sums_step: Any,
        count: Any,
    ) -> Any:
        """sums[r, :] += left[p, r] * right[p, :] over p < count, for r < ROWS; count >= 1.

        *_at: where they begin in the flat arrays; *_step: the distance of their rows.
        """
        integers = (types.int64, types.int64)
        signature = types.void(left, *integers, right, *integers, sums, *integers, types.int64)

        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            a = builder.gep(_data(context, builder, left, args[0]), [args[1]])
            b = builder.gep(_data(context, builder, right, args[3]), [args[4]])
            acc = builder.gep(_data(context, builder, sums, args[6]), [args[7]])
            rows = [builder.gep(acc, [builder.mul(args[8], ir.Constant(_I64, r))]) for r in range(ROWS)]

            def value(step: Any, r: int) -> Any:
                at = builder.add(builder.mul(step, args[2]), ir.Constant(_I64, r))
                return builder.load(builder.gep(a, [at]))

            _accumulate(builder, args[9], rows, b, args[5], vectors, value)
            return context.get_dummy_value()

        return signature, build

    return add_outer


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def take_ticket(typing_context: Any, counter: Any) -> Any:
    """counter[0]++, atomically: hands out work to threads that may be slowed down by others."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _data(context, builder, counter, args[0])
        return builder.atomic_rmw("add", pointer, ir.Constant(_I64, 1), "monotonic")

    return types.int64(counter), build


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def stored_as(typing_context: Any, value: Any, array: Any) -> Any:
    """value as an element of the array: bfloat16 if that is uint16, an integer (from -2^15 to 2^15 - 1) if int16, both
    rounded to nearest even, else as it is."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if array.dtype == types.int16:  # float32 has no digits below 1 from 2^23 on
            shifted = builder.fadd(args[0], ir.Constant(args[0].type, 1.5 * 2**23))
            return builder.trunc(builder.bitcast(shifted, _I32), _I16)
        if array.dtype != types.uint16:
            return args[0]
        bits = builder.bitcast(args[0], _I32)
        odd = builder.and_(builder.lshr(bits, ir.Constant(_I32, 16)), ir.Constant(_I32, 1))
        rounded = builder.lshr(builder.add(builder.add(bits, odd), ir.Constant(_I32, 0x7FFF)), ir.Constant(_I32, 16))
        invalid = builder.fcmp_unordered("uno", args[0], args[0])
        return builder.trunc(builder.select(invalid, ir.Constant(_I32, 0x7FC0), rounded), _I16)

    return array.dtype(value, array), build


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def magnitudes(typing_context: Any, array: Any, at: Any, count: Any, factors: Any, factors_at: Any) -> Any:
    """The greatest magnitude and the sum of squares of array[at : at + count] * factors[factors_at :][:count].

    Contiguous float32, counted flat; count: a multiple of 16.
    """
    result = types.UniTuple(types.float32, 2)

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector, number = ir.VectorType(ir.FloatType(), 16), ir.FloatType()
        begin = builder.gep(_data(context, builder, array, args[0]), [args[1]])
        times = builder.gep(_data(context, builder, factors, args[3]), [args[4]])
        most, squares = (cgutils.alloca_once_value(builder, ir.Constant(vector, None)) for _ in range(2))
        size = builder.module.declare_intrinsic("llvm.fabs.v16f32", (), ir.FunctionType(vector, (vector,)))
        with cgutils.for_range_slice(builder, ir.Constant(_I64, 0), args[2], ir.Constant(_I64, 16)) as (k, _):
            value, factor = (
                builder.load(builder.bitcast(builder.gep(pointer, [k]), vector.as_pointer()), align=4)
                for pointer in (begin, times)
            )
            value = builder.fmul(value, factor)
            builder.store(_fused_multiply_add(builder, value, value, builder.load(squares)), squares)
            value, before = builder.call(size, (value,)), builder.load(most)
            builder.store(builder.select(builder.fcmp_ordered(">", value, before), value, before), most)
        largest = builder.module.declare_intrinsic(
            "llvm.vector.reduce.fmax.v16f32", (), ir.FunctionType(number, (vector,))
        )
        total = builder.module.declare_intrinsic(
            "llvm.vector.reduce.fadd.v16f32", (), ir.FunctionType(number, (number, vector))
        )
        sums = builder.call(total, (ir.Constant(number, 0.0), builder.load(squares)), fastmath=("reassoc",))
        return context.make_tuple(builder, result, (builder.call(largest, (builder.load(most),)), sums))

    return result(array, types.int64, types.int64, factors, types.int64), build


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def copy_row(typing_context: Any, source: Any, row: Any, target: Any, at: Any, count: Any) -> Any:
    """target[at : at + count] = source[row, :count], both of one type."""
    integer = types.int64

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        size = context.make_array(source)(context, builder, args[0]).shape
        step = builder.extract_value(size, 1)
        begin = builder.gep(_data(context, builder, source, args[0]), [builder.mul(args[1], step)])
        to = builder.gep(_data(context, builder, target, args[2]), [args[3]])
        # Rows are short: a call of memcpy would take longer than whole vectors one after another.
        vector = ir.VectorType(begin.type.pointee, lanes(source.dtype.bitwidth // 8))
        width = ir.Constant(_I64, vector.count)
        whole = builder.icmp_signed("==", builder.urem(args[4], width), ir.Constant(_I64, 0))
        with builder.if_else(whole) as (by_vectors, by_bytes):
            with by_vectors, cgutils.for_range_slice(builder, ir.Constant(_I64, 0), args[4], width) as (k, _):
                value = builder.load(builder.bitcast(builder.gep(begin, [k]), vector.as_pointer()), align=4)
                builder.store(value, builder.bitcast(builder.gep(to, [k]), vector.as_pointer()), align=4)
            with by_bytes:
                byte = ir.IntType(8).as_pointer()
                move = builder.module.declare_intrinsic("llvm.memcpy", [byte, byte, _I64])
                length = builder.mul(args[4], ir.Constant(_I64, source.dtype.bitwidth // 8))
                of = [builder.bitcast(to, byte), builder.bitcast(begin, byte), length, ir.Constant(ir.IntType(1), 0)]
                builder.call(move, of)
        return context.get_dummy_value()

    return types.void(source, integer, target, integer, integer), build


add_outer_1, add_outer_2, add_outer_4 = _add_outer(1), _add_outer(2), _add_outer(VECTORS)


def _any_width(fresh: bool) -> Any:
    one, two, most = (_add_rows(vectors, fresh) for vectors in (1, 2, VECTORS))

    @njit(inline="always")  # type: ignore[untyped-decorator, unused-ignore]
    @no_type_check
    def rows_times_block(
        vectors,
        features,
        weight,
        weight_at,
        sums,
        sums_at,
        in_rows,
        out_rows,
        first,
        count,
        base,
        spare,
        depth,
        columns,
    ):  # pragma: no cover (compiled)
        if vectors == VECTORS:
            most(
                features, weight, weight_at, sums, sums_at, in_rows, out_rows, first, count, base, spare, depth, columns
            )
        elif vectors == 2:
            two(
                features, weight, weight_at, sums, sums_at, in_rows, out_rows, first, count, base, spare, depth, columns
            )
        else:
            one(
                features, weight, weight_at, sums, sums_at, in_rows, out_rows, first, count, base, spare, depth, columns
            )

    return rows_times_block


add_rows = _any_width(fresh=False)
"""Rows of features times a block of weights, `vectors` vectors wide, added to rows of sums: see `_add_rows`."""
set_rows = _any_width(fresh=True)
"""The same, but what was in the rows of sums is forgotten."""
