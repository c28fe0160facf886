"""Memory for the vectors: pointers, loads and stores of whole and part vectors, streams, and tiles turned about."""

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
    constants,
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


# Rows along the lanes: tiles of as many rows and classes as a vector has lanes, turned between memory and a scratch


def _turn(builder: Any, vectors: list[Any]) -> list[Any]:
    """Lane j of vector i becomes lane i of vector j, one bit of i and j at a time."""
    lanes = len(vectors)
    order = ir.VectorType(I32, lanes)
    for bit in (1 << k for k in range(lanes.bit_length() - 1)):
        low = constants(order, [lanes + lane - bit if lane & bit else lane for lane in range(lanes)])
        high = constants(order, [lanes + lane if lane & bit else lane + bit for lane in range(lanes)])
        turned = list(vectors)
        for i in range(lanes):
            if not i & bit:
                pair = vectors[i], vectors[i | bit]
                turned[i], turned[i | bit] = (builder.shuffle_vector(*pair, order) for order in (low, high))
        vectors = turned
    return vectors


@intrinsic
def tiles_at(typingctx: Any, p: Any) -> Any:
    """A scratch of numbers as one of vectors of two cache lines: two tiles are worked on in turns."""
    half = vector_at(p)
    result = types.CPointer(Vector(half.dtype, 2 * half.lanes))

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], llvm_type(result.dtype).as_pointer())

    return result(p), emit


def _tile_masks(builder: Any, lanes: int, count: Any, rows: Any) -> Any:
    """For each row: the first `count` lanes if it has a bit in `rows`, none otherwise."""
    mask = ir.VectorType(I1, lanes)
    first = first_lanes(builder, lanes, count)
    wanted = builder.bitcast(builder.trunc(rows, ir.IntType(2 * lanes)), ir.VectorType(I1, 2 * lanes))
    for i in range(2 * lanes):
        yield builder.select(builder.extract_element(wanted, I32(i)), first, ir.Constant(mask, None))


def _tile_places(context: Any, builder: Any, tiles: Any, half: Vector, part: int) -> Any:
    """Of one tile of the two: the half vector of each class."""
    first = builder.bitcast(tiles, llvm_type(half).as_pointer())
    for j in range(half.lanes):
        yield builder.gep(first, [I32(2 * j + part)], source_etype=llvm_type(half))


@intrinsic
def load_tiles(typingctx: Any, tiles: Any, p: Any, classes: Any, count: Any, rows: Any) -> Any:
    """Turn `count` entries of each row at p that has a bit in `rows`, rows of `classes` entries, into vectors."""
    half = vector_at(p)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        tiles_, p_, classes_, count_, rows_ = args
        type_ = llvm_type(half)
        loaded = []
        for i, mask in enumerate(_tile_masks(builder, half.lanes, count_, rows_)):
            place = _place(context, builder, p_, builder.mul(classes_, classes_.type(i)), type_)
            loaded.append(_masked_load(builder, type_, place, half.dtype.bitwidth // 8, mask, ir.Constant(type_, None)))
        for part in range(2):
            turned = _turn(builder, loaded[part * half.lanes : (part + 1) * half.lanes])
            for value, place in zip(turned, _tile_places(context, builder, tiles_, half, part), strict=True):
                builder.store(value, place, align=LINE)

    return types.void(tiles, p, types.intp, types.intp, types.int64), emit


@intrinsic
def store_tiles(typingctx: Any, tiles: Any, p: Any, classes: Any, count: Any, rows: Any) -> Any:
    """The reverse: nothing is written but `count` entries of each row that has a bit in `rows`."""
    half = vector_at(p)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        tiles_, p_, classes_, count_, rows_ = args
        type_ = llvm_type(half)
        turned = []
        for part in range(2):
            places = _tile_places(context, builder, tiles_, half, part)
            turned += _turn(builder, [builder.load(place, align=LINE, typ=type_) for place in places])
        for i, mask in enumerate(_tile_masks(builder, half.lanes, count_, rows_)):
            place = _place(context, builder, p_, builder.mul(classes_, classes_.type(i)), type_)
            _masked_store(builder, turned[i], place, half.dtype.bitwidth // 8, mask)

    return types.void(tiles, p, types.intp, types.intp, types.int64), emit


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


@intrinsic
def store_where(typingctx: Any, p: Any, offset: Any, mask: Any, value: Any) -> Any:
    """Write the lanes of the mask to p[offset], rounded to what is there."""
    vector = Vector(p.dtype, value.lanes)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        type_ = llvm_type(vector)
        rounded = args[3] if value.dtype == p.dtype else builder.fptrunc(args[3], type_)
        _masked_store(builder, rounded, _place(context, builder, *args[:2], type_), p.dtype.bitwidth // 8, args[2])

    return types.void(p, types.intp, mask, value), emit
