"""Transposition of a few classes of several rows, between rows in memory and a vector for each class.

A unit is as many classes as 128 bits hold, and as many rows as a register has lanes. Squares are transposed within
128 bits, and registers are put together from pieces of the rows, so no load or store needs a mask. On CPUs where masked
stores are microcode, they take ten times as long as plain ones. The last unit of a row overlaps the one before. Rows
that are shorter than a unit have narrower units.
"""

# mypy: allow-untyped-calls, disable-error-code="attr-defined, import-untyped, call-arg, unused-ignore"

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types

from softmax_ce._backends.numba_jit.arithmetic import EXACT
from softmax_ce._backends.numba_jit.instruction_set import register_bytes
from softmax_ce._backends.numba_jit.memory import at
from softmax_ce._backends.numba_jit.vectors import I32, Vector, constants, intrinsic, joined, llvm_type, part_of

_SQUARE = 16  # bytes of a row: vectors of 128 bits are transposed within a register
_REGISTERS = 2  # registers of a column: the rows in two of them hide each other's latencies

_inlined: Any = njit(**EXACT)


def _element_bytes(dtype: Any) -> int:
    return int(dtype.bitwidth) // 8


@intrinsic
def columns_at(typingctx: Any, p: Any) -> Any:
    """Return a pointer to numbers as one to vectors, each of which holds one class of several rows.

    C: block in lanes_sums.h
    """
    column = Vector(p.dtype, _REGISTERS * register_bytes() // _element_bytes(p.dtype))
    result = types.CPointer(column)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], llvm_type(column).as_pointer())

    return result(p), emit


