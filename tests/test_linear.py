"""The loss of a linear layer in blocks: the numbers of the whole, within the budget of memory."""

from __future__ import annotations

import sys
import textwrap
from typing import Any

import numpy as np
import pytest

import softmax_ce as sce
from helpers import run_python
from problems import assert_close, random_problem
from softmax_ce.linear import memory
from softmax_ce.linear.memory import parse, plan


@pytest.fixture
def narrow_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let blocks of classes be narrow enough that small problems have several."""
    monkeypatch.setattr(memory, "_CHUNK", 7)


def layer(random: np.random.Generator, problem: Any, dtype: Any) -> tuple[Any, Any, Any]:
    """Return hidden, weight and bias of a layer with as many rows and classes as the problem's logits."""
    n_rows, n_classes = problem.logits.shape
    width = int(random.integers(1, 9))
    hidden = random.standard_normal((n_rows, 2 * width)).astype(dtype)
    weight = random.standard_normal((n_classes, 2 * width)).astype(dtype)
    if random.random() < 0.5:  # in place, or strided so that BLAS cannot read them
        hidden, weight = hidden[:, :width].copy(), np.asfortranarray(weight[:, :width])
    else:
        hidden, weight = hidden[:, ::2], weight[:, ::2]
    return hidden, weight, random.standard_normal(n_classes).astype(dtype) if random.random() < 0.5 else None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("budget", [800, 4000, 1 << 22])
def test_it_is_the_loss_of_the_whole(backend: str, dtype: str, budget: int, narrow_blocks: None) -> None:
    for seed in range(25):
        random = np.random.default_rng(seed)
        problem = random_problem(seed, dtype)
        hidden, weight, bias = layer(random, problem, dtype)
        budget_in_bytes = max(budget * np.dtype(dtype).itemsize, 4 * 7 * (weight.shape[1] + 8) * 8)
        logits = hidden @ weight.T + (0 if bias is None else bias)
        loss, grad, lse, *correct = sce.cross_entropy_with_grad(
            logits, problem.targets, backend=backend, return_lse=True, return_correct=problem.hard, **problem.options
        )
        found = sce.linear_cross_entropy_with_grad(
            hidden, weight, problem.targets, linear_bias=bias, backend=backend, return_lse=True,
            return_correct=problem.hard, memory=budget_in_bytes, **problem.options,
        )  # fmt: skip
        expected = [loss, grad @ weight, grad.T @ hidden, *([] if bias is None else [grad.sum(axis=0)]), lse, *correct]
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            if np.asarray(other).dtype == bool:
                np.testing.assert_array_equal(one, other)
            else:
                assert_close(one, other, dtype, 1e3)
        alone = sce.linear_cross_entropy(
            hidden, weight, problem.targets, linear_bias=bias, backend=backend, memory=budget_in_bytes,
            **problem.options,
        )  # fmt: skip
        assert_close(alone, loss, dtype, 1e3)


