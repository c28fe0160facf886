"""One prediction: what a plain call costs, whatever is computed in it."""

import softmax_ce as sce

from .inputs import BACKENDS, DTYPES, OPERATIONS, labels, logits, operations, require

CALLS = 100  # a sample: one call of two microseconds would be timed with the clock's own cost
SHAPES = {"tiny, 1 x 10": (1, 10)}


class Calls:
    """A hundred calls in a row, one row of ten classes each, every option left at its default. The time of all."""

    params = (OPERATIONS, BACKENDS, DTYPES, list(SHAPES))
    param_names = ("operation", "backend", "dtype", "shape")
    version = "1"
    number = 1
    repeat = (5, 200, 0.06)  # samples: at least, at most, seconds; in each of asv's two rounds
    warmup_time = 0.03

    def setup(self, operation, backend, dtype, shape):
        require(backend, operation=operation)
        inputs = logits(*SHAPES[shape], dtype), labels(*SHAPES[shape])
        self.call = operations.call(sce, operation, *inputs, backend=backend)
        self.call()

    def time_hundred_calls(self, *_):
        call = self.call
        for _each in range(CALLS):
            call()
