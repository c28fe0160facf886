"""The short path with the Hessian: it gives the full path's bits, and leaves to that path whatever is not plain."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest

import softmax_ce as sce
from softmax_ce import evaluation, plain_hessian

NONE_OF_IT = mock.patch.object(plain_hessian, "attempt", return_value=None)


def problem(rows: int = 9, classes: int = 10, dtype: Any = np.float64, order: Any = "C") -> tuple[Any, Any]:
    rng = np.random.default_rng(rows)
    return np.asarray(rng.standard_normal((rows, classes)) * 4, dtype, order=order), rng.integers(0, classes, rows)


def short(function: Any, *arguments: Any, **options: Any) -> tuple[Any, bool]:
    """The result, and whether the full path was not taken."""
    with mock.patch.object(evaluation, "evaluate_in_full", wraps=evaluation.evaluate_in_full) as full:
        return function(*arguments, **options), not full.called


def assert_same(found: Any, expected: Any) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (9, 10), (70, 300)])
def test_bits_of_the_full_path(shape: tuple[int, int], dtype: Any, order: Any, reduction: Any) -> None:
    x, y = problem(*shape, dtype, order)
    x[0, 0] = -np.inf if shape[1] > 1 else 0
    options: dict[str, Any] = {"reduction": reduction, "backend": "cython"}
    pytest.importorskip("softmax_ce._backends.cython._kernels", exc_type=ImportError)
    result, was_short = short(sce.cross_entropy_with_hessian, x, y, **options)
    with NONE_OF_IT:
        expected = sce.cross_entropy_with_hessian(x, y, **options)
    assert was_short
    assert_same(result, expected)
    for narrow in (dtype, np.float32):
        buffers = [np.empty(shape, narrow, order=order) for _ in range(2)]
        result, was_short = short(
            sce.cross_entropy_with_hessian, x, y, grad_out=buffers[0], hess_out=buffers[1], ignore_index=2**63 - 1,
            **options,
        )  # fmt: skip
        assert was_short
        assert result[1] is buffers[0]
        assert result[2] is buffers[1]
        np.testing.assert_array_equal(buffers[0], expected[1].astype(narrow))
        np.testing.assert_array_equal(buffers[1], expected[2].astype(narrow))


def test_every_backend_gives_the_bits_of_its_full_path(backend: str) -> None:
    x, y = problem()
    found = sce.cross_entropy_with_hessian(x, y, backend=backend)
    with NONE_OF_IT:
        assert_same(found, sce.cross_entropy_with_hessian(x, y, backend=backend))


@pytest.mark.parametrize(
    "options",
    [
        {"weight": np.ones(10)}, {"sample_weight": np.ones(9)}, {"ignore_index": 3}, {"label_smoothing": 0.1},
        {"z_loss": 0.1}, {"denominator": 2.0}, {"return_lse": True}, {"return_correct": True}, {"logit_scale": 2.0},
        {"where": np.ones(10, bool)}, {"grad_output": 2.0}, {"out": np.empty(())},
    ],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
def test_options_are_left_to_the_full_path(options: dict[str, Any], backend: str) -> None:
    x, y = problem()
    y[0] = 3
    result, was_short = short(sce.cross_entropy_with_hessian, x, y, backend=backend, **options)
    assert not was_short
    with NONE_OF_IT:
        assert_same(result, sce.cross_entropy_with_hessian(x, y, backend=backend, **options))


@pytest.mark.parametrize("wrong", [-1, 10, 2**40])
def test_a_wrong_label_is_reported_before_anything_is_written(wrong: int, backend: str) -> None:
    x, y = problem()
    y[4] = wrong
    grad, hess = np.full_like(x, 7), np.full_like(x, 7)
    with pytest.raises(IndexError, match="4"):
        sce.cross_entropy_with_hessian(x, y, backend=backend, grad_out=grad, hess_out=hess)
    assert (grad == 7).all()
    assert (hess == 7).all()


def test_buffers_that_overlap_are_left_to_the_full_path(backend: str) -> None:
    x, y = problem()
    room = np.empty(2 * x.size - 1)
    grad, hess = room[: x.size].reshape(x.shape), room[x.size - 1 :].reshape(x.shape)
    with pytest.raises(ValueError, match="hess_out"):
        sce.cross_entropy_with_hessian(x, y, backend=backend, grad_out=grad, hess_out=hess)
    in_place, was_short = short(sce.cross_entropy_with_hessian, x.copy(), y, backend=backend)
    own = x.copy()
    result, was_short = short(sce.cross_entropy_with_hessian, own, y, backend=backend, grad_out=own)
    assert not was_short
    assert_same(result, in_place)


def test_large_calls_are_left_to_the_full_path(backend: str) -> None:
    x, y = problem(60_000, 10)
    _, was_short = short(sce.cross_entropy_with_hessian, x, y, backend=backend)
    assert not was_short


@pytest.mark.parametrize("name", ["grad_out", "hess_out"])
def test_a_buffer_that_overlaps_itself_is_refused(name: str) -> None:
    buffer = np.lib.stride_tricks.as_strided(np.zeros(3, np.float32), (4, 3), (0, 4))
    given: Any = {name: buffer}
    with pytest.raises(ValueError, match="overlaps itself"):
        sce.cross_entropy_with_hessian(np.zeros((4, 3), np.float32), np.zeros(4, int), **given)
