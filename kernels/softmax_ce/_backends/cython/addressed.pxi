# Plain calls on memory that is given by its address, for arrays of other libraries: to view each as a NumPy array would
# take longer than a small kernel. Included by _kernels.pyx.
#
# The threads may be another library's as well. Where that library has just run on them, they are awake, and may spin:
# other threads would have to share the CPUs with them.

cdef enum:
    LONGEST = 1 << 22   # elements that a thread computes before signals are checked, as in softmax_ce.threads
    GRAIN = 1 << 15     # elements for each thread at least, as in PyTorch's own operations


def cross_entropy_at(
    size_t logits, shape, str format not None, size_t labels, labels_shape, ignore_index, str reduction not None,
    size_t loss, size_t grad, ptrdiff_t threads, size_t parallel_for, /,
):
    """Compute a plain call on contiguous arrays, and return whether it was one: see softmax_ce.contract.ShortCalls."""
    cdef small_call call
    cdef sce_strided strided
    memset(&call, 0, sizeof(small_call))
    memset(&strided, 0, sizeof(sce_strided))
    try:
        return _at(
            &call, &strided, logits, shape, format, labels, labels_shape, ignore_index, reduction, loss, grad, threads,
            parallel_for,
        )
    finally:
        _release(&call)


cdef object _at(
    small_call *call, sce_strided *strided, size_t logits, shape, str format, size_t labels, labels_shape, ignore_index,
    str reduction, size_t loss, size_t grad, ptrdiff_t threads, size_t parallel_for,
):
    cdef int64_t ignored = 0
    cdef int kind = SCE_REAL
    cdef ptrdiff_t axis, axes = len(shape), inner = 1
    if axes < 2 or len(labels_shape) != axes - 1 or labels_shape[0] != shape[0]:
        return False
    for axis in range(2, axes):
        if labels_shape[axis - 1] != shape[axis]:
            return False
        inner *= <ptrdiff_t> shape[axis]
    call.rows = <ptrdiff_t> shape[0] * inner
    call.classes = call.kernel.classes = shape[1]
    call.wide = format == "float64"
    if format == "float16" or format == "bfloat16":
        kind = SCE_F16 if format == "float16" else SCE_BF16
    elif not call.wide and format != "float32":
        return False
    if reduction != "mean" and reduction != "sum" and reduction != "none":
        return False
    cdef size_t size = 8 if call.wide else 4
    cdef size_t item = size if kind == SCE_REAL else 2
    if call.rows == 0 or call.classes == 0 or not logits or not labels or not _index(ignore_index, &ignored):
        return False
    if (logits | grad) % item or loss % size or labels % sizeof(int64_t):
        return False
    call.kernel.labels = <const int64_t *> labels
    call.kernel.labels_step = 1
    call.kernel.ignore_index = ignored
    call.divisor = 1
    if not _folded(call, MEAN if reduction == "mean" else SUM, None, None, 0, True, None, 0, NULL):
        return False
    if kind == SCE_REAL and inner == 1:
        call.kernel.logits = <const void *> logits
        if grad:
            _set_grad(&call.kernel, <void *> grad, call.rows * call.classes * size)
    else:
        _set_strided(call, strided, logits, grad, kind, inner, item)
    if loss and reduction == "none":
        call.kernel.loss = <void *> loss
    elif loss:
        call.kernel.loss = &call.alone if call.rows == 1 else _room(call, call.rows * size)
    _run_shared(call, threads, parallel_for)
    if loss and reduction != "none":
        _store_total(call, <void *> loss)
    return True


cdef void _set_strided(
    small_call *call, sce_strided *strided, size_t logits, size_t grad, int kind, ptrdiff_t inner, ptrdiff_t item
) noexcept nogil:
    """Set where logits and gradient lie that the kernels for contiguous rows cannot read."""
    strided.itemsize = sizeof(double) if call.wide else sizeof(float)
    _place(&strided.logits, logits, kind, call.rows // inner, call.classes, inner, item)
    call.kernel.strided = strided
    if grad:
        _place(&strided.grad, grad, kind, call.rows // inner, call.classes, inner, item)
        call.kernel.grad = <void *> grad
        call.kernel.keep = keep_bytes
        call.kernel.stream = call.rows * call.classes * item >= stream_bytes


cdef void _store_total(small_call *call, void *loss) noexcept nogil:
    """Store the sum of the rows' losses over the divisor."""
    cdef double value = NAN
    if not call.empty and call.wide:
        value = _total(<double *> call.kernel.loss, call.rows, call.divisor)
    elif not call.empty:
        value = _total(<float *> call.kernel.loss, call.rows, call.divisor)
    if call.wide:
        (<double *> loss)[0] = value
    else:
        (<float *> loss)[0] = <float> value


cdef void _place(
    sce_array *to, size_t data, int kind, ptrdiff_t outer, ptrdiff_t classes, ptrdiff_t inner, ptrdiff_t item
) noexcept nogil:
    """Set where a contiguous array (outer, classes, inner) lies."""
    cdef ptrdiff_t axis, last = SCE_ROW_AXES - 1
    to.data = <char *> data
    to.format = kind
    to.class_stride = 0 if classes == 1 else inner * item
    to.direct = inner == 1 or classes == 1
    for axis in range(SCE_ROW_AXES):
        to.shape[axis], to.strides[axis] = 1, 0
    if inner == 1:
        to.shape[last], to.strides[last] = outer, classes * item
    else:
        to.shape[last], to.strides[last] = inner, item
        to.shape[last - 1], to.strides[last - 1] = outer, classes * inner * item


cdef int _run_shared(small_call *call, ptrdiff_t threads, size_t parallel_for) except -1:
    """Run the kernel on every row, on up to so many threads."""
    cdef ptrdiff_t elements = call.rows * (call.classes + ROW)
    cdef sce_team *team
    cdef int more = 1
    threads = max(1, min(threads, elements // GRAIN))
    if threads == 1 and elements <= LONGEST:
        return _run(&call.kernel, call.wide, 0, call.rows)
    team = sce_team_new(&call.kernel, isa, call.wide, call.rows, threads, LONGEST)
    if team is NULL:
        raise MemoryError(NO_SCRATCH)
    try:
        while more > 0:
            with nogil:
                more = sce_team_share(team, <sce_parallel_for> parallel_for)
            if more > 0:
                PyErr_CheckSignals()
    finally:
        sce_team_free(team)
    if more < 0:
        raise MemoryError(NO_SCRATCH)
    return 0
