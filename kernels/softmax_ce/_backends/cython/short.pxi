# Small calls whole: checks, options, kernel and reduction without the interpreter's steps. Included by _kernels.pyx.
#
# What softmax_ce.evaluation and softmax_ce.normalize do with NumPy, done on NumPy's structs, for calls as most people
# write them: arrays that the kernels can read where they are, or 16-bit floats that they can after a cast. The answer
# to anything else, wrong arguments included, is None: nothing has been written then, and the full path computes it or
# says what is wrong. Options are folded step by step as in softmax_ce.fold, so the bits are the same.

cdef extern from *:
    """
    /* A label, read once: another thread may change it after its check, and it must not become an address. */
    static inline int64_t sce_read_label(const int64_t *label) { return *(const volatile int64_t *)label; }
    """
    int64_t sce_read_label(const int64_t *label) noexcept nogil

cdef extern from "numpy/arrayobject.h":
    enum:
        NPY_HALF
        NPY_USERDEF

cdef enum:
    ROOM = 1 << 16      # elements at most that are cast to a scratch
    SUMMED = 1 << 16    # rows at most whose denominators the full path sums in one go
    FAR_APART = 32      # softmax_ce.weights treats weights whose ratio is beyond 2 to this with more care

cdef enum reduction_kind:
    MEAN
    SUM
    NONE

cdef enum normaliser:
    SOFTMAX
    LOG_SOFTMAX
    LOGSUMEXP

cdef union number:
    float narrow
    double wide

cdef struct small_call:
    sce_call kernel
    bint wide               # computed in float64
    int given               # type number of the logits
    int compute             # and of what they are computed in
    ptrdiff_t rows
    cnp.npy_intp classes
    double row_weight       # what one entry for all rows points to; likewise upstream, scale and base
    double upstream
    number scale
    number base
    number alone            # the loss of a single row
    double divisor
    bint empty              # no row counts towards the mean
    void *blocks[16]        # scratch, freed at the end
    int held

cdef ptrdiff_t ROW = ROW_ELEMENTS
cdef double DOWN = 2.0**-64  # as in softmax_ce.reduction
cdef tuple _NUMBERS = NUMBERS
cdef tuple _INTEGERS = INTEGERS
cdef object _BOOL = np.bool_
cdef cnp.ndarray _FLOAT32 = np.zeros((), np.float32)
cdef cnp.ndarray _FLOAT64 = np.zeros((), np.float64)
cdef int bfloat16 = -1      # ml_dtypes' type number, once an array of it has been seen


def short_cross_entropy(logits, targets, bint want_loss, bint want_grad, tuple given not None, ptrdiff_t most, /):
    """A loss function's call, or None: see softmax_ce.contract.ShortCalls."""
    cdef small_call call
    (
        weight, sample_weight, ignore_index, label_smoothing, z_loss, reduction, denominator, on_empty, axis,
        grad_output, return_lse, threads, out, grad_out, lse_out, logit_scale, softcap, where, return_correct,
    ) = given
    if type(logit_scale) is not float or <double> logit_scale != 1:
        return None
    if softcap is not None or where is not None or return_correct is not False:
        return None
    memset(&call, 0, sizeof(small_call))
    try:
        return _cross_entropy(
            &call, logits, targets, want_loss, want_grad, weight, sample_weight, ignore_index, label_smoothing, z_loss,
            reduction, denominator, on_empty, axis, grad_output, return_lse, threads, out, grad_out, lse_out, most,
        )
    finally:
        _release(&call)


def short_softmax(x, axis, threads, out, ptrdiff_t most, /):
    """softmax, or None."""
    return _normalized(SOFTMAX, x, axis, threads, out, most)


def short_log_softmax(x, axis, threads, out, ptrdiff_t most, /):
    """log_softmax, or None."""
    return _normalized(LOG_SOFTMAX, x, axis, threads, out, most)


def short_logsumexp(x, axis, threads, out, ptrdiff_t most, /):
    """logsumexp, or None."""
    return _normalized(LOGSUMEXP, x, axis, threads, out, most)


