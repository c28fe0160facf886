from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softmax_ce.contract import HardKernel, SoftKernel, Team

hard: HardKernel
soft: SoftKernel

hard_team: Callable[..., Team]
soft_team: Callable[..., Team]

HAS_LOG_SOFTMAX: bool
log_softmax: Callable[..., None]
log_softmax_team: Callable[..., Team]

short_cross_entropy: Callable[..., Any]
short_softmax: Callable[..., Any]
short_log_softmax: Callable[..., Any]
short_logsumexp: Callable[..., Any]

def total(values: NDArray[np.float32] | NDArray[np.float64], divisor: float) -> float: ...
def exp32(t: NDArray[np.float32], out: NDArray[np.float32]) -> None: ...
def exp64(t: NDArray[np.float64], out: NDArray[np.float64]) -> None: ...
def widen(narrow: NDArray[np.uint16], out: NDArray[np.float32], bfloat: bool) -> None: ...
def narrow(wide: NDArray[np.float32], out: NDArray[np.uint16], bfloat: bool) -> None: ...
def supported() -> tuple[str, ...]: ...
def selected() -> str: ...
