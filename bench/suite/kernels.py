"""Every backend, operation and dtype on one thread: from few classes to a vocabulary, within the caches and beyond."""

from .inputs import BACKENDS, DTYPES, LOSSES, OPERATIONS, prepared

IN_CACHE = {
    # Boosting and small classifiers: many short rows. 160 KiB in float32.
    "boosting, 4096 x 10": (4096, 10),
    # Image classifiers. 250 KiB.
    "vision, 64 x 1000": (64, 1000),
    # Language models: few long rows. 500 KiB.
    "language model, 4 x 32000": (4, 32_000),
}
BEYOND_CACHES = {
    # The same three, of 38 MiB in float32: two such arrays are more than the last cache of most machines.
    "boosting, 1000000 x 10": (1_000_000, 10),
    "vision, 10000 x 1000": (10_000, 1000),
    "language model, 320 x 32000": (320, 32_000),
}


class InCache:
    """Hard labels, reduction "none", into given buffers. A sample is one call."""

    params = (OPERATIONS, BACKENDS, DTYPES, list(IN_CACHE))
    param_names = ("operation", "backend", "dtype", "shape")
    version = "1"
    number = 1
    repeat = (5, 200, 0.06)  # samples: at least, at most, seconds; in each of asv's two rounds
    warmup_time = 0.03

    def setup(self, operation, backend, dtype, shape):
        self.call = prepared(operation, backend, dtype, IN_CACHE[shape])

    def time_call(self, *_):
        self.call()


class BeyondCaches:
    """Losses and gradients on arrays beyond the caches, in one round: up to 0.3 s a call."""

    params = (LOSSES, BACKENDS, DTYPES, list(BEYOND_CACHES))
    param_names = ("operation", "backend", "dtype", "shape")
    version = "1"
    number = 1
    rounds = 1
    repeat = (3, 20, 0.1)
    warmup_time = 0

    def setup(self, operation, backend, dtype, shape):
        self.call = prepared(operation, backend, dtype, BEYOND_CACHES[shape])

    def time_call(self, *_):
        self.call()
