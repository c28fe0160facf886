"""More than 2**31 elements, and two rows 16 GiB apart: in address space alone, with little memory behind it."""

from __future__ import annotations

import sys

import pytest

from child import survive
from conftest import available

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="needs address space without memory"),
    pytest.mark.skipif(sys.maxsize < 2**32, reason="needs 64-bit addresses"),
]


def test_two_rows_16_gib_apart(backend: str) -> None:
    """A view with that stride, staged: the bits of the same rows side by side."""
    survive(f"""
import numpy as np, scenario, zeros, softmax_ce as sce
x, y = scenario.problem(2, 5000)
apart = zeros.zeros((2, 1 << 32), np.float32)[:, :5000]
grad = zeros.zeros((2, 1 << 32), np.float32)[:, :5000]
assert apart.strides[0] == 16 << 30
apart[:] = x
right = sce.cross_entropy_with_grad(x, y, reduction="none", backend={backend!r})
result = sce.cross_entropy_with_grad(apart, y, reduction="none", backend={backend!r}, grad_out=grad)
assert np.array_equal(result[0], right[0]) and np.array_equal(grad, right[1])
""")


def test_more_than_2_31_elements_in_many_rows(backend: str) -> None:
    """Ordinary rows beyond the 2**31st element; the gradient lands where they are."""
    survive(
        f"""
import numpy as np, scenario, zeros, softmax_ce as sce
rows, classes = (1 << 21) + 64, 1024
x = zeros.zeros((rows, classes), np.float32)
y = np.zeros(rows, np.int64)
grad = zeros.window((rows, classes), np.float32)
last, labels = scenario.problem(64, classes)
x[-64:], y[-64:] = last, labels
loss, _ = sce.cross_entropy_with_grad(x, y, reduction="none", backend={backend!r}, threads=1, grad_out=grad)
scenario.agree((loss[-64:], grad[-64:]), scenario.truth(last, labels))
np.testing.assert_allclose(loss[:-64], np.log(classes), rtol=1e-6)
mean, lse = sce.cross_entropy(x, y, backend={backend!r}, return_lse=True)
np.testing.assert_allclose(mean, loss.mean(dtype=np.float64), rtol=1e-6)
np.testing.assert_allclose(lse[:-64], np.log(classes), rtol=1e-6)
""",
        timeout=300,
    )


@pytest.mark.parametrize("name", ["numba", "cython"])
def test_two_contiguous_rows_of_16_gib(name: str) -> None:
    """2**32 classes each, the label last: every index within a row leaves 32 bits."""
    available(name)
    survive(
        f"""
import numpy as np, zeros, softmax_ce as sce
classes = 1 << 32
x = zeros.zeros((2, classes), np.float32)
grad = zeros.window((2, classes), np.float32)
x[1, -1] = 25.0
y = np.array([5, classes - 1])
loss, _ = sce.cross_entropy_with_grad(x, y, reduction="none", backend={name!r}, threads=1, grad_out=grad)
s = classes - 1 + np.exp(25.0)
np.testing.assert_allclose(loss, [np.log(classes), np.log(s) - 25], rtol=1e-6)
# The end of the second row is memory of its own.
np.testing.assert_allclose(grad[1, -1], np.exp(25.0) / s - 1, rtol=1e-6)
np.testing.assert_allclose(grad[1, -(1 << 24) : -1], 1 / s, rtol=1e-6)
loss = sce.cross_entropy(x, y, reduction="none", backend={name!r}, threads=4)
np.testing.assert_allclose(loss, [np.log(classes), np.log(s) - 25], rtol=1e-6)
""",
        timeout=300,
    )
