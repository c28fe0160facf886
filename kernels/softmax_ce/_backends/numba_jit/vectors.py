"""A thin layer of explicit vectors for Numba: the loops here do not wait for LLVM to vectorise them.

A Vector is a fixed number of lanes; LLVM maps it onto the registers that the CPU has (one of AVX-512, two of AVX2,
four of SSE or NEON), so the code and its bits are the same everywhere but for FMA. Numbers become vectors where one is
expected. Memory is addressed through pointers and offsets: an array view costs more than a short row.
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

_BYTES = 64  # of a vector of logits

_I1, _I32 = ir.IntType(1), ir.IntType(32)

intrinsic: Any = _numba_intrinsic  # Numba's types know the Python signature, which is not the one that is called


class Vector(types.Type):
    """`lanes` numbers of one dtype, or truth values."""

    def __init__(self, dtype: Any, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Vector({dtype}, {lanes})")

    def can_convert_from(self, typingctx: Any, other: Any) -> Any:
        return Conversion.safe if isinstance(other, types.Number) else None


def _llvm(vector: Vector) -> Any:
    if vector.dtype == types.boolean:
        element = _I1
    elif isinstance(vector.dtype, types.Integer):
        element = ir.IntType(vector.dtype.bitwidth)
    else:
        element = ir.FloatType() if vector.dtype == types.float32 else ir.DoubleType()
    return ir.VectorType(element, vector.lanes)


def _mask(vector: Vector) -> Vector:
    return Vector(types.boolean, vector.lanes)


def _native(pointer: Any) -> Vector:
    return Vector(pointer.dtype, _BYTES * 8 // pointer.dtype.bitwidth)


@register_model(Vector)
class _Model(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, _llvm(vector))


def _constants(vector_type: Any, values: Any) -> Any:
    return ir.Constant(vector_type, [ir.Constant(vector_type.element, v) for v in values])


def _splat(builder: Any, vector_type: Any, scalar: Any) -> Any:
    start = builder.insert_element(ir.Constant(vector_type, ir.Undefined), scalar, _I32(0))
    zeros = ir.Constant(ir.VectorType(_I32, vector_type.count), None)
    return builder.shuffle_vector(start, start, zeros)


@lower_cast(types.Number, Vector)
def _number_to_vector(context: Any, builder: Any, fromty: Any, toty: Any, value: Any) -> Any:
    return _splat(builder, _llvm(toty), context.cast(builder, value, fromty, toty.dtype))


def _define_operator(op: Any, emit: Any, *, mask: bool = False, on: Any = types.Float) -> None:
    @infer_global(op)
    class Typing(AbstractTemplate):  # type: ignore[misc]
        def generic(self, args: Any, kws: Any) -> Any:
            vector = next((a for a in args if isinstance(a, Vector)), None)
            if vector is None or not isinstance(vector.dtype, on):
                return None
            return signature(_mask(vector) if mask else vector, *[vector] * len(args))

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return emit(builder, *args)

    for first, second in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        lower_builtin(op, first, second)(lower)


_define_operator(operator.add, lambda b, x, y: b.fadd(x, y))
_define_operator(operator.sub, lambda b, x, y: b.fsub(x, y))
_define_operator(operator.mul, lambda b, x, y: b.fmul(x, y))
_define_operator(operator.truediv, lambda b, x, y: b.fdiv(x, y))
_define_operator(operator.lt, lambda b, x, y: b.fcmp_ordered("<", x, y), mask=True)
_define_operator(operator.le, lambda b, x, y: b.fcmp_ordered("<=", x, y), mask=True)
_define_operator(operator.eq, lambda b, x, y: b.fcmp_ordered("==", x, y), mask=True)
_define_operator(operator.and_, lambda b, x, y: b.and_(x, y), mask=True, on=types.Boolean)


# Pointers


@intrinsic
def pointer(typingctx: Any, array: Any) -> Any:
    """To an array's first entry. The array must stay alive and be contiguous."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.make_array(array)(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), emit


@intrinsic
def at(typingctx: Any, p: Any, offset: Any) -> Any:
    """The pointer moved on by `offset` entries."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.gep(args[0], [args[1]])

    return p(p, types.intp), emit


@intrinsic
def is_null(typingctx: Any, p: Any) -> Any:
    """Whether a pointer is null."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return cgutils.is_null(builder, args[0])

    return types.boolean(p), emit


@intrinsic
def null_if(typingctx: Any, missing: Any, p: Any) -> Any:
    """A null pointer where `missing`."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(args[0], ir.Constant(args[1].type, None), args[1])

    return p(types.boolean, p), emit


@intrinsic
def address(typingctx: Any, p: Any) -> Any:
    """A pointer as an integer."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], ir.IntType(types.intp.bitwidth))

    return types.intp(p), emit


