"""What a check is, what it is run on, and running all of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import softmax_ce as sce
from softmax_ce.contract import BackendInfo
from softmax_ce.dtypes import compute_dtype
from softmax_ce.threads import sharing_from
from softmax_ce_bench.conformance.truths import truth_and_bounds
from softmax_ce_bench.inputs.workloads import dtype_of
from softmax_ce_bench.truth import oracle

ALL_DTYPES = ("float32", "float64", "float16", "bfloat16")
NATIVE = ("float32", "float64")


class Unsupported(Exception):
    """This check cannot be run on this machine; the message says why."""


class AssertionsOff(RuntimeError):
    """Python runs with -O, under which every check would pass."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is under test: one backend, computing one dtype on a number of threads.

    Attributes
    ----------
    backend : str
    dtype_name : str
    threads : int
    """

    backend: str
    dtype_name: str
    threads: int

    @property
    def info(self) -> BackendInfo:
        return sce.get_backend(self.backend).info

    @property
    def dtype(self) -> np.dtype[Any]:
        return dtype_of(self.dtype_name)

    @property
    def compute(self) -> np.dtype[Any]:
        return compute_dtype(self.dtype)

    @property
    def where(self) -> dict[str, Any]:
        """The keywords that direct a call here."""
        return {"backend": self.backend, "threads": self.threads}

    def array(self, values: Any) -> Any:
        """Logits of the subject's dtype."""
        with np.errstate(all="ignore"):
            return np.asarray(values, np.float64).astype(self.dtype)

    def rng(self, seed: int = 0) -> np.random.Generator:
        return np.random.default_rng(seed)

    def loss(self, logits: Any, targets: Any, **options: Any) -> Any:
        return sce.cross_entropy(logits, targets, **{"reduction": "none", **options}, **self.where)

    def grad(self, logits: Any, targets: Any, **options: Any) -> Any:
        return sce.cross_entropy_grad(logits, targets, **{"reduction": "none", **options}, **self.where)

    def both(self, logits: Any, targets: Any, **options: Any) -> Any:
        return sce.cross_entropy_with_grad(logits, targets, **{"reduction": "none", **options}, **self.where)

    def all_three(self, logits: Any, targets: Any, **options: Any) -> Any:
        """Loss, gradient and Hessian's diagonal."""
        return sce.cross_entropy_with_hessian(logits, targets, **{"reduction": "none", **options}, **self.where)

    def truth(self, logits: Any, targets: Any, **options: Any) -> tuple[oracle.Truth, oracle.Bounds]:
        """The reference for (N, C) logits, and what this subject may be off by."""
        return truth_and_bounds(self.info, self.dtype, logits, targets, options)


@dataclass(frozen=True, slots=True)
class Check:
    """One property that a backend must have.

    Attributes
    ----------
    name : str
    run : callable
        Subject -> worst error over bound (0 when it compares bits); AssertionError when wrong.
    dtypes : tuple of str
        Where it says something.
    threads : tuple of int or None
        None: any number; else the numbers for which it says something.
    stable : bool or None
        True: asked of stable backends only; False: of the others only; None: of all.
    """

    name: str
    run: Callable[[Subject], float | None]
    dtypes: tuple[str, ...]
    threads: tuple[int, ...] | None
    stable: bool | None


@dataclass(frozen=True, slots=True)
class Result:
    """What came out of one check.

    Attributes
    ----------
    check, dtype : str
    threads : int
    passed : bool
    worst : float
        Worst error over bound; 0 when it compares bits or failed.
    message : str
        Why it failed, or why it could not be run (then `passed` is true).
    """

    check: str
    dtype: str
    threads: int
    passed: bool
    worst: float
    message: str


CHECKS: list[Check] = []


def check(
    *, dtypes: tuple[str, ...] = ALL_DTYPES, threads: tuple[int, ...] | None = None, stable: bool | None = True
) -> Callable[[Callable[[Subject], float | None]], Callable[[Subject], float | None]]:
    """Put a function into CHECKS under its own name."""

    def add(function: Callable[[Subject], float | None]) -> Callable[[Subject], float | None]:
        CHECKS.append(Check(function.__name__, function, dtypes, threads, stable))
        return function

    return add


def select(
    backend: str | None, dtypes: Sequence[str] = ALL_DTYPES, threads: Sequence[int] = (1, 3)
) -> Iterator[tuple[Check, Subject]]:
    """The checks that apply to a backend, with what to run each on. None: as for a stable backend."""
    is_stable = True if backend is None else sce.get_backend(backend).info.stable
    for one in CHECKS:
        if one.stable is not None and one.stable != is_stable:
            continue
        for dtype in dtypes:
            if dtype in one.dtypes:
                counts = threads if one.threads is None else one.threads
                yield from ((one, Subject(backend or "", dtype, count)) for count in counts)


def count_checks(dtypes: Sequence[str], threads: Sequence[int], backend: str | None = None) -> int:
    """How many results :func:`run_checks` will give."""
    return sum(1 for _ in select(backend, dtypes, threads))


