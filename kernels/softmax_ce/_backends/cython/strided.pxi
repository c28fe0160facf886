# Calls on arrays whose rows lie anywhere in memory: see strided.h. Included by _kernels.pyx.


def hard_strided(
    logits, labels, ignore_index, label_mass, base_mass, base_total, z_loss, row_weight, upstream,
    loss, grad, row_max, log_sum, start, stop,
):
    """Compute a hard-label call with strided logits and gradient: see softmax_ce.contract.StridedKernels."""
    cdef sce_call call
    cdef sce_strided strided
    cdef bint wide = _hard_strided(&call, &strided, logits, labels, ignore_index, label_mass, base_mass, base_total,
                                   z_loss, row_weight, upstream, loss, grad, row_max, log_sum)
    _run(&call, wide, start, stop)


def soft_strided(
    logits, targets, target_scale, base_mass, z_loss, row_weight, upstream,
    loss, grad, row_max, log_sum, start, stop,
):
    """Compute a soft-label call with strided logits, targets and gradient: see softmax_ce.contract.StridedKernels."""
    cdef sce_call call
    cdef sce_strided strided
    cdef bint wide = _fill_strided(&call, &strided, logits, targets, target_scale, base_mass, z_loss, row_weight,
                                   upstream, loss, grad, row_max, log_sum)
    _run(&call, wide, start, stop)


def hard_hessian_strided(
    logits, labels, ignore_index, label_mass, base_mass, base_total, z_loss, row_weight, upstream,
    loss, grad, hess, row_max, log_sum, start, stop,
):
    """Compute a strided hard-label call with the Hessian: see softmax_ce.contract.HessianKernels."""
    cdef sce_call call
    cdef sce_strided strided
    cdef bint wide = _hard_strided(&call, &strided, logits, labels, ignore_index, label_mass, base_mass, base_total,
                                   z_loss, row_weight, upstream, loss, grad, row_max, log_sum)
    _set_hess_strided(&call, &strided, hess, logits)
    _run(&call, wide, start, stop)


def soft_hessian_strided(
    logits, targets, target_scale, base_mass, z_loss, row_weight, upstream,
    loss, grad, hess, row_max, log_sum, start, stop,
):
    """Compute a strided soft-label call with the Hessian: see softmax_ce.contract.HessianKernels."""
    cdef sce_call call
    cdef sce_strided strided
    cdef bint wide = _fill_strided(&call, &strided, logits, targets, target_scale, base_mass, z_loss, row_weight,
                                   upstream, loss, grad, row_max, log_sum)
    _set_hess_strided(&call, &strided, hess, logits)
    _run(&call, wide, start, stop)


def hard_strided_team(
    logits, labels, ignore_index, label_mass, base_mass, base_total, z_loss, row_weight, upstream,
    loss, grad, row_max, log_sum, threads, longest,
):
    """Return a team that computes a strided hard-label call on several threads: see softmax_ce.contract.TeamKernels."""
    cdef sce_call call
    cdef Team team = Team.__new__(Team)
    cdef bint wide = _hard_strided(&call, &team.strided, logits, labels, ignore_index, label_mass, base_mass,
                                   base_total, z_loss, row_weight, upstream, loss, grad, row_max, log_sum)
    arrays = (logits, labels, label_mass, base_mass, row_weight, upstream, loss, grad, row_max, log_sum)
    return _begin_team(team, &call, wide, arrays, _count_rows(logits), threads, longest)


def soft_strided_team(
    logits, targets, target_scale, base_mass, z_loss, row_weight, upstream,
    loss, grad, row_max, log_sum, threads, longest,
):
    """Return a team that computes a strided soft-label call on several threads: see softmax_ce.contract.TeamKernels."""
    cdef sce_call call
    cdef Team team = Team.__new__(Team)
    cdef bint wide = _fill_strided(&call, &team.strided, logits, targets, target_scale, base_mass, z_loss, row_weight,
                                   upstream, loss, grad, row_max, log_sum)
    arrays = (logits, targets, target_scale, base_mass, row_weight, upstream, loss, grad, row_max, log_sum)
    return _begin_team(team, &call, wide, arrays, _count_rows(logits), threads, longest)


def log_softmax_strided(logits, out, start, stop):
    """Compute the log-probabilities of rows with strided logits and results."""
    cdef sce_call call
    cdef sce_strided strided
    cdef bint wide = _logs_strided(&call, &strided, logits, out)
    _run(&call, wide, start, stop)


def log_softmax_strided_team(logits, out, threads, longest):
    """Return a team that computes strided log-probabilities on several threads: see softmax_ce.contract.TeamKernels."""
    cdef sce_call call
    cdef Team team = Team.__new__(Team)
    cdef bint wide = _logs_strided(&call, &team.strided, logits, out)
    return _begin_team(team, &call, wide, (logits, out), _count_rows(logits), threads, longest)


cdef int _logs_strided(sce_call *call, sce_strided *strided, logits, out) except -1:
    """Fill in a call without mass at any label, in which logs take the place of the gradient 1 * p - 0."""
    cdef bint wide = _hard_strided(call, strided, logits, NO_LABEL, -1, NO_MASS[max(4, logits.itemsize)], None, 1.0,
                                   0.0, ONE_ROW, ONE_ROW, None, out, None, None)
    call.log_output = 1
    return wide