# Loads and stores


def _place(context: Any, builder: Any, p: Any, offset: Any, vector_type: Any) -> Any:
    return builder.bitcast(builder.gep(p, [offset]), vector_type.as_pointer())


def _first_lanes(builder: Any, lanes: int, count: Any) -> Any:
    """The mask of the first `count` lanes."""
    vector_type = ir.VectorType(count.type, lanes)
    return builder.icmp_signed("<", _constants(vector_type, range(lanes)), _splat(builder, vector_type, count))


def _masked(builder: Any, kind: str, vector_type: Any, place: Any) -> Any:
    element = vector_type.element
    letters = f"f{32 if isinstance(element, ir.FloatType) else 64}" if not isinstance(element, ir.IntType) else "i64"
    vector = f"v{vector_type.count}{letters}"
    name = f"llvm.masked.{kind}.{vector}.p0" + ("" if place.type.is_opaque else vector)
    mask = ir.VectorType(_I1, vector_type.count)
    if kind == "load":
        type_ = ir.FunctionType(vector_type, [place.type, _I32, mask, vector_type])
    else:
        type_ = ir.FunctionType(ir.VoidType(), [vector_type, place.type, _I32, mask])
    return cgutils.get_or_insert_function(builder.module, type_, name)


def _masked_load(builder: Any, vector_type: Any, place: Any, align: int, mask: Any, fill: Any) -> Any:
    return builder.call(_masked(builder, "load", vector_type, place), [place, _I32(align), mask, fill])


def _masked_store(builder: Any, value: Any, place: Any, align: int, mask: Any) -> None:
    builder.call(_masked(builder, "store", value.type, place), [value, place, _I32(align), mask])


