"""Search in this process for a case that a property does not hold for."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.internal.conjecture import providers

if TYPE_CHECKING:
    from tools.fuzz.properties import Property

_BATCH = 500  # cases; then Hypothesis starts anew with another seed
_SHRINKING = 20.0  # seconds for a smaller case


class NotApplicable(Exception):
    """A property does not apply to a case."""


class _TimeIsUp(BaseException):
    """Ends a search. Hypothesis treats any Exception as a failure, so this is none."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The smallest case that failed.

    Attributes
    ----------
    case : JSON value
    found : str
        The traceback.
    """

    case: Any
    found: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a search: the number of cases that were tried, and the failure if there was one."""

    executions: int
    failure: Failure | None


@contextmanager
def _no_constants_of_modules() -> Iterator[None]:
    """Make the cases depend on the seed alone.

    Hypothesis also draws numbers and words that stand in the sources of the modules imported so far, and so the same
    seed would try other cases after another import. It has no setting for that; where a later version is built in
    another way, a test of the seeds says whether this is still needed.
    """
    if not hasattr(providers, "_get_local_constants"):
        yield
        return
    with mock.patch.object(providers, "_get_local_constants", type(providers.GLOBAL_CONSTANTS)):
        providers.CONSTANTS_CACHE.cache.clear()
        try:
            yield
        finally:
            providers.CONSTANTS_CACHE.cache.clear()


def explore(
    of: Property,
    seed: int,
    *,
    seconds: float | None = None,
    examples: int | None = None,
    before: Callable[[Any], None] = lambda case: None,
    shrink: bool = True,
) -> Outcome:
    """Try cases until one fails, the time is up, or there were enough. The seed decides which cases are tried.

    Parameters
    ----------
    of : Property
    seed : int
    seconds, examples : optional
        Either, or both.
    before : callable
        Called with each case before it is tried.
    shrink : bool
        Look for a smaller case once one has failed.
    """
    end = None if seconds is None else time.monotonic() + seconds
    executions = 0
    failure: Failure | None = None

    def attempt(case: Any) -> None:
        nonlocal executions, failure, end
        if end is not None and time.monotonic() > end:
            raise _TimeIsUp
        before(case)
        try:
            of.check(case)
        except NotApplicable:
            hypothesis.reject()
        except Exception:
            if failure is None:
                end = time.monotonic() + _SHRINKING
            if failure is None or len(json.dumps(case)) <= len(json.dumps(failure.case)):
                failure = Failure(case, traceback.format_exc())
            raise
        executions += 1

    batch = 0
    while failure is None and (examples is None or batch * _BATCH < examples):
        count = _BATCH if examples is None else min(_BATCH, examples - batch * _BATCH)
        search = settings(
            max_examples=count, deadline=None, database=None, report_multiple_bugs=False, print_blob=False,
            suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink)[: 1 + shrink],
        )(hypothesis.given(of.cases)(attempt))  # fmt: skip
        try:
            with _no_constants_of_modules():
                hypothesis.seed((seed << 32) + batch)(search)()
        except _TimeIsUp:
            break
        except Exception:
            if failure is None:
                raise
        batch += 1
    return Outcome(executions, failure)
