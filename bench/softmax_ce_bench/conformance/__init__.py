"""The cases and checks that every backend must pass, here or from another package.

``softmax-ce check`` runs them on a terminal and ``tests/`` under pytest. A check takes a
:class:`~softmax_ce_bench.conformance.harness.Subject` (a backend, a dtype, a number of threads), raises
AssertionError when the backend is wrong, and returns the worst error over its bound that it saw.
"""

from softmax_ce_bench.conformance import (
    accuracy,
    bad_input,
    divergences,
    edges,
    hessians,
    kernels,
    known_cases,
    layouts,
    limits,
    relations,
    transforms,
)
from softmax_ce_bench.conformance.harness import (
    CHECKS,
    AssertionsOff,
    Check,
    Result,
    Subject,
    count_checks,
    run_checks,
    select,
)

__all__ = ["CHECKS", "AssertionsOff", "Check", "Result", "Subject", "count_checks", "run_checks", "select"]

# Importing the modules filled CHECKS, in this order.
_MODULES = (
    known_cases,
    accuracy,
    edges,
    relations,
    layouts,
    bad_input,
    kernels,
    transforms,
    hessians,
    divergences,
    limits,
)
