"""Pointers, and loads, stores and streaming stores of whole and partial vectors."""

# mypy: allow-untyped-calls, disable-error-code="attr-defined, import-untyped, call-arg, unused-ignore"

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from softmax_ce._backends.numba_jit.vectors import (
    I1,
    I32,
    Vector,
    first_lanes,
    intrinsic,
    llvm_type,
    splat,
    vector_at,
)
from softmax_ce.tuning import LINE_BYTES

# Pointers


def _array_at(context: Any, builder: Any, array: Any, value: Any) -> tuple[Any, Any]:
    """Return an array that may be None, and whether it is one."""
    if isinstance(array, types.Optional):
        optional = context.make_helper(builder, array, value)
        return context.make_array(array.type)(context, builder, optional.data), optional.valid
    return context.make_array(array)(context, builder, value), I1(1)


@intrinsic
def pointer(typingctx: Any, array: Any) -> Any:
    """Return a pointer to the first entry of a contiguous array that stays alive, or null for None.

    C: _vector in _kernels.pyx
    """
    given = array.type if isinstance(array, types.Optional) else array

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        found, there = _array_at(context, builder, array, args[0])
        return builder.select(there, found.data, ir.Constant(found.data.type, None))

    return types.CPointer(given.dtype)(array), emit


@intrinsic
def step_of(typingctx: Any, array: Any) -> Any:
    """Return 1 for an array of several entries, and 0 for one entry or None.

    C: _vector in _kernels.pyx
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        found, there = _array_at(context, builder, array, args[0])
        several = builder.icmp_signed(">", found.nitems, found.nitems.type(1))
        return builder.zext(builder.select(there, several, I1(0)), ir.IntType(types.intp.bitwidth))

    return types.intp(array), emit


@intrinsic
def keep_alive(typingctx: Any, array: Any) -> Any:
    """Keep an array alive up to this call. Numba frees it after its last use, and only a pointer may be used.

    C: none, the caller's arrays live longer
    """
    return types.void(array), lambda context, builder, sig, args: None


@intrinsic
def at(typingctx: Any, p: Any, offset: Any) -> Any:
    """Return the pointer plus `offset` entries.

    C: entry in formats.h
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.gep(args[0], [args[1]])

    return p(p, types.intp), emit


@intrinsic
def is_null(typingctx: Any, p: Any) -> Any:
    """Return whether a pointer is null.

    C: none, C has pointers
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return cgutils.is_null(builder, args[0])

    return types.boolean(p), emit


@intrinsic
def null_if(typingctx: Any, missing: Any, p: Any) -> Any:
    """Return a null pointer if `missing`, else p.

    C: none, C has pointers
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(args[0], ir.Constant(args[1].type, None), args[1])

    return p(types.boolean, p), emit


@intrinsic
def on_stack(typingctx: Any, p: Any, value: Any) -> Any:
    """Return a pointer, of the type of p, to a number on the stack of the function that calls this.

    C: none, C has pointers
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return cgutils.alloca_once_value(builder, context.cast(builder, args[1], types.float64, p.dtype))

    return p(p, types.float64), emit


@intrinsic
def either(typingctx: Any, condition: Any, p: Any, q: Any) -> Any:
    """Return p if the condition holds, else q, without a branch.

    C: none, C has pointers
    """
    return p(types.boolean, p, p), lambda context, builder, sig, args: builder.select(*args)


@intrinsic
def address(typingctx: Any, p: Any) -> Any:
    """Return a pointer as an integer.

    C: none, C has pointers
    """

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
    """Return the vector at p[offset].

    C: v_load in vec_baseline.h
    """
    vector = vector_at(p)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        type_ = llvm_type(vector)
        return builder.load(_place(context, builder, *args, type_), align=p.dtype.bitwidth // 8, typ=type_)

    return vector(p, types.intp), emit


@intrinsic
def load_first(typingctx: Any, p: Any, offset: Any, count: Any, fill: Any) -> Any:
    """Return a vector whose first `count` lanes are loaded from p[offset] on, and `fill` in the others.

    C: v_load_first in vec_avx2.h
    """
    vector = vector_at(p)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        type_ = llvm_type(vector)
        place = _place(context, builder, *args[:2], type_)
        mask = first_lanes(builder, vector.lanes, args[2])
        return _masked_load(builder, type_, place, p.dtype.bitwidth // 8, mask, args[3])

    return vector(p, types.intp, types.intp, vector), emit


@intrinsic
def store(typingctx: Any, p: Any, offset: Any, value: Any) -> Any:
    """Store a vector at p[offset].

    C: v_store in vec_baseline.h
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = _place(context, builder, *args[:2], args[2].type)
        builder.store(args[2], place, align=p.dtype.bitwidth // 8)

    return types.void(p, types.intp, value), emit


@intrinsic
def store_first(typingctx: Any, p: Any, offset: Any, count: Any, value: Any) -> Any:
    """Store the first `count` lanes of a vector at p[offset].

    C: v_store_first in vec_avx2.h
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = _place(context, builder, *args[:2], args[3].type)
        mask = first_lanes(builder, value.lanes, args[2])
        _masked_store(builder, args[3], place, p.dtype.bitwidth // 8, mask)

    return types.void(p, types.intp, types.intp, value), emit


@intrinsic
def stream(typingctx: Any, p: Any, offset: Any, value: Any) -> Any:
    """Store a vector at p[offset], past the caches. The address must be a multiple of 64 bytes.

    C: v_stream in vec_baseline.h
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        written = builder.store(args[2], _place(context, builder, *args[:2], args[2].type), align=LINE_BYTES)
        written.set_metadata("nontemporal", builder.module.add_metadata([I32(1)]))

    return types.void(p, types.intp, value), emit


@intrinsic
def fence(typingctx: Any) -> Any:
    """Order streamed vectors before everything that is written afterwards.

    C: none, the fence is in rows_team.c and in the callers' locks
    """

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
    """Prefetch the cache line at p[offset], to read it. Any address is allowed.

    C: max_block in rows_sums.h, by __builtin_prefetch
    """
    return types.void(p, types.intp), lambda context, builder, sig, args: _prefetch(context, builder, *args, 0)


@intrinsic
def prefetch_to_write(typingctx: Any, p: Any, offset: Any) -> Any:
    """Prefetch the cache line at p[offset], to write it. Any address is allowed.

    C: prefetch_columns in lanes_sums.h, by __builtin_prefetch
    """
    return types.void(p, types.intp), lambda context, builder, sig, args: _prefetch(context, builder, *args, 1)


@intrinsic
def one_each(typingctx: Any, p: Any, step: Any, offset: Any, count: Any, like: Any) -> Any:
    """Return `count` entries from p[offset] on, one in each lane of `like`. If step is 0, p[0] is in every lane.

    C: row_factor in lanes_sums.h
    """
    vector = Vector(p.dtype, like.lanes)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        p_, step_, offset_, count_, _ = args
        type_ = llvm_type(vector)
        for_all = splat(builder, type_, builder.load(p_, typ=type_.element))
        place = _place(context, builder, p_, builder.mul(offset_, step_), type_)
        mask = first_lanes(builder, vector.lanes, builder.mul(count_, step_))
        return _masked_load(builder, type_, place, p.dtype.bitwidth // 8, mask, for_all)

    return vector(p, types.intp, types.intp, types.intp, like), emit
