"""Profiles in memory. The annotations and docstrings describe the file's format too, and make its JSON Schema."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from softmax_ce.choice.fingerprint import Fingerprint
from softmax_ce.documents import Limits

TIE = 0.03

_Name = Annotated[str, Limits(minLength=1, maxLength=100)]
_Size = Annotated[int, Limits(minimum=1, maximum=1 << 48)]
_Bytes = Annotated[int, Limits(minimum=0, maximum=1 << 48)]
_Seconds = Annotated[float, Limits(exclusiveMinimum=0, maximum=1e9)]
_Times = Annotated[float, Limits(exclusiveMinimum=0, maximum=1e18)]
_Positive = Annotated[float, Limits(minimum=0)]
_Note = Annotated[str, Limits(maxLength=10_000)] | float | int | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The figures of one backend in one cell; None for a figure that was not measured.

    Attributes
    ----------
    backend : str
        Its name.
    rejected : str or None
        Why it may not run here, such as too large an error; None if it may.
    error : float or None
        The largest error as a multiple of its bound; None also for infinity.
    seconds : float or None
        The median time of a call.
    seconds_low, seconds_high : float or None
        The interval of the median.
    ratio : float or None
        Its time as a multiple of the winner's, paired within rounds.
    ratio_low, ratio_high : float or None
        The interval of the ratio.
    memory : int or None
        Peak bytes, beside inputs and outputs.
    cold_start : float or None
        Seconds for the import and the first call in a fresh process, with nothing cached.
    cached_start : float or None
        Seconds for the import and the first call in a fresh process, with compiled functions cached.
    break_even : float or None
        The number of calls after which it has made up for its cold start; None also for never, and for nothing to
        make up for.
    """

    backend: _Name
    rejected: Annotated[str, Limits(maxLength=2000)] | None = None
    error: _Positive | None = None
    seconds: _Seconds | None = None
    seconds_low: _Seconds | None = None
    seconds_high: _Seconds | None = None
    ratio: _Times | None = None
    ratio_low: _Times | None = None
    ratio_high: _Times | None = None
    memory: _Bytes | None = None
    cold_start: _Seconds | None = None
    cached_start: _Seconds | None = None
    break_even: _Positive | None = None

    def cost(self, objective: str) -> float | None:
        """Return the cost that the objective minimises, in seconds or bytes, or None if it was not measured."""
        return {"time": self.seconds, "memory": self.memory, "coldstart": self.cold_start}[objective]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One measured shape, for one dtype, operation and number of threads.

    Attributes
    ----------
    rows, classes : int
        The shape of the logits.
    dtype : {"float16", "bfloat16", "float32", "float64"}
        The logits' dtype.
    operation : {"forward", "backward", "fused"}
        The loss, the gradient, or both in one call.
    threads : int or None
        The `threads` of the calls; None is automatic.
    winner : str
        The backend that runs here.
    measured : tuple of Measured
        Every backend, including the rejected ones.
    tied : tuple of str
        Backends that the winner does not clearly beat.
    rounds : int
        The number of rounds of measurement.
    """

    rows: _Size
    classes: _Size
    dtype: Annotated[str, Limits(enum=("float16", "bfloat16", "float32", "float64"))]
    operation: Annotated[str, Limits(enum=("forward", "backward", "fused"))]
    threads: Annotated[int, Limits(minimum=1, maximum=1_000_000)] | None
    winner: _Name
    measured: Annotated[tuple[Measured, ...], Limits(minItems=1, maxItems=32)]
    tied: Annotated[tuple[_Name, ...], Limits(maxItems=32)] = ()
    rounds: Annotated[int, Limits(minimum=0, maximum=1_000_000_000)] = 0

    def of(self, backend: str) -> Measured | None:
        """Return the figures of a backend here, or None if it was not measured."""
        return next((one for one in self.measured if one.backend == backend), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The choice of backends for one machine and build, with the measurements behind it.

    Times are in seconds, and memory is in bytes.

    Attributes
    ----------
    date : str
        When it was measured: ISO 8601, UTC.
    command : str
        The command that measured it.
    objective : {"time", "memory", "coldstart"}
        What the winners win at.
    tie : float
        A relative gap below this is a tie.
    max_error : float or None
        The largest error that was allowed, as a multiple of its bound; None is 1.
    order : tuple of str
        Every backend in the profile, from the simplest dependencies on. Of several that tie, the first one runs.
    fingerprint : Fingerprint
        The machine and build, from :func:`softmax_ce.choice.fingerprint.collect`.
    notes : dict
        Named text, numbers, booleans and None, for human readers.
    cells : tuple of Cell
        What was measured; each shape, dtype, operation and number of threads once.
    """

    date: Annotated[str, Limits(maxLength=100)] = ""
    command: Annotated[str, Limits(maxLength=10_000)] = ""
    objective: Annotated[str, Limits(enum=("time", "memory", "coldstart"))] = "time"
    tie: Annotated[float, Limits(minimum=0, maximum=10)] = TIE
    max_error: _Positive | None = None
    order: Annotated[tuple[_Name, ...], Limits(minItems=1, maxItems=32)]
    fingerprint: Fingerprint
    notes: Annotated[dict[str, _Note], Limits(maxProperties=100)] = field(default_factory=dict)
    cells: Annotated[tuple[Cell, ...], Limits(minItems=1, maxItems=5000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The profiles of several machines in one file. Each machine follows its own.

    Attributes
    ----------
    sections : tuple of Profile
        One for each machine and build, told apart by their fingerprints.
    """

    sections: Annotated[tuple[Profile, ...], Limits(minItems=1, maxItems=1000)]