@intrinsic
def load(typingctx: Any, p: Any, offset: Any) -> Any:
    """The vector at p[offset]."""
    vector = _native(p)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        type_ = _llvm(vector)
        return builder.load(_place(context, builder, *args, type_), align=p.dtype.bitwidth // 8, typ=type_)

    return vector(p, types.intp), emit


@intrinsic
def load_four(typingctx: Any, p: Any, offset: Any) -> Any:
    """Four vectors at p[offset] as one: LLVM then works on them in turns, which hides the latency of each step."""
    vector = Vector(p.dtype, 4 * _native(p).lanes)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        type_ = _llvm(vector)
        return builder.load(_place(context, builder, *args, type_), align=p.dtype.bitwidth // 8, typ=type_)

    return vector(p, types.intp), emit


@intrinsic
def load_first(typingctx: Any, p: Any, offset: Any, count: Any, fill: Any) -> Any:
    """The same of the first `count` lanes alone; the others get `fill`."""
    vector = _native(p)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        type_ = _llvm(vector)
        place = _place(context, builder, *args[:2], type_)
        mask = _first_lanes(builder, vector.lanes, args[2])
        return _masked_load(builder, type_, place, p.dtype.bitwidth // 8, mask, args[3])

    return vector(p, types.intp, types.intp, vector), emit


@intrinsic
def store(typingctx: Any, p: Any, offset: Any, value: Any) -> Any:
    """Write a vector to p[offset]."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = _place(context, builder, *args[:2], args[2].type)
        builder.store(args[2], place, align=p.dtype.bitwidth // 8)

    return types.void(p, types.intp, value), emit


@intrinsic
def store_first(typingctx: Any, p: Any, offset: Any, count: Any, value: Any) -> Any:
    """The same of the first `count` lanes alone."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = _place(context, builder, *args[:2], args[3].type)
        mask = _first_lanes(builder, value.lanes, args[2])
        _masked_store(builder, args[3], place, p.dtype.bitwidth // 8, mask)

    return types.void(p, types.intp, types.intp, value), emit


@intrinsic
def stream(typingctx: Any, p: Any, offset: Any, value: Any) -> Any:
    """Write a vector past the caches. Its address must be a multiple of 64 bytes."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        written = builder.store(args[2], _place(context, builder, *args[:2], args[2].type), align=_BYTES)
        written.set_metadata("nontemporal", builder.module.add_metadata([_I32(1)]))

    return types.void(p, types.intp, value), emit


@intrinsic
def fence(typingctx: Any) -> Any:
    """Streamed vectors are in memory before anything that is written after this."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.fence("seq_cst")

    return types.void(), emit


# Lane by lane


@intrinsic
def filled(typingctx: Any, p: Any, value: Any) -> Any:
    """A vector of the pointer's dtype, every lane the same."""
    vector = _native(p)
    return vector(p, vector), lambda context, builder, sig, args: args[1]


@intrinsic
def fma(typingctx: Any, x: Any, y: Any, z: Any) -> Any:
    """x * y + z, rounded once where the CPU can."""
    vector = next(a for a in (x, y, z) if isinstance(a, Vector))

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        type_ = args[0].type
        name = f"llvm.fmuladd.v{vector.lanes}f{vector.dtype.bitwidth}"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(type_, [type_] * 3), name)
        return builder.call(function, args)

    return vector(vector, vector, vector), emit


@intrinsic
def where(typingctx: Any, mask: Any, x: Any, y: Any) -> Any:
    """x in the lanes of the mask, y in the others."""
    vector = next(a for a in (x, y) if isinstance(a, Vector))
    return vector(mask, vector, vector), lambda context, builder, sig, args: builder.select(*args)


@intrinsic
def maximum(typingctx: Any, x: Any, y: Any) -> Any:
    """The larger one; y where x is NaN. One instruction of x86."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return x(x, x), emit


@intrinsic
def widen(typingctx: Any, x: Any) -> Any:
    """As float64."""
    vector = Vector(types.float64, x.lanes)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return args[0] if x.dtype == types.float64 else builder.fpext(args[0], _llvm(vector))

    return vector(x), emit


@intrinsic
def times_power_of_two(typingctx: Any, x: Any, shifted: Any) -> Any:
    """x * 2**n, where n sits in the low bits of `shifted`; both x and the result must be normal numbers."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = x.dtype.bitwidth
        type_ = ir.VectorType(ir.IntType(bits), x.lanes)
        mantissa = _constants(type_, [23 if bits == 32 else 52] * x.lanes)
        exponent = builder.shl(builder.bitcast(args[1], type_), mantissa)
        return builder.bitcast(builder.add(builder.bitcast(args[0], type_), exponent), _llvm(x))

    return x(x, x), emit


@intrinsic
def quarters(typingctx: Any, x: Any) -> Any:
    """Four vectors that were one."""
    vector = Vector(x.dtype, x.lanes // 4)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        type_ = ir.VectorType(_I32, vector.lanes)
        starts = range(0, x.lanes, vector.lanes)
        orders = (_constants(type_, range(i, i + vector.lanes)) for i in starts)
        parts = [builder.shuffle_vector(args[0], args[0], order) for order in orders]
        return context.make_tuple(builder, sig.return_type, parts)

    return types.UniTuple(vector, 4)(x), emit


# Across lanes


def _reduce(builder: Any, vector: Any, combine: Any) -> Any:
    """Halves upon halves, so in an order that is the same everywhere."""
    lanes = vector.type.count
    while lanes > 1:
        lanes //= 2
        type_ = ir.VectorType(_I32, lanes)
        low, high = (
            builder.shuffle_vector(vector, vector, _constants(type_, range(start, start + lanes)))
            for start in (0, lanes)
        )
        vector = combine(low, high)
    return builder.extract_element(vector, _I32(0))


@intrinsic
def sum_lanes(typingctx: Any, x: Any) -> Any:
    """The sum over the lanes."""
    return x.dtype(x), lambda context, builder, sig, args: _reduce(builder, args[0], builder.fadd)


@intrinsic
def max_lanes(typingctx: Any, x: Any) -> Any:
    """The largest lane; without NaN."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _reduce(builder, args[0], lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))

    return x.dtype(x), emit


@intrinsic
def first_lane(typingctx: Any, x: Any) -> Any:
    """Lane 0."""
    return x.dtype(x), lambda context, builder, sig, args: builder.extract_element(args[0], _I32(0))


@intrinsic
def insert_lane(typingctx: Any, x: Any, lane: Any, value: Any) -> Any:
    """x with one lane replaced."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.insert_element(args[0], args[2], args[1])

    return x(x, types.intp, x.dtype), emit


@intrinsic
def first_only(typingctx: Any, x: Any, count: Any) -> Any:
    """x in the first `count` lanes, 0 in the others."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        mask = _first_lanes(builder, x.lanes, args[1])
        return builder.select(mask, args[0], ir.Constant(args[0].type, None))

    return x(x, types.intp), emit


@intrinsic
def four(typingctx: Any, x: Any) -> Any:
    """A vector four times."""
    vector = Vector(x.dtype, x.lanes * 4)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        order = _constants(ir.VectorType(_I32, vector.lanes), list(range(x.lanes)) * 4)
        return builder.shuffle_vector(args[0], args[0], order)

    return vector(x), emit