def test_rows_that_do_not_count_are_left_out_of_the_products(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    hidden, weight = random.standard_normal((30, 4)), random.standard_normal((9, 4))
    labels = random.integers(0, 9, 30)
    labels[::3] = -100
    hidden[::3] = np.nan  # would reach the weight's gradient if it were multiplied
    loss, grad_hidden, grad_weight = sce.linear_cross_entropy_with_grad(hidden, weight, labels)
    kept = labels != -100
    expected = sce.linear_cross_entropy_with_grad(hidden[kept], weight, labels[kept])
    assert_close(loss, expected[0], "float64")
    assert_close(grad_hidden[kept], expected[1], "float64")
    assert_close(grad_weight, expected[2], "float64")
    assert (grad_hidden[~kept] == 0).all()


@pytest.mark.parametrize("more", [{"return_lse": True}, {"return_correct": True, "sample_weight": np.arange(30) % 3}])
def test_rows_whose_lse_alone_is_wanted_leave_the_gradient_alone(more: Any) -> None:
    random = np.random.default_rng(1)
    hidden, weight = random.standard_normal((30, 4)), random.standard_normal((9, 4))
    labels = random.integers(0, 9, 30)
    if "return_lse" in more:
        labels[::3] = -100
    hidden[::3] = np.nan
    found = sce.linear_cross_entropy_with_grad(hidden, weight, labels, **more)
    assert np.isfinite(found[0])
    assert np.isfinite(found[2]).all()
    assert np.isfinite(found[1]).all()
    if "return_lse" in more:
        assert np.isnan(found[3][::3]).all()


def test_bits_do_not_depend_on_threads_near_the_budget() -> None:
    random = np.random.default_rng(3)
    hidden, weight = random.standard_normal((6000, 32), np.float32), random.standard_normal((300, 32), np.float32)
    labels = random.integers(0, 300, 6000)
    one, two = (
        sce.linear_cross_entropy_with_grad(hidden, weight, labels, threads=threads, memory=8_912_896)
        for threads in (1, 2)
    )
    for mine, theirs in zip(one, two, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("name", ["axis", "grad_output", "grad_out", "colour"])
def test_options_that_it_does_not_have_are_named(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} is no option here; the options are backend, denominator"):
        sce.linear_cross_entropy(np.zeros((2, 3)), np.zeros((5, 3)), [0, 1], **{name: 0})  # type: ignore[arg-type]


def test_an_output_may_not_overwrite_the_layer() -> None:
    hidden = np.zeros((2, 3))
    with pytest.raises(ValueError, match="out overlaps hidden"):
        sce.linear_cross_entropy(hidden, np.zeros((5, 3)), [0, 1], reduction="none", out=hidden[:, 0])


def test_nothing_counts() -> None:
    found = sce.linear_cross_entropy_with_grad(np.ones((2, 3)), np.ones((4, 3)), [-100, -100], on_empty="zero")
    assert found[0] == 0
    assert (found[1] == 0).all()
    assert (found[2] == 0).all()


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_16_bit_layers_accumulate_in_float32(backend: str, name: str) -> None:
    dtype = np.dtype(name) if name == "float16" else pytest.importorskip("ml_dtypes").bfloat16
    random = np.random.default_rng(2)
    hidden, weight = random.standard_normal((20, 6)).astype(dtype), random.standard_normal((11, 6)).astype(dtype)
    labels = random.integers(0, 11, 20)
    found = sce.linear_cross_entropy_with_grad(hidden, weight, labels, backend=backend, memory=4096)
    wide = sce.linear_cross_entropy_with_grad(
        hidden.astype(np.float32), weight.astype(np.float32), labels, backend=backend
    )
    for one, other in zip(found, wide, strict=True):
        assert one.dtype == np.float32
        assert_close(one, other, "float32")


def test_bits_do_not_depend_on_threads(backend: str) -> None:
    random = np.random.default_rng(3)
    hidden, weight = random.standard_normal((64, 8), np.float32), random.standard_normal((5000, 8), np.float32)
    labels = random.integers(0, 5000, 64)
    one, three = (
        sce.linear_cross_entropy_with_grad(hidden, weight, labels, backend=backend, threads=threads, memory="2MB")
        for threads in (1, 3)
    )
    for mine, theirs in zip(one, three, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_one_row_without_a_batch() -> None:
    hidden, weight = np.array([1.0, 2.0]), np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    loss, grad_hidden, _ = sce.linear_cross_entropy_with_grad(hidden, weight, 2)
    assert loss == pytest.approx(0.4076059644443803, rel=1e-14)  # log(1 + exp(-2) + exp(-1)), from mpmath
    assert grad_hidden.shape == (2,)


def test_buffers_are_what_is_returned() -> None:
    random = np.random.default_rng(4)
    hidden, weight, bias = random.standard_normal((6, 3)), random.standard_normal((5, 3)), np.zeros(5)
    buffers: Any = np.full((6, 3), np.nan), np.full((5, 3), np.nan), np.full(5, np.nan)
    labels = [0, 1, 2, 3, 4, -100]
    names = "grad_hidden_out", "grad_linear_weight_out", "grad_linear_bias_out"
    found = sce.linear_cross_entropy_with_grad(
        hidden, weight, labels, linear_bias=bias, **dict[str, Any](zip(names, buffers, strict=True))
    )
    expected = sce.linear_cross_entropy_with_grad(hidden, weight, labels, linear_bias=bias)
    for buffer, one, other in zip(buffers, found[1:], expected[1:], strict=True):
        assert one is buffer
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("memory", "size"), [(1000, 1000), ("256MiB", 256 << 20), ("1.5 GB", 1_500_000_000), ("2KiB", 2048), ("17", 17)]
)
def test_a_budget_is_bytes_or_text(memory: Any, size: int) -> None:
    assert parse(memory) == size


@pytest.mark.parametrize(
    ("memory", "kind"),
    [("much", ValueError), ("5 lightyears", ValueError), (0, ValueError), (-1, ValueError), (1.5, TypeError)],
)
def test_what_is_no_budget_is_refused(memory: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="memory"):
        parse(memory)


def test_a_budget_that_cannot_be_met_names_the_least() -> None:
    with pytest.raises(ValueError, match=r"memory of 1000 bytes is too little.* takes (\d+) bytes") as caught:
        sce.linear_cross_entropy(np.zeros((2, 8)), np.zeros((4096, 8)), [0, 1], memory=1000)
    least = int(str(caught.value).split("takes ")[1].split()[0])
    loss = sce.linear_cross_entropy(np.zeros((2, 8)), np.zeros((4096, 8)), [0, 1], memory=least)
    assert loss == pytest.approx(np.log(4096), rel=1e-14)


@pytest.mark.parametrize("budget", [1 << 20, 1 << 24, 1 << 28])
@pytest.mark.parametrize(("n_rows", "n_classes", "width"), [(8192, 128_256, 1024), (3, 10, 4), (100_000, 1000, 64)])
def test_plans_keep_to_the_budget(budget: int, n_rows: int, n_classes: int, width: int) -> None:
    try:
        found = plan(budget, n_rows, n_classes, width, 4, 1)
    except ValueError:
        assert budget < 2048 * width * 4 * 2
        return
    used = (found.rows * (found.classes + 2 * width) + found.columns * width) * 4
    assert used <= budget
    assert 1 <= found.rows <= n_rows
    assert found.columns <= found.classes or found.classes == n_classes


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"hidden": np.zeros((2, 4))}, ValueError, r"hidden of shape \(2, 4\) and linear_weight of shape \(5, 3\)"),
        ({"hidden": np.zeros((2, 3), np.float32)}, TypeError, "computed in different precisions"),
        ({"linear_bias": np.zeros(4)}, ValueError, r"linear_bias must have shape \(5,\)"),
        ({"targets": [0, 5]}, IndexError, "target 5 at position 1"),
        ({"weight": np.ones(4)}, ValueError, r"weight must have shape \(5,\)"),
        ({"linear_weight": np.zeros((0, 3))}, ValueError, "has no classes"),
        ({"grad_hidden_out": np.zeros((2, 2))}, ValueError, r"grad_hidden_out must have shape \(2, 3\)"),
        ({"grad_linear_bias_out": np.zeros(5)}, ValueError, "needs a linear_bias"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], kind: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"hidden": np.zeros((2, 3)), "linear_weight": np.zeros((5, 3)), "targets": [0, 1]}
    with pytest.raises(kind, match=message):
        sce.linear_cross_entropy_with_grad(**(arguments | change))


