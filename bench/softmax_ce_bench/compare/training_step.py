"""A training step in PyTorch, loss and backward, with its own cross-entropy and with that of softmax_ce.torch.

Both run in one fresh process with the same number of threads, in interleaved rounds. What they allocate is included.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from softmax_ce.threads import available_cpus
from softmax_ce_bench.compare.request import DIGITS, Source
from softmax_ce_bench.inputs.workloads import Workload
from softmax_ce_bench.measure import timing
from softmax_ce_bench.measure.peer_process import SETTLE_SECONDS
from softmax_ce_bench.measure.process import THREAD_VARIABLES, Child, spawned
from softmax_ce_bench.measure.stats import Ratio, paired_ratio
from softmax_ce_bench.measure.timing import Clock, Local
from softmax_ce_bench.peers.adapters import from_tensor, to_tensor
from softmax_ce_bench.truth import reference

BEFORE, AFTER = "F.cross_entropy", "softmax_ce.torch.cross_entropy"

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """The times of one step with either function.

    Attributes
    ----------
    text : str
        The workload.
    threads : int
    rounds : int
    before, after : Ratio
        Seconds a step with PyTorch's function and with softmax_ce's.
    speedup : Ratio
        before / after, paired within the rounds.
    drift : float
        By what fraction the control differs from itself.
    complaint : str or None
        Why a result is wrong.
    """

    text: str
    threads: int
    rounds: int
    before: Ratio
    after: Ratio
    speedup: Ratio
    drift: float
    complaint: str | None


def measurable(sources: tuple[Source, ...]) -> tuple[Source, ...]:
    """Return the sources without the digits: a step on so little is PyTorch's own."""
    return tuple(source for source in sources if source.shape is not DIGITS)


def measure(
    sources: tuple[Source, ...], threads: tuple[int | None, ...], seconds: float,
    on_step: Callable[[str, float], None], make_child: Callable[[int], Any] | None = None,
) -> Iterator[TrainingStep]:  # fmt: skip
    """Measure a step for each workload and number of threads.

    Parameters
    ----------
    sources : tuple of Source
    threads : tuple of int or None
        None: the CPUs that this process may use.
    seconds : float
        For all of them.
    on_step : callable
        Called before each with its text and the fraction that is done.
    make_child : callable, optional
        (threads) -> process, in place of a fresh one.

    Yields
    ------
    TrainingStep

    Raises
    ------
    ProcessError
        PyTorch cannot be imported there, or a step raised.
    """
    count = len(sources) * len(threads)
    for k, asked in enumerate(threads):
        used = asked or available_cpus()
        with (make_child or _child)(used) as child:
            for i, source in enumerate(sources):
                on_step(source.text, (k * len(sources) + i) / count)
                found = child.ask("measure", source.text, source.maker(), source.ignore_index, seconds / count)
                assert isinstance(found, TrainingStep)
                yield found


def _child(threads: int) -> Child:
    return Child(spawned(partial(StepService, threads)), "PyTorch")


class StepService:
    """The question that the fresh process answers.

    Parameters
    ----------
    threads : int
    functions : mapping, optional
        `BEFORE` and `AFTER` -> function, in place of PyTorch's and softmax_ce's.
    clock : callable
    """

    def __init__(
        self, threads: int, functions: Mapping[str, Function] | None = None, clock: Clock = time.perf_counter
    ) -> None:
        self._threads, self._functions, self._clock = threads, functions, clock
        if functions is None:
            os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))  # before PyTorch is imported

    def measure(self, text: str, make: Callable[[], Workload], ignore_index: int, seconds: float) -> TrainingStep:
        """Make the workload, judge both functions, and time a step of each."""
        import torch

        torch.set_num_threads(self._threads)
        workload = make()
        functions = _functions() if self._functions is None else self._functions
        x, y = to_tensor(workload.logits).requires_grad_(), to_tensor(workload.targets)
        logits, targets = workload.as_rows(workload.logits), workload.as_rows(workload.targets)
        truth = reference.evaluate(logits, targets, ignore_index=ignore_index)
        steps, complaints = {}, []
        for name in (BEFORE, AFTER):
            steps[name] = _step(functions[name], x, y, ignore_index)
            loss: Any = steps[name]()
            said = truth.complaint(
                loss.double().item(),
                workload.as_rows(from_tensor(x.grad, workload.logits.dtype))[truth.rows],
                reference.SIXTEEN_BIT_STEPS.get(workload.dtype, 0.0),
            )
            complaints += [f"{name}: {said}"] if said else []
        samplers = {name: _Settled(Local(step, clock=self._clock)) for name, step in steps.items()}
        samples = timing.measure(samplers, seconds=seconds, clock=self._clock)
        before, after = samples.seconds[BEFORE], samples.seconds[AFTER]
        ones = np.ones(samples.rounds)
        return TrainingStep(
            text, self._threads, samples.rounds, paired_ratio(before, ones), paired_ratio(after, ones),
            paired_ratio(before, after), samples.control_ratio.drift, next(iter(complaints), None),
        )  # fmt: skip


class _Settled:
    """A sampler after which OpenMP's threads have time to come to rest, so that the next one has the CPUs."""

    def __init__(self, sampler: Local) -> None:
        self._sampler = sampler

    def calibrate(self, sample_seconds: float) -> int:
        """Warm up, and return the number of calls that fill a sample."""
        return self._sampler.calibrate(sample_seconds)

    def sample(self, calls: int) -> float:
        """Return the seconds per call over so many calls."""
        taken = self._sampler.sample(calls)
        time.sleep(SETTLE_SECONDS)
        return taken


def _functions() -> dict[str, Function]:
    from torch.nn import functional

    from softmax_ce.torch import cross_entropy

    return {BEFORE: functional.cross_entropy, AFTER: cross_entropy}


def _step(function: Function, x: Any, y: Any, ignore_index: int) -> Callable[[], Any]:
    def step() -> Any:
        x.grad = None
        loss = function(x, y, ignore_index=ignore_index)
        loss.backward()
        return loss.detach()

    return step
