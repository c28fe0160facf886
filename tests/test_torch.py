"""softmax_ce.torch computes what PyTorch's cross_entropy computes, and what it adds."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import softmax_ce as sce
from softmax_ce import threads

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # PyTorch's own

from torch.nn import functional  # noqa: E402

from softmax_ce.torch import call, cross_entropy  # noqa: E402
from softmax_ce.torch import loss as routes  # noqa: E402

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [(7,), (5, 7), (3, 7, 4), (2, 7, 3, 2), (1, 1), (2, 1, 3)]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"label_smoothing": 0.2},
    {"weight": True},
    {"weight": True, "label_smoothing": 0.3},
]


@pytest.fixture(autouse=True)
def kernels_compute_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this, PyTorch's function would compute the small calls of these tests."""
    monkeypatch.setattr(routes, "SMALL", 0)
    monkeypatch.setattr(routes, "SMALL_IN_FULL", 0)


def problem(shape: tuple[int, ...], dtype: Any = torch.float64, soft: bool = False, seed: int = 0) -> tuple[Any, Any]:
    """Logits that require a gradient, and targets. Some labels are ignored."""
    generator = torch.Generator().manual_seed(seed)
    axis = min(1, len(shape) - 1)
    x = (3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
    if soft:
        return x, torch.softmax(torch.randn(shape, generator=generator, dtype=torch.float64), axis).to(dtype)
    labels = torch.randint(0, shape[axis], shape[:axis] + shape[axis + 1 :], generator=generator)
    if labels.numel() > 1:
        labels.view(-1)[0] = -100
    return x, labels


def wide(tensor: Any) -> Any:
    """The tensor in float64: PyTorch's 16-bit results are themselves off by several units in the last place."""
    return tensor.detach().double().requires_grad_(tensor.requires_grad) if tensor.is_floating_point() else tensor


def assert_close(actual: Any, expected: Any, units: float = 4) -> None:
    """Compare with float64, within so many units in the last place of the largest entry."""
    assert actual.shape == expected.shape
    largest = float(expected.detach().abs().max()) if expected.numel() else 0.0
    smallest = torch.finfo(actual.dtype).smallest_normal * torch.finfo(actual.dtype).eps
    error = (actual.detach().double() - expected).abs()
    assert (error <= units * torch.finfo(actual.dtype).eps * largest + smallest).all()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_losses_and_gradients_are_pytorchs(dtype: Any, soft: bool, options: dict[str, Any]) -> None:
    for shape, reduction in itertools.product(SHAPES, ("mean", "sum", "none")):
        x, target = problem(shape, dtype, soft)
        given = dict(options, reduction=reduction)
        if "weight" in given:
            given["weight"] = torch.linspace(0.5, 2, shape[min(1, len(shape) - 1)], dtype=dtype)
        loss = cross_entropy(x, target, **given)
        assert loss.dtype is dtype
        theirs = {name: wide(value) if torch.is_tensor(value) else value for name, value in given.items()}
        other = wide(x)
        expected = functional.cross_entropy(other, wide(target), **theirs)
        assert_close(loss, expected)
        upstream = torch.linspace(0.5, 2, loss.numel(), dtype=dtype).view(loss.shape)
        loss.backward(upstream)
        expected.backward(upstream.double())
        assert x.grad.dtype is dtype
        assert_close(x.grad, other.grad)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_every_way_to_call_the_kernels_is_taken(reduction: str) -> None:
    """The parity above would prove nothing if PyTorch computed both sides."""
    x, target = problem((5, 7))
    for smoothing, name in ((0.0, "_PlainCrossEntropyBackward"), (0.1, "_CrossEntropyBackward")):
        node = cross_entropy(x, target, reduction=reduction, label_smoothing=smoothing).grad_fn
        assert type(node).__name__ == name


def test_probabilities_get_their_gradient() -> None:
    for options, reduction in itertools.product(OPTIONS, ("mean", "sum", "none")):
        given = dict(options, reduction=reduction)
        if "weight" in given:
            given["weight"] = torch.linspace(0.5, 2, 7, dtype=torch.float64)
        for logits_too in (True, False):
            x, target = problem((3, 7, 4), soft=True)
            x.requires_grad_(logits_too)
            target.requires_grad_()
            wanted = [x, target] if logits_too else [target]
            found = torch.autograd.grad(cross_entropy(x, target, **given).sum(), wanted)
            expected = torch.autograd.grad(functional.cross_entropy(x, target, **given).sum(), wanted)
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
@pytest.mark.parametrize("options", [*OPTIONS[:2], {"z_loss": 0.1}, {"softcap": 2.0}, {"denominator": 3.0}], ids=str)
def test_derivatives_of_first_and_second_order(options: dict[str, Any], soft: bool) -> None:
    x, target = problem((2, 4, 2), soft=soft)
    if soft:
        target.requires_grad_()
    for reduction in ("mean",) if "denominator" in options else ("mean", "none"):

        def call(x: Any, target: Any, reduction: str = reduction) -> Any:
            return cross_entropy(x, target, reduction=reduction, **options)

        assert torch.autograd.gradcheck(call, (x, target))
        assert torch.autograd.gradgradcheck(call, (x, target))


def test_the_formula_for_second_derivatives_is_the_kernels_gradient() -> None:
    weight = torch.linspace(0.5, 2, 7, dtype=torch.float64)
    extras = [{}, {"z_loss": 0.1}, {"softcap": 2.0, "z_loss": 0.2}, {"denominator": 3.5, "z_loss": 0.1}]
    for shape, soft, extra, options in itertools.product(SHAPES[:4], (False, True), extras, OPTIONS):
        given: dict[str, Any] = {**options, **extra}
        if "weight" in given:
            given["weight"] = weight
        x, target = problem(shape, soft=soft)
        loss = cross_entropy(x, target, **given)
        (formula,) = torch.autograd.grad(loss, x, create_graph=True)
        (kernel,) = torch.autograd.grad(loss, x)
        torch.testing.assert_close(formula.detach(), kernel, rtol=1e-12, atol=1e-14)


def test_extra_options_are_softmax_ces() -> None:
    x, target = problem((5, 7, 3))
    for given in (
        {"z_loss": 0.1},
        {"denominator": 4},
        {"softcap": 3.0},
        {"z_loss": 0.1, "denominator": torch.tensor(4)},
    ):
        loss = cross_entropy(x, target, **given)
        plain: Any = {name: float(value) for name, value in given.items()}
        expected, grad = sce.cross_entropy_with_grad(x.detach().numpy(), target.numpy(), axis=1, **plain)
        assert loss.item() == float(expected)
        torch.testing.assert_close(torch.autograd.grad(loss, x)[0], torch.from_numpy(grad), rtol=0, atol=0)


def test_no_row_counts() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    for reduction in ("mean", "sum", "none"):
        loss = cross_entropy(x, torch.tensor([-100, -100]), reduction=reduction)
        expected = functional.cross_entropy(x, torch.tensor([-100, -100]), reduction=reduction)
        torch.testing.assert_close(loss, expected, equal_nan=True)
        for create_graph in (False, True):
            (grad,) = torch.autograd.grad(loss.sum(), x, retain_graph=True, create_graph=create_graph)
            assert (grad == 0).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strides_do_not_change_the_bits(dtype: Any) -> None:
    x, target = problem((4, 6, 5, 3), dtype)
    expected = cross_entropy(x, target)
    (gradient,) = torch.autograd.grad(expected, x)
    padded = torch.zeros(8, 6, 5, 6, dtype=dtype)[::2, :, :, ::2].copy_(x.detach())
    for other in (
        x.detach().to(memory_format=torch.channels_last),
        x.detach().permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        padded,
    ):
        other.requires_grad_()
        labels = torch.zeros(4, 5, 6, dtype=torch.int64)[:, :, ::2].copy_(target)
        loss = cross_entropy(other, labels)
        assert torch.equal(loss, expected)
        loss.backward()
        assert torch.equal(other.grad, gradient)
        if other is not padded:
            assert other.grad.stride() == other.stride()


def test_the_number_of_threads_does_not_change_the_bits() -> None:
    x, target = problem((300, 40), torch.float32)
    results, before = [], torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            with threads.sharing_from(1):
                loss = cross_entropy(x, target)
            results.append((loss.item(), torch.autograd.grad(loss, x)[0]))
    finally:
        torch.set_num_threads(before)
    for loss, grad in results[1:]:
        assert loss == results[0][0]
        assert torch.equal(grad, results[0][1])


def test_threads_are_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def watched(*_: Any, threads: int, **__: Any) -> Any:
        seen.append(threads)
        return np.float64(0)

    monkeypatch.setattr(sce, "cross_entropy", watched)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    cross_entropy(torch.zeros(2, 3), torch.tensor([0, 1]), label_smoothing=0.1)
    assert seen == [3]


@pytest.mark.parametrize("shape", [(300, 1000), (4000, 300)])
def test_float64_needs_no_ml_dtypes(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, the dtype of bfloat16 is None, which NumPy takes for float64."""
    monkeypatch.setattr(call, "BFLOAT16", None)
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    target = torch.randint(shape[1], shape[:1])
    found = torch.autograd.grad(cross_entropy(x, target), x)[0]
    torch.testing.assert_close(found, torch.autograd.grad(functional.cross_entropy(x, target), x)[0])
