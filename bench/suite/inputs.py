"""The frozen inputs of every benchmark, the calls that are timed, and what is skipped.

Backends are the registry's, so that a new one is measured with no edit here. asv takes a change of the inputs or of
the call for a change in speed unless the benchmark's `version` changes with it: count it up.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import itertools
import sys
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from asv_runner.benchmarks.mark import SkipNotImplemented

import softmax_ce as sce

BACKENDS = [info.name for info in sce.backends()]
DTYPES = ["float32", "float64"]


def _operations() -> Any:
    """Load the table of operations by its path: softmax_ce_bench is not installed where asv runs this."""
    path = Path(__file__).parents[1] / "softmax_ce_bench" / "measure" / "operations.py"
    spec = importlib.util.spec_from_file_location("_operations_of_softmax_ce_bench", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


operations = _operations()
LOSSES, OPERATIONS = list(operations.LOSSES), list(operations.TABLE)

# So wide that of 32000 classes one float32 exponential in ten underflows; a textbook formula just does not overflow.
_WIDTH = 16
# Drawn once and repeated. Primes, so that no two rows of a workload are alike.
_NUMBERS, _LABELS = 1_048_573, 65_521


@cache
def _numbers() -> Any:
    return _WIDTH * np.random.default_rng(20_261).standard_normal(_NUMBERS)


def _repeated(values: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """`values` over and over, with no temporary of the result's size: peak memory is measured too.

    An array of its own, as a user's is: a call looks longer at a view.
    """
    made = np.empty(shape, dtype)
    flat = made.reshape(-1)
    for start in range(0, flat.size, len(values)):
        part = flat[start : start + len(values)]
        part[...] = values[: len(part)]
    return made


def logits(rows: int, classes: int, dtype: str) -> Any:
    """Normal with standard deviation 16, shape (rows, classes)."""
    return _repeated(_numbers(), (rows, classes), dtype)


def labels(rows: int, classes: int) -> Any:
    """As frequent as words are: class k with a probability in proportion to 1 / (k + 1)."""
    total = np.cumsum(1 / np.arange(1, classes + 1))
    drawn = np.random.default_rng(20_262).random(min(rows, _LABELS)) * total[-1]
    return _repeated(np.searchsorted(total, drawn), (rows,), np.int64)


def require(backend: str, *options: str, operation: str = "fused") -> None:
    """Skip this cell where the installed commit has no such backend, operation or options.

    Raises
    ------
    SkipNotImplemented
        asv's word for it: listed as skipped, and not as failed.
    """
    try:
        sce.get_backend(backend)
    except (ImportError, ValueError) as error:  # not built here, or not there yet
        raise SkipNotImplemented(str(error)) from error
    function = operations.TABLE[operation].function
    if not hasattr(sce, function):
        raise SkipNotImplemented(f"no {function} at this commit")
    known = inspect.signature(sce.cross_entropy_with_grad).parameters
    if missing := [option for option in options if option not in known]:
        raise SkipNotImplemented(f"no option {', '.join(missing)} at this commit")


@lru_cache(maxsize=1)  # asv runs setup before each sample: the second finds what the first has made
def prepared(operation: str, backend: str, dtype: str, shape: tuple[int, int], threads: int = 1) -> Callable[[], Any]:
    """A call without arguments: hard labels, reduction "none", into buffers whose pages are there."""
    require(backend, "threads", operation=operation)
    x, y = logits(*shape, dtype), labels(*shape)
    buffers = operations.Buffers(x, "none")
    call = operations.call(sce, operation, x, y, buffers, reduction="none", backend=backend, threads=threads)
    call()  # compilation and page faults are not what is timed
    return call


def _warm_up() -> None:
    """Have every kernel compiled and loaded: asv forks each cell's process from one that has imported the suite."""
    for info, dtype, operation in itertools.product(sce.backends(), DTYPES, OPERATIONS):
        with contextlib.suppress(Exception):  # what does not work fails where it is measured, and says so there
            operations.call(sce, operation, logits(1, 10, dtype), labels(1, 10), backend=info.name, threads=1)()


_warm_up()
