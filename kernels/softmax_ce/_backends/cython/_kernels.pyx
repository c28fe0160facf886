# cython: language_level=3, cdivision=True
"""The contract's kernels. Each converts its arguments and makes one C call without the GIL.

The arithmetic is in rows_kernel.h, which is compiled once for each instruction set. The best one that this CPU and
system support is chosen when this module is loaded. Two environment variables for tests are read then: SOFTMAX_CE_ISA
names a lower instruction set, and SOFTMAX_CE_STREAM_BYTES is the size from which a gradient is written past the caches.
"""

import numpy as np

from softmax_ce.contract import INTEGERS, NUMBERS, ROW_ELEMENTS
from softmax_ce.variables import word

from cpython.exc cimport PyErr_CheckSignals
from cpython.long cimport PyLong_AsLongLongAndOverflow
from libc.math cimport INFINITY, NAN, fabs, frexp, isfinite, ldexp
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport PTRDIFF_MAX, int64_t, uint8_t, uint16_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

cimport numpy as cnp

cnp.import_array()

cdef extern from "rows.h" nogil:
    enum:
        SCE_STREAM_SHARED
        SCE_CHUNK
        SCE_TOTALS

    enum sce_part:
        SCE_SUMS
        SCE_SCALARS
        SCE_GRADIENT

    enum:
        SCE_ROW_AXES
        SCE_REAL
        SCE_F16
        SCE_BF16
        SCE_F32

    ctypedef struct sce_array:
        char *data
        int format
        ptrdiff_t class_stride
        ptrdiff_t shape[SCE_ROW_AXES]
        ptrdiff_t strides[SCE_ROW_AXES]
        int direct

    ctypedef struct sce_strided:
        sce_array logits
        sce_array targets
        sce_array grad
        sce_array hess
        ptrdiff_t itemsize

    ctypedef struct sce_transform:
        double factor
        double softcap
        sce_array where
        uint8_t *correct
        const void *spread
        const void *scale
        ptrdiff_t spread_step
        ptrdiff_t scale_step

    ctypedef struct sce_shard:
        sce_part part
        ptrdiff_t first_class
        ptrdiff_t n_chunks
        ptrdiff_t numbers
        double *chunks
        double *totals
        double *label_logit
        const double *label_mass
        ptrdiff_t label_logit_step
        ptrdiff_t label_mass_step

    ctypedef struct sce_call:
        const void *logits
        ptrdiff_t classes
        const int64_t *labels
        ptrdiff_t labels_step
        int64_t ignore_index
        const void *targets
        const void *class_scale
        ptrdiff_t class_scale_step
        const void *base_mass
        ptrdiff_t base_mass_step
        double base_total
        double z_loss
        const double *row_weight
        ptrdiff_t row_weight_step
        const double *upstream
        ptrdiff_t upstream_step
        void *loss
        void *grad
        void *hess
        void *row_max
        void *log_sum
        const sce_strided *strided
        const sce_transform *transform
        const sce_shard *shard
        int log_output
        ptrdiff_t keep
        int stream
        int stream_hess

    ctypedef void (*sce_rows)(const sce_call *call, ptrdiff_t start, ptrdiff_t stop) noexcept nogil

    ctypedef void (*sce_elementwise)(const void *inputs, void *outputs, ptrdiff_t n) noexcept nogil

    ctypedef struct sce_casts:
        sce_elementwise widen_f16
        sce_elementwise narrow_f16
        sce_elementwise widen_bf16
        sce_elementwise narrow_bf16

    ctypedef struct sce_kl_call

    ctypedef void (*sce_kl_rows)(const sce_kl_call *call, ptrdiff_t start, ptrdiff_t stop) noexcept nogil

    ctypedef struct sce_isa:
        const char *name
        sce_rows f32
        sce_rows f64
        sce_elementwise exp_f32
        sce_elementwise exp_f64
        const sce_casts *casts
        sce_kl_rows kl

    int sce_run(sce_rows rows, sce_call *call, ptrdiff_t start, ptrdiff_t stop, ptrdiff_t itemsize)
    const sce_isa *sce_select(const char *name)
    ptrdiff_t sce_supported(const char **names, ptrdiff_t capacity)

cdef extern from "rows_team.h" nogil:
    ctypedef struct sce_team:
        pass

    sce_team *sce_team_new(
        const sce_call *call, const sce_isa *isa, int is_double, ptrdiff_t n_rows, ptrdiff_t threads, ptrdiff_t longest
    )
    void sce_team_free(sce_team *team)
    ptrdiff_t sce_team_helpers(const sce_team *team)
    int sce_team_work(sce_team *team, int helping)
    ctypedef int (*sce_parallel_for)() noexcept nogil
    int sce_team_share(sce_team *team, sce_parallel_for parallel_for)
    void sce_team_cancel(sce_team *team)
    int sce_team_settled(const sce_team *team)
    void sce_team_caller_is_back(sce_team *team)

