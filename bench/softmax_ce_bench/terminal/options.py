"""Types of options, such as lists, durations, shapes and weights, whose errors name what is allowed; and options that
several commands share.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from softmax_ce_bench.inputs.workloads import WorkloadError, load_array
from softmax_ce_bench.measure.operations import LOSSES

_DTYPES = {"f32": "float32", "f64": "float64", "f16": "float16", "bf16": "bfloat16"}
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_LARGEST = 2**40  # rows or classes; more is a typing error


class _Type(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4 alone
    """Base class of the option types."""


class Several(_Type):
    """A comma-separated list of allowed values, each once.

    Parameters
    ----------
    *allowed : str
        Empty: anything.
    short : dict, optional
        Other names of some.
    """

    name = "list"

    def __init__(self, *allowed: str, short: dict[str, str] | None = None) -> None:
        self._allowed = allowed
        self._short = short or {}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value that the text stands for, or fail with a message that says what would be right."""
        if isinstance(value, tuple):
            return value
        names = [self._short.get(part.strip(), part.strip()) for part in str(value).split(",")]
        for name in names:
            if not name or (self._allowed and name not in self._allowed):
                short = {long: f" ({brief})" for brief, long in self._short.items()}
                known = ", ".join(f"{known}{short.get(known, '')}" for known in self._allowed)
                self.fail(f"{name!r} is not one of {known}" if known else f"{value!r} has an empty name", param, ctx)
        return tuple(dict.fromkeys(names))


class Shapes(_Type):
    """Comma-separated shapes such as 32x1000."""

    name = "shapes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value that the text stands for, or fail with a message that says what would be right."""
        if isinstance(value, tuple):
            return value
        found = []
        for part in str(value).split(","):
            match = re.fullmatch(r"\s*(\d{1,13})\s*[xX×]\s*(\d{1,13})\s*", part)
            sizes = tuple(int(size) for size in match.groups()) if match else (0, 0)
            if not all(0 < size <= _LARGEST for size in sizes):
                self.fail(f"{part.strip()!r} is not ROWSxCLASSES, both at least 1, such as 32x1000", param, ctx)
            found.append(sizes)
        return tuple(dict.fromkeys(found))


class Duration(_Type):
    """A duration in seconds, such as 60, 60s or 1.5m."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value that the text stands for, or fail with a message that says what would be right."""
        if isinstance(value, (int, float)):
            return float(value)
        # Nothing optional between two repetitions of one thing: failing would take quadratic time.
        match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)", str(value).strip())
        if not match or match[2] not in _UNITS:
            self.fail(f"{value!r} is not a time such as 60, 60s, 2m or 1h", param, ctx)
        seconds = float(match[1]) * _UNITS[match[2]]
        if not 0 < seconds < 1e7:
            self.fail(f"{value!r} is not a time above 0", param, ctx)
        return seconds


class Counts(_Type):
    """Comma-separated whole numbers, at least 1."""

    name = "counts"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value that the text stands for, or fail with a message that says what would be right."""
        if isinstance(value, tuple):
            return value
        try:
            counts = tuple(dict.fromkeys(int(part) for part in str(value).split(",")))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers such as 1,2", param, ctx)
        if min(counts) < 1:
            self.fail("threads are at least 1", param, ctx)
        return counts


class Number(_Type):
    """A finite number between two limits."""

    name = "number"

    def __init__(self, low: float, high: float = math.inf) -> None:
        self._low, self._high = low, high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value that the text stands for, or fail with a message that says what would be right."""
        try:
            found = float(value)
        except ValueError:
            found = math.nan
        if not (self._low <= found <= self._high and math.isfinite(found)):
            upper = f" and at most {self._high:g}" if math.isfinite(self._high) else ""
            self.fail(f"{value!r} is not a number of at least {self._low:g}{upper}", param, ctx)
        return found


class Weight(_Type):
    """ "drawn", or an .npy file of class weights, whose path goes into the context's `meta`."""

    name = "weight"
    FILES = f"{__name__}.weight_files"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value that the text stands for, or fail with a message that says what would be right."""
        if not isinstance(value, str) or value == "drawn":
            return value
        try:
            weight = load_array(Path(value))
        except WorkloadError:
            self.fail(f"{value!r} is neither 'drawn' nor an .npy file", param, ctx)
        right = weight.ndim == 1 and weight.dtype.kind in "fiu"
        if not right or not np.isfinite(weight).all():
            self.fail(f"{value}: class weights are one vector of finite numbers", param, ctx)
        if ctx is not None:
            ctx.meta.setdefault(self.FILES, []).append(Path(value))
        return weight.astype(np.float64)


DTYPES = Several(*_DTYPES.values(), short=_DTYPES)

# Options that several commands take.
SHAPES = click.option(
    "--shapes", type=Shapes(), metavar="SHAPES", help="Shapes (rows x classes), such as 32x1000,4096x50257."
)
LOGITS = click.option(
    "--logits", type=click.Path(path_type=Path), help="Your own logits, an .npy file of shape (rows, classes)."
)
TARGETS = click.option(
    "--targets",
    type=click.Path(path_type=Path),
    help="Their labels, an .npy file of shape (rows,), or soft ones of shape (rows, classes).",
)
DTYPE = click.option(
    "--dtype", "dtypes", type=DTYPES, metavar="NAMES", help="Dtypes of the logits: f32, f64, f16, bf16.  [default: f32]"
)
THREADS = click.option(
    "--threads", type=Counts(), metavar="COUNTS", help="Numbers of threads, such as 1,2.  [default: chosen by size]"
)


def profiled_operations(default: str) -> Callable[[Any], Any]:
    """Return the option for the operations that a profile has cells for. Calls of the others follow these."""
    followed = (
        "softmax counts as backward, logsumexp and log_softmax as forward, a Hessian as fused, a KL divergence "
        "as forward or fused in float64"
    )
    return click.option(
        "--op", "operations", type=Several(*LOSSES), metavar="NAMES",
        help=f"Operations: {', '.join(LOSSES)}; {followed}.  [default: {default}]",
    )  # fmt: skip