def test_a_gradient_may_not_share_memory_with_an_argument() -> None:
    hidden = np.zeros((2, 3))
    with pytest.raises(ValueError, match="grad_hidden_out overlaps hidden"):
        sce.linear_cross_entropy_with_grad(hidden, np.zeros((5, 3)), [0, 1], grad_hidden_out=hidden)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of the resident memory as Linux reports it")
@pytest.mark.parametrize("function", ["linear_cross_entropy", "linear_cross_entropy_with_grad"])
def test_the_operating_system_sees_no_more_than_the_budget(function: str) -> None:
    """Beyond arguments and results, by the peak of a fresh process. All logits together would take 8 times as much."""
    code = f"""
        import resource
        import numpy as np
        import softmax_ce as sce

        random = np.random.default_rng(0)
        hidden, weight = random.standard_normal((2048, 128), np.float32), np.zeros((32768, 128), np.float32)
        weight += 0.01
        labels = random.integers(0, 32768, 2048)
        results = dict(grad_hidden_out=np.ones_like(hidden), grad_linear_weight_out=np.ones_like(weight))
        if "grad" not in "{function}":
            results = {{}}
        call = sce.{function}
        call(hidden[:8], weight[:64], labels[:8] % 64)  # what is loaded once
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        before = peak()
        call(hidden, weight, labels, memory="32MiB", **results)
        print((peak() - before) << 10)
    """
    used = int(run_python(textwrap.dedent(code), OPENBLAS_NUM_THREADS="2"))
    assert used <= 1.05 * (32 << 20) + (8 << 20)  # BLAS keeps buffers of its own, once in a process