def total(values, double divisor):
    """Sum of a vector over a divisor: see softmax_ce.contract.Backend."""
    cdef ptrdiff_t n = len(values)
    if values.itemsize == 4:
        return _total(<const float *> _vector(values, c"f", sizeof(float), n, NULL), n, divisor)
    return _total(<const double *> _vector(values, c"f", sizeof(double), n, NULL), n, divisor)


cdef object _cross_entropy(
    small_call *call, logits, targets, bint want_loss, bint want_grad, weight, sample_weight, ignore_index,
    label_smoothing, z_loss, reduction, denominator, on_empty, axis, grad_output, return_lse, threads,
    out, grad_out, lse_out, ptrdiff_t most,
):
    cdef int64_t ignored = 0
    cdef reduction_kind kind
    cdef double smoothing = 0
    cdef cnp.ndarray x, labels = None
    if not _takes(call, logits, axis, threads, most) or not cnp.PyArray_CheckExact(targets):
        return None
    x = <cnp.ndarray> logits
    if type(reduction) is not str or type(on_empty) is not str:
        return None
    if <str> reduction == "mean":
        kind = MEAN
    elif <str> reduction == "none":
        kind = NONE
    elif <str> reduction == "sum":
        kind = SUM
    else:
        return None
    if <str> on_empty != "nan" and <str> on_empty != "zero" and <str> on_empty != "raise":
        return None
    if not _index(ignore_index, &ignored) or not _number(label_smoothing, &smoothing):
        return None
    if not _number(z_loss, &call.kernel.z_loss) or not 0 <= call.kernel.z_loss < INFINITY or not 0 <= smoothing <= 1:
        return None
    call.divisor = 1
    if denominator is not None:
        if kind != MEAN or not _number(denominator, &call.divisor) or not 0 < call.divisor < INFINITY:
            return None
    cdef bint want_lse = lse_out is not None
    if return_lse is not False and not want_lse:
        if not isinstance(return_lse, (int, _BOOL)):
            return None
        want_lse = return_lse
    cdef int outer = cnp.PyArray_NDIM(x) - 1
    cdef cnp.npy_intp *shape = cnp.PyArray_DIMS(x)
    if out is not None or grad_out is not None or lse_out is not None:
        others = (targets, weight, sample_weight, grad_output)
        if not _fits(out, outer if kind == NONE else 0, shape, call.compute, (logits, grad_out, lse_out, *others)):
            return None
        if not _fits(lse_out, outer, shape, call.compute, (logits, grad_out, *others)):
            return None
        if not _fits_gradient(call, grad_out, x, others):
            return None
    # Reading begins. What casts need goes to scratch; what a new array holds lives as long as this function.
    if cnp.PyArray_NDIM(<cnp.ndarray> targets) == outer:
        labels = _labels_of(<cnp.ndarray> targets, outer, shape)
        if labels is None:
            return None
        call.kernel.labels = <const int64_t *> cnp.PyArray_DATA(labels)
        call.kernel.labels_step = 1
        call.kernel.ignore_index = ignored
    elif ignored >= 0 or not _soft_targets(call, <cnp.ndarray> targets, x):
        return None
    if not _folded(call, kind, weight, sample_weight, smoothing, denominator is None, grad_output, outer, shape):
        return None
    if call.empty and <str> on_empty == "raise":
        return None
    if not _loaded(call, x):
        return None
    cdef double nothing = NAN if <str> on_empty == "nan" else 0
    return _computed(call, x, kind, want_loss, want_grad, want_lse, nothing, out, grad_out, lse_out)


