"""The goals as data, and whether measured ratios reach them.

What is not here: times over those of an earlier commit. One process holds one build; ``softmax-ce gate BASE`` runs two
side by side, and `softmax_ce_bench.gate.worker` answers for either (:data:`ELSEWHERE`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from softmax_ce_bench.measure.stats import TIE, Ratio
from tools.roofline.isa import AVX2, AVX512

ELSEWHERE = (
    "Goals over the times of an earlier commit are not measured here: softmax-ce gate COMMIT --shapes 1024x1000 builds "
    "it, and runs both side by side."
)


@dataclass(frozen=True, slots=True)
class Goal:
    """One row of the table.

    Attributes
    ----------
    key : str
        The name that comparisons refer to.
    case : str
        The comparison in words.
    limits : mapping
        Instruction set -> limit. One that is not named has AVX2's.
    at_least : bool
        The ratio is a speed-up, which is to reach the limit; else a cost, which is not to exceed it.
    unit : str
        "x" for a ratio of two times; else that of an absolute time.
    against : str
        The denominator of the ratio, in words.
    by_median : bool
        The median of the cells is judged, in place of the worst.
    """

    key: str
    case: str
    limits: Mapping[str, float]
    at_least: bool = False
    unit: str = "x"
    against: str = ""
    by_median: bool = False

    def limit(self, isa: str) -> float:
        """Return the limit on an instruction set."""
        return self.limits.get(isa, self.limits[AVX2])

    def text(self, isa: str) -> str:
        """Return the goal in a few characters."""
        unit = self.unit if self.unit == "x" else f" {self.unit}"
        return f"{'≥' if self.at_least else '≤'} {self.limit(isa):g}{unit}"

    def met(self, value: float, isa: str) -> bool:
        """Return whether a value reaches the goal."""
        return value >= self.limit(isa) if self.at_least else value <= self.limit(isa)

    def ranked(self, ratios: Iterable[Ratio]) -> list[Ratio]:
        """Return values from the worst to the best."""
        return sorted(ratios, key=lambda ratio: ratio.median, reverse=not self.at_least)

    def decisive(self, ratios: Iterable[Ratio]) -> Ratio:
        """Return the ratio that the verdict depends on: the worst, or the median (of two, the worse)."""
        ranked = self.ranked(ratios)
        return ranked[(len(ranked) - 1) // 2] if self.by_median else ranked[0]

    def off(self, value: float, isa: str) -> float:
        """Return the factor by which a value misses the goal, or 1 if the goal is met."""
        return max(1.0, self.limit(isa) / value if self.at_least else value / self.limit(isa))

    def mark(self, ratio: Ratio, isa: str) -> str:
        """Return "met" or "missed" by the median, with a question mark if the interval contains the limit."""
        sure = self.met(ratio.low, isa) == self.met(ratio.high, isa)
        return ("met" if self.met(ratio.median, isa) else "missed") + ("" if sure else "?")


def _limits(avx2: float, avx512: float | None = None) -> dict[str, float]:
    return {AVX2: avx2, AVX512: avx2 if avx512 is None else avx512}


_LARGE, _CACHED = "≥ 1000 classes, out of cache", "≥ 1000 classes, in cache"
_COPY = "the non-temporal copy"


def _library(
    name: str, title: str, large: tuple[float, float], cached: tuple[float, float], short: tuple[float, float],
    other: tuple[float, float],
) -> Iterable[Goal]:  # fmt: skip
    """Return the goals against a library with the same number of threads: AVX2 and AVX-512 for each region."""
    cases = {
        "large": (_LARGE, large),
        "cached": (_CACHED, cached),
        "short": ("≤ 32 classes, ≥ 30 000 rows", short),
        "other": ("any other cell", other),
    }
    for region, (case, limits) in cases.items():
        yield Goal(f"{name}/{region}", f"{title}: {case}", _limits(*limits), True, against="same threads")


def _written(region: str, case: str, avx2: float, avx512: float) -> Goal:
    return Goal(f"written/{region}", f"NumPy, written out, one thread: {case}", _limits(avx2, avx512), True)


def _normalizers() -> Iterable[Goal]:
    """Return the goals of the normalizers against PyTorch on one thread."""
    for name, cached, short in (
        ("softmax", (2, 2.5), (3, 4)), ("log_softmax", (2, 2.5), (3, 4)), ("logsumexp", (4, 5), (4, 4)),
    ):  # fmt: skip
        yield Goal(f"{name}/cached", f"{name}, PyTorch: {_CACHED}", _limits(*cached), True)
        yield Goal(f"{name}/short", f"{name}, PyTorch: ≤ 100 classes, ≥ 1000 rows", _limits(*short), True)
        yield Goal(f"{name}/one", f"{name}, PyTorch: one row of 10 classes", _limits(0.7), True)


GOALS = (
    Goal("copy/one", f"fused, {_LARGE}, one thread", _limits(1.6, 1.5), against=_COPY),
    Goal("copy/all", f"fused, {_LARGE}, all cores", _limits(1.25, 1.15), against=_COPY),
    Goal("numba", "numba over cython: any cell of the grid", _limits(1.35)),
    Goal("cython", "cython over numba: any cell of the grid", _limits(1 + TIE)),
    *_library("jax", "JAX jit", (5, 8), (2, 2), (3, 4), (2, 2)),
    *_library("torch", "PyTorch", (12, 20), (5, 4.5), (8, 8), (3, 3)),
    _written("large", _LARGE, 7, 10),
    _written("cached", _CACHED, 5, 5),
    _written("hundred", "100 classes", 3, 4),
    _written("short", "≤ 32 classes, ≥ 1000 rows", 5, 8),
    Goal("sklearn", "scikit-learn: any cell of the grid", _limits(1.5), True),
    # The worst cell: no user is to have the formula faster than the backend.
    Goal("numpy", "numpy over NumPy, written out: any cell from 64 x 10 on", _limits(1.0)),
    Goal("numpy/one", "numpy over NumPy, written out: one row of 10 classes", _limits(2.0)),
    Goal("option/torch", "PyTorch: each option, dtype, reduction, forward alone", _limits(1.5), True),
    Goal("option/small", "64 x 10 with an option", _limits(2.0), against="the bare call"),
    *_normalizers(),
    # 0.40 of what the first AVX2 machine took before: 11 and 3.1 ns. AVX-512 has a limit of its own at 10 alone.
    Goal("element/2", "2 classes, 100 000 rows, one thread: an element", _limits(4.4), unit="ns"),
    Goal("element/10", "10 classes, 100 000 rows, one thread: an element", _limits(1.24, 0.30), unit="ns"),
    Goal("byte/soft", "soft targets, a byte moved", _limits(1.3), against="the plain call"),
    Goal("byte/weight", "class weights, a byte moved", _limits(1.3), against="the plain call"),
    Goal("byte/smoothing", "label smoothing, a byte moved", _limits(1.3), against="the plain call"),
    Goal("byte/z-loss", "z-loss, a byte moved", _limits(1.3), against="the plain call"),
    Goal("byte/masked", "half of the classes at −inf, a byte moved", _limits(1.3), against="the plain call"),
    Goal("float16", "float16 out of cache, as many elements", _limits(1.5), against="float32"),
    Goal("bfloat16", "bfloat16 out of cache, as many elements", _limits(1.5), against="float32"),
    Goal("axis/median", "class axis anywhere: the median cell", _limits(1.0), against="moved and copied by hand",
         by_median=True),
    Goal("axis/worst", "class axis anywhere: the worst cell", _limits(1.5), against="moved and copied by hand"),
    Goal("segmentation/last", "(8, 21, 256, 256), axis 1", _limits(1.1), against="the same numbers on the last axis"),
    Goal("segmentation/torch", "(8, 21, 256, 256), axis 1: PyTorch", _limits(6.0), True),
    Goal("written-out", "one row of 10 classes, options at their defaults", _limits(1.3), against="the bare call"),
)  # fmt: skip
BY_KEY = {goal.key: goal for goal in GOALS}
