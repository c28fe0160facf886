"""The project's speed over its commits: the results that asv has stored, the steps in them, and a figure."""

from tools.history.results import Commit, History, HistoryError, Series, read
from tools.history.steps import Step, steps

__all__ = ["Commit", "History", "HistoryError", "Series", "Step", "read", "steps"]