cdef object _computed(
    small_call *call, cnp.ndarray x, reduction_kind kind, bint want_loss, bint want_grad, bint want_lse,
    double nothing, out, grad_out, lse_out,
):
    """Results allocated, the kernel run, row losses reduced; as the public functions return them.

    `nothing` is the mean where no row counts.
    """
    cdef int outer = cnp.PyArray_NDIM(x) - 1
    cdef size_t size = 8 if call.wide else 4
    cdef double sum_of_rows
    loss = grad = lse = None
    if want_loss:
        if kind == NONE:
            loss = out if out is not None else cnp.PyArray_EMPTY(outer, cnp.PyArray_DIMS(x), call.compute, 0)
            call.kernel.loss = cnp.PyArray_DATA(<cnp.ndarray> loss)
        else:
            call.kernel.loss = &call.alone if call.rows == 1 else _room(call, call.rows * size)
    if want_grad:
        grad = grad_out if grad_out is not None else cnp.PyArray_EMPTY(outer + 1, cnp.PyArray_DIMS(x), call.given, 0)
        _gives_gradient(call, <cnp.ndarray> grad)
    if want_lse:
        lse = _lse_of(call, x, outer, lse_out)
    _run(&call.kernel, call.wide, 0, call.rows)
    if want_grad:
        _stored(call, <cnp.ndarray> grad)
    if want_lse:
        lse = _finished_lse(call, lse, outer, lse_out)
    if want_loss and kind != NONE:
        if call.empty:
            sum_of_rows = nothing
        elif call.rows == 1:
            sum_of_rows = (call.alone.wide if call.wide else call.alone.narrow) / call.divisor
        elif call.wide:
            sum_of_rows = _total(<double *> call.kernel.loss, call.rows, call.divisor)
        else:
            sum_of_rows = _total(<float *> call.kernel.loss, call.rows, call.divisor)
        loss = _scalar(call.wide, sum_of_rows, out)
    elif want_loss and outer == 0 and out is None:  # of a single row without an axis: a scalar
        loss = loss[()]
    if want_lse:
        if want_loss:
            return (loss, grad, lse) if want_grad else (loss, lse)
        return grad, lse
    if want_loss:
        return (loss, grad) if want_grad else loss
    return grad


cdef object _normalized(normaliser which, x, axis, threads, out, ptrdiff_t most):
    cdef small_call call
    memset(&call, 0, sizeof(small_call))
    try:
        if not _takes(&call, x, axis, threads, most):
            return None
        return _normalized_rows(&call, which, <cnp.ndarray> x, out)
    finally:
        _release(&call)


cdef object _normalized_rows(small_call *call, normaliser which, cnp.ndarray x, out):
    """The hard-label kernel with no mass at any label, as in softmax_ce.normalize: its gradient is 1 * p - 0."""
    cdef int ndim = cnp.PyArray_NDIM(x)
    cdef int64_t label = 0
    if which == LOGSUMEXP:
        if not _fits(out, ndim - 1, cnp.PyArray_DIMS(x), call.compute, (x,)):
            return None
    elif not _fits(out, ndim, cnp.PyArray_DIMS(x), call.given, () if _is_in_place(out, x) else (x,)):
        return None
    if not _loaded(call, x):
        return None
    call.kernel.labels = &label
    call.kernel.ignore_index = -1
    call.kernel.class_scale = &call.scale
    call.kernel.base_total = call.row_weight = call.upstream = 1
    call.kernel.row_weight = &call.row_weight
    call.kernel.upstream = &call.upstream
    if which == LOGSUMEXP:
        lse = _lse_of(call, x, ndim - 1, out)
        _run(&call.kernel, call.wide, 0, call.rows)
        return _finished_lse(call, lse, ndim - 1, out)
    result = out if out is not None else cnp.PyArray_EMPTY(ndim, cnp.PyArray_DIMS(x), call.given, 0)
    _gives_gradient(call, <cnp.ndarray> result)
    call.kernel.log_output = which == LOG_SOFTMAX
    _run(&call.kernel, call.wide, 0, call.rows)
    _stored(call, <cnp.ndarray> result)
    return result