def run_checks(
    backend: str,
    dtypes: Sequence[str] = ALL_DTYPES,
    threads: Sequence[int] = (1, 3),
    on_result: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Run every check that applies.

    Parameters
    ----------
    backend : str
    dtypes : sequence of str
        From "float32", "float64", "float16", "bfloat16".
    threads : sequence of int
    on_result : callable, optional
        Called with each result as it comes, for progress.

    Returns
    -------
    list of Result

    Raises
    ------
    ValueError, BackendUnavailableError
        As :func:`softmax_ce.get_backend`.
    AssertionsOff
        Python runs with -O: nothing would be checked. A RuntimeError.
    """
    if not __debug__:
        raise AssertionsOff("the checks are assertions: run Python without -O")
    results = []
    for one, subject in select(backend, dtypes, threads):
        result = _run(one, subject)
        results.append(result)
        if on_result is not None:
            on_result(result)
    return results


def _run(one: Check, subject: Subject) -> Result:
    worst, passed, message = 0.0, True, ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            if subject.threads == 1:  # small calls take the short path
                worst = one.run(subject) or 0.0
            else:
                with sharing_from(1):
                    worst = one.run(subject) or 0.0
    except Unsupported as error:
        message = f"not run: {error}"
    except Exception as error:  # a wrong backend may raise anything: that is a failed check, not the end of the run
        passed = False
        message = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
    return Result(one.name, subject.dtype_name, subject.threads, passed, worst, message)


def same_bits(left: Any, right: Any) -> bool:
    """Equal in every bit, NaN where the other is NaN (its payload apart)."""
    left, right = np.asarray(left), np.asarray(right)
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    both_nan = np.isnan(left.astype(np.float64)) & np.isnan(right.astype(np.float64))
    kind = np.dtype(f"u{left.dtype.itemsize}")
    bits = np.ascontiguousarray(left).view(kind) == np.ascontiguousarray(right).view(kind)
    return bool((bits | both_nan).all())


def assert_same_bits(left: Any, right: Any, what: str) -> None:
    """The two must be equal in every bit."""
    assert same_bits(left, right), f"{what}: the bits differ ({_first_difference(left, right)})"


def _first_difference(left: Any, right: Any) -> str:
    left, right = np.asarray(left), np.asarray(right)
    if left.shape != right.shape or left.dtype != right.dtype:
        return f"{left.dtype}{left.shape} against {right.dtype}{right.shape}"
    differs = np.flatnonzero((left != right).reshape(-1))
    if not differs.size:
        return "a zero's sign"
    first = int(differs[0])
    return (
        f"{differs.size} of {left.size}, first at {first}: {left.reshape(-1)[first]} against {right.reshape(-1)[first]}"
    )


def judge(subject: Subject, result: Any, truth: Any, bound: Any, what: str) -> float:
    """The worst error over its bound; AssertionError above 1."""
    worst = oracle.over_bound(result, truth, bound)
    if not worst <= 1:
        raise AssertionError(f"{what}: {worst:.3g} times the error bound{_worst_entry(result, truth, bound)}")
    return worst


def _worst_entry(result: Any, truth: Any, bound: Any) -> str:
    result = np.asarray(result).reshape(-1).astype(np.float64)
    truth = np.asarray(truth).reshape(-1).astype(np.float64)
    with np.errstate(all="ignore"):
        off = np.abs(result - truth) / np.asarray(bound, float).reshape(-1)
        off[~(np.isfinite(result) == np.isfinite(truth)) | (np.isnan(result) != np.isnan(truth))] = np.inf
    at = int(np.nanargmax(off)) if not np.isnan(off).all() else 0
    return f"; entry {at} is {result[at]!r}, right is {truth[at]!r}"


def judge_all(subject: Subject, logits: Any, targets: Any, what: str, **options: Any) -> float:
    """Loss, gradient, Hessian and log-sum-exp against the oracle; a cap has no Hessian."""
    loss, grad, lse = subject.both(logits, targets, return_lse=True, **options)
    truth, bound = subject.truth(logits, targets, **options)
    worst = max(
        judge(subject, loss, truth.loss, bound.loss, f"loss, {what}"),
        judge(subject, grad, truth.grad, bound.grad, f"gradient, {what}"),
        judge(subject, lse, truth.lse, bound.lse, f"log-sum-exp, {what}"),
    )
    if options.get("softcap") is not None:
        return worst
    loss, grad, hess = subject.all_three(logits, targets, **options)
    return max(
        worst,
        judge(subject, loss, truth.loss, bound.loss, f"loss beside the Hessian, {what}"),
        judge(subject, grad, truth.grad, bound.grad, f"gradient beside the Hessian, {what}"),
        judge(subject, hess, truth.hess, bound.hess, f"Hessian, {what}"),
    )


def worst_of(values: Iterable[float]) -> float:
    """The largest, 0 of nothing."""
    return max(values, default=0.0)
