from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softmax_ce.contract import HardKernel, KlKernel, SoftKernel, Team

hard: HardKernel
soft: SoftKernel
kl: KlKernel

hard_hessian: Callable[..., None]
soft_hessian: Callable[..., None]

hard_team: Callable[..., Team]
soft_team: Callable[..., Team]

log_softmax: Callable[..., None]
log_softmax_team: Callable[..., Team]

short_cross_entropy: Callable[..., Any]
cross_entropy_at: Callable[..., bool]
short_softmax: Callable[..., Any]
short_log_softmax: Callable[..., Any]
short_logsumexp: Callable[..., Any]

hard_hessian_strided: Callable[..., None]
soft_hessian_strided: Callable[..., None]
hard_strided: Callable[..., None]
soft_strided: Callable[..., None]
hard_strided_team: Callable[..., Team]
soft_strided_team: Callable[..., Team]
hard_transformed: Callable[..., None]
soft_transformed: Callable[..., None]
hard_transformed_team: Callable[..., Team]
soft_transformed_team: Callable[..., Team]
log_softmax_strided: Callable[..., None]
shard_sums: Callable[..., None]
shard_fold: Callable[..., None]
shard_grad: Callable[..., None]
log_softmax_strided_team: Callable[..., Team]

CHUNK: int

def total(values: NDArray[np.float32] | NDArray[np.float64], divisor: float) -> float: ...
def exp32(t: NDArray[np.float32], out: NDArray[np.float32]) -> None: ...
def exp64(t: NDArray[np.float64], out: NDArray[np.float64]) -> None: ...
def widen(narrow: NDArray[np.uint16], out: NDArray[np.float32], bfloat: bool) -> None: ...
def narrow(wide: NDArray[np.float32], out: NDArray[np.uint16], bfloat: bool) -> None: ...
def tune(keep: int, stream: int, shared_stream: int) -> None: ...
def supported() -> tuple[str, ...]: ...
def selected() -> str: ...
