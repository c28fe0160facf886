"""The diagonal of the Hessian: in high precision, as differences of the gradient, at the edges, and in buffers."""

from __future__ import annotations

import itertools
from typing import Any

import mpmath
import numpy as np
import pytest

import softmax_ce as sce
from softmax_ce.threads import sharing_from

SHAPES = ((1, 1), (5, 7), (70, 33), (4, 5000))


def problem(rows: int, classes: int, dtype: Any = np.float64, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, classes)) * 4).astype(dtype), rng.integers(0, classes, rows)


def hessian(logits: Any, targets: Any, **options: Any) -> Any:
    return sce.cross_entropy_with_hessian(logits, targets, **options)[2]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"logit_scale": 1.7},
        {"label_smoothing": 0.2, "weight": np.linspace(-1, 2, 6)},
        {"z_loss": 0.03, "sample_weight": np.array([1.0, 2.0, 0.0, -1.0, 0.5]), "ignore_index": 2},
        {"reduction": "none", "grad_output": np.array([1.0, 2.0, 3.0, -1.0, 0.5]), "where": np.arange(6) != 4},
        {"z_loss": 0.01, "label_smoothing": 0.1, "where": np.arange(30).reshape(5, 6) % 7 != 3, "logit_scale": 0.6},
    ],
    ids=str,
)
@pytest.mark.parametrize("soft", [False, True])
def test_it_is_the_slope_of_the_gradient(soft: bool, options: dict[str, Any], backend: str) -> None:
    x, y = problem(5, 6)
    y[:] = [0, 1, 2, 3, 5]
    targets = np.random.default_rng(2).random((5, 6)) if soft else y
    if soft:
        options = {name: value for name, value in options.items() if name != "ignore_index"}
    found, step = hessian(x, targets, backend=backend, **options), 1e-5
    for j in range(6):
        moved = np.zeros(6)
        moved[j] = step
        ahead = sce.cross_entropy_grad(x + moved, targets, backend=backend, **options)[:, j]
        behind = sce.cross_entropy_grad(x - moved, targets, backend=backend, **options)[:, j]
        np.testing.assert_allclose(found[:, j], (ahead - behind) / (2 * step), atol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_is_accurate_where_one_class_has_nearly_all(dtype: Any) -> None:
    mpmath.mp.prec = 200
    unit = np.finfo(dtype).eps / 2
    for name in (info.name for info in sce.backends() if info.available and info.stable):
        for gap, z_loss in itertools.product((0.0, 0.5, 3.0, 20.0, 60.0), (0.0, 0.01)):
            x = np.array([[gap, 0.0, -1.0], [0.0, -gap, -1.0 - gap]], dtype)
            found = hessian(x, [0, 0], reduction="none", z_loss=z_loss, backend=name)
            for row, computed in zip(x, found, strict=True):
                e = [mpmath.exp(mpmath.mpf(float(value))) for value in row]
                s, lse = sum(e), mpmath.log(sum(e))
                for j in range(3):
                    p, rest = e[j] / s, sum(e[:j] + e[j + 1 :]) / s
                    right = (1 + 2 * z_loss * lse) * p * rest + 2 * z_loss * p * p
                    assert abs(computed[j] - right) <= abs(right) * unit * (40 + 2 * gap), (name, gap, j)


def test_edges(backend: str) -> None:
    x = np.array([[1.0, 2.0, 3.0], [np.nan, 1.0, 0.0], [np.nan, 1.0, 0.0], [np.inf, 0.0, 0.0], [-np.inf, 1.0, 2.0]])
    found = hessian(x, [0, -100, 1, 1, 1], reduction="none", backend=backend, z_loss=0.1)
    np.testing.assert_array_equal(np.isnan(found).all(axis=1), [False, False, True, True, False])
    assert (found[1] == 0).all()
    assert found[4, 0] == 0
    weightless = hessian(x, [0, 0, 1, 1, 1], reduction="none", backend=backend, sample_weight=[0, 0, 0, 0, 0])
    assert (weightless == 0).all()
    left_out = hessian(x[:1], [0], where=[False, True, True], backend=backend)
    assert left_out[0, 0] == 0
    assert (left_out[0, 1:] > 0).all()


def test_an_infinite_upstream_gradient_raises_no_floating_point_flag(backend: str) -> None:
    with np.errstate(all="raise"):
        found = hessian(
            np.array([[1.0, 2.0], [0.0, 3.0]]), [0, 0], sample_weight=[0, 1], grad_output=-np.inf, backend=backend
        )
    assert (found[0] == 0).all()
    assert np.isneginf(found[1]).all()


def test_one_class(backend: str) -> None:
    x = np.array([[3.0], [-800.0]]) if backend != "naive" else np.array([[3.0], [-8.0]])
    assert (hessian(x, [0, 0], backend=backend) == 0).all()
    assert (hessian(x, [0, 0], label_smoothing=0.3, backend=backend) == 0).all()
    np.testing.assert_allclose(hessian(x, [0, 0], z_loss=0.25, reduction="sum", backend=backend), 0.5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_bits_do_not_depend_on_threads_strides_and_buffers(shape: tuple[int, int], dtype: Any, backend: str) -> None:
    x, y = problem(*shape, dtype)
    soft = np.random.default_rng(3).random(shape).astype(dtype)
    for targets in (y, soft):
        options: dict[str, Any] = {"reduction": "none", "z_loss": 0.01, "backend": backend}
        loss, grad, hess = sce.cross_entropy_with_hessian(x, targets, **options)
        np.testing.assert_array_equal(loss, sce.cross_entropy(x, targets, **options))
        np.testing.assert_array_equal(grad, sce.cross_entropy_grad(x, targets, **options))
        with sharing_from(1):
            np.testing.assert_array_equal(hessian(x, targets, threads=2, **options), hess)
        np.testing.assert_array_equal(hessian(x[-1:], targets[-1:], **options), hess[-1:])
        turned = targets if targets is y else targets.T
        np.testing.assert_array_equal(hessian(np.asfortranarray(x).T, turned, axis=0, **options), hess.T)
        for over in ("logits", "targets"):
            logits, labels = x.copy(), targets.copy()
            room = logits if over == "logits" else labels
            if room is not y and room.shape == shape:
                found = sce.cross_entropy_with_hessian(logits, labels, hess_out=room, **options)
                assert found[2] is room
                for one, other in zip(found, (loss, grad, hess), strict=True):
                    np.testing.assert_array_equal(one, other)
        logits = x.copy()
        found = sce.cross_entropy_with_hessian(logits, targets, grad_out=logits, **options)
        for one, other in zip(found, (loss, grad, hess), strict=True):
            np.testing.assert_array_equal(one, other)
