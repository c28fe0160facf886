"""The comparison: check and time all candidates on each cell of a grid.

Correctness comes before time: a candidate whose results are beyond the error bound on a workload is listed
with the reason, and neither timed nor ranked there. A backend that is not stable is timed where it happens
to be right, but ranked nowhere.

:mod:`~softmax_ce_bench.compare.request` says what is to be compared, :mod:`~softmax_ce_bench.compare.run` does it, and
:mod:`~softmax_ce_bench.compare.result` holds what was found.
"""

from softmax_ce_bench.compare.request import BASE, CompareRequest, RequestError
from softmax_ce_bench.compare.result import Run
from softmax_ce_bench.compare.run import Listener, run

__all__ = ["BASE", "CompareRequest", "Listener", "RequestError", "Run", "run"]