ctypedef fused real:
    float
    double

cdef const sce_isa *isa = NULL
cdef ptrdiff_t keep_bytes = 0, stream_bytes = PTRDIFF_MAX, shared_stream_bytes = PTRDIFF_MAX


def supported():
    """Return the names of the instruction sets that can run here, best first."""
    cdef const char *names[8]
    cdef ptrdiff_t i, count = sce_supported(names, 8)
    return tuple([names[i].decode() for i in range(count)])


def selected():
    """Return the name of the instruction set in use."""
    return isa.name.decode()


def _select(name):
    global isa
    cdef bytes wanted = name.encode(errors="surrogateescape")
    cdef const sce_isa *found = sce_select(<const char *> wanted if wanted else NULL)
    if found is NULL:
        raise ImportError(f"SOFTMAX_CE_ISA={name!r} cannot run here; this CPU has: {', '.join(supported())}")
    isa = found


_select(word("SOFTMAX_CE_ISA"))


def tune(ptrdiff_t keep, ptrdiff_t stream, ptrdiff_t shared_stream):
    """Set the thresholds: see softmax_ce.tuning.Tuning."""
    global keep_bytes, stream_bytes, shared_stream_bytes
    keep_bytes, stream_bytes, shared_stream_bytes = keep, stream, shared_stream


def exp32(const float[::1] t, float[::1] out):
    """Compute exp for arguments <= 0 as the float32 kernels do, so that its error can be measured."""
    if t.shape[0] and out.shape[0] >= t.shape[0]:
        isa.exp_f32(&t[0], &out[0], t.shape[0])


def exp64(const double[::1] t, double[::1] out):
    """Compute exp for arguments <= 0 as the float64 kernels do, so that its error can be measured."""
    if t.shape[0] and out.shape[0] >= t.shape[0]:
        isa.exp_f64(&t[0], &out[0], t.shape[0])


def widen(const uint16_t[::1] narrow, float[::1] out, bint bfloat):
    """Convert 16-bit floats, viewed as uint16, to float32. The result is exact."""
    cdef ptrdiff_t n = min(narrow.shape[0], out.shape[0])
    if n == 0:
        return
    with nogil:
        (isa.casts.widen_bf16 if bfloat else isa.casts.widen_f16)(&narrow[0], &out[0], n)


def narrow(const float[::1] wide, uint16_t[::1] out, bint bfloat):
    """Convert float32 to 16-bit floats, viewed as uint16, to nearest with ties to even."""
    cdef ptrdiff_t n = min(wide.shape[0], out.shape[0])
    if n == 0:
        return
    with nogil:
        (isa.casts.narrow_bf16 if bfloat else isa.casts.narrow_f16)(&wide[0], &out[0], n)


def hard(
    logits, labels, ignore_index, label_mass, base_mass, base_total, z_loss, row_weight, upstream,
    loss, grad, row_max, log_sum, start, stop,
):
    """Compute the loss, gradient and log-sum-exp for hard labels: see softmax_ce.contract.HardKernel."""
    cdef sce_call call
    cdef bint wide = _hard(&call, logits, labels, ignore_index, label_mass, base_mass, base_total, z_loss, row_weight,
                           upstream, loss, grad, row_max, log_sum)
    _run(&call, wide, start, stop)


def soft(
    logits, targets, target_scale, base_mass, z_loss, row_weight, upstream,
    loss, grad, row_max, log_sum, start, stop,
):
    """Compute the loss, gradient and log-sum-exp for soft labels: see softmax_ce.contract.SoftKernel."""
    cdef sce_call call
    cdef bint wide = _soft(&call, logits, targets, target_scale, base_mass, z_loss, row_weight, upstream,
                           loss, grad, row_max, log_sum)
    _run(&call, wide, start, stop)


def hard_hessian(
    logits, labels, ignore_index, label_mass, base_mass, base_total, z_loss, row_weight, upstream,
    loss, grad, hess, row_max, log_sum, start, stop,
):
    """Compute a hard-label call with the diagonal of the Hessian: see softmax_ce.contract.HessianKernels."""
    cdef sce_call call
    cdef bint wide = _hard(&call, logits, labels, ignore_index, label_mass, base_mass, base_total, z_loss, row_weight,
                           upstream, loss, grad, row_max, log_sum)
    if hess is not None:
        _set_hess(&call, wide, hess)
    _run(&call, wide, start, stop)


