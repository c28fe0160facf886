"""A thin layer of explicit vectors for Numba, so that no loop depends on LLVM to vectorise it.

A Vector has a fixed number of lanes, as many as fill a cache line. LLVM maps it onto the registers of the CPU (one of
AVX-512, two of AVX2, four of SSE or NEON), so the code and its bits are the same everywhere, FMA apart. Numbers become
vectors if one is expected. Memory is addressed by pointers and offsets: an array view costs more than a short row.
"""

# mypy: allow-untyped-calls, disable-error-code="attr-defined, import-untyped, call-arg, unused-ignore"
# (Numba is typed in parts, llvmlite not at all.)

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typeconv import Conversion
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic as _numba_intrinsic
from numba.extending import lower_builtin, lower_cast, models, register_model

from softmax_ce._backends.numba_jit.instruction_set import instruction_set
from softmax_ce.tuning import LINE_BYTES

I1, I32 = ir.IntType(1), ir.IntType(32)

intrinsic: Any = _numba_intrinsic  # Numba's types know the Python signature, which is not the one that is called


class Vector(types.Type):
    """The Numba type of `lanes` numbers of one dtype, or of `lanes` truth values."""

    def __init__(self, dtype: Any, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Vector({dtype}, {lanes})")

    def can_convert_from(self, typingctx: Any, other: Any) -> Any:
        return Conversion.safe if isinstance(other, types.Number) else None


def llvm_type(vector: Vector) -> Any:
    if vector.dtype == types.boolean:
        element = I1
    elif isinstance(vector.dtype, types.Integer):
        element = ir.IntType(vector.dtype.bitwidth)
    else:
        element = ir.FloatType() if vector.dtype == types.float32 else ir.DoubleType()
    return ir.VectorType(element, vector.lanes)


def mask_of(vector: Vector) -> Vector:
    return Vector(types.boolean, vector.lanes)


def vector_at(pointer: Any) -> Vector:
    """Return the type of the vectors at a pointer: a cache line each, unless it points to vectors, or is one."""
    if isinstance(pointer, Vector):
        return pointer
    dtype = pointer.dtype
    return dtype if isinstance(dtype, Vector) else Vector(dtype, LINE_BYTES * 8 // dtype.bitwidth)


@register_model(Vector)
class _Model(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, llvm_type(vector))


def constants(vector_type: Any, values: Any) -> Any:
    return ir.Constant(vector_type, [ir.Constant(vector_type.element, v) for v in values])


def splat(builder: Any, vector_type: Any, scalar: Any) -> Any:
    start = builder.insert_element(ir.Constant(vector_type, ir.Undefined), scalar, I32(0))
    zeros = ir.Constant(ir.VectorType(I32, vector_type.count), None)
    return builder.shuffle_vector(start, start, zeros)


def first_lanes(builder: Any, lanes: int, count: Any) -> Any:
    """Return the mask of the first `count` lanes."""
    vector_type = ir.VectorType(count.type, lanes)
    return builder.icmp_signed("<", constants(vector_type, range(lanes)), splat(builder, vector_type, count))


def part_of(builder: Any, vector: Any, lanes: Any) -> Any:
    """Return some of a vector's lanes as a vector."""
    order = list(lanes)
    return builder.shuffle_vector(vector, vector, constants(ir.VectorType(I32, len(order)), order))


def split(builder: Any, vector: Any, lanes: int) -> list[Any]:
    """Return the parts of a vector, of `lanes` lanes each."""
    return [part_of(builder, vector, range(k, k + lanes)) for k in range(0, vector.type.count, lanes)]


def joined(builder: Any, parts: list[Any]) -> Any:
    """Return the parts, a power of two of them, joined into one vector."""
    while len(parts) > 1:
        order = ir.VectorType(I32, 2 * parts[0].type.count)
        whole = constants(order, range(order.count))
        parts = [builder.shuffle_vector(*pair, whole) for pair in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


@lower_cast(types.Number, Vector)
def _number_to_vector(context: Any, builder: Any, fromty: Any, toty: Any, value: Any) -> Any:
    return splat(builder, llvm_type(toty), context.cast(builder, value, fromty, toty.dtype))


def _define_operator(op: Any, emit: Any, *, mask: bool = False, on: Any = types.Float) -> None:
    @infer_global(op)
    class Typing(AbstractTemplate):  # type: ignore[misc]
        def generic(self, args: Any, kws: Any) -> Any:
            vector = next((a for a in args if isinstance(a, Vector)), None)
            if vector is None or not isinstance(vector.dtype, on):
                return None
            return signature(mask_of(vector) if mask else vector, *[vector] * len(args))

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return emit(builder, *args)

    lower_builtin(op, Vector, Vector)(lower)


_define_operator(operator.add, lambda b, x, y: b.fadd(x, y))
_define_operator(operator.sub, lambda b, x, y: b.fsub(x, y))
_define_operator(operator.mul, lambda b, x, y: b.fmul(x, y))
_define_operator(operator.truediv, lambda b, x, y: b.fdiv(x, y))
_define_operator(operator.lt, lambda b, x, y: b.fcmp_ordered("<", x, y), mask=True)
_define_operator(operator.gt, lambda b, x, y: b.fcmp_ordered(">", x, y), mask=True)
_define_operator(operator.eq, lambda b, x, y: b.fcmp_ordered("==", x, y), mask=True)
_define_operator(operator.ne, lambda b, x, y: b.fcmp_unordered("!=", x, y), mask=True)
_define_operator(operator.and_, lambda b, x, y: b.and_(x, y), mask=True, on=types.Boolean)


@intrinsic
def lanes_of(typingctx: Any, p: Any) -> Any:
    """Return the number of lanes of the vectors at a pointer.

    C: none, W and LINE are constants there
    """
    lanes = ir.IntType(types.intp.bitwidth)(vector_at(p).lanes)
    return types.intp(p), lambda context, builder, sig, args: lanes


# Lane by lane


@intrinsic
def filled(typingctx: Any, p: Any, value: Any) -> Any:
    """Return a vector of the type at a pointer with `value` in every lane.

    C: v_set in vec_baseline.h
    """
    vector = vector_at(p)
    return vector(p, vector), lambda context, builder, sig, args: args[1]


@intrinsic
def fma(typingctx: Any, x: Any, y: Any, z: Any) -> Any:
    """Return x * y + z, rounded once if the CPU has such an instruction.

    C: v_fma in vec_baseline.h
    """
    vector = next(a for a in (x, y, z) if isinstance(a, Vector))

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        type_ = args[0].type
        name = f"llvm.fmuladd.v{vector.lanes}f{vector.dtype.bitwidth}"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(type_, [type_] * 3), name)
        return builder.call(function, args)

    return vector(vector, vector, vector), emit


@intrinsic
def where(typingctx: Any, mask: Any, x: Any, y: Any) -> Any:
    """Return x in the lanes of the mask and y in the others, as float64 if both are numbers.

    C: v_blend in vec_avx2.h
    """
    vector = next((a for a in (x, y) if isinstance(a, Vector)), Vector(types.float64, mask.lanes))
    return vector(mask, vector, vector), lambda context, builder, sig, args: builder.select(*args)


@intrinsic
def maximum(typingctx: Any, x: Any, y: Any) -> Any:
    """Return the larger one of each lane, or y if one of them is NaN. This is one instruction of x86.

    C: v_max in vec_baseline.h
    """
    vector = next(a for a in (x, y) if isinstance(a, Vector))

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return vector(vector, vector), emit


@intrinsic
def widen(typingctx: Any, x: Any) -> Any:
    """Return a vector as float64.

    C: a_add in vec_avx2.h
    """
    vector = Vector(types.float64, x.lanes)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return args[0] if x.dtype == types.float64 else builder.fpext(args[0], llvm_type(vector))

    return vector(x), emit


@intrinsic
def power_of_two(typingctx: Any, shifted: Any) -> Any:
    """Return 2**n, given n + the exponent's bias in the low bits of `shifted`. The result is 0 if that sum is 0.

    C: v_power_raised in vec_avx2.h
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = shifted.dtype.bitwidth
        type_ = ir.VectorType(ir.IntType(bits), shifted.lanes)
        mantissa = constants(type_, [23 if bits == 32 else 52] * shifted.lanes)
        return builder.bitcast(builder.shl(builder.bitcast(args[0], type_), mantissa), llvm_type(shifted))

    return shifted(shifted), emit


# Instructions that look up each lane of a register in another one: lanes, and LLVM's name.
_LOOK_UPS = {"avx2": (8, "llvm.x86.avx2.permps"), "avx512": (16, "llvm.x86.avx512.permvar.sf.512")}


def has_look_up() -> bool:
    """Return whether this CPU has an instruction for `power_of_eighths`."""
    return instruction_set() in _LOOK_UPS


@intrinsic
def power_of_eighths(typingctx: Any, shifted: Any) -> Any:
    """Return 2**(k / 8), given k + 8 * the exponent's bias in the low bits of `shifted`; 0 if that sum is 0.

    C: v_power_raised in vec_avx2.h
    """
    steps = [0x0, 0xB95C2, 0x1837F0, 0x25FED7, 0x3504F3, 0x45672A, 0x5744FD, 0x6AC0C7]  # mantissas of 2**(k / 8)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        lanes, name = _LOOK_UPS[instruction_set()]
        type_, part = ir.VectorType(I32, shifted.lanes), ir.VectorType(I32, lanes)
        floats = ir.VectorType(ir.FloatType(), lanes)
        look_up = cgutils.get_or_insert_function(builder.module, ir.FunctionType(floats, [floats, part]), name)
        # k is subtracted at bits 20 to 22, to which the low bits of `shifted` are added below.
        table = constants(part, [(step - (k << 20)) & 0xFFFFFFFF for k, step in enumerate(steps)] * (lanes // 8))
        bits = builder.bitcast(args[0], type_)
        found = [
            builder.call(look_up, [builder.bitcast(table, floats), index]) for index in split(builder, bits, lanes)
        ]
        mantissa = builder.bitcast(joined(builder, found), type_)
        exponent = builder.shl(bits, constants(type_, [20] * shifted.lanes))
        return builder.bitcast(builder.add(mantissa, exponent), llvm_type(shifted))

    return shifted(shifted), emit


# Across lanes


def _reduce(builder: Any, vector: Any, combine: Any) -> Any:
    """Return all lanes combined, half by half, in an order that is the same everywhere."""
    lanes = vector.type.count
    while lanes > 1:
        lanes //= 2
        type_ = ir.VectorType(I32, lanes)
        low, high = (
            builder.shuffle_vector(vector, vector, constants(type_, range(start, start + lanes)))
            for start in (0, lanes)
        )
        vector = combine(low, high)
    return builder.extract_element(vector, I32(0))


@intrinsic
def sum_lanes(typingctx: Any, x: Any) -> Any:
    """Return the sum over the lanes.

    C: a_line in vec_avx2.h
    """
    return x.dtype(x), lambda context, builder, sig, args: _reduce(builder, args[0], builder.fadd)


@intrinsic
def halves_added(typingctx: Any, x: Any) -> Any:
    """Return the first half of the lanes plus the second half.

    C: none, sums run over whole lines there
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.fadd(*split(builder, args[0], x.lanes // 2))

    return Vector(x.dtype, x.lanes // 2)(x), emit


@intrinsic
def max_lanes(typingctx: Any, x: Any) -> Any:
    """Return the largest lane of a vector without NaN.

    C: v_hmax in vec_avx2.h
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _reduce(builder, args[0], lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))

    return x.dtype(x), emit


@intrinsic
def first_lane(typingctx: Any, x: Any) -> Any:
    """Return lane 0.

    C: raised_exp_at in rows_pipeline.h
    """
    return x.dtype(x), lambda context, builder, sig, args: builder.extract_element(args[0], I32(0))


@intrinsic
def insert_lane(typingctx: Any, x: Any, lane: Any, value: Any) -> Any:
    """Return x with one lane replaced.

    C: with_lane in rows_load.h
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.insert_element(args[0], args[2], args[1])

    return x(x, types.intp, x.dtype), emit


@intrinsic
def lanes_below(typingctx: Any, count: Any, like: Any) -> Any:
    """Return the mask of the first `count` lanes.

    C: v_first in vec_avx2.h
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return first_lanes(builder, like.lanes, args[0])

    return mask_of(like)(types.intp, like), emit


@intrinsic
def known_labels(typingctx: Any, labels: Any, classes: Any, ignore_index: Any, like: Any) -> Any:
    """Return labels as numbers of the type of `like`, or -1 for those that are ignored or no classes.

    C: v_labels in vec_avx2.h
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        type_, small = args[0].type, ir.VectorType(I32, labels.lanes)
        in_range = builder.icmp_unsigned("<", args[0], splat(builder, type_, args[1]))
        ignored = builder.icmp_signed("==", args[0], splat(builder, type_, args[2]))
        known = builder.and_(in_range, builder.not_(ignored))
        index = builder.select(known, builder.trunc(args[0], small), constants(small, [-1] * labels.lanes))
        return builder.sitofp(index, args[3].type)

    return like(labels, types.int64, types.int64, like), emit


@intrinsic
def as_bits(typingctx: Any, mask: Any) -> Any:
    """Return a mask as an integer. Lane 0 is its lowest bit.

    C: m_bits in vec_avx2.h
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.zext(builder.bitcast(args[0], ir.IntType(mask.lanes)), ir.IntType(64))

    return types.int64(mask), emit


@intrinsic
def trailing_zeros(typingctx: Any, bits: Any) -> Any:
    """Return how many bits lie below the lowest one that is set, or 64 if there is none.

    C: none, only `_copy_masked` needs it
    """
    return types.int64(types.int64), lambda context, builder, sig, args: builder.cttz(args[0], I1(0))


@intrinsic
def rounded(typingctx: Any, x: Any, like: Any) -> Any:
    """Return x, rounded to the dtype of `like`.

    C: a_lanes in vec_avx2.h
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return args[0] if x.dtype == like.dtype else builder.fptrunc(args[0], args[1].type)

    return like(x, like), emit


@intrinsic
def split_exponent(typingctx: Any, x: Any) -> Any:
    """Return (m, n) with x = m * 2**n and sqrt(1/2) <= m < sqrt(2). Each x must be positive and normal.

    C: v_significand in vec_avx2.h
    """
    bits, mantissa, root = (32, 23, 0x3F3504F3) if x.dtype == types.float32 else (64, 52, 0x3FE6A09E667F3BCD)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        type_ = ir.VectorType(ir.IntType(bits), x.lanes)

        def every(value: int) -> Any:
            return constants(type_, [value] * x.lanes)

        from_root = builder.sub(builder.bitcast(args[0], type_), every(root))  # bits of sqrt(1/2)
        exponent = builder.ashr(from_root, every(mantissa))
        scaled = builder.sub(builder.bitcast(args[0], type_), builder.shl(exponent, every(mantissa)))
        m = builder.bitcast(scaled, args[0].type)
        small = exponent if bits == 32 else builder.trunc(exponent, ir.VectorType(I32, x.lanes))
        return context.make_tuple(builder, sig.return_type, [m, builder.sitofp(small, args[0].type)])

    return types.UniTuple(x, 2)(x), emit
