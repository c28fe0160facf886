"""Cython and C: the contract's kernels over typed memoryviews, without the GIL, in one fused pass per row.

Formula: chunks of a row combined as (m, s) pairs, then loss = (m - x_y) + log1p(s - 1) and
grad = gain * (total * exp(x - m) / s - T). Passes over memory: the logits are read once; the gradient's
row is written while it is computed and scaled while still in cache. Allocates 40 bytes a chunk of 2048
classes. Limits: none known; needs gcc or clang to build (GCC's vector types).
"""

from softmax_ce._backends.cython.library import load
from softmax_ce.contract import ShortCalls, TeamKernels

_kernels = load("softmax_ce._backends.cython._kernels")

hard = _kernels.hard
soft = _kernels.soft
widen = _kernels.widen
narrow = _kernels.narrow
total = _kernels.total
short = ShortCalls(
    _kernels.short_cross_entropy, _kernels.short_softmax, _kernels.short_log_softmax, _kernels.short_logsumexp
)
if _kernels.HAS_LOG_SOFTMAX:
    log_softmax = _kernels.log_softmax
    team = TeamKernels(_kernels.hard_team, _kernels.soft_team, _kernels.log_softmax_team)
else:
    team = TeamKernels(_kernels.hard_team, _kernels.soft_team)
DETAILS = f"instruction set {_kernels.selected()} (can run here: {', '.join(_kernels.supported())})"
