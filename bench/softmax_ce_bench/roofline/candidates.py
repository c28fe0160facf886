"""What is timed: a name for each, and the callable that it stands for on one workload."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

import softmax_ce as sce
from softmax_ce_bench import ceilings, reference
from softmax_ce_bench.reference import Truth
from softmax_ce_bench.timing import Clock, Local
from softmax_ce_bench.workloads import Workload

CEILING = "ceiling"
SMOOTHING, Z_LOSS = 0.1, 1e-4  # usual values
_SIXTEEN_BITS = ("bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A name for what is timed.

    Attributes
    ----------
    who : str
        A backend, a peer, or `CEILING`.
    what : str
        The operation: a loop of :func:`softmax_ce_bench.ceilings.call`, an operation of a peer, or of a
        backend one of the methods of :class:`Stand`.
    new : bool
        The results are allocated in the call.
    threads : int or None
        In place of the session's.
    """

    who: str
    what: str = "fused"
    new: bool = False
    threads: int | None = None

    def __str__(self) -> str:
        """As records and tables call it."""
        return " ".join(
            (self.who, self.what, *(("allocating",) if self.new else ()), *((f"x{self.threads}",) * bool(self.threads)))
        )


class Stand:
    """A workload with the buffers that every backend and ceiling share, so that none has the warmer ones.

    Parameters
    ----------
    workload : Workload
        Hard labels.
    truth : Truth
        Of the plain call.
    threads : int or None
        As for :func:`softmax_ce.cross_entropy`.
    clock : callable
    """

    def __init__(self, workload: Workload, truth: Truth, threads: int | None, clock: Clock) -> None:
        self.logits, self.labels = workload.logits, workload.targets
        self.grad = np.zeros_like(self.logits)  # its pages are there
        self._threads = threads
        self._clock = clock
        self._truths = {"": truth}
        self._others: dict[str, Any] = {}

    def truth(self, what: str = "") -> Truth:
        """What is right, for an option."""
        key = what if what in ("soft", *_SIXTEEN_BITS) or self._options(what) else ""
        if key not in self._truths:
            logits = self.converted(key) if key in _SIXTEEN_BITS else self.logits
            targets = self.soft_targets() if key == "soft" else self.labels
            self._truths[key] = reference.evaluate(logits, targets, **self._options(key))
        return self._truths[key]

    def _options(self, what: str) -> dict[str, Any]:
        """The keywords that an operation adds to the call, and to the reference."""
        if what == "weight":
            return {"weight": self.weight()}
        return {"smoothing": {"label_smoothing": SMOOTHING}, "z-loss": {"z_loss": Z_LOSS}}.get(what, {})

    def build(self, candidate: Candidate) -> tuple[Local, str | None]:
        """A sampler, and why its result is wrong, if it is: every candidate is run once and judged.

        Raises
        ------
        Exception
            Whatever the candidate raises.
        """
        threads = candidate.threads or self._threads
        if candidate.who == CEILING:
            run = ceilings.call(candidate.what, self.logits, self.grad, threads)
            run()
            return Local(run, clock=self._clock), None
        if candidate.what == "kernel":
            return self._kernel(candidate.who)
        return self._call(candidate, threads)

    def _call(self, candidate: Candidate, threads: int | None) -> tuple[Local, str | None]:
        """The public function, with what the operation adds."""
        what = candidate.what
        x, y, grad, before = self.logits, self.labels, self.grad, None
        options: dict[str, Any] = {} if what == "defaults" else {"backend": candidate.who, "threads": threads}
        if what == "in-place":
            x = grad = self._other("in-place", lambda: np.empty_like(self.logits))
            before = partial(np.copyto, x, self.logits)
            before()
        elif what in _SIXTEEN_BITS:
            x = self.converted(what)
            grad = self._other(f"grad {what}", lambda: np.zeros_like(x))
        elif what == "soft":
            y = self.soft_targets()
        options |= self._options(what)
        into_buffers = what != "defaults" and not candidate.new
        if into_buffers:
            options["out"] = np.zeros((), np.float32 if x.dtype.itemsize < 8 else np.float64)
        if what == "forward":
            run: Callable[[], Any] = partial(sce.cross_entropy, x, y, **options)
            return Local(run, clock=self._clock), self.truth().complaint(float(run()), None)
        if into_buffers:
            options["grad_out"] = grad
        run = partial(sce.cross_entropy_with_grad, x, y, **options)
        loss, found = run()
        truth = self.truth(what)
        return Local(run, before, self._clock), truth.complaint(float(loss), found[truth.rows])

    def _kernel(self, name: str) -> tuple[Local, str | None]:
        """The backend's kernel itself, with the factors of a mean made beforehand."""
        real = self.logits.dtype
        n_rows = len(self.logits)
        loss, one, row = np.empty(n_rows, real), np.ones(1, real), np.ones(1)
        upstream = np.full(1, 1 / n_rows)
        run = partial(
            sce.get_backend(name).hard, self.logits, self.labels, -100, one, None, 0.0, 0.0, row, upstream,
            loss, self.grad, None, None, 0, n_rows,
        )  # fmt: skip
        run()
        truth = self.truth()
        return Local(run, clock=self._clock), truth.complaint(float(loss.mean(dtype=np.float64)), self.grad[truth.rows])

    def converted(self, dtype: str) -> Any:
        """The logits in a 16-bit dtype."""
        kind = np.dtype(import_module("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype)
        return self._other(dtype, lambda: self.logits.astype(kind))

    def soft_targets(self) -> Any:
        """Targets spread over all classes: what a teacher would give, not a row of zeros with a one."""

        def make() -> Any:
            rng = np.random.default_rng(7)
            targets = rng.random(self.logits.shape, np.float32).astype(self.logits.dtype, copy=False)
            targets /= targets.sum(axis=1, keepdims=True)
            return targets

        return self._other("soft", make)

    def weight(self) -> Any:
        """Class weights between 0.5 and 1.5."""
        return self._other("weight", lambda: 0.5 + np.random.default_rng(8).random(self.logits.shape[1]))

    def _other(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._others:
            self._others[name] = make()
        return self._others[name]