cdef int _takes(small_call *call, logits, axis, threads, ptrdiff_t most) except -1:
    """Whether these are logits that can be read, with classes last, and work for one thread. Fills in what they are."""
    cdef int64_t at = 0, count = 1
    if not cnp.PyArray_CheckExact(logits):
        return 0
    cdef cnp.ndarray x = <cnp.ndarray> logits
    cdef int ndim = cnp.PyArray_NDIM(x)
    if ndim < 1 or not cnp.PyArray_ISCARRAY_RO(x) or not _index(axis, &at) or (at != -1 and at != ndim - 1):
        return 0
    if threads is not None and (not _index(threads, &count) or count < 1):
        return 0
    call.given = cnp.PyArray_TYPE(x)
    call.wide = call.given == cnp.NPY_DOUBLE
    call.compute = cnp.NPY_DOUBLE if call.wide else cnp.NPY_FLOAT
    cdef bint half = call.given != call.compute
    if half and call.given != NPY_HALF and not _is_bfloat16(x):
        return 0
    cdef ptrdiff_t size = cnp.PyArray_SIZE(x)
    if size == 0 or (half and size > ROOM):
        return 0
    call.classes = call.kernel.classes = cnp.PyArray_DIM(x, ndim - 1)
    call.rows = size // call.classes
    return call.rows * (call.classes + ROW) < most and call.rows <= SUMMED


cdef bint _is_bfloat16(cnp.ndarray x) except -1:
    """By name, as softmax_ce.dtypes tells it; the number that NumPy gave the type is remembered."""
    global bfloat16
    cdef int number = cnp.PyArray_TYPE(x)
    if number == bfloat16:
        return True
    if number < NPY_USERDEF or x.descr.kind != c"V" or x.dtype.name != "bfloat16":
        return False
    bfloat16 = number
    return True


cdef int _loaded(small_call *call, cnp.ndarray x) except -1:
    """Logits for the kernel: where they are, or widened."""
    call.kernel.logits = cnp.PyArray_DATA(x)
    if call.given != call.compute:
        call.kernel.logits = _widened(call, x)
    return 1


cdef void *_widened(small_call *call, cnp.ndarray narrow) except NULL:
    cdef ptrdiff_t n = cnp.PyArray_SIZE(narrow)
    cdef void *wide = _room(call, n * sizeof(float))
    (isa.casts.widen_f16 if cnp.PyArray_TYPE(narrow) == NPY_HALF else isa.casts.widen_bf16)(
        cnp.PyArray_DATA(narrow), wide, n
    )
    return wide


cdef cnp.ndarray _labels_of(cnp.ndarray targets, int outer, cnp.npy_intp *shape):
    """Labels one after another in int64: the array itself or a new one; None for what are no such labels.

    uint64 has values that int64 has not.
    """
    cdef char kind = targets.descr.kind
    if not cnp.PyArray_CompareLists(cnp.PyArray_DIMS(targets), shape, outer):
        return None
    if kind == c"i" and cnp.PyArray_ITEMSIZE(targets) == 8 and cnp.PyArray_ISCARRAY_RO(targets):
        return targets
    if kind == c"i" or (kind == c"u" and cnp.PyArray_ITEMSIZE(targets) < 8):
        return cnp.PyArray_FROM_OTF(targets, cnp.NPY_INT64, cnp.NPY_ARRAY_IN_ARRAY)
    return None


cdef int _soft_targets(small_call *call, cnp.ndarray targets, cnp.ndarray x) except -1:
    """Soft labels for the kernel: where they are, or cast as the full path would."""
    cdef ptrdiff_t i, n = cnp.PyArray_SIZE(x)
    cdef int given = cnp.PyArray_TYPE(targets)
    cdef void *room
    if cnp.PyArray_NDIM(targets) != cnp.PyArray_NDIM(x) or not cnp.PyArray_ISCARRAY_RO(targets):
        return 0
    if not cnp.PyArray_CompareLists(cnp.PyArray_DIMS(targets), cnp.PyArray_DIMS(x), cnp.PyArray_NDIM(x)):
        return 0
    call.kernel.targets = cnp.PyArray_DATA(targets)
    if given == call.compute:
        return 1
    if n > ROOM:
        return 0
    if given == cnp.NPY_DOUBLE:
        call.kernel.targets = room = _room(call, n * sizeof(float))
        for i in range(n):
            (<float *> room)[i] = <float> (<const double *> cnp.PyArray_DATA(targets))[i]
    elif given == cnp.NPY_FLOAT:
        call.kernel.targets = room = _room(call, n * sizeof(double))
        for i in range(n):
            (<double *> room)[i] = (<const float *> cnp.PyArray_DATA(targets))[i]
    elif not call.wide and (given == NPY_HALF or _is_bfloat16(targets)):
        call.kernel.targets = _widened(call, targets)
    else:
        return 0
    return 1