def soft_hessian(
    logits, targets, target_scale, base_mass, z_loss, row_weight, upstream,
    loss, grad, hess, row_max, log_sum, start, stop,
):
    """Compute a soft-label call with the diagonal of the Hessian: see softmax_ce.contract.HessianKernels."""
    cdef sce_call call
    cdef bint wide = _soft(&call, logits, targets, target_scale, base_mass, z_loss, row_weight, upstream,
                           loss, grad, row_max, log_sum)
    if hess is not None:
        _set_hess(&call, wide, hess)
    _run(&call, wide, start, stop)


def hard_team(
    logits, labels, ignore_index, label_mass, base_mass, base_total, z_loss, row_weight, upstream,
    loss, grad, row_max, log_sum, threads, longest,
):
    """Return a team that computes a hard-label call on several threads: see softmax_ce.contract.TeamKernels."""
    cdef sce_call call
    cdef bint wide = _hard(&call, logits, labels, ignore_index, label_mass, base_mass, base_total, z_loss, row_weight,
                           upstream, loss, grad, row_max, log_sum)
    arrays = (logits, labels, label_mass, base_mass, row_weight, upstream, loss, grad, row_max, log_sum)
    return _team(&call, wide, arrays, threads, longest)


def soft_team(
    logits, targets, target_scale, base_mass, z_loss, row_weight, upstream,
    loss, grad, row_max, log_sum, threads, longest,
):
    """Return a team that computes a soft-label call on several threads: see softmax_ce.contract.TeamKernels."""
    cdef sce_call call
    cdef bint wide = _soft(&call, logits, targets, target_scale, base_mass, z_loss, row_weight, upstream,
                           loss, grad, row_max, log_sum)
    arrays = (logits, targets, target_scale, base_mass, row_weight, upstream, loss, grad, row_max, log_sum)
    return _team(&call, wide, arrays, threads, longest)


def log_softmax(logits, out, start, stop):
    """Compute the log-probabilities of rows: see softmax_ce.contract.Backend."""
    cdef sce_call call
    cdef bint wide = _logs(&call, logits, out)
    _run(&call, wide, start, stop)


def log_softmax_team(logits, out, threads, longest):
    """Return a team that computes log-probabilities on several threads: see softmax_ce.contract.TeamKernels."""
    cdef sce_call call
    cdef bint wide = _logs(&call, logits, out)
    return _team(&call, wide, (logits, out), threads, longest)


cdef int _logs(sce_call *call, logits, out) except -1:
    """Fill in a call without mass at any label, in which logs take the place of the gradient 1 * p - 0."""
    cdef bint wide = _hard(call, logits, NO_LABEL, -1, NO_MASS[logits.itemsize], None, 1.0, 0.0, ONE_ROW, ONE_ROW,
                           None, out, None, None)
    call.log_output = 1
    return wide


NO_LABEL = np.zeros(1, np.int64)
NO_MASS = {4: np.zeros(1, np.float32), 8: np.zeros(1, np.float64)}
ONE_ROW = np.ones(1)


cdef class Team:
    """One call whose pieces are handed out in C: see softmax_ce.contract.Team."""

    cdef sce_team *team
    cdef sce_strided strided
    cdef sce_transform transform
    cdef tuple arrays  # kept alive: the call has their addresses

    def __dealloc__(self):
        sce_team_free(self.team)

    @property
    def helpers(self):
        return sce_team_helpers(self.team)

    def work(self, bint helping):
        cdef int more
        with nogil:
            more = sce_team_work(self.team, helping)
        if not helping:
            sce_team_caller_is_back(self.team)
        if more < 0:
            raise MemoryError(NO_SCRATCH)
        return more > 0

    def cancel(self):
        sce_team_cancel(self.team)

    def settled(self):
        return sce_team_settled(self.team) != 0


NO_SCRATCH = "no memory for a row kernel's scratch"


cdef Team _team(sce_call *call, bint wide, tuple arrays, ptrdiff_t threads, ptrdiff_t longest):
    return _begin_team(Team.__new__(Team), call, wide, arrays, len(arrays[0]), threads, longest)


cdef Team _begin_team(
    Team team, sce_call *call, bint wide, tuple arrays, ptrdiff_t n_rows, ptrdiff_t threads, ptrdiff_t longest
):
    team.arrays = arrays
    team.team = sce_team_new(call, isa, wide, n_rows, threads, longest)
    if team.team is NULL:
        raise MemoryError(NO_SCRATCH)
    return team


cdef int _hard(
    sce_call *call, logits, labels, int64_t ignore_index, label_mass, base_mass, double base_total, double z_loss,
    row_weight, upstream, loss, grad, row_max, log_sum,
) except -1:
    """Fill in a hard-label call and return whether it is in float64."""
    cdef bint wide = logits.itemsize != 4
    if wide:
        _fill[double](call, logits, label_mass, base_mass, z_loss, row_weight, upstream, loss, grad, row_max, log_sum)
    else:
        _fill[float](call, logits, label_mass, base_mass, z_loss, row_weight, upstream, loss, grad, row_max, log_sum)
    call.labels = <const int64_t *> _vector(labels, c"i", sizeof(int64_t), len(logits), &call.labels_step)
    call.ignore_index = ignore_index
    call.base_total = base_total
    return wide


