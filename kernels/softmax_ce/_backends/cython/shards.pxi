# Calls for some of the classes of each row: see rows_shards.h. Included by _kernels.pyx.

CHUNK = SCE_CHUNK


def shard_sums(
    logits, labels, targets, target_scale, base_mass, first_class, chunk, chunks, label_logit, start, stop,
):
    """Compute the sums of each chunk of a shard: see softmax_ce.contract.ShardKernels."""
    cdef sce_call call
    cdef sce_shard shard
    cdef bint wide = _fill_shard(&call, &shard, logits, labels, targets, target_scale, base_mass, 0.0, ONE_ROW,
                                 ONE_ROW, None, first_class, chunk, chunks)
    shard.part = SCE_SUMS
    shard.label_logit = <double *> _vector(label_logit, c"f", sizeof(double), len(logits), NULL)
    if targets is None and shard.label_logit is NULL:
        raise ValueError("a kernel for hard labels returns the logits at the labels")
    _run(&call, wide, start, stop)


def shard_fold(
    chunks, label_logit, label_mass, double base_total, double z_loss, row_weight, loss, row_max, log_sum, totals,
    start, stop,
):
    """Fold the chunks of all shards: see softmax_ce.contract.ShardKernels."""
    cdef sce_call call
    cdef sce_shard shard
    cdef ptrdiff_t rows = len(chunks), size = loss.itemsize
    memset(&call, 0, sizeof(sce_call))
    memset(&shard, 0, sizeof(sce_shard))
    shard.part = SCE_SCALARS
    _set_chunks(&shard, chunks, rows)
    _set_rows(&shard, label_logit, label_mass, totals, rows)
    call.shard = &shard
    call.base_total = base_total
    call.z_loss = z_loss
    call.row_weight = <const double *> _vector(row_weight, c"f", sizeof(double), rows, &call.row_weight_step)
    call.loss = _vector(loss, c"f", size, rows, NULL)
    call.row_max = _vector(row_max, c"f", size, rows, NULL)
    call.log_sum = _vector(log_sum, c"f", size, rows, NULL)
    _run(&call, size == sizeof(double), start, stop)


def shard_grad(
    logits, labels, targets, target_scale, base_mass, double base_total, z_loss, row_weight, upstream,
    first_class, chunk, chunks, label_logit, label_mass, totals, grad, start, stop,
):
    """Compute a shard's columns of the gradient: see softmax_ce.contract.ShardKernels."""
    cdef sce_call call
    cdef sce_shard shard
    cdef bint wide = _fill_shard(&call, &shard, logits, labels, targets, target_scale, base_mass, z_loss, row_weight,
                                 upstream, grad, first_class, chunk, chunks)
    shard.part = SCE_GRADIENT
    _set_rows(&shard, label_logit, label_mass, totals, len(logits))
    call.base_total = base_total
    call.keep = 0  # the exponentials are computed again
    _run(&call, wide, start, stop)


cdef int _fill_shard(
    sce_call *call, sce_shard *shard, logits, labels, targets, target_scale, base_mass, double z_loss, row_weight,
    upstream, grad, ptrdiff_t first_class, ptrdiff_t chunk, chunks,
) except -1:
    """Fill in a call for the classes of a shard, and return whether it is in float64."""
    cdef bint wide = logits.itemsize != 4
    if chunk != SCE_CHUNK:
        raise ValueError(f"a kernel takes chunks of {SCE_CHUNK} classes, not {chunk}")
    if wide:
        _fill[double](call, logits, target_scale, base_mass, z_loss, row_weight, upstream, None, grad, None, None)
    else:
        _fill[float](call, logits, target_scale, base_mass, z_loss, row_weight, upstream, None, grad, None, None)
    if targets is None:
        call.labels = <const int64_t *> _vector(labels, c"i", sizeof(int64_t), len(logits), &call.labels_step)
    else:
        call.targets = _matrix[double](targets) if wide else _matrix[float](targets)
    memset(shard, 0, sizeof(sce_shard))
    shard.first_class = first_class
    _set_chunks(shard, chunks, len(logits))
    if shard.n_chunks != (call.classes + SCE_CHUNK - 1) // SCE_CHUNK:
        raise ValueError(f"{call.classes} classes do not have {shard.n_chunks} chunks")
    call.shard = shard
    return wide


cdef int _set_chunks(sce_shard *shard, const double[:, :, ::1] chunks, ptrdiff_t rows) except -1:
    if chunks.shape[0] != rows or not chunks.shape[1] or (chunks.shape[2] != 2 and chunks.shape[2] != SCE_TOTALS):
        raise ValueError(f"a kernel takes 2 or 4 numbers for each chunk of {rows} rows, not shape {np.shape(chunks)}")
    shard.chunks = <double *> &chunks[0, 0, 0]
    shard.n_chunks, shard.numbers = chunks.shape[1], chunks.shape[2]
    return 0


cdef int _set_rows(sce_shard *shard, label_logit, label_mass, const double[:, ::1] totals, ptrdiff_t rows) except -1:
    """Set what each row has: its label's logit and mass, None for soft labels, and what all shards come to."""
    if totals.shape[0] != rows or totals.shape[1] != SCE_TOTALS:
        raise ValueError(f"a kernel takes {SCE_TOTALS} totals for each of {rows} rows, not shape {np.shape(totals)}")
    shard.totals = <double *> &totals[0, 0]
    shard.label_logit = <double *> _vector(label_logit, c"f", sizeof(double), rows, &shard.label_logit_step)
    shard.label_mass = <const double *> _vector(label_mass, c"f", sizeof(double), rows, &shard.label_mass_step)
    return 0
