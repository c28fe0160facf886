"""The worst error of a loss and of a gradient, beyond what rounding x - max costs. No noise: any change is a change."""

import numpy as np
from asv_runner.benchmarks.mark import SkipNotImplemented

import softmax_ce as sce

from .inputs import BACKENDS, DTYPES, labels, logits, require
from .reference import reference, worst_error

RESULTS = ["loss", "gradient"]
SHAPES = {
    "boosting, 4096 x 10": (4096, 10),
    "vision, 64 x 1000": (64, 1000),
    "language model, 4 x 32000": (4, 32_000),
}


class Accuracy:
    """About 1 for a good exponential. What counts as right is the correctness suite's matter."""

    params = (RESULTS, BACKENDS, DTYPES, list(SHAPES))
    param_names = ("result", "backend", "dtype", "shape")
    version = "1"
    unit = "ULP"

    def setup(self, result, backend, dtype, shape):
        require(backend, "threads")
        if np.finfo(np.longdouble).eps >= np.finfo(dtype).eps:
            raise SkipNotImplemented(f"nothing here is more precise than {dtype}")

    def track_worst_error(self, result, backend, dtype, shape):
        rows, classes = SHAPES[shape]
        x, y = logits(rows, classes, dtype), labels(rows, classes)
        both = sce.cross_entropy_with_grad(x, y, reduction="none", backend=backend, threads=1)
        ours, truth = dict(zip(RESULTS, zip(both, reference(x, y), strict=True), strict=True))[result]
        if not sce.get_backend(backend).info.stable and not np.isfinite(ours).all():
            raise SkipNotImplemented(f"{backend} overflows on {shape}, as it says of itself")
        return float(f"{worst_error(ours, truth):.4g}")
