"""What is right for the last cases. A case is run with several numbers of threads and on several backends in turn."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from softmax_ce.contract import Accuracy, BackendInfo
from softmax_ce.dtypes import compute_dtype
from softmax_ce_bench.truth import oracle

_MOST = 64 << 20  # bytes of the references that are kept


@dataclass(slots=True)
class _Case:
    """The reference of one case, and the bounds for each arithmetic that was asked for."""

    truth: oracle.Truth
    size: int
    bounds: dict[tuple[Accuracy, bool, np.dtype[Any]], oracle.Bounds] = field(default_factory=dict)


_kept: OrderedDict[bytes, _Case] = OrderedDict()


def truth_and_bounds(
    info: BackendInfo, dtype: np.dtype[Any], logits: Any, targets: Any, options: dict[str, Any]
) -> tuple[oracle.Truth, oracle.Bounds]:
    """Return the reference for (N, C) logits, and the largest error that a backend may make. Neither may be changed."""
    key = _digest(logits, targets, options)
    case = _kept.pop(key, None)
    if case is None:
        truth = oracle.evaluate(logits, targets, **options)
        case = _Case(truth, sum(np.asarray(getattr(truth, name)).nbytes for name in truth.__slots__))
    _kept[key] = case  # the last one
    while len(_kept) > 1 and sum(each.size for each in _kept.values()) > _MOST:
        _kept.popitem(last=False)
    arithmetic = info.accuracy[compute_dtype(dtype).name], info.stable, dtype
    if arithmetic not in case.bounds:
        case.bounds[arithmetic] = oracle.bounds(info, case.truth, dtype)
    return case.truth, case.bounds[arithmetic]


def _digest(logits: Any, targets: Any, options: dict[str, Any]) -> bytes:
    """Return a digest of every value, dtype and shape that the reference depends on."""
    digest = hashlib.blake2b()
    for name, value in (("logits", logits), ("targets", targets), *sorted(options.items())):
        array = np.asarray(value)
        digest.update(f"{name} {array.dtype.name} {array.dtype.byteorder} {array.shape};".encode())
        digest.update(repr(value).encode() if array.dtype.hasobject else array.tobytes())
    return digest.digest()
