"""The KL divergence: right to a few units however small it is, never negative, and its edges and layouts."""

from __future__ import annotations

from typing import Any

import numpy as np

import softmax_ce as sce
from softmax_ce_bench.conformance.harness import NATIVE, Subject, Unsupported, assert_same_bits, check, judge
from softmax_ce_bench.inputs.workloads import dtype_of
from softmax_ce_bench.truth import divergence


def _both(subject: Subject, x: Any, z: Any, **options: Any) -> Any:
    if "float64" not in subject.info.dtypes:
        raise Unsupported("the KL divergence needs a backend that computes float64")
    return sce.kl_divergence_with_grad(x, z, **{"reduction": "none", **options}, **subject.where)


def _judge(subject: Subject, x: Any, z: Any, what: str, **options: Any) -> float:
    """Divergence and gradient of one call against the reference. Without weights, neither sign is possible but +."""
    kl, grad = _both(subject, x, z, **options)
    assert kl.dtype == subject.compute, f"{what}: the divergence has dtype {kl.dtype}"
    assert grad.dtype == subject.dtype, f"{what}: the gradient has dtype {grad.dtype}"
    if "sample_weight" not in options:
        assert not (kl < 0).any(), f"{what}: negative, {kl.min()!r}"
    truth = divergence.evaluate(x, z, **options)
    bound = divergence.bounds(subject.info, truth, subject.dtype)
    return max(
        judge(subject, kl, truth.loss, bound.loss, f"divergence, {what}"),
        judge(subject, grad, truth.grad, bound.grad, f"gradient, {what}"),
    )


def _pair(subject: Subject, rows: int, classes: int, noise: float, offset: float = 0.0) -> tuple[Any, Any]:
    rng = subject.rng(classes + rows)
    x = 3 * rng.standard_normal((rows, classes))
    return subject.array(x + offset), subject.array(x + noise * rng.standard_normal(x.shape))


@check(stable=None)
def divergences_large_and_small(subject: Subject) -> float:
    """From far apart to a few units of difference, with each option; the second arrays differ in the last digits."""
    worst = 0.0
    for seed, (classes, noise) in enumerate(
        (classes, noise) for classes in (1, 2, 40, 2503) for noise in (10.0, 1.0, 1e-2, 1e-4, 1e-6, 1e-10)
    ):
        rng = subject.rng(seed)
        x, z = _pair(subject, 4, classes, noise)
        every: dict[str, Any] = {
            "temperature": float(rng.uniform(0.5, 4)),
            "sample_weight": rng.uniform(-1, 2, 4) * (np.arange(4) != 2),
            "grad_output": rng.uniform(-2, 2, 4),
        }
        options = {name: value for name, value in every.items() if rng.random() < 0.4}
        worst = max(worst, _judge(subject, x, z, f"{classes} classes, noise {noise:g}, {options}", **options))
    return worst


@check(dtypes=NATIVE)
def divergences_beside_an_offset(subject: Subject) -> float:
    """Log-sum-exps that differ by 1e4, and logits so wide that most probabilities underflow."""
    worst = 0.0
    for noise in (1.0, 1e-3, 1e-6):
        for temperature in (1.0, 3.0):
            x, z = _pair(subject, 4, 40, noise, offset=1e4)
            given = {"temperature": temperature}
            worst = max(worst, _judge(subject, x, z, f"offset 1e4, noise {noise:g}", **given))
            worst = max(worst, _judge(subject, 100 * x, 100 * z, f"offset 1e6, noise {noise:g}", **given))
            worst = max(worst, _judge(subject, 40 * (x - x.dtype.type(1e4)), 40 * z, "wide", **given))
    return worst


@check(stable=None)
def identical_logits_do_not_diverge(subject: Subject) -> None:
    """Exactly 0, and so is the gradient; also where one array has a mask, or is a shift of the other."""
    x, _ = _pair(subject, 6, 300, 1.0)
    x[3, 10:200] = -np.inf
    pairs = [(x, x), (x, x.copy())]
    if subject.info.stable:
        grid = np.round(3 * subject.rng(3).standard_normal((6, 300)))
        pairs.append((subject.array(grid), subject.array(grid + 64)))
    for a, b in pairs:
        for temperature in (1.0, 0.7):
            kl, grad = _both(subject, a, b, temperature=temperature)
            assert (kl == 0).all(), f"divergence {kl!r}"
            assert (grad.astype(float) == 0).all(), "a gradient"