cdef int _folded(
    small_call *call, reduction_kind kind, weight, sample_weight, double smoothing, bint own_denominator, grad_output,
    int outer, cnp.npy_intp *shape,
) except -1:
    """Options to factors, as softmax_ce.fold; whether they are plain, and the labels good."""
    cdef double *by_class = NULL
    cdef double *by_row = NULL
    cdef double *upstream = NULL
    cdef bint is_soft = call.kernel.labels == NULL
    cdef bint divides = kind == MEAN and own_denominator  # whose sum is taken here
    if weight is not None:
        by_class = _weights(call, weight, 1, &call.classes, divides and not is_soft)
        if by_class is NULL:
            return 0
    if sample_weight is not None:
        by_row = _weights(call, sample_weight, outer, shape, divides)
        if by_row is NULL:
            return 0
    if grad_output is not None and not _number(grad_output, &call.upstream):
        if kind != NONE:
            return 0
        upstream = _doubles(call, grad_output, outer, shape)
        if upstream is NULL:
            return 0
    # Denominators: the sums of sample_weight * weight[label] and of sample_weight over the counted rows.
    cdef double weighted = call.rows, counted = call.rows
    cdef double *masses = NULL
    cdef double *rows = NULL
    cdef ptrdiff_t kept = call.rows if is_soft else _counted_rows(call, NULL, NULL, NULL, NULL)
    if kept < 0:
        return 0
    if divides and kept == call.rows:  # nothing is left out, and nothing needs to be put together
        if by_row is not NULL:
            weighted = counted = _total(by_row, kept, 1)
        if by_class is not NULL and not is_soft:
            weighted = _sum_of_masses(call.kernel.labels, call.classes, by_class, by_row, kept)
    elif divides:
        if by_class is not NULL:
            masses = <double *> _room(call, call.rows * sizeof(double))
        if by_row is not NULL:
            rows = <double *> _room(call, call.rows * sizeof(double))
        kept = _counted_rows(call, by_class, by_row, masses, rows)
        if kept < 0:
            return 0
        counted = kept if rows is NULL else _total(rows, kept, 1)
        weighted = counted if masses is NULL else _total(masses, kept, 1)
    if divides:
        call.empty = weighted == 0
        if not call.empty:
            call.divisor = weighted
            call.kernel.z_loss *= weighted / counted
    if call.wide:
        _class_factors[double](call, by_class, smoothing, &call.scale.wide, &call.base.wide)
    else:
        _class_factors[float](call, by_class, smoothing, &call.scale.narrow, &call.base.narrow)
    if call.empty:
        by_row = NULL
    call.row_weight = not call.empty
    call.kernel.row_weight = &call.row_weight if by_row is NULL else by_row
    call.kernel.row_weight_step = by_row is not NULL and call.rows != 1
    if grad_output is None:
        call.upstream = 1
    call.upstream /= call.divisor
    call.kernel.upstream = &call.upstream if upstream is NULL else upstream
    call.kernel.upstream_step = upstream is not NULL and call.rows != 1
    return 1


cdef int _class_factors(
    small_call *call, const double *by_class, double smoothing, real *scale, real *base
) except -1:
    """class_scale and base_mass, rounded to R; the base's total is of the rounded numbers."""
    cdef ptrdiff_t j, classes = call.classes, entries = 1 if by_class is NULL else classes
    cdef double kept = 1.0 - smoothing, spread = smoothing / classes
    if by_class is not NULL:
        scale = <real *> _room(call, classes * sizeof(real))
        if smoothing != 0:
            base = <real *> _room(call, classes * sizeof(real))
    for j in range(entries):
        scale[j] = <real> (kept if by_class is NULL else kept * by_class[j])
    call.kernel.class_scale = scale
    call.kernel.class_scale_step = entries != 1
    if smoothing != 0:
        for j in range(entries):
            base[j] = <real> (spread if by_class is NULL else spread * by_class[j])
        call.kernel.base_mass = base
        call.kernel.base_mass_step = entries != 1
        if call.kernel.labels is not NULL:
            call.kernel.base_total = _total(<const real *> base, entries, 1) * classes / entries
    return 0


