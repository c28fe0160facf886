"""softmax cross-entropy for CPUs: forward and backward, several backends behind one interface."""

import importlib
from typing import TYPE_CHECKING, Any

from softmax_ce._version import __version__
from softmax_ce.contract import Backend, BackendInfo
from softmax_ce.functional import (
    cross_entropy,
    cross_entropy_grad,
    cross_entropy_with_grad,
    cross_entropy_with_hessian,
)
from softmax_ce.kl import kl_divergence, kl_divergence_with_grad
from softmax_ce.normalize import log_softmax, logsumexp, softmax
from softmax_ce.registry import BackendUnavailableError, backends, get_backend

if TYPE_CHECKING:
    from softmax_ce.choice.explanation import explain
    from softmax_ce.linear import linear_cross_entropy, linear_cross_entropy_with_grad

__all__ = [
    "Backend",
    "BackendInfo",
    "BackendUnavailableError",
    "__version__",
    "backends",
    "cross_entropy",
    "cross_entropy_grad",
    "cross_entropy_with_grad",
    "cross_entropy_with_hessian",
    "explain",
    "get_backend",
    "kl_divergence",
    "kl_divergence_with_grad",
    "linear_cross_entropy",
    "linear_cross_entropy_with_grad",
    "log_softmax",
    "logsumexp",
    "softmax",
]

# Imported on first access: few programs use them, and each takes milliseconds.
_LAZY = {
    "explain": "softmax_ce.choice.explanation",
    "linear_cross_entropy": "softmax_ce.linear",
    "linear_cross_entropy_with_grad": "softmax_ce.linear",
}


def __getattr__(name: str) -> Any:
    """Import a module, or what a module holds, on first access."""
    if name in _LAZY:
        return globals().setdefault(name, getattr(importlib.import_module(_LAZY[name]), name))
    if name == "shards":
        return importlib.import_module("softmax_ce.shards")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