cdef int _soft(
    sce_call *call, logits, targets, target_scale, base_mass, double z_loss, row_weight, upstream,
    loss, grad, row_max, log_sum,
) except -1:
    """Fill in a soft-label call and return whether it is in float64."""
    cdef bint wide = logits.itemsize != 4
    if wide:
        _fill[double](call, logits, target_scale, base_mass, z_loss, row_weight, upstream, loss, grad, row_max, log_sum)
        call.targets = _matrix[double](targets)
    else:
        _fill[float](call, logits, target_scale, base_mass, z_loss, row_weight, upstream, loss, grad, row_max, log_sum)
        call.targets = _matrix[float](targets)
    return wide


cdef int _fill(
    sce_call *call,
    const real[:, ::1] logits,       # IN
    class_scale,                     # IN
    base_mass,                       # IN
    double z_loss,
    row_weight,                      # IN
    upstream,                        # IN
    loss,                            # OUT
    real[:, ::1] grad,               # OUT
    row_max,                         # OUT
    log_sum,                         # OUT
) except -1:
    cdef ptrdiff_t rows = logits.shape[0], classes = logits.shape[1], size = sizeof(real)
    memset(call, 0, sizeof(sce_call))  # NULL: not there, not wanted
    call.logits = &logits[0, 0]
    call.classes = classes
    call.class_scale = _vector(class_scale, c"f", size, classes, &call.class_scale_step)
    call.base_mass = _vector(base_mass, c"f", size, classes, &call.base_mass_step)
    call.z_loss = z_loss
    call.row_weight = <const double *> _vector(row_weight, c"f", sizeof(double), rows, &call.row_weight_step)
    call.upstream = <const double *> _vector(upstream, c"f", sizeof(double), rows, &call.upstream_step)
    call.loss = _vector(loss, c"f", size, rows, NULL)
    call.row_max = _vector(row_max, c"f", size, rows, NULL)
    call.log_sum = _vector(log_sum, c"f", size, rows, NULL)
    if grad is not None:
        _set_grad(call, &grad[0, 0], rows * classes * size)
    return 0


cdef void _set_grad(sce_call *call, void *grad, ptrdiff_t size) noexcept:
    """Set where the gradient is written, whether past the caches, and how much is kept for it."""
    call.grad = grad
    call.keep = keep_bytes
    if grad != call.logits:
        call.stream = SCE_STREAM_SHARED if size >= shared_stream_bytes else size >= stream_bytes


cdef int _set_hess(sce_call *call, bint wide, hess) except -1:
    """Set where the diagonal of the Hessian is written, and whether past the caches."""
    call.hess = _output[double](hess) if wide else _output[float](hess)
    call.keep = keep_bytes
    call.stream_hess = cnp.PyArray_NBYTES(hess) >= stream_bytes
    return 0


cdef void *_output(real[:, ::1] matrix) except NULL:
    return &matrix[0, 0]


cdef const void *_matrix(const real[:, ::1] matrix) except NULL:
    return &matrix[0, 0]


cdef void *_vector(cnp.ndarray vector, char kind, ptrdiff_t itemsize, ptrdiff_t length, ptrdiff_t *step) except? NULL:
    """Return the entries of a vector, or NULL for None. An input has a `step`: it is 0 for a single entry for all rows.

    The entries are found through NumPy's own struct: a memoryview of each vector would take longer than a row of ten
    classes.
    """
    if vector is None:
        return NULL
    cdef ptrdiff_t entries = cnp.PyArray_SIZE(vector)
    cdef bint fits = entries == length or (entries == 1 and step is not NULL)
    if (
        not fits
        or cnp.PyArray_ITEMSIZE(vector) != itemsize
        or vector.descr.kind != kind
        or not cnp.PyArray_ISCARRAY_RO(vector)
    ):
        raise ValueError(
            f"a kernel takes a contiguous vector of {length} {chr(kind)}{itemsize} here, "
            f"not shape {np.shape(vector)} of {vector.dtype}"
        )
    if step is not NULL:
        step[0] = entries != 1
    return cnp.PyArray_DATA(vector)


cdef int _run(sce_call *call, bint wide, ptrdiff_t start, ptrdiff_t stop) except -1:
    cdef int failed
    with nogil:
        failed = sce_run(isa.f64 if wide else isa.f32, call, start, stop, sizeof(double) if wide else sizeof(float))
    if failed:
        raise MemoryError(NO_SCRATCH)
    return 0


include "short.pxi"
include "addressed.pxi"
include "strided.pxi"
include "transformed.pxi"
include "shards.pxi"
include "kl.pxi"