cdef ptrdiff_t _counted_rows(
    small_call *call, const double *by_class, const double *by_row, double *masses, double *rows
) noexcept nogil:
    """How many labels are not ignored, or -1 where one is no class. Of those rows, what each adds to a denominator."""
    cdef const int64_t *labels = call.kernel.labels
    cdef ptrdiff_t i, kept = 0
    cdef int64_t label
    for i in range(call.rows):
        label = sce_read_label(labels + i)
        if label == call.kernel.ignore_index:
            continue
        if <uint64_t> label >= <uint64_t> call.classes:  # a negative label is a huge one
            return -1
        if masses is not NULL:
            masses[kept] = by_class[label] if by_row is NULL else by_row[i] * by_class[label]
        if rows is not NULL:
            rows[kept] = by_row[i]
        kept += 1
    return kept


cdef double _sum_of_masses(
    const int64_t *labels, ptrdiff_t classes, const double *by_class, const double *by_row, ptrdiff_t n
) noexcept nogil:
    """What _counted_rows and _total come to where no row is left out, in the same order: of weights near 1.

    A leaf of the pairwise sum at a time: all masses put in a row first, and read again, took a fifth of the time of
    rows of ten classes.
    """
    cdef double[128] masses
    cdef ptrdiff_t i, half
    cdef int64_t label
    cdef double sum_of_half
    if n > 128:
        half = n // 16 * 8
        sum_of_half = _sum_of_masses(labels, classes, by_class, by_row, half)
        if by_row is not NULL:
            by_row += half
        return sum_of_half + _sum_of_masses(labels + half, classes, by_class, by_row, n - half)
    for i in range(n):
        label = sce_read_label(labels + i)
        if <uint64_t> label >= <uint64_t> classes:  # it has changed since it was checked
            label = 0
        masses[i] = by_class[label] if by_row is NULL else by_row[i] * by_class[label]
    return _scaled_sum(<const double *> masses, n, 1)


cdef double *_weights(small_call *call, value, int ndim, cnp.npy_intp *shape, bint near_one) except? NULL:
    """Finite weights as doubles; NULL for anything else. `near_one`: as softmax_ce.weights, of one sign only."""
    cdef ptrdiff_t i, n = 1
    cdef double factor, largest = 0, smallest = INFINITY
    cdef bint has_negative = False, has_positive = False
    cdef int power = 0
    cdef double *found = _doubles(call, value, ndim, shape)
    if found is NULL:
        return NULL
    for i in range(ndim):
        n *= shape[i]
    for i in range(n):
        if not fabs(found[i]) < INFINITY:
            return NULL
        has_negative |= found[i] < 0
        has_positive |= found[i] > 0
        largest = max(largest, fabs(found[i]))
        if found[i] != 0:
            smallest = min(smallest, fabs(found[i]))
    if near_one:
        if smallest < ldexp(largest, -FAR_APART) or (has_negative and has_positive):
            return NULL
        frexp(largest, &power)
        factor = ldexp(1, -max(power, -1000))  # a power of two: exact, and finite
        for i in range(n):
            found[i] *= factor
        if power < -1000:
            for i in range(n):
                found[i] = ldexp(found[i], -1000 - power)
    return found