cdef ptrdiff_t _count_rows(cnp.ndarray logits):
    return cnp.PyArray_SIZE(logits) // logits.shape[logits.ndim - 1]


cdef int _hard_strided(
    sce_call *call, sce_strided *strided, logits, labels, int64_t ignore_index, label_mass, base_mass,
    double base_total, double z_loss, row_weight, upstream, loss, grad, row_max, log_sum,
) except -1:
    """Fill in a strided call and return whether it is in float64."""
    cdef bint wide = _fill_strided(call, strided, logits, None, label_mass, base_mass, z_loss, row_weight, upstream,
                                   loss, grad, row_max, log_sum)
    call.labels = <const int64_t *> _vector(labels, c"i", sizeof(int64_t), _count_rows(logits), &call.labels_step)
    call.ignore_index = ignore_index
    call.base_total = base_total
    return wide


cdef int _fill_strided(
    sce_call *call, sce_strided *strided, cnp.ndarray logits, targets, class_scale, base_mass, double z_loss,
    row_weight, upstream, loss, grad, row_max, log_sum,
) except -1:
    cdef ptrdiff_t rows = _count_rows(logits), classes = logits.shape[logits.ndim - 1]
    cdef ptrdiff_t size = sizeof(double) if cnp.PyArray_ITEMSIZE(logits) == sizeof(double) else sizeof(float)
    memset(call, 0, sizeof(sce_call))
    memset(strided, 0, sizeof(sce_strided))
    strided.itemsize = size
    _array(&strided.logits, logits, size, rows, classes)
    _array(&strided.targets, targets, size, rows, classes)
    _array(&strided.grad, grad, size, rows, classes, is_output=True)
    if strided.targets.data == strided.grad.data:
        strided.targets.direct = 0  # a kernel never finds its targets where it writes the gradient
    call.strided = strided
    call.classes = classes
    call.grad = strided.grad.data
    call.class_scale = _vector(class_scale, c"f", size, classes, &call.class_scale_step)
    call.base_mass = _vector(base_mass, c"f", size, classes, &call.base_mass_step)
    call.z_loss = z_loss
    call.row_weight = <const double *> _vector(row_weight, c"f", sizeof(double), rows, &call.row_weight_step)
    call.upstream = <const double *> _vector(upstream, c"f", sizeof(double), rows, &call.upstream_step)
    call.loss = _vector(loss, c"f", size, rows, NULL)
    call.row_max = _vector(row_max, c"f", size, rows, NULL)
    call.log_sum = _vector(log_sum, c"f", size, rows, NULL)
    if call.grad is not NULL:
        call.keep = keep_bytes
        if strided.grad.data != strided.logits.data:
            call.stream = cnp.PyArray_NBYTES(grad) >= stream_bytes
    return size == sizeof(double)


cdef int _set_hess_strided(sce_call *call, sce_strided *strided, cnp.ndarray hess, cnp.ndarray logits) except -1:
    """Set where the diagonal of the Hessian is written, and whether past the caches."""
    if hess is None:
        return 0
    _array(&strided.hess, hess, strided.itemsize, _count_rows(logits), call.classes, is_output=True)
    if strided.targets.data == strided.hess.data:
        strided.targets.direct = 0
    call.hess = strided.hess.data
    call.keep = keep_bytes
    call.stream_hess = cnp.PyArray_NBYTES(hess) >= stream_bytes
    return 0


cdef int _array(
    sce_array *to, cnp.ndarray array, ptrdiff_t size, ptrdiff_t rows, ptrdiff_t classes, bint is_output=False
) except -1:
    """Set where an array (..., C) lies; nothing for None. An output may be float32 where R is float64."""
    if array is None:
        return 0
    cdef ptrdiff_t axis, axes = array.ndim - 1, itemsize = cnp.PyArray_ITEMSIZE(array)
    cdef char kind = array.descr.kind
    cdef bint fits = itemsize == size and kind == c"f"
    fits = fits or (itemsize == sizeof(uint16_t) and size == sizeof(float) and (kind == c"f" or kind == c"V"))
    fits = fits or (is_output and itemsize == sizeof(float) and kind == c"f")
    if (
        not fits or axes > SCE_ROW_AXES or array.shape[axes] != classes
        or cnp.PyArray_SIZE(array) != rows * classes or not cnp.PyArray_ISBEHAVED_RO(array)
    ):
        raise ValueError(
            f"a strided kernel takes aligned arrays of up to {SCE_ROW_AXES} row axes and {rows} rows of {classes} "
            f"classes here, not shape {np.shape(array)} of {array.dtype}"
        )
    to.data = <char *> cnp.PyArray_DATA(array)
    to.format = SCE_REAL if itemsize == size else SCE_F32 if itemsize == sizeof(float) else SCE_F16
    if to.format == SCE_F16 and kind == c"V":
        to.format = SCE_BF16
    to.class_stride = 0 if classes == 1 else array.strides[axes]
    to.direct = cnp.PyArray_IS_C_CONTIGUOUS(array)
    for axis in range(SCE_ROW_AXES):
        to.shape[axis], to.strides[axis] = 1, 0
    for axis in range(axes):
        to.shape[SCE_ROW_AXES - axes + axis] = array.shape[axis]
        to.strides[SCE_ROW_AXES - axes + axis] = array.strides[axis]
    return 0
