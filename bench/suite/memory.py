"""Peak memory of a process that makes one large call and lets it allocate its results.

The logits and what the interpreter and the libraries take are in the figure, the same for every commit. A temporary
of the logits' size shows as a step of 31 MiB in float32.
"""

import softmax_ce as sce

from .inputs import BACKENDS, labels, logits, operations, require

SHAPES = {"language model, 256 x 32000": (256, 32_000)}  # 31 MiB in float32


class Memory:
    """16-bit logits too: they are computed in float32, block by block."""

    params = (["forward", "fused"], BACKENDS, ["float16", "float32", "float64"], list(SHAPES))
    param_names = ("operation", "backend", "dtype", "shape")
    version = "1"

    def setup(self, operation, backend, dtype, shape):
        require(backend, "threads")
        inputs = logits(*SHAPES[shape], dtype), labels(*SHAPES[shape])
        self.call = operations.call(sce, operation, *inputs, backend=backend, threads=1)

    def peakmem_call(self, *_):
        return self.call()
