"""The dtypes that logits may have, and for each the dtype of the computation and of the results."""

from __future__ import annotations

from typing import Any

import numpy as np

_FLOAT32 = np.dtype(np.float32)
_FLOAT64 = np.dtype(np.float64)


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Return whether this is ml_dtypes' bfloat16. It is recognised by name, so ml_dtypes need not be installed."""
    return dtype.kind == "V" and dtype.name == "bfloat16"


def compute_dtype(dtype: np.dtype[Any], name: str = "logits") -> np.dtype[Any]:
    """Return the native dtype in which logits of this dtype are computed. `name` is used in the error message.

    Raises
    ------
    TypeError
        Complex, object, bool, longdouble or non-numeric logits.
    """
    if dtype.kind == "f" and 2 <= dtype.itemsize <= 8:  # ml_dtypes' 8-bit floats are of that kind too
        return _FLOAT64 if dtype.itemsize == 8 else _FLOAT32
    if dtype.kind in "iu":
        return _FLOAT64
    if is_bfloat16(dtype):
        return _FLOAT32
    raise TypeError(
        f"{name} of dtype {dtype} are not supported; allowed: float16, bfloat16, float32, float64 and integers"
    )


def result_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of a gradient or softmax: the logits' dtype, or float64 for integers."""
    return _FLOAT64 if dtype.kind in "iu" else dtype.newbyteorder("=")
