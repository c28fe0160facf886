"""The class axis anywhere, any strides, 16-bit floats: bits as from the same numbers with the classes last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import softmax_ce as sce

DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
# Few and many positions after the class axis, more and fewer classes than any kernel holds in its lanes or in a chunk.
SHAPES: list[tuple[tuple[int, ...], int]] = [
    ((70, 5, 2), 1),
    ((3, 2, 300), 1),
    ((1, 21, 613), 1),
    ((40, 50, 3), 1),
    ((5, 31, 17), 1),
    ((2, 257, 33), 1),
    ((2, 2050, 19), 1),
    ((7, 1, 9), 1),
    ((33, 4), 0),
    ((300, 21), 0),
    ((9, 3, 10, 3), 2),
    ((6, 7, 5, 6), 1),
    ((2, 3, 2, 5, 3, 2), 2),
    *(((29, 4, positions), 1) for positions in range(1, 18)),
]


def numbers(shape: tuple[int, ...], dtype: Any, seed: int = 1) -> Any:
    """Wide logits, some of them no number or infinite, so that some rows in every block are not ordinary."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * 8
    x.reshape(-1)[rng.integers(0, x.size, x.size // 97)] = -np.inf
    x.reshape(-1)[rng.integers(0, x.size, x.size // 701)] = np.nan
    x.reshape(-1)[rng.integers(0, x.size, x.size // 1009)] = np.inf
    return x.astype(dtype)


def layouts(x: Any) -> Iterator[tuple[str, Any]]:
    """The same numbers, lying in memory in other ways."""
    yield "in C order", np.ascontiguousarray(x)
    yield "in Fortran order", np.asfortranarray(x)
    apart = np.zeros([2 * length + 1 for length in x.shape], x.dtype)[tuple(slice(1, None, 2) for _ in x.shape)]
    apart[...] = x
    yield "apart", apart
    backwards = np.ascontiguousarray(np.flip(x))
    yield "backwards", np.flip(backwards)
    padded = np.zeros([length + 3 for length in x.shape], x.dtype)[tuple(slice(1, -2) for _ in x.shape)]
    padded[...] = x
    yield "padded", padded


def bits(array: Any) -> Any:
    array = np.asarray(array)
    is_nan = np.isnan(array.astype(np.float64))
    seen = np.ascontiguousarray(array).view(f"u{array.itemsize}").copy()
    seen[is_nan] = 1
    return seen


def same(got: Any, right: Any, what: str) -> None:
    assert got.dtype == right.dtype, what
    np.testing.assert_array_equal(bits(got), bits(right), err_msg=what)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
def test_a_row_is_the_same_wherever_it_lies(shape: tuple[int, ...], axis: int, dtype: str, backend: str) -> None:
    where: dict[str, Any] = {"backend": backend, "threads": 1}
    x = numbers(shape, DTYPES[dtype])
    rows = shape[:axis] + shape[axis + 1 :]
    rng = np.random.default_rng(2)
    y = rng.integers(0, shape[axis], rows)
    y[rng.random(rows) < 0.1] = -100
    up = rng.standard_normal(rows)
    soft = rng.random(shape).astype(np.float32 if x.itemsize == 2 else x.dtype)
    moved, soft_moved = (np.ascontiguousarray(np.moveaxis(array, axis, -1)) for array in (x, soft))

    def everything(x: Any, soft: Any, axis: int, **buffers: Any) -> Iterator[tuple[str, Any]]:
        options: dict[str, Any] = {"axis": axis, "return_lse": True, "reduction": "none", **where}
        plain = sce.cross_entropy_with_grad(x, y, grad_output=up, **options)
        smooth = sce.cross_entropy_with_grad(x, y, label_smoothing=0.1, z_loss=0.01, **options)
        by_soft = sce.cross_entropy_with_grad(x, soft, **options)
        for name, results in (("labels", plain), ("smoothing", smooth), ("soft labels", by_soft)):
            for part, result in zip(("loss", "gradient", "log-sum-exp"), results, strict=True):
                yield f"{part}, {name}", np.moveaxis(result, axis, -1) if part == "gradient" else result
        yield "loss alone", sce.cross_entropy(x, y, **options)[0]
        yield "softmax", np.moveaxis(sce.softmax(x, axis=axis, **where), axis, -1)
        yield "log_softmax", np.moveaxis(sce.log_softmax(x, axis=axis, **where), axis, -1)
        yield "logsumexp", sce.logsumexp(x, axis=axis, **where)

    right = dict(everything(moved, soft_moved, -1))
    for layout, laid in layouts(x):
        soft_laid = dict(layouts(soft))[layout]
        for what, got in everything(laid, soft_laid, axis):
            same(got, right[what], f"{what}, {layout}")


@pytest.mark.parametrize("in_place", [False, True], ids=["apart", "in place"])
@pytest.mark.parametrize("classes", [300, 2 * 2048 + 77])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_long_rows_of_16_bits_are_float32_rows_rounded(dtype: str, classes: int, in_place: bool, backend: str) -> None:
    """Also where the upstream gradient is no number, whose rounding could make one of it."""
    x = numbers((9, classes), DTYPES[dtype], seed=3)
    x[:5] = np.where(np.isfinite(x[:5].astype(np.float32)), x[:5], 0)
    y = np.arange(9) * 31 % classes
    up = np.array([1, np.nan, np.inf, 1e-30, -3, 1, 2, 1e30, 0.1])
    options: dict[str, Any] = {"grad_output": up, "reduction": "none", "backend": backend, "threads": 1}
    right_loss, right = sce.cross_entropy_with_grad(x.astype(np.float32), y, **options)
    with np.errstate(over="ignore"):
        rounded = right.astype(x.dtype)
    loss, grad = sce.cross_entropy_with_grad(x, y, grad_out=x if in_place else np.ones_like(x), **options)
    same(loss, right_loss, "loss")
    same(grad, rounded, "gradient")