@intrinsic
def unit_of(typingctx: Any, p: Any) -> Any:
    """Return how many classes a unit has.

    C: none, a square is W x W there
    """
    classes = ir.IntType(types.intp.bitwidth)(_SQUARE // _element_bytes(p.dtype))
    return types.intp(p), lambda context, builder, sig, args: classes


class _Unit:
    """The code for `width` classes of as many rows as a register has lanes.

    Rows lie in `width` registers, row by row within 128 bits: the first holds the first rows of each 128 bits.
    """

    def __init__(self, context: Any, builder: Any, dtype: Any, width: int) -> None:
        self.lanes = register_bytes() // _element_bytes(dtype)
        self.align = _element_bytes(dtype)
        self._context, self._builder = context, builder
        self._square = _SQUARE // _element_bytes(dtype)
        self._width = width
        self._piece = ir.VectorType(llvm_type(Vector(dtype, 1)).element, width)

    def rows_of(self, register: int) -> list[int]:
        """Return the rows of one of the registers, in the order of their pieces."""
        pieces = self._square // self._width
        first = range(0, self.lanes, self._square)
        return [start + register * pieces + k for start in first for k in range(pieces)]

    def address_of(self, p: Any, stride: Any, row: int) -> Any:
        start = self._builder.gep(p, [self._builder.mul(stride, stride.type(row))])
        return self._builder.bitcast(start, self._piece.as_pointer())

    def load(self, p: Any, stride: Any) -> list[Any]:
        """Return a vector for each class."""
        registers = []
        for k in range(self._width):
            places = [self.address_of(p, stride, row) for row in self.rows_of(k)]
            pieces = [self._builder.load(place, align=self.align, typ=self._piece) for place in places]
            registers.append(joined(self._builder, pieces))
        if 1 < self._width < self._square:  # two classes of four
            return [self._shuffled(*registers, (k, k + 2, k + 4, k + 6)) for k in range(2)]
        return self._transposed(registers)

    def store(self, columns: list[Any], p: Any, stride: Any) -> None:
        for k, register in enumerate(self._transposed(columns)):
            for piece, row in enumerate(self.rows_of(k)):
                value = part_of(self._builder, register, range(piece * self._width, (piece + 1) * self._width))
                self._builder.store(value, self.address_of(p, stride, row), align=self.align)

    def _transposed(self, vectors: list[Any]) -> list[Any]:
        """Return the vectors interleaved within 128 bits. As many vectors as 128 bits hold are transposed."""
        half = self._square // 2
        low = tuple(k // 2 + k % 2 * self._square for k in range(self._square))
        high = tuple(half + k for k in low)
        if len(vectors) == 2:
            return [self._shuffled(*vectors, low), self._shuffled(*vectors, high)]
        if len(vectors) == 4:
            pairs = [self._shuffled(*vectors[k : k + 2], order) for k in (0, 2) for order in (low, high)]
            first, second = (0, 1, 4, 5), (2, 3, 6, 7)
            return [self._shuffled(pairs[k], pairs[k + 2], order) for k in (0, 1) for order in (first, second)]
        return vectors

    def _shuffled(self, x: Any, y: Any, order: tuple[int, ...]) -> Any:
        """Return the entries `order` of every 128 bits: those of x are counted from 0, and those of y follow."""
        square = self._square
        picked = [
            start + k if k < square else self.lanes + start + k - square
            for start in range(0, self.lanes, square)
            for k in order
        ]
        return self._builder.shuffle_vector(x, y, constants(ir.VectorType(I32, self.lanes), picked))


def _register_places(builder: Any, columns: Any, dtype: Any, lanes: int, register: int, width: int) -> list[Any]:
    """Return the addresses of one of the registers of each of the first `width` columns."""
    first = builder.bitcast(columns, ir.VectorType(llvm_type(Vector(dtype, 1)).element, lanes).as_pointer())
    type_ = ir.VectorType(llvm_type(Vector(dtype, 1)).element, lanes)
    return [builder.gep(first, [I32(_REGISTERS * k + register)], source_etype=type_) for k in range(width)]


def _moves(width_bytes: int, *, storing: bool) -> Any:
    """Return the function that moves `width_bytes` of each row, between columns and rows that are `stride` apart."""

    @intrinsic
    def move(typingctx: Any, columns: Any, p: Any, stride: Any) -> Any:
        """Move a unit of rows.

        C: v_transpose in vec_avx2.h
        """
        dtype = p.dtype
        width = max(1, width_bytes // _element_bytes(dtype))

        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            unit = _Unit(context, builder, dtype, width)
            for register in range(_REGISTERS):
                places = _register_places(builder, args[0], dtype, unit.lanes, register, width)
                rows = builder.gep(args[1], [builder.mul(args[2], args[2].type(register * unit.lanes))])
                if storing:
                    type_ = ir.VectorType(llvm_type(Vector(dtype, 1)).element, unit.lanes)
                    unit.store(
                        [builder.load(place, align=register_bytes(), typ=type_) for place in places], rows, args[2]
                    )
                else:
                    for value, place in zip(unit.load(rows, args[2]), places, strict=True):
                        builder.store(value, place, align=register_bytes())

        return types.void(columns, p, types.intp), emit

    return move


def _over_rows(*, storing: bool) -> Any:
    """Return the function that moves whole rows: their units, the last of which overlaps the one before."""
    move_16, move_8, move_4 = (_moves(n, storing=storing) for n in (16, 8, 4))

    def move(columns: Any, p: Any, classes: int) -> None:
        """Move `classes` entries of as many rows as a column has lanes.

        C: load_columns and store_columns in lanes_memory.h
        """
        unit = unit_of(p)
        if classes >= unit:
            for j in range(0, classes - unit, unit):
                move_16(at(columns, j), at(p, j), classes)
            move_16(at(columns, classes - unit), at(p, classes - unit), classes)
        elif 2 * classes >= unit:
            move_8(columns, p, classes)
            move_8(at(columns, classes - unit // 2), at(p, classes - unit // 2), classes)
        else:
            move_4(columns, p, classes)

    return _inlined(move)


# (columns, p, classes): load rows of `classes` entries at p into a vector for each class, and store them back.
load_columns, store_columns = _over_rows(storing=False), _over_rows(storing=True)
