"""Every backend, forward, backward and fused, on frozen inputs.

Backends are the registry's, so that a new one is measured with no edit here. asv takes a change of the
inputs or of the timed call for a change in speed unless `version` changes with it: count it up.
"""

from functools import partial

import numpy as np

import softmax_ce as sce

OPERATIONS = ["forward", "backward", "fused"]
BACKENDS = [info.name for info in sce.backends()]
DTYPES = ["float32", "float64"]
SHAPES = [
    # One prediction: the cost of a call.
    (1, 10),
    # A small classifier's batch, 320 KiB in float32: many short rows within L2.
    (8_192, 10),
    # An image classifier's batch, 4 MiB in float32: beyond L2, within L3.
    (1_024, 1_000),
    # A language model's vocabulary, 31 MiB in float32: few long rows, beyond L3 on most machines.
    (256, 32_000),
]


class Kernels:
    """Hard labels, reduction "none", one thread, into buffers whose pages are there."""

    params = (OPERATIONS, BACKENDS, DTYPES, SHAPES)
    param_names = ("operation", "backend", "dtype", "shape")
    version = "1"
    repeat = (5, 20, 2.0)  # samples: at least, at most, seconds
    warmup_time = 0.1

    def setup(self, operation, backend, dtype, shape):
        try:
            sce.get_backend(backend)
        except (ImportError, ValueError) as error:  # not built here, or not there yet at this commit
            raise NotImplementedError(str(error)) from error  # asv's word for "skip"
        rows, classes = shape
        random = np.random.default_rng(20_261)
        # So wide that one float32 exponential in ten underflows; labels as frequent as words are.
        logits = 16 * random.standard_normal(shape)
        frequency = 1 / np.arange(1, classes + 1)
        self.labels = random.choice(classes, rows, p=frequency / frequency.sum())
        self.logits = logits.astype(dtype)
        loss, grad = np.empty(rows, dtype), np.empty(shape, dtype)
        options = {"reduction": "none", "backend": backend, "threads": 1}
        self.call = {
            "forward": partial(sce.cross_entropy, self.logits, self.labels, out=loss, **options),
            "backward": partial(sce.cross_entropy_grad, self.logits, self.labels, grad_out=grad, **options),
            "fused": partial(sce.cross_entropy_with_grad, self.logits, self.labels, out=loss, grad_out=grad, **options),
        }[operation]
        self.call()  # compilation and page faults are not what is timed

    def time_call(self, *_):
        self.call()
