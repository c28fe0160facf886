"""Cold start: each sample is a fresh process. Starting Python and importing NumPy are not in it."""

from asv_runner.benchmarks.mark import SkipNotImplemented

import softmax_ce as sce

from .inputs import BACKENDS, require

# One row of ten classes: everything but the first call's own cost is small.
_INPUTS = "import numpy as np; logits, labels = np.zeros((1, 10), np.float32), np.zeros(1, np.int64)\n"
_CALL = "sce.cross_entropy_with_grad(logits, labels, backend={backend!r}, threads=1)"
_EMPTY = "import os, tempfile; folder = tempfile.TemporaryDirectory(); os.environ['NUMBA_CACHE_DIR'] = folder.name\n"


class Import:
    version = "1"
    repeat = 5
    warmup_time = 0

    def timeraw_import(self):
        return "import softmax_ce", "import numpy"


class FirstCall:
    """Loading the backend is in it; what the import of this suite has compiled is on disk."""

    params = (BACKENDS,)
    param_names = ("backend",)
    version = "1"
    repeat = 5
    warmup_time = 0

    def setup(self, backend):
        require(backend, "threads")

    def timeraw_cached(self, backend):
        return _CALL.format(backend=backend), f"{_INPUTS}import softmax_ce as sce"


class Compilation:
    """The same with nothing on disk, for a backend that compiles on first use. Seconds, so measured once."""

    params = (BACKENDS,)
    param_names = ("backend",)
    version = "1"
    rounds = repeat = 1
    warmup_time = 0

    def setup(self, backend):
        require(backend, "threads")
        if sce.get_backend(backend).info.ahead_of_time:
            raise SkipNotImplemented(f"{backend} compiles nothing when it is called")

    def timeraw_nothing_cached(self, backend):
        return _CALL.format(backend=backend), f"{_EMPTY}{_INPUTS}import softmax_ce as sce"
