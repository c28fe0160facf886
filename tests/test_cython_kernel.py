"""The Cython backend's kernels, called without the shell: vectors that do not fit are refused before anything runs."""

from typing import Any

import numpy as np
import pytest

import softmax_ce as sce
from conftest import available

ROWS, CLASSES = 4, 6
RIGHT: dict[str, Any] = {
    "labels": np.zeros(ROWS, np.int64),
    "label_mass": np.ones(1, np.float32),
    "base_mass": np.zeros(CLASSES, np.float32),
    "row_weight": np.ones(ROWS),
    "upstream": np.ones(1),
    "loss": np.zeros(ROWS, np.float32),
    "row_max": np.zeros(ROWS, np.float32),
    "log_sum": np.zeros(ROWS, np.float32),
}


def call(grad, **vectors):
    v = RIGHT | vectors
    kernel = sce.get_backend(available("cython")).hard
    kernel(
        np.zeros((ROWS, CLASSES), np.float32), v["labels"], -100, v["label_mass"], v["base_mass"], 0.0, 0.0,
        v["row_weight"], v["upstream"], v["loss"], grad, v["row_max"], v["log_sum"], 0, ROWS,
    )  # fmt: skip


def wrong_vectors():
    for name, right in RIGHT.items():
        yield name, right[:0]
        yield name, np.zeros(50, right.dtype)
        yield name, np.repeat(right, 2)[::2] if right.size > 1 else right.astype(right.dtype.newbyteorder())
        yield name, right.astype(np.float64 if right.dtype == np.float32 else np.float32)
        yield name, right.view(f"{'f' if right.dtype.kind == 'i' else 'i'}{right.itemsize}")
    for name in ("loss", "row_max", "log_sum"):
        yield name, np.zeros(1, np.float32)  # one for all is for inputs


@pytest.mark.parametrize(("name", "wrong"), list(wrong_vectors()), ids=str)
def test_refused(name, wrong):
    grad = np.full((ROWS, CLASSES), 7, np.float32)
    with pytest.raises(ValueError, match="contiguous vector of"):
        call(grad, **{name: wrong})
    np.testing.assert_array_equal(grad, 7)


def test_refused_what_is_no_array():
    with pytest.raises(TypeError):
        call(None, upstream=[1.0])


def test_labels_of_another_name_for_64_bits():
    """C has two types of 64 bits on some systems, and NumPy a dtype for each."""
    grad = np.empty((ROWS, CLASSES), np.float32)
    call(grad, labels=np.zeros(ROWS, np.longlong if np.dtype(np.longlong).itemsize == 8 else np.int64))
    np.testing.assert_allclose(grad[:, 0], 1 / CLASSES - 1, rtol=1e-6)
