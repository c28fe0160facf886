"""Long rows that the compiled backend transforms chunk by chunk: the bits are those of rows in a tile."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import softmax_ce as sce
from helpers import run_python

pytest.importorskip("softmax_ce._backends.cython._kernels", exc_type=ImportError)

CLASSES = (257, 300, 2048, 2049, 5000, 8197)
ROWS = 13
OPTIONS = (
    "scale", "cap", "cap, small", "classes", "mask", "cap and mask", "smoothed", "smoothed, weights", "smoothed, cap",
)  # fmt: skip


def problem(classes: int, dtype: Any) -> tuple[Any, Any]:
    """Rows that count and rows that do not, ties, infinities and NaN, in such an order that each follows some other."""
    rng = np.random.default_rng(classes)
    x = (rng.standard_normal((ROWS, classes)) * 5).astype(dtype)
    y = rng.integers(0, classes, ROWS)
    y[[2, 3, 12]] = -100
    x[2, 1] = x[5, classes - 1] = np.nan
    x[6] = -np.inf
    x[7, classes // 2] = np.inf
    x[8, [0, classes - 1]] = x[9, [5, classes - 1]] = x.dtype.type(60)
    y[8], y[9] = 0, classes - 1
    x[10, y[10]] = -np.inf
    x[11, y[11]] = 70
    return x, y


def options_of(name: str, x: Any, y: Any) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    n_rows, classes = x.shape
    mask = rng.random(x.shape) < 0.8
    mask[1:, 0] = True
    given: dict[str, Any] = {}
    if name == "scale":
        given["logit_scale"] = 0.3
    if "cap" in name:
        given["softcap"] = 3.0 if "small" in name else 30.0
    if name == "classes":
        given["where"] = mask[1]
    if "mask" in name or "smoothed" in name:
        given["where"] = mask
    if "smoothed" in name:
        given["label_smoothing"] = 0.1
    if "weights" in name:
        given["weight"] = rng.random(classes) + 0.5
    weight = np.ones(n_rows)
    weight[4] = 0
    return given | {"sample_weight": weight, "backend": "cython", "reduction": "none", "return_lse": True}


def assert_same(found: Any, expected: Any) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("name", OPTIONS)
def test_the_bits_are_those_of_strided_rows(name: str, classes: int, dtype: Any) -> None:
    x, y = problem(classes, dtype)
    given = options_of(name, x, y)
    beside = np.asfortranarray(x)
    result = sce.cross_entropy_with_grad(x, y, return_correct=True, **given)
    assert_same(result, sce.cross_entropy_with_grad(beside, y, return_correct=True, **given))
    assert_same(result[::2], (*sce.cross_entropy(x, y, **given)[:1], result[2]))
    in_place = x.copy()
    sce.cross_entropy_with_grad(in_place, y, grad_out=in_place, **given)
    np.testing.assert_array_equal(in_place, result[1])
    soft = np.random.default_rng(2).dirichlet(np.ones(classes), ROWS).astype(dtype)
    assert_same(sce.cross_entropy_with_grad(x, soft, **given), sce.cross_entropy_with_grad(beside, soft, **given))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [7, 10, 40, 300, 5000])
@pytest.mark.parametrize("soft", [False, True])
def test_smoothing_by_row_agrees_with_numpy(soft: bool, classes: int, dtype: Any) -> None:
    x, y = problem(classes, dtype)
    x = np.where(np.isfinite(x), x, x.dtype.type(1))
    given = options_of("smoothed, weights", x, y)
    targets: Any = y
    if soft:
        targets = np.random.default_rng(2).dirichlet(np.ones(classes), ROWS).astype(dtype)
    for layout in (np.ascontiguousarray, np.asfortranarray):
        found = sce.cross_entropy_with_grad(layout(x), targets, **given)
        expected = sce.cross_entropy_with_grad(x, targets, **given | {"backend": "numpy"})
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-5 if dtype is np.float32 else 1e-13, atol=1e-6)
        assert not found[1][~given["where"]].any()


def test_streamed_gradients_have_the_same_bits() -> None:
    code = textwrap.dedent("""
        import hashlib, sys
        import numpy as np
        sys.path.insert(0, {folder!r})
        from test_transformed_rows import OPTIONS, options_of, problem
        import softmax_ce as sce
        digest = hashlib.sha256()
        for name in OPTIONS:
            for classes in (300, 5000):
                x, y = problem(classes, np.float32)
                for part in sce.cross_entropy_with_grad(x, y, **options_of(name, x, y)):
                    digest.update(np.nan_to_num(part, nan=7.0).tobytes())
        print(digest.hexdigest())
    """).replace("{folder!r}", repr(str(Path(__file__).parent)))
    assert run_python(code, SOFTMAX_CE_STREAM_BYTES="1") == run_python(code, SOFTMAX_CE_STREAM_BYTES=str(1 << 40))


@pytest.mark.parametrize("options", [{}, {"return_lse": True}, {"softcap": 3.0}])
@pytest.mark.parametrize("n_classes", [257, 5000])
@pytest.mark.parametrize("backend", [info.name for info in sce.backends() if info.available])
def test_rows_that_do_not_count_leave_the_smoothed_targets_of_others_alone(
    backend: str, n_classes: int, options: dict[str, Any]
) -> None:
    rng = np.random.default_rng(0)
    x, where = rng.standard_normal((12, n_classes)).astype(np.float32), rng.random((12, n_classes)) < 0.7
    y, counts = rng.integers(0, n_classes, 12), np.array([1, 0, 1, 0, 0, 1, 0, 0, 0, 1, 1, 1], bool)
    where[np.arange(12), y] = True
    soft = rng.random(x.shape).astype(np.float32) * where
    cases: list[tuple[Any, dict[str, Any]]] = [
        (np.where(counts, y, -100), {}),
        (soft, {"sample_weight": counts.astype(float)}),
    ]
    for targets, ignored in cases:
        given: dict[str, Any] = {"label_smoothing": 0.1, "reduction": "sum", "backend": backend, **options}
        for threads in (1, 2):
            grad = sce.cross_entropy_with_grad(x, targets, where=where, threads=threads, **ignored, **given)[1]
            assert not grad[~counts].any()
            for row in np.flatnonzero(counts):
                one = slice(row, row + 1)
                alone = sce.cross_entropy_with_grad(x[one], targets[one], where=where[one], **given)[1]
                np.testing.assert_allclose(grad[one], alone, rtol=1e-5, atol=1e-7)
