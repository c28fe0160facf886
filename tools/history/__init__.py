"""The project's speed over its commits: what asv has stored, the steps in it, and a picture of it."""

from tools.history.results import Commit, History, HistoryError, Series, read
from tools.history.steps import Step, steps

__all__ = ["Commit", "History", "HistoryError", "Series", "Step", "read", "steps"]
