from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from softmax_ce.contract import HardKernel, SoftKernel

hard: HardKernel
soft: SoftKernel

CHUNK: int
hard_part: Callable[..., None]
soft_part: Callable[..., None]

def exp32(t: NDArray[np.float32], out: NDArray[np.float32]) -> None: ...
def exp64(t: NDArray[np.float64], out: NDArray[np.float64]) -> None: ...
def widen(narrow: NDArray[np.uint16], out: NDArray[np.float32], bfloat: bool) -> None: ...
def narrow(wide: NDArray[np.float32], out: NDArray[np.uint16], bfloat: bool) -> None: ...
def supported() -> tuple[str, ...]: ...
def selected() -> str: ...
