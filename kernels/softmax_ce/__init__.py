"""softmax cross-entropy for CPUs: forward and backward, several backends behind one interface."""

from typing import TYPE_CHECKING, Any

from softmax_ce._version import __version__
from softmax_ce.contract import Backend, BackendInfo
from softmax_ce.functional import (
    cross_entropy,
    cross_entropy_grad,
    cross_entropy_with_grad,
    cross_entropy_with_hessian,
)
from softmax_ce.normalize import log_softmax, logsumexp, softmax
from softmax_ce.registry import BackendUnavailableError, backends, get_backend

if TYPE_CHECKING:
    from softmax_ce.choice.explanation import explain

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
    "log_softmax",
    "logsumexp",
    "softmax",
]


def __getattr__(name: str) -> Any:
    """Import `explain` on first access: few programs use it, and the import takes milliseconds."""
    if name == "explain":
        from softmax_ce.choice.explanation import explain

        return globals().setdefault("explain", explain)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
