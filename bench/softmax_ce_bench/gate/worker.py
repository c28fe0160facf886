"""The process that holds one build, and the questions that it answers.

``python .../gate/worker.py DESCRIPTOR FOLDER`` with the build's folder first on the path: it is run by its path, since
softmax_ce_bench need not be installed where the build is. Of the harness it imports the operations and the timing loop,
and nothing that would import softmax_ce: that is the build's, which may be older or newer.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[2]))  # behind the build
from softmax_ce_bench.measure import operations, timing
from softmax_ce_bench.measure.process import serve_descriptor


class Service:
    """The questions that a worker answers.

    Parameters
    ----------
    folder : Path
        Holds each workload as K.npz: logits, labels.
    """

    def __init__(self, folder: Path) -> None:
        import softmax_ce  # the build's

        self._sce = softmax_ce
        self._folder = folder
        self._inputs: dict[int, tuple[Any, Any, operations.Buffers, operations.DerivedInputs]] = {}
        self._calls: dict[int, Callable[[], Any]] = {}

    def backends(self) -> tuple[str, dict[str, tuple[str | None, bool]]]:
        """Return where the build is and, for each backend, why it is not available and whether it is stable."""
        return self._sce.__file__, {info.name: (info.why_unavailable, info.stable) for info in self._sce.backends()}

    def operations_here(self) -> list[str]:
        """Return the operations whose function the build has."""
        return [name for name, row in operations.TABLE.items() if hasattr(self._sce, row.function)]

    def prepare(self, key: int, backend: str | None, operation: str, workload: int) -> None:
        """Prepare a call and warm it up. Without a backend, it is the control."""
        self._calls[key] = timing.frozen_control() if backend is None else self._call(backend, operation, workload)
        self._calls[key]()
        self._calls[key]()

    def hold_to(self, cpu: int) -> None:
        """Run on one CPU from now on, if the system supports that."""
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {cpu})

    def calibrate(self, key: int, sample_seconds: float) -> int:
        """Return the number of calls that fill a sample."""
        return timing.calibrate(self._calls[key], sample_seconds)

    def visit(self, key: int, calls: int, samples: int) -> float:
        """Return the least seconds per call among some samples."""
        sampler = timing.Local(self._calls[key])
        return min(sampler.sample(calls) for _ in range(samples))

    def result(self, backend: str, operation: str, workload: int) -> dict[str, Any]:
        """Return the results of an operation by name. Losses are given per row."""
        logits, labels, *_ = self._input(workload)
        call = operations.call(self._sce, operation, logits, labels, reduction="none", backend=backend, threads=1)
        return operations.TABLE[operation].results(call())

    def _input(self, workload: int) -> tuple[Any, Any, operations.Buffers, operations.DerivedInputs]:
        if workload not in self._inputs:
            with np.load(self._folder / f"{workload}.npz", allow_pickle=False) as arrays:
                logits, labels = np.array(arrays["logits"]), np.array(arrays["labels"])  # not views of what was read
            self._inputs[workload] = logits, labels, operations.Buffers(logits), operations.DerivedInputs(logits)
        return self._inputs[workload]

    def _call(self, backend: str, operation: str, workload: int) -> Callable[[], Any]:
        return operations.call(self._sce, operation, *self._input(workload), backend=backend, threads=1)


def main() -> None:
    """Answer questions until the gate closes the pipe."""
    descriptor, folder = sys.argv[1:]
    serve_descriptor(descriptor, partial(Service, Path(folder)))


if __name__ == "__main__":
    main()
