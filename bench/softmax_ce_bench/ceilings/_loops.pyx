# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The read, copy and update loops of loops.c over a range of rows of bytes, without the GIL.

Rows are those of C-contiguous two-dimensional uint8 arrays, so that any dtype can be moved.
"""

from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uint64_t

cdef extern from "loops.h" nogil:
    ctypedef struct sce_loops:
        const char *name
        int streams
        uint64_t (*read)(const char *from_, ptrdiff_t bytes) noexcept nogil
        void (*copy)(char *to, const char *from_, ptrdiff_t bytes) noexcept nogil
        void (*stream)(char *to, const char *from_, ptrdiff_t bytes) noexcept nogil
        void (*update)(char *at, ptrdiff_t bytes, uint64_t mask) noexcept nogil

    int sce_loops_here(const sce_loops **found)

cdef const sce_loops *every[3]
cdef int count = sce_loops_here(every)
cdef const sce_loops *loops = every[0]

ISAS = tuple(every[k].name.decode() for k in range(count))
NON_TEMPORAL = bool(loops.streams)


def use(str isa):
    """Take the loops of one of ISAS from now on; the first is in use at import."""
    global loops
    loops = every[ISAS.index(isa)]


def read(const unsigned char[:, ::1] source, ptrdiff_t start, ptrdiff_t stop):
    """XOR of the range's 64-bit words (the last one filled up with zeros)."""
    cdef ptrdiff_t width = source.shape[1]
    cdef const char *first = <const char *> &source[0, 0] + _within(source, start, stop) * width
    cdef uint64_t found
    with nogil:
        found = loops.read(first, (stop - start) * width)
    return found


def copy(
    const unsigned char[:, ::1] source, unsigned char[:, ::1] target, ptrdiff_t start, ptrdiff_t stop, bint stream,
):
    """Copy the range; `stream` with non-temporal stores, where there are any."""
    cdef ptrdiff_t width = source.shape[1]
    if target.shape[0] != source.shape[0] or target.shape[1] != width:
        raise ValueError("source and target differ in shape")
    cdef const char *first = <const char *> &source[0, 0] + _within(source, start, stop) * width
    cdef char *place = <char *> &target[0, 0] + start * width
    with nogil:
        if stream:
            loops.stream(place, first, (stop - start) * width)
        else:
            loops.copy(place, first, (stop - start) * width)


def update(unsigned char[:, ::1] array, uint64_t mask, ptrdiff_t start, ptrdiff_t stop):
    """XOR every whole 64-bit word of the range with the mask, in place; with 0 each is read and written unchanged."""
    cdef ptrdiff_t width = array.shape[1]
    cdef char *first = <char *> &array[0, 0] + _within(array, start, stop) * width
    with nogil:
        loops.update(first, (stop - start) * width, mask)


cdef ptrdiff_t _within(const unsigned char[:, ::1] array, ptrdiff_t start, ptrdiff_t stop) except -1:
    if not 0 <= start <= stop <= array.shape[0] or array.shape[1] == 0 or array.shape[0] == 0:
        raise ValueError(f"rows {start} to {stop} are not within an array of shape {array.shape[0]} x {array.shape[1]}")
    return start