@check(stable=None)
def divergence_at_the_edges(subject: Subject) -> float:
    """Rows without a distribution are NaN, masks of both do not count, a mask of the logits alone gives +inf."""
    x, z = _pair(subject, 6, 5, 0.5)
    right = _both(subject, x, z)
    for mine in (0, 1):
        for poison in (np.nan, np.inf):
            pair = [x.copy(), z.copy()]
            pair[mine][2, 3], pair[mine][4] = poison, -np.inf
            kl, grad = _both(subject, *pair)
            assert np.isnan(kl[[2, 4]]).all(), f"divergence {kl!r} with {poison}"
            assert np.isnan(grad[[2, 4]].astype(float)).all(), f"gradient {grad!r} with {poison}"
            keep = [0, 1, 3, 5]
            assert_same_bits(kl[keep], right[0][keep], "the other rows' divergence")
            assert_same_bits(grad[keep], right[1][keep], "the other rows' gradient")
            kl, grad = _both(subject, *pair, sample_weight=np.array([1, 1, 0, 1, 0, 1.0]))
            assert (kl[[2, 4]] == 0).all(), f"divergence {kl!r} of rows that do not count"
            assert (grad[[2, 4]].astype(float) == 0).all(), "a gradient of rows that do not count"
    x[:, 1] = z[:, 1] = -np.inf
    z[3:, 2] = -np.inf  # out of the target alone
    worst = _judge(subject, x, z, "masks")
    x[1:3, 2] = -np.inf  # out of the logits alone
    kl, grad = _both(subject, x, z)
    assert (kl[1:3] == np.inf).all(), f"divergence {kl!r} where the target has mass"
    assert np.isfinite(grad.astype(float)).all(), f"gradient {grad!r} where the target has mass"
    return worst


@check(dtypes=NATIVE)
def divergences_of_extreme_logits(subject: Subject) -> float:
    """The largest numbers, subnormal ones, and p as good as 1."""
    large = 0.4 * float(np.finfo(subject.dtype).max)
    x = subject.array([[large, -large, 0], [1e30, -1e30, 5], [1e-39, 0, 2e-39], [0, -40, -41], [-1e30, 0, 1]])
    z = subject.array([[large, 0, 0], [1e30, 1e29, 5], [0, 1e-39, -1e-39], [0, -41, -40], [-2e30, 0, 0.5]])
    return max(_judge(subject, x, z, "extreme logits"), _judge(subject, z, x, "extreme logits, exchanged"))


@check(stable=None)
def divergences_of_two_dtypes(subject: Subject) -> float:
    """The target logits may have any dtype. The results follow the logits."""
    worst = 0.0
    x, _ = _pair(subject, 4, 40, 1.0)
    for name in ("float32", "float64", "float16", "bfloat16"):
        z = (x.astype(np.float64) + 0.01 * subject.rng(5).standard_normal(x.shape)).astype(dtype_of(name))
        worst = max(worst, _judge(subject, x, z, f"target logits of {name}"))
    return max(worst, _judge(subject, x, np.round(x.astype(np.float64)).astype(np.int8), "integer target logits"))


@check(stable=None)
def divergences_on_any_layout(subject: Subject) -> None:
    """Other axes, strides, rows alone, in place: the same bits; and those of the divergence alone."""
    x, z = _pair(subject, 24, 37, 1.0)
    z[::3] = x[::3]
    z[::3, 5] += subject.dtype.type(0.25)
    right = _both(subject, x, z, temperature=1.5)
    alone = sce.kl_divergence(x, z, temperature=1.5, reduction="none", **subject.where)
    assert_same_bits(alone, right[0], "divergence without its gradient")
    cube, other = x.reshape(4, 6, 37), z.reshape(4, 6, 37)
    for axis in (0, 1):
        moved = np.ascontiguousarray(np.moveaxis(cube, -1, axis))
        kl, grad = _both(subject, moved, np.moveaxis(other, -1, axis), axis=axis, temperature=1.5)
        assert_same_bits(kl.reshape(-1), right[0], f"divergence, classes on axis {axis}")
        assert_same_bits(np.moveaxis(grad, axis, -1).reshape(24, 37), right[1], f"gradient, classes on axis {axis}")
    for rows in (slice(5, 6), slice(7, 20)):
        kl, grad = _both(subject, np.repeat(x, 2, axis=1)[rows, ::2], z[rows], temperature=1.5)
        assert_same_bits(kl, right[0][rows], "divergence of some rows alone")
        assert_same_bits(grad, right[1][rows], "gradient of some rows alone")
    for mine in (0, 1):
        pair = [x.copy(), z.copy()]
        grad = _both(subject, *pair, temperature=1.5, grad_out=pair[mine])[1]
        assert grad is pair[mine], "the gradient went elsewhere"
        assert_same_bits(grad, right[1], "gradient in place")
