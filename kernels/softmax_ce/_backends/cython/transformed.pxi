# Calls on logits that are scaled, capped or partly left out: see transform.h. Included by _kernels.pyx.


def hard_transformed(
    transform, logits, labels, ignore_index, label_mass, base_mass, base_total, z_loss, row_weight, upstream,
    loss, grad, row_max, log_sum, start, stop,
):
    """Compute a hard-label call: see softmax_ce.contract.Backend."""
    cdef sce_call call
    cdef sce_strided strided
    cdef sce_transform change
    cdef bint wide = _hard_strided(&call, &strided, logits, labels, ignore_index, label_mass, base_mass, base_total,
                                   z_loss, row_weight, upstream, loss, grad, row_max, log_sum)
    _transform(&call, &change, logits, transform)
    _run(&call, wide, start, stop)


def soft_transformed(
    transform, logits, targets, target_scale, base_mass, z_loss, row_weight, upstream,
    loss, grad, row_max, log_sum, start, stop,
):
    """Compute a soft-label call: see softmax_ce.contract.Backend."""
    cdef sce_call call
    cdef sce_strided strided
    cdef sce_transform change
    cdef bint wide = _fill_strided(&call, &strided, logits, targets, target_scale, base_mass, z_loss, row_weight,
                                   upstream, loss, grad, row_max, log_sum)
    _transform(&call, &change, logits, transform)
    _run(&call, wide, start, stop)


def hard_transformed_team(
    transform, logits, labels, ignore_index, label_mass, base_mass, base_total, z_loss, row_weight, upstream,
    loss, grad, row_max, log_sum, threads, longest,
):
    """Return a team that computes a hard-label call on several threads: see softmax_ce.contract.TeamKernels."""
    cdef sce_call call
    cdef Team team = Team.__new__(Team)
    cdef bint wide = _hard_strided(&call, &team.strided, logits, labels, ignore_index, label_mass, base_mass,
                                   base_total, z_loss, row_weight, upstream, loss, grad, row_max, log_sum)
    _transform(&call, &team.transform, logits, transform)
    arrays = (logits, labels, label_mass, base_mass, row_weight, upstream, loss, grad, row_max, log_sum, transform)
    return _begin_team(team, &call, wide, arrays, _count_rows(logits), threads, longest)


def soft_transformed_team(
    transform, logits, targets, target_scale, base_mass, z_loss, row_weight, upstream,
    loss, grad, row_max, log_sum, threads, longest,
):
    """Return a team that computes a soft-label call on several threads: see softmax_ce.contract.TeamKernels."""
    cdef sce_call call
    cdef Team team = Team.__new__(Team)
    cdef bint wide = _fill_strided(&call, &team.strided, logits, targets, target_scale, base_mass, z_loss, row_weight,
                                   upstream, loss, grad, row_max, log_sum)
    _transform(&call, &team.transform, logits, transform)
    arrays = (logits, targets, target_scale, base_mass, row_weight, upstream, loss, grad, row_max, log_sum, transform)
    return _begin_team(team, &call, wide, arrays, _count_rows(logits), threads, longest)


cdef int _transform(sce_call *call, sce_transform *change, cnp.ndarray logits, tuple transform) except -1:
    """Add to a strided call what is done to its logits. The mask has their classes, and as many rows."""
    cdef cnp.ndarray where, correct, spread
    memset(change, 0, sizeof(sce_transform))
    change.factor, change.softcap, where, correct, spread = transform
    call.transform = change
    cdef ptrdiff_t axis, axes
    if where is not None:
        axes = where.ndim - 1
        if (
            cnp.PyArray_TYPE(where) != cnp.NPY_BOOL or axes > SCE_ROW_AXES or where.shape[axes] != call.classes
            or cnp.PyArray_SIZE(where) != cnp.PyArray_SIZE(logits)
        ):
            raise ValueError(f"a mask has one bool for each logit, not shape {np.shape(where)} of {where.dtype}")
        change.where.data = <char *> cnp.PyArray_DATA(where)
        change.where.class_stride = where.strides[axes]
        change.where.direct = cnp.PyArray_IS_C_CONTIGUOUS(where)
        for axis in range(SCE_ROW_AXES):
            change.where.shape[axis], change.where.strides[axis] = 1, 0
        for axis in range(axes):
            change.where.shape[SCE_ROW_AXES - axes + axis] = where.shape[axis]
            change.where.strides[SCE_ROW_AXES - axes + axis] = where.strides[axis]
    if spread is not None:
        _smooth(call, change, spread)
    if correct is not None:
        if cnp.PyArray_TYPE(correct) != cnp.NPY_BOOL or not cnp.PyArray_ISCARRAY(correct) or call.labels is NULL:
            raise ValueError("the result for the labels is a contiguous vector of bool")
        change.correct = <uint8_t *> cnp.PyArray_DATA(correct)
    return 0


cdef int _smooth(sce_call *call, sce_transform *change, cnp.ndarray spread) except -1:
    """Add to a call how its targets are smoothed. Its factor of the targets is applied together with that."""
    cdef ptrdiff_t size = call.strided.itemsize
    if change.where.data is NULL or call.base_mass is not NULL:
        raise ValueError("targets are smoothed for each row by a mask, and not by a base_mass too")
    change.spread = _vector(spread, c"f", size, call.classes, &change.spread_step)
    change.scale, change.scale_step = call.class_scale, call.class_scale_step
    call.class_scale = <const void *> &ONE_DOUBLE if size == sizeof(double) else <const void *> &ONE_FLOAT
    call.class_scale_step, call.base_total = 0, 0
    return 0


cdef double ONE_DOUBLE = 1
cdef float ONE_FLOAT = 1
