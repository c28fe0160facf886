"""A backend's own log_softmax kernel: used where there is one, on every layout and number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import softmax_ce as sce
from conftest import available
from softmax_ce import registry
from softmax_ce.contract import BackendInfo, TeamKernels
from softmax_ce.threads import sharing_from

Kernel = Callable[[Any, Any, int, int], None]


def from_sums(backend: Any) -> Kernel:
    """The kernel that the contract describes, by a backend's hard-label kernel."""

    def log_softmax(logits: Any, out: Any, start: int, stop: int) -> None:
        top, log_sum = np.zeros((2, len(logits)), logits.dtype)
        row, none = np.ones(1), np.zeros(1, logits.dtype)
        label = np.zeros(1, np.int64)
        backend.hard(logits, label, -1, none, None, 1.0, 0.0, row, row, None, None, top, log_sum, start, stop)
        with np.errstate(all="ignore"):
            log_sum[~np.isfinite(top + log_sum)] = np.nan
            rows = slice(start, stop)
            out[rows] = (logits[rows] - top[rows, None]) - log_sum[rows, None]

    return log_softmax


@pytest.fixture
def rows_computed(backend: str) -> Iterator[tuple[str, list[int]]]:
    """A backend like this one, with a kernel for log_softmax, and how many rows that computed in each call."""
    real, computed = sce.get_backend(available(backend)), []
    kernel = from_sums(real)

    def log_softmax(logits: Any, out: Any, start: int, stop: int) -> None:
        computed.append(stop - start)
        kernel(logits, out, start, stop)

    made = registry.register(
        SimpleNamespace(
            BACKEND=BackendInfo("logs", __name__, serial_elements=1 << 16), hard=real.hard, soft=real.soft,
            widen=real.widen, narrow=real.narrow, log_softmax=log_softmax,
        )
    )  # fmt: skip
    yield made.name, computed
    registry.unregister(made.name)


def inputs() -> Iterator[tuple[Any, int]]:
    rng = np.random.default_rng(5)
    for shape, axis in (((7,), -1), ((3, 5), 1), ((3, 5), 0), ((4, 6, 50), 2), ((4, 6, 50), 1), ((40, 3000), -1)):
        for dtype in ("float32", "float64", "float16", "int64", ">f4"):
            x = (4 * rng.standard_normal(shape)).astype(dtype)
            if x.dtype.kind == "f" and x.ndim > 1:
                x[0, 0], x[1], x[2, 1] = np.nan, -np.inf, np.inf
            yield x, axis


def test_the_kernel_gives_what_is_composed(rows_computed: tuple[str, list[int]], backend: str) -> None:
    name, computed = rows_computed
    composed = registry.register(
        SimpleNamespace(
            BACKEND=BackendInfo("composed", __name__), hard=sce.get_backend(backend).hard, soft=None.__class__,
        )
    )  # fmt: skip
    try:
        for x, axis in inputs():
            right = sce.log_softmax(x, axis, backend=composed.name)
            for threads in (1, 3):
                computed.clear()
                with sharing_from(1):
                    found = sce.log_softmax(x, axis, backend=name, threads=threads)
                np.testing.assert_array_equal(found, right)
                assert (found.dtype, found.shape) == (right.dtype, right.shape)
                assert sum(computed) == x.size // x.shape[axis]
            if x.dtype.kind == "f":
                own = x.copy()
                found = sce.log_softmax(own, axis, backend=name, out=own) if x.dtype.isnative else right
                np.testing.assert_array_equal(found, right)
    finally:
        registry.unregister(composed.name)


def test_a_team_of_the_kernel_s_own(backend: str) -> None:
    """Made of the arrays themselves, for all the threads; not for what is staged."""
    real, made = sce.get_backend(available(backend)), []

    class Team:
        helpers = 0

        def __init__(self, logits: Any, out: Any, threads: int, longest: int) -> None:
            made.append((logits.shape, threads))
            self._arrays = logits, out

        def work(self, helping: bool) -> bool:
            logits, out = self._arrays
            from_sums(real)(logits, out, 0, len(logits))
            return False

        def cancel(self) -> None: ...

        def settled(self) -> bool:
            return True

    def nobody(*arguments: Any) -> Any:
        pytest.fail("the kernel of whole rows was called")

    name = registry.register(
        SimpleNamespace(
            BACKEND=BackendInfo("logs", __name__, serial_elements=1000), hard=real.hard, soft=real.soft,
            log_softmax=nobody, team=TeamKernels(nobody, nobody, Team),
        )
    ).name  # fmt: skip
    try:
        x = np.random.default_rng(1).standard_normal((1, 4, 500)).astype(np.float32)
        found = sce.log_softmax(x, backend=name, threads=3)
        np.testing.assert_array_equal(found, sce.log_softmax(x, backend=backend))
        assert made == [((4, 500), 3)]
    finally:
        registry.unregister(name)


def test_the_compiled_kernel() -> None:
    """By rows, in place and for several threads: the same bits, and those of the public function."""
    backend = sce.get_backend(available("cython"))
    if backend.log_softmax is None:
        pytest.skip("the kernels of this build have no log_softmax")
    assert backend.team is not None
    assert backend.team.log_softmax is not None
    rng = np.random.default_rng(2)
    for dtype, shape in ((np.float32, (9, 30)), (np.float64, (5, 5000)), (np.float32, (1, 100_000))):
        x = (5 * rng.standard_normal(shape)).astype(dtype)
        x[-1, :3] = -np.inf
        right = sce.log_softmax(x, backend="cython")
        wide = x.astype(np.float64)
        top = wide.max(axis=1, keepdims=True)
        exact = (wide - top) - np.log(np.exp(wide - top).sum(axis=1, keepdims=True))
        np.testing.assert_allclose(right, exact, rtol=4 * float(np.finfo(dtype).eps))
        out = np.full(shape, 7, dtype)
        half = shape[0] // 2
        backend.log_softmax(x, out, half, shape[0])
        assert (out[:half] == 7).all()
        backend.log_softmax(x, out, 0, half)
        np.testing.assert_array_equal(out, right)
        team = backend.team.log_softmax(x, out, 3, 2000)
        out[...] = 7
        while team.work(False):
            pass
        np.testing.assert_array_equal(out, right)
        backend.log_softmax(x, x, 0, shape[0])
        np.testing.assert_array_equal(x, right)
