"""The calls that are timed: a name for each, and the function that it stands for on one workload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from softmax_ce_bench.inputs.workloads import Workload
from softmax_ce_bench.measure import operations
from softmax_ce_bench.measure.candidates import SharedArrays
from softmax_ce_bench.measure.timing import Call, Clock, Local
from softmax_ce_bench.truth import reference
from softmax_ce_bench.truth.reference import SIXTEEN_BIT_STEPS, ReferenceResult

CEILING = "ceiling"
IGNORED = 3  # a label like any other
SMOOTHING, Z_LOSS = 0.1, 1e-4  # usual values
# What a call can have beside logits and labels, a dtype of 16 bits among it: see SharedWorkload.variant.
OPTIONS = ("weight", "bfloat16", "float16", "ignore", "none", "soft", "smoothing", "z-loss")
# Every option of the function, at its default. What compares equal to a default costs a call no more than leaving it
# out; float() makes an object of its own.
WRITTEN_OUT: dict[str, Any] = {
    "weight": None, "sample_weight": None, "ignore_index": int("-100"), "label_smoothing": float("0"),
    "z_loss": float("0"), "reduction": "".join(("me", "an")), "denominator": None, "on_empty": "".join(("n", "an")),
    "axis": -1, "grad_output": None, "return_lse": False, "backend": None, "out": None, "grad_out": None,
    "lse_out": None,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TimedCall:
    """The name of a call that is timed.

    Attributes
    ----------
    who : str
        A backend, a peer, or `CEILING`.
    what : str
        A loop of :func:`softmax_ce_bench.ceilings.call`; else an operation of
        :data:`softmax_ce_bench.measure.operations.TABLE`, or the fused one with one of `OPTIONS`, on half of its
        classes ("masked"), without any argument ("bare") or with all of them ("written-out").
    new : bool
        The results are allocated in the call.
    threads : int or None
        The number of threads to use instead of the session's.
    """

    who: str
    what: str = "fused"
    new: bool = False
    threads: int | None = None

    def __str__(self) -> str:
        """Return the name in records and tables."""
        return " ".join(
            (self.who, self.what, *(("allocating",) if self.new else ()), *((f"x{self.threads}",) * bool(self.threads)))
        )


@dataclass(frozen=True, slots=True)
class Variant:
    """A workload with the changes that an option makes.

    Attributes
    ----------
    logits, targets : ndarray
    options : dict
        Keywords of the call, the same in softmax_ce, in the reference and in the peers.
    """

    logits: Any
    targets: Any
    options: dict[str, Any]


class SharedWorkload:
    """A workload with buffers that all backends and loops share, so that their caches are equally warm.

    Parameters
    ----------
    workload : Workload
        Hard labels.
    truth : ReferenceResult
        The reference of the plain call.
    threads : int or None
        The number of threads, as in :func:`softmax_ce.cross_entropy`.
    clock : callable
    """

    def __init__(self, workload: Workload, truth: ReferenceResult, threads: int | None, clock: Clock) -> None:
        self.workload = workload
        self._arrays = SharedArrays(workload)
        self._threads = threads
        self._clock = clock
        self._variants: dict[str, Variant] = {}
        self._truths = {"": truth}

    def variant(self, what: str) -> tuple[str, Variant]:
        """Return the name and the variant that an operation runs on. The name is empty for the workload itself."""
        name = what if what in (*OPTIONS, "masked") else ""
        if name not in self._variants:
            self._variants[name] = self._made(name)
        return name, self._variants[name]

    def _made(self, name: str) -> Variant:
        x, y = self.workload.logits, self.workload.targets
        rows, classes = x.shape
        if name in SIXTEEN_BIT_STEPS:
            return Variant(x.astype(import_module("ml_dtypes").bfloat16 if name == "bfloat16" else name), y, {})
        if name == "soft":  # spread over all classes, as a teacher's: not a row of zeros with a one
            targets = np.random.default_rng(7).random(x.shape, np.float32).astype(x.dtype, copy=False)
            targets /= targets.sum(axis=1, keepdims=True)
            return Variant(x, targets, {})
        if name == "masked":  # as a decoder's constraint does it, the label's class apart
            forbidden = np.random.default_rng(6).integers(0, 2, x.shape, np.int8).astype(bool)
            forbidden[np.arange(rows), y] = False
            return Variant(np.where(forbidden, x.dtype.type(-np.inf), x), y, {})
        options: dict[str, dict[str, Any]] = {
            "weight": {"weight": 0.5 + np.random.default_rng(8).random(classes)},
            "ignore": {"ignore_index": IGNORED},
            "none": {"reduction": "none", "grad_output": 0.5 + np.random.default_rng(9).random(rows)},
            "smoothing": {"label_smoothing": SMOOTHING},
            "z-loss": {"z_loss": Z_LOSS},
        }
        return Variant(x, y, options.get(name, {}))

    def truth(self, what: str = "") -> ReferenceResult:
        """Return the reference of a loss with an option."""
        name, made = self.variant(what)
        if name not in self._truths:
            self._truths[name] = reference.evaluate(made.logits, made.targets, **made.options)
        return self._truths[name]

    def build(self, candidate: TimedCall) -> tuple[Local, str | None]:
        """Return a sampler, and why its result is wrong, if so. Each candidate is run once and judged.

        Raises
        ------
        Exception
            Whatever the candidate raises.
        """
        threads = candidate.threads or self._threads
        if candidate.who == CEILING:
            run = self._arrays.loop(candidate.what, threads)
            run()
            return Local(run, clock=self._clock), None
        run = self._call(candidate, threads)
        return Local(run, clock=self._clock), self._complaint(candidate.what, run())

    def _call(self, candidate: TimedCall, threads: int | None) -> Call:
        what = candidate.what
        if what == "bare":
            return self._arrays.backend("fused", allocate=True)
        if what == "written-out":
            return self._arrays.backend("fused", allocate=True, threads=threads, **WRITTEN_OUT)
        name, made = self.variant(what)
        arrays = self._arrays
        if name:
            # Other dtypes and other shapes have buffers of their own.
            buffers = None if name in (*SIXTEEN_BIT_STEPS, "none") else arrays.buffers
            workload = Workload(name, "", made.logits, made.targets)
            arrays = SharedArrays(workload, made.options.get("reduction", "mean"), buffers)
        operation = what if what in operations.TABLE else "fused"
        options = {"backend": candidate.who, "threads": threads, **made.options}
        return arrays.backend(operation, allocate=candidate.new, **options)

    def _complaint(self, what: str, result: Any) -> str | None:
        found = operations.TABLE.get(what, operations.TABLE["fused"]).results(result)
        if what in operations.OTHERS:
            complaint = other_complaint(self.workload.logits, self.workload.targets, what, found)
            if complaint or operations.LOSS not in found:
                return complaint
        truth = self.truth("" if what in operations.OTHERS else what)
        loss, grad = found.get(operations.LOSS), found.get(operations.GRAD)
        loss = None if loss is None else float(np.mean(loss, dtype=np.float64))
        return truth.complaint(loss, None if grad is None else grad[truth.rows])


def other_complaint(logits: Any, targets: Any, operation: str, found: Mapping[str, Any]) -> str | None:
    """Return why what an operation computes beside the loss and its gradient is wrong, or None."""
    right = reference.others(logits, targets, operation)
    rows = {part: found[part][each.rows] if each.values.ndim else found[part] for part, each in right.items()}
    return reference.first_complaint(right, rows)