cdef double *_doubles(small_call *call, value, int ndim, cnp.npy_intp *shape) except? NULL:
    """New doubles of an array of this shape: it may change, or be an output, meanwhile. NULL for anything else."""
    if not cnp.PyArray_CheckExact(value):
        return NULL
    cdef cnp.ndarray array = <cnp.ndarray> value
    if cnp.PyArray_NDIM(array) != ndim or not cnp.PyArray_CompareLists(cnp.PyArray_DIMS(array), shape, ndim):
        return NULL
    cdef int given = cnp.PyArray_TYPE(array)
    if given < cnp.NPY_FLOAT:  # bool and integers
        array = cnp.PyArray_FROM_OTF(array, cnp.NPY_DOUBLE, cnp.NPY_ARRAY_IN_ARRAY)
        given = cnp.NPY_DOUBLE
    if (given != cnp.NPY_DOUBLE and given != cnp.NPY_FLOAT) or not cnp.PyArray_ISCARRAY_RO(array):
        return NULL
    cdef ptrdiff_t i, n = cnp.PyArray_SIZE(array)
    cdef double *found = <double *> _room(call, n * sizeof(double))
    for i in range(n):
        if given == cnp.NPY_DOUBLE:
            found[i] = (<const double *> cnp.PyArray_DATA(array))[i]
        else:
            found[i] = (<const float *> cnp.PyArray_DATA(array))[i]
    return found


cdef int _number(value, double *number) except -1:
    """Whether this is a real number of a common kind, and which. What else float() takes is left to the full path."""
    cdef int overflow = 0
    cdef long long whole
    if isinstance(value, float):
        number[0] = <double> value
    elif isinstance(value, int):  # bool too
        whole = PyLong_AsLongLongAndOverflow(value, &overflow)
        if overflow:
            return 0
        number[0] = <double> whole
    elif isinstance(value, _NUMBERS):
        number[0] = float(value)
    else:
        return 0
    return 1


cdef int _index(value, int64_t *index) except -1:
    """Whether this is an integer of a common kind that fits into int64, and which."""
    cdef int overflow = 0
    if not isinstance(value, int) and not isinstance(value, _INTEGERS):
        return 0
    index[0] = PyLong_AsLongLongAndOverflow(value, &overflow)
    return overflow == 0


cdef int _fits(buffer, int ndim, cnp.npy_intp *shape, int number, tuple others) except -1:
    """Whether results can be written into this buffer as it is, apart from the others; or there is none."""
    if buffer is None:
        return 1
    if not cnp.PyArray_CheckExact(buffer):
        return 0
    cdef cnp.ndarray array = <cnp.ndarray> buffer
    if cnp.PyArray_TYPE(array) != number or cnp.PyArray_NDIM(array) != ndim or not cnp.PyArray_ISCARRAY(array):
        return 0
    if not cnp.PyArray_CompareLists(cnp.PyArray_DIMS(array), shape, ndim):
        return 0
    for other in others:
        if other is not None and not _is_apart(array, other):
            return 0
    return 1


cdef int _fits_gradient(small_call *call, buffer, cnp.ndarray x, tuple others) except -1:
    """The same for a gradient: of the logits' dtype, in place too, or of the one that is computed in."""
    if not _is_in_place(buffer, x):
        others = (x, *others)
    if _fits(buffer, cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x), call.given, others):
        return 1
    return call.given != call.compute and _fits(
        buffer, cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x), call.compute, (x, *others)
    )


cdef bint _is_in_place(buffer, cnp.ndarray x) except -1:
    return cnp.PyArray_CheckExact(buffer) and cnp.PyArray_DATA(<cnp.ndarray> buffer) == cnp.PyArray_DATA(x)


cdef bint _is_apart(cnp.ndarray buffer, other) except -1:
    """Whether they surely share no byte. A number has none to share; an array with gaps is left to the full path."""
    if not cnp.PyArray_CheckExact(other):
        return isinstance(other, _NUMBERS)
    cdef cnp.ndarray array = <cnp.ndarray> other
    if not cnp.PyArray_IS_C_CONTIGUOUS(array):
        return False
    cdef char *a = cnp.PyArray_BYTES(buffer)
    cdef char *b = cnp.PyArray_BYTES(array)
    return a + cnp.PyArray_NBYTES(buffer) <= b or b + cnp.PyArray_NBYTES(array) <= a


