"""The goals, as data, and whether measured ratios reach them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from softmax_ce_bench.stats import Ratio

TIE = 0.03  # of what is to be "no slower"


@dataclass(frozen=True, slots=True)
class Goal:
    """One row of the table.

    Attributes
    ----------
    key : str
        What comparisons refer to.
    case : str
        What is compared, in words.
    limit : float
    at_least : bool
        The ratio is a speed-up, which is to reach the limit; else a cost, which is not to exceed it.
    unit : str
        "x" for a ratio of two times; else that of an absolute time.
    against : str
        What it is a ratio to, in words.
    """

    key: str
    case: str
    limit: float
    at_least: bool = False
    unit: str = "x"
    against: str = ""

    @property
    def text(self) -> str:
        """The goal in a few characters."""
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}{self.unit if self.unit == 'x' else ' ' + self.unit}"

    def met(self, value: float) -> bool:
        """Whether a value reaches the goal."""
        return value >= self.limit if self.at_least else value <= self.limit

    def ranked(self, ratios: Iterable[Ratio]) -> list[Ratio]:
        """From the worst to the best."""
        return sorted(ratios, key=lambda ratio: ratio.median, reverse=not self.at_least)

    def off(self, value: float) -> float:
        """The factor by which a value misses the goal; 1 when it is met."""
        return max(1.0, self.limit / value if self.at_least else value / self.limit)

    def mark(self, ratio: Ratio) -> str:
        """met or missed, by the median; with a question mark when the interval has both."""
        sure = self.met(ratio.low) == self.met(ratio.high)
        return ("met" if self.met(ratio.median) else "missed") + ("" if sure else "?")


_COPY = "non-temporal copy of the same bytes"
_LARGE = "classes ≥ 1000, out of cache"


def _peer(name: str, title: str, out: float, out_one: float, short: float, never: float) -> tuple[Goal, ...]:
    against = f"{title}, same threads"
    return (
        Goal(f"{name}/large/all", f"{title}: {_LARGE}, all cores", out, True, against=against),
        Goal(f"{name}/large/one", f"{title}: {_LARGE}, one thread", out_one, True, against=against),
        Goal(f"{name}/short", f"{title}: ≤ 32 classes, ≥ 30 000 rows", short, True, against=against),
        Goal(f"{name}/any", f"{title}: any cell of the grid", never, True, against=against),
    )


GOALS = (
    Goal("copy/cython/all", f"fused, {_LARGE}, all cores: cython", 1.15, against=_COPY),
    Goal("copy/numba/all", f"fused, {_LARGE}, all cores: numba", 1.35, against=_COPY),
    Goal("copy/cython/one", "the same on one thread: cython", 1.5, against=_COPY),
    Goal("copy/numba/one", "the same on one thread: numba", 1.5, against=_COPY),
    Goal("read/cython", f"forward alone, {_LARGE}, all cores: cython", 1.3, against="plain read of the logits"),
    Goal("read/numba", f"forward alone, {_LARGE}, all cores: numba", 1.3, against="plain read of the logits"),
    *_peer("torch", "PyTorch", 8, 5, 8, 3),
    *_peer("jax", "JAX jit", 4, 3, 3, 2),
    Goal("element", "10 classes, 100 000 rows, one thread: an element", 0.30, unit="ns"),
    Goal("one-row/public", "one row of 10 classes: public function, defaults", 3.0, unit="µs"),
    Goal("one-row/kernel", "one row of 10 classes: the backend's kernel", 0.6, unit="µs"),
    Goal("few-rows/8", "1 to 4 rows, ≥ 8 MiB: two threads", 1.7, True, against="one thread"),
    Goal("few-rows/2", "1 to 4 rows, ≥ 2 MiB: two threads", 1.3, True, against="one thread"),
    Goal("float64", f"float64 fused, {_LARGE}, all cores", 1.25, against=_COPY),
    Goal("bfloat16", "bfloat16 fused, as many elements", 1.5, against="float32"),
    Goal("float16", "float16 fused, as many elements", 1.5, against="float32"),
    # A tie is no slower.
    Goal("in-place", "gradient in place", 1 + TIE, against="into another array"),
    Goal("option/soft", "soft targets, a byte moved", 1.3, against="hard targets"),
    Goal("option/weight", "class weights", 1.3, against="the plain call"),
    Goal("option/smoothing", "label smoothing", 1.3, against="the plain call"),
    Goal("option/z-loss", "z-loss", 1.3, against="the plain call"),
)
BY_KEY = {goal.key: goal for goal in GOALS}
