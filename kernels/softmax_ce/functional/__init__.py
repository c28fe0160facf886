"""The public losses, one file each. What happens in a call is in :mod:`softmax_ce.evaluation`."""

from softmax_ce.functional.fused import cross_entropy_with_grad
from softmax_ce.functional.gradient import cross_entropy_grad
from softmax_ce.functional.hessian import cross_entropy_with_hessian
from softmax_ce.functional.loss import cross_entropy

__all__ = ["cross_entropy", "cross_entropy_grad", "cross_entropy_with_grad", "cross_entropy_with_hessian"]