cdef int _gives_gradient(small_call *call, cnp.ndarray grad) except -1:
    """Where the kernel writes a gradient: the array itself, or a scratch for what is narrowed."""
    cdef size_t bytes = call.rows * call.classes * (8 if call.wide else 4)
    if cnp.PyArray_TYPE(grad) == call.compute:
        _set_grad(&call.kernel, cnp.PyArray_DATA(grad), bytes)
    else:
        call.kernel.grad = <void *> call.kernel.logits  # widened, which is a scratch
    return 0


cdef int _stored(small_call *call, cnp.ndarray grad) except -1:
    if cnp.PyArray_TYPE(grad) != call.compute:
        (isa.casts.narrow_f16 if cnp.PyArray_TYPE(grad) == NPY_HALF else isa.casts.narrow_bf16)(
            call.kernel.grad, cnp.PyArray_DATA(grad), cnp.PyArray_SIZE(grad)
        )
    return 0


cdef object _lse_of(small_call *call, cnp.ndarray x, int outer, buffer):
    """The array for the log-sum-exps, with room for their two summands: the first in the array itself."""
    lse = buffer if buffer is not None else cnp.PyArray_EMPTY(outer, cnp.PyArray_DIMS(x), call.compute, 0)
    call.kernel.row_max = cnp.PyArray_DATA(<cnp.ndarray> lse)
    call.kernel.log_sum = _room(call, call.rows * (8 if call.wide else 4))
    return lse


cdef object _finished_lse(small_call *call, lse, int outer, buffer):
    if call.wide:
        _add_rows[double](<double *> call.kernel.row_max, <const double *> call.kernel.log_sum, call.rows)
    else:
        _add_rows[float](<float *> call.kernel.row_max, <const float *> call.kernel.log_sum, call.rows)
    if outer == 0 and buffer is None:  # a scalar likewise
        return lse[()]
    return lse


cdef void _add_rows(real *to, const real *more, ptrdiff_t n) noexcept nogil:
    cdef ptrdiff_t i
    for i in range(n):
        to[i] += more[i]


cdef object _scalar(bint wide, double value, buffer):
    """A number of the dtype that is computed in, in the buffer if there is one. Too large, it is infinite."""
    cdef float narrow = <float> value
    cdef void *data = <void *> &value if wide else <void *> &narrow
    if buffer is None:
        return cnp.PyArray_ToScalar(data, _FLOAT64 if wide else _FLOAT32)
    if wide:
        (<double *> cnp.PyArray_DATA(<cnp.ndarray> buffer))[0] = value
    else:
        (<float *> cnp.PyArray_DATA(<cnp.ndarray> buffer))[0] = narrow
    return buffer


cdef double _total(const real *values, ptrdiff_t n, double divisor) noexcept nogil:
    """The sum over the divisor, in float64 and in a fixed order, whoever asks."""
    cdef double result = _scaled_sum(values, n, 1) / divisor
    if not isfinite(result):  # the sum of finite losses may overflow on the way where it, or the mean, does not
        result = _scaled_sum(values, n, DOWN) / divisor / DOWN
    return result


cdef double _scaled_sum(const real *values, ptrdiff_t n, double scale) noexcept nogil:
    """Pairwise, as NumPy's sum: its error grows with the logarithm of n."""
    cdef double[8] lanes
    cdef ptrdiff_t i, k, half
    if n > 128:
        half = n // 16 * 8
        return _scaled_sum(values, half, scale) + _scaled_sum(values + half, n - half, scale)
    memset(lanes, 0, sizeof(lanes))
    for i in range(0, n - 7, 8):
        if scale == 1:
            for k in range(8):
                lanes[k] += values[i + k]
        else:
            for k in range(8):
                lanes[k] += values[i + k] * scale
    for i in range(n & ~7, n):
        lanes[i & 7] += values[i] * scale
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]))


cdef void *_room(small_call *call, size_t bytes) except NULL:
    """Scratch for this call."""
    cdef void *block = malloc(max(bytes, 1))
    if block is NULL:
        raise MemoryError(NO_SCRATCH)
    call.blocks[call.held] = block
    call.held += 1
    return block


cdef void _release(small_call *call) noexcept nogil:
    cdef int i
    for i in range(call.held):
        free(call.blocks[i])
