# The KL divergence: see kl.h. Included by _kernels.pyx.

cdef extern from "kl.h" nogil:
    cdef enum sce_kl_types:
        SCE_KL_NARROW
        SCE_KL_MIXED
        SCE_KL_WIDE

    ctypedef struct sce_kl_call:
        const void *logits
        const void *target_logits
        ptrdiff_t classes
        sce_kl_types types
        double temperature
        const double *row_weight
        ptrdiff_t row_weight_step
        const double *upstream
        ptrdiff_t upstream_step
        void *loss
        void *grad

    int sce_kl_run(sce_kl_rows rows, sce_kl_call *call, ptrdiff_t start, ptrdiff_t stop)


def kl(logits, target_logits, double temperature, row_weight, upstream, loss, grad, ptrdiff_t start, ptrdiff_t stop):
    """Compute the KL divergence of rows, and its gradient: see softmax_ce.contract.KlKernel."""
    cdef sce_kl_call call
    cdef bint wide = logits.itemsize != 4
    cdef ptrdiff_t rows = len(logits), classes = logits.shape[1]
    cdef ptrdiff_t size = sizeof(double) if loss.itemsize == 8 else sizeof(float)
    cdef int failed
    if size == sizeof(double) and not wide:
        raise ValueError("a divergence in float64 is that of float64 logits")
    memset(&call, 0, sizeof(sce_kl_call))
    call.classes = classes
    call.types = SCE_KL_NARROW if not wide else SCE_KL_MIXED if size == sizeof(float) else SCE_KL_WIDE
    call.logits = _matrix[double](logits) if wide else _matrix[float](logits)
    call.target_logits = _matrix[double](target_logits) if wide else _matrix[float](target_logits)
    call.temperature = temperature
    call.row_weight = <const double *> _vector(row_weight, c"f", sizeof(double), rows, &call.row_weight_step)
    call.upstream = <const double *> _vector(upstream, c"f", sizeof(double), rows, &call.upstream_step)
    call.loss = _vector(loss, c"f", size, rows, NULL)
    if grad is not None:
        call.grad = _output[double](grad) if size == sizeof(double) else _output[float](grad)
    with nogil:
        failed = sce_kl_run(isa.kl, &call, start, stop)
    if failed:
        raise MemoryError(NO_SCRATCH)
