"""Measuring: the operations and their calls, timing, statistics, memory, cold starts, the machine and its load.

:mod:`~softmax_ce_bench.measure.operations`, :mod:`~softmax_ce_bench.measure.timing` and
:mod:`~softmax_ce_bench.measure.stats` need NumPy alone: a process with another build of softmax_ce can use them.
"""
