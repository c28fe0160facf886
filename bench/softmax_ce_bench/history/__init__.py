"""The project's speed over its commits: what asv has stored, the steps in it, and a picture of it."""

from softmax_ce_bench.history.results import Commit, History, HistoryError, Series, read
from softmax_ce_bench.history.steps import Step, steps

__all__ = ["Commit", "History", "HistoryError", "Series", "Step", "read", "steps"]
