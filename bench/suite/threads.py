"""What a second thread gains: the fused call on two, where Kernels has it on one."""

import os

from asv_runner.benchmarks.mark import SkipNotImplemented

from .inputs import BACKENDS, prepared

SHAPES = {
    # Just large enough to share; shared row by row, and inside of one row; beyond the caches.
    "vision, 1024 x 1000": (1024, 1000),
    "one long row, 1 x 524288": (1, 524_288),
    "language model, 320 x 32000": (320, 32_000),
}


def _cpus():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


class Threads:
    """float32, loss and gradient into given buffers, two threads. A sample is one call."""

    params = (BACKENDS, list(SHAPES))
    param_names = ("backend", "shape")
    version = "1"
    number = 1
    repeat = (5, 200, 0.1)  # samples: at least, at most, seconds; in each of asv's two rounds
    warmup_time = 0.05

    def setup(self, backend, shape):
        if _cpus() < 2:
            raise SkipNotImplemented("this process has one CPU")
        self.call = prepared("fused", backend, "float32", SHAPES[shape], threads=2)

    def time_two_threads(self, *_):
        self.call()
