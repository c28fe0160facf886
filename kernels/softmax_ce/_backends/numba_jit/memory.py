"""Memory for the vectors: pointers, loads and stores of whole and part vectors, and streams."""

# mypy: allow-untyped-calls, disable-error-code="attr-defined, import-untyped, call-arg, unused-ignore"

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from softmax_ce._backends.numba_jit.vectors import (
    I1,
    I32,
    LINE,
    Vector,
    first_lanes,
    intrinsic,
    llvm_type,
    splat,
    vector_at,
)

# Pointers


def _array_at(context: Any, builder: Any, array: Any, value: Any) -> tuple[Any, Any]:
    """The array and whether it is there, for one that may be None."""
    if isinstance(array, types.Optional):
        optional = context.make_helper(builder, array, value)
        return context.make_array(array.type)(context, builder, optional.data), optional.valid
    return context.make_array(array)(context, builder, value), I1(1)


@intrinsic
def pointer(typingctx: Any, array: Any) -> Any:
    """To an array's first entry, or null for None. The array must stay alive and be contiguous."""
    given = array.type if isinstance(array, types.Optional) else array

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        found, there = _array_at(context, builder, array, args[0])
        return builder.select(there, found.data, ir.Constant(found.data.type, None))

    return types.CPointer(given.dtype)(array), emit


@intrinsic
def entries(typingctx: Any, array: Any) -> Any:
    """How many an array has; none for None."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        found, there = _array_at(context, builder, array, args[0])
        return builder.select(there, found.nitems, found.nitems.type(0))

    return types.intp(array), emit


@intrinsic
def step_of(typingctx: Any, array: Any) -> Any:
    """0 for an array with one entry for all, and for None; 1 for one with more."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        found, there = _array_at(context, builder, array, args[0])
        several = builder.icmp_signed(">", found.nitems, found.nitems.type(1))
        return builder.zext(builder.select(there, several, I1(0)), ir.IntType(types.intp.bitwidth))

    return types.intp(array), emit


@intrinsic
def keep_alive(typingctx: Any, array: Any) -> Any:
    """Nothing: an array is not freed before this, though only a pointer to it is used."""
    return types.void(array), lambda context, builder, sig, args: None


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
def on_stack(typingctx: Any, p: Any, value: Any) -> Any:
    """A pointer like p to a number, which lasts as long as the function that calls this."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return cgutils.alloca_once_value(builder, context.cast(builder, args[1], types.float64, p.dtype))

    return p(p, types.float64), emit


@intrinsic
def either(typingctx: Any, condition: Any, p: Any, q: Any) -> Any:
    """p where the condition holds, else q; without a branch."""
    return p(types.boolean, p, p), lambda context, builder, sig, args: builder.select(*args)


@intrinsic
def address(typingctx: Any, p: Any) -> Any:
    """A pointer as an integer."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], ir.IntType(types.intp.bitwidth))

    return types.intp(p), emit


# Loads and stores


def _place(context: Any, builder: Any, p: Any, offset: Any, vector_type: Any) -> Any:
    return builder.bitcast(builder.gep(p, [offset]), vector_type.as_pointer())


def _masked(builder: Any, kind: str, vector_type: Any, place: Any) -> Any:
    element = vector_type.element
    letters = f"f{32 if isinstance(element, ir.FloatType) else 64}" if not isinstance(element, ir.IntType) else "i64"
    vector = f"v{vector_type.count}{letters}"
    name = f"llvm.masked.{kind}.{vector}.p0" + ("" if place.type.is_opaque else vector)
    mask = ir.VectorType(I1, vector_type.count)
    if kind == "load":
        type_ = ir.FunctionType(vector_type, [place.type, I32, mask, vector_type])
    else:
        type_ = ir.FunctionType(ir.VoidType(), [vector_type, place.type, I32, mask])
    return cgutils.get_or_insert_function(builder.module, type_, name)


def _masked_load(builder: Any, vector_type: Any, place: Any, align: int, mask: Any, fill: Any) -> Any:
    return builder.call(_masked(builder, "load", vector_type, place), [place, I32(align), mask, fill])


def _masked_store(builder: Any, value: Any, place: Any, align: int, mask: Any) -> None:
    builder.call(_masked(builder, "store", value.type, place), [value, place, I32(align), mask])


@intrinsic
def load(typingctx: Any, p: Any, offset: Any) -> Any:
    """The vector at p[offset]."""
    vector = vector_at(p)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        type_ = llvm_type(vector)
        return builder.load(_place(context, builder, *args, type_), align=p.dtype.bitwidth // 8, typ=type_)

    return vector(p, types.intp), emit


@intrinsic
def load_first(typingctx: Any, p: Any, offset: Any, count: Any, fill: Any) -> Any:
    """The same of the first `count` lanes alone; the others get `fill`."""
    vector = vector_at(p)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        type_ = llvm_type(vector)
        place = _place(context, builder, *args[:2], type_)
        mask = first_lanes(builder, vector.lanes, args[2])
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
        mask = first_lanes(builder, value.lanes, args[2])
        _masked_store(builder, args[3], place, p.dtype.bitwidth // 8, mask)

    return types.void(p, types.intp, types.intp, value), emit


@intrinsic
def stream(typingctx: Any, p: Any, offset: Any, value: Any) -> Any:
    """Write a vector past the caches. Its address must be a multiple of 64 bytes."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        written = builder.store(args[2], _place(context, builder, *args[:2], args[2].type), align=LINE)
        written.set_metadata("nontemporal", builder.module.add_metadata([I32(1)]))

    return types.void(p, types.intp, value), emit


@intrinsic
def fence(typingctx: Any) -> Any:
    """Streamed vectors are in memory before anything that is written after this."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.fence("seq_cst")

    return types.void(), emit


def _prefetch(context: Any, builder: Any, p: Any, offset: Any, write: int) -> None:
    byte = ir.IntType(8).as_pointer()
    place = builder.bitcast(builder.gep(p, [offset]), byte)
    type_ = ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32])
    name = "llvm.prefetch.p0" + ("" if place.type.is_opaque else "i8")
    function = cgutils.get_or_insert_function(builder.module, type_, name)
    builder.call(function, [place, I32(write), I32(3), I32(1)])  # into every level, data


@intrinsic
def prefetch(typingctx: Any, p: Any, offset: Any) -> Any:
    """Ask for the cache line at p[offset], which is to be read. Any address will do."""
    return types.void(p, types.intp), lambda context, builder, sig, args: _prefetch(context, builder, *args, 0)


@intrinsic
def prefetch_to_write(typingctx: Any, p: Any, offset: Any) -> Any:
    """The same of a line that is to be written."""
    return types.void(p, types.intp), lambda context, builder, sig, args: _prefetch(context, builder, *args, 1)


@intrinsic
def one_each(typingctx: Any, p: Any, step: Any, offset: Any, count: Any, like: Any) -> Any:
    """p[offset] and the `count` - 1 entries after it, a lane of `like` each; where step is 0, p[0] in every lane."""
    vector = Vector(p.dtype, like.lanes)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        p_, step_, offset_, count_, _ = args
        type_ = llvm_type(vector)
        for_all = splat(builder, type_, builder.load(p_, typ=type_.element))
        place = _place(context, builder, p_, builder.mul(offset_, step_), type_)
        mask = first_lanes(builder, vector.lanes, builder.mul(count_, step_))
        return _masked_load(builder, type_, place, p.dtype.bitwidth // 8, mask, for_all)

    return vector(p, types.intp, types.intp, types.intp, like), emit
