"""Pick the best backend for each shape on this machine, as a profile that production follows.

Eligible first: a backend must pass the conformance checks, then be right on the workload itself. Those that are left
are measured by :mod:`softmax_ce_bench.compare`; the least cost wins, and of those that tie with it the simplest.

:mod:`~softmax_ce_bench.pick.request` says what is asked for, :mod:`~softmax_ce_bench.pick.run` does it,
:mod:`~softmax_ce_bench.pick.recheck` measures a stored profile again.
"""

from softmax_ce_bench.pick.request import OBJECTIVES, MaxError, PickRequest
from softmax_ce_bench.pick.run import PickResult, pick

__all__ = ["OBJECTIVES", "MaxError", "PickRequest", "PickResult", "pick"]
