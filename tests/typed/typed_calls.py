"""Calls as users write them, with the types that static checkers must find: `make lint` has mypy and pyright read this.

test_typed_calls.py runs it, so that the types are also those of the results.
"""

from __future__ import annotations

from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import softmax_ce as sce

Scalar = np.floating[Any]
Array = NDArray[Any]

logits = np.zeros((4, 3), np.float32)
labels = np.array([0, 2, 1, 0])


def losses() -> list[tuple[object, str]]:
    """Each result, and what it must be: a scalar, an array, or a tuple of these."""
    mean = assert_type(sce.cross_entropy(logits, labels), Scalar)
    total = assert_type(sce.cross_entropy(logits, labels, reduction="sum", weight=[1, 2, 3]), Scalar)
    rows = assert_type(sce.cross_entropy(logits, labels, reduction="none"), Array)
    with_lse = assert_type(sce.cross_entropy(logits, labels, return_lse=True), tuple[Scalar, Array])
    rows_with_lse = assert_type(
        sce.cross_entropy(logits, labels, reduction="none", return_lse=True), tuple[Array, Array]
    )
    with_correct = assert_type(sce.cross_entropy(logits, labels, return_correct=True), tuple[Scalar, Array])
    rows_with_correct = assert_type(
        sce.cross_entropy(logits, labels, reduction="none", return_correct=True, softcap=30.0), tuple[Array, Array]
    )
    in_buffer = assert_type(sce.cross_entropy(logits, labels, reduction="none", out=np.empty(4, np.float32)), Array)
    return [
        (mean, "scalar"),
        (total, "scalar"),
        (rows, "array"),
        (with_lse, "scalar array"),
        (rows_with_lse, "array array"),
        (with_correct, "scalar array"),
        (rows_with_correct, "array array"),
        (in_buffer, "array"),
    ]


def divergences() -> list[tuple[object, str]]:
    """The same for the KL divergence."""
    mean = assert_type(sce.kl_divergence(logits, logits, temperature=2.0), Scalar)
    rows = assert_type(sce.kl_divergence(logits, logits, reduction="none", out=np.empty(4, np.float32)), Array)
    both = assert_type(sce.kl_divergence_with_grad(logits, logits, reduction="sum"), tuple[Scalar, Array])
    of_rows = assert_type(
        sce.kl_divergence_with_grad(logits, logits, reduction="none", grad_output=np.ones(4)), tuple[Array, Array]
    )
    return [(mean, "scalar"), (rows, "array"), (both, "scalar array"), (of_rows, "array array")]


def gradients() -> list[tuple[object, str]]:
    """The same for the two functions that return a gradient."""
    both = assert_type(sce.cross_entropy_with_grad(logits, labels, label_smoothing=0.1), tuple[Scalar, Array])
    of_rows = assert_type(
        sce.cross_entropy_with_grad(logits, labels, reduction="none", grad_output=np.ones(4)), tuple[Array, Array]
    )
    three = assert_type(sce.cross_entropy_with_grad(logits, labels, return_lse=True), tuple[Scalar, Array, Array])
    three_of_rows = assert_type(
        sce.cross_entropy_with_grad(logits, labels, reduction="none", return_lse=True), tuple[Array, Array, Array]
    )
    with_correct = assert_type(
        sce.cross_entropy_with_grad(logits, labels, return_correct=True, logit_scale=2), tuple[Scalar, Array, Array]
    )
    grad = assert_type(sce.cross_entropy_grad(logits, labels, threads=1, backend="numpy"), Array)
    grad_and_lse = assert_type(sce.cross_entropy_grad(logits, labels, return_lse=True), tuple[Array, Array])
    return [
        (both, "scalar array"),
        (of_rows, "array array"),
        (three, "scalar array array"),
        (three_of_rows, "array array array"),
        (with_correct, "scalar array array"),
        (grad, "array"),
        (grad_and_lse, "array array"),
    ]


def hessians() -> list[tuple[object, str]]:
    """The same for the function that also returns the diagonal of the Hessian."""
    three = assert_type(sce.cross_entropy_with_hessian(logits, labels), tuple[Scalar, Array, Array])
    of_rows = assert_type(
        sce.cross_entropy_with_hessian(logits, labels, reduction="none", hess_out=np.empty((4, 3), np.float32)),
        tuple[Array, Array, Array],
    )
    four = assert_type(
        sce.cross_entropy_with_hessian(logits, labels, return_lse=True), tuple[Scalar, Array, Array, Array]
    )
    four_of_rows = assert_type(
        sce.cross_entropy_with_hessian(logits, labels, reduction="none", return_correct=True),
        tuple[Array, Array, Array, Array],
    )
    return [
        (three, "scalar array array"),
        (of_rows, "array array array"),
        (four, "scalar array array array"),
        (four_of_rows, "array array array array"),
    ]


def normalizers() -> list[tuple[object, str]]:
    """softmax, log_softmax and logsumexp."""
    p = assert_type(sce.softmax(logits), Array)
    masked = assert_type(sce.softmax(logits, where=[True, True, False]), Array)
    log_p = assert_type(sce.log_softmax([[0.0, 1.0]], axis=1), Array)
    lse = assert_type(sce.logsumexp(logits, threads=2), Array | Scalar)
    return [(p, "array"), (masked, "array"), (log_p, "array"), (lse, "array"), (sce.logsumexp([0.0, 1.0]), "scalar")]


def backends() -> None:
    """What there is to know of a backend."""
    for info in assert_type(sce.backends(), tuple[sce.BackendInfo, ...]):
        assert_type(info.name, str)
        assert_type(info.available, bool)
        assert_type(info.why_unavailable, str | None)
    assert_type(sce.get_backend("numpy"), sce.Backend)
    assert_type(sce.explain(logits, labels).backend, str)
