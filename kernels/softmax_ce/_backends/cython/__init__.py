"""The Cython and C backend: the contract's kernels without the GIL, in one fused pass per row.

Formula: the chunks of a row are combined as (m, s) pairs; then loss = (m - x_y) + log1p(s - 1) and
grad = gain * (total * exp(x - m) / s - T). Passes over memory: the logits are read once, and the gradient of a row is
written while the next row is summed. Allocations: a row of exponentials, if they are kept, and 80 bytes for each chunk
of 2048 classes. Limits: none known. The build needs gcc or clang, for GCC's vector types.
"""

from functools import partial
from typing import Any

from softmax_ce import tuning
from softmax_ce._backends.cython.library import load
from softmax_ce.contract import HessianKernels, ShardKernels, ShortCalls, StridedKernels, TeamKernels

_kernels = load("softmax_ce._backends.cython._kernels")

hard = _kernels.hard
soft = _kernels.soft
widen = _kernels.widen
narrow = _kernels.narrow
total = _kernels.total
short = ShortCalls(
    _kernels.short_cross_entropy, _kernels.short_softmax, _kernels.short_log_softmax, _kernels.short_logsumexp,
    _kernels.cross_entropy_at,
)  # fmt: skip
log_softmax = _kernels.log_softmax
hessian = HessianKernels(
    _kernels.hard_hessian,
    _kernels.soft_hessian,
    HessianKernels(_kernels.hard_hessian_strided, _kernels.soft_hessian_strided),
)
kl = _kernels.kl
team = TeamKernels(_kernels.hard_team, _kernels.soft_team, _kernels.log_softmax_team)

_tuning = tuning.for_isa(_kernels.selected())
_stream_bytes = tuning.stream_bytes_asked_for()
if _stream_bytes is None:
    _kernels.tune(_tuning.keep_bytes, _tuning.stream_bytes, _tuning.shared_stream_bytes)
else:
    _kernels.tune(_tuning.keep_bytes, _stream_bytes, 16 * _stream_bytes)
SERIAL_ELEMENTS = _tuning.serial_elements
strided = StridedKernels(
    _kernels.hard_strided,
    _kernels.soft_strided,
    TeamKernels(_kernels.hard_strided_team, _kernels.soft_strided_team, _kernels.log_softmax_strided_team),
    _kernels.log_softmax_strided,
)


def transformed(*transform: Any) -> StridedKernels:
    """Return the kernels for logits that are transformed first: see softmax_ce.contract.Backend."""
    return StridedKernels(
        partial(_kernels.hard_transformed, transform),
        partial(_kernels.soft_transformed, transform),
        TeamKernels(
            partial(_kernels.hard_transformed_team, transform), partial(_kernels.soft_transformed_team, transform)
        ),
    )


def _chunk(n_classes: int, itemsize: int) -> int:
    """Return the classes of a chunk: see softmax_ce.contract.ShardKernels."""
    return _kernels.CHUNK


shards = ShardKernels(_chunk, _kernels.shard_sums, _kernels.shard_fold, _kernels.shard_grad)

DETAILS = f"instruction set {_kernels.selected()} (can run here: {', '.join(_kernels.supported())})"
