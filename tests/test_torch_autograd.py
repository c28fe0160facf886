"""How softmax_ce.torch works with autograd, and which calls it leaves to PyTorch."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest

import softmax_ce as sce

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # PyTorch's own

from torch.nn import functional  # noqa: E402

from softmax_ce.torch import CrossEntropyLoss, cross_entropy, plain  # noqa: E402
from softmax_ce.torch import call as kernels  # noqa: E402
from softmax_ce.torch import loss as routes  # noqa: E402


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that ran, in order. They compute small calls, too."""
    monkeypatch.setattr(routes, "SMALL", 0)
    monkeypatch.setattr(routes, "SMALL_IN_FULL", 0)
    seen: list[str] = []

    def spy(name: str) -> Any:
        original = getattr(sce, name)

        def call(*arguments: Any, **options: Any) -> Any:
            seen.append(name)
            return original(*arguments, **options)

        return call

    for name in ("cross_entropy", "cross_entropy_with_grad", "cross_entropy_grad"):
        monkeypatch.setattr(sce, name, spy(name))
    attempt = plain.attempt

    def watched(*arguments: Any) -> Any:
        result = attempt(*arguments)
        if result is not None:
            seen.append("plain with gradient" if result.requires_grad else "plain")
        return result

    monkeypatch.setattr(plain, "attempt", watched)
    return seen


def problem(dtype: Any = torch.float32) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 5, generator=generator).to(dtype).requires_grad_(), torch.tensor([0, 1, 2, 3, 4, -100])


# The gradient is computed when it is needed


def test_no_gradient_is_computed_that_nobody_needs(calls: list[str]) -> None:
    x, target = problem()
    with torch.no_grad():
        assert not cross_entropy(x, target).requires_grad
    with torch.inference_mode():
        cross_entropy(x, target)
    cross_entropy(x.detach(), target)
    with torch.no_grad():
        assert not cross_entropy(x, target, label_smoothing=0.1).requires_grad
    assert calls == ["plain"] * 3 + ["cross_entropy"]


@pytest.mark.parametrize(
    ("options", "name"), [({}, "plain with gradient"), ({"label_smoothing": 0.1}, "cross_entropy_with_grad")]
)
def test_the_gradient_is_computed_with_the_loss_and_handed_out(
    calls: list[str], options: dict[str, Any], name: str
) -> None:
    x, target = problem()
    loss = cross_entropy(x, target, **options)
    assert calls == [name]
    made = loss.grad_fn.grad[0].data_ptr()
    loss.backward()
    assert calls == [name]
    assert x.grad.data_ptr() == made


def test_an_upstream_gradient_scales_in_place() -> None:
    x, target = problem(torch.float64)
    for scale in (1.0, 0.25, -3.0):
        loss = cross_entropy(x, target, backend="numpy")
        made = loss.grad_fn.grad[0].data_ptr()
        (grad,) = torch.autograd.grad(loss * scale, x)
        assert grad.data_ptr() == made
        (expected,) = torch.autograd.grad(functional.cross_entropy(x, target) * scale, x)
        torch.testing.assert_close(grad, expected)


def test_the_graph_may_be_used_again(calls: list[str]) -> None:
    x, target = problem()
    loss = cross_entropy(x, target, reduction="none")
    upstream = torch.linspace(0.5, 2, 6)
    first, again = (torch.autograd.grad(loss, x, upstream, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, again)
    assert first.data_ptr() != again.data_ptr()
    assert calls == ["plain with gradient", "cross_entropy_grad"]
    loss.backward(upstream)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward(upstream)


def test_a_kept_gradient_is_not_overwritten_by_accumulation() -> None:
    x, target = problem()
    loss = cross_entropy(x, target, backend="numpy")
    (expected,) = torch.autograd.grad(loss, x, retain_graph=True)
    for _ in range(3):
        loss.backward(retain_graph=True)
    torch.testing.assert_close(x.grad, 3 * expected)


def test_logits_may_change_after_the_loss() -> None:
    x, target = problem()
    (expected,) = torch.autograd.grad(functional.cross_entropy(x, target), x)
    hidden = x * 1
    loss = cross_entropy(hidden, target, backend="numpy")
    hidden.mul_(2)  # the backward pass no longer needs them
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], expected)


def test_a_small_float16_gradient_survives_loss_scaling() -> None:
    x = torch.zeros(512, 64, dtype=torch.float16, requires_grad=True)
    target = torch.zeros(512, dtype=torch.int64)
    (cross_entropy(x, target, backend="numpy") * 1024).backward()
    expected = 1024 / 512 / 64
    assert x.grad[0, 1].item() == expected
    assert torch.finfo(torch.float16).smallest_normal > 1 / 512 / 64


def test_autocast_gives_float32_losses_and_16_bit_gradients() -> None:
    for dtype, other in (
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        x, target = problem(dtype)
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy(x, target, backend="numpy")
            expected = functional.cross_entropy(x, target)
        assert loss.dtype is expected.dtype is other
        torch.testing.assert_close(loss, expected)
        loss.backward()
        assert x.grad.dtype is dtype


def test_checkpoints_and_batched_gradients() -> None:
    from torch.utils.checkpoint import checkpoint

    x, target = problem(torch.float64)
    (expected,) = torch.autograd.grad(functional.cross_entropy(x, target, reduction="none").sum(), x)
    loss = checkpoint(lambda x: cross_entropy(x, target, reduction="none", backend="numpy"), x, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), x, retain_graph=True)[0], expected)
    (rows,) = torch.autograd.grad(loss, x, torch.eye(6, dtype=torch.float64), is_grads_batched=True)
    torch.testing.assert_close(rows.sum(0), expected)


# What PyTorch's function computes


def test_torch_func_transforms_are_pytorchs(calls: list[str]) -> None:
    x, target = problem(torch.float64)
    many = torch.stack([x.detach(), 2 * x.detach()])
    found = torch.func.vmap(torch.func.grad(cross_entropy), (0, None))(many, target)
    expected = torch.func.vmap(torch.func.grad(functional.cross_entropy), (0, None))(many, target)
    assert torch.equal(found, expected)
    assert torch.func.hessian(cross_entropy)(x.detach(), target).shape == (6, 5, 6, 5)
    assert calls == []
    with pytest.raises(NotImplementedError, match=r"no z_loss.*torch\.func"):
        torch.func.vmap(lambda x: cross_entropy(x, target, z_loss=0.1))(many)


def test_forward_mode_derivatives_are_pytorchs(calls: list[str]) -> None:
    x, target = problem(torch.float64)
    tangent = torch.ones_like(x).cumsum(1)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x.detach(), tangent)
        found = torch.autograd.forward_ad.unpack_dual(cross_entropy(dual, target)).tangent
        with pytest.raises(NotImplementedError, match="forward-mode"):
            cross_entropy(dual, target, z_loss=0.1)
    (grad,) = torch.autograd.grad(functional.cross_entropy(x, target), x)
    torch.testing.assert_close(found, (grad * tangent).sum())
    assert calls == []


def test_other_devices_and_subclasses_are_pytorchs(calls: list[str]) -> None:
    class Named(torch.Tensor):  # type: ignore[name-defined]
        pass

    x, target = problem()
    meta = cross_entropy(x.to("meta"), target.to("meta"))
    assert meta.device.type == "meta"
    found = cross_entropy(x.detach().as_subclass(Named), target)
    assert isinstance(found, Named)
    assert calls == []
    for options in ({"z_loss": 0.1}, {"softcap": 3.0}, {"denominator": 2.0}, {"backend": "numpy"}):
        with pytest.raises(NotImplementedError, match=f"no {next(iter(options))}.*on meta"):
            cross_entropy(x.to("meta"), target.to("meta"), **options)
        with pytest.raises(NotImplementedError, match="dense CPU tensors"):
            cross_entropy(x.detach().as_subclass(Named), target, **options)


def test_small_plain_calls_are_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernels_ran(shape: tuple[int, ...], soft: bool = False, **options: Any) -> bool:
        x = torch.zeros(shape, dtype=options.pop("dtype", torch.float32), requires_grad=True)
        target = torch.zeros_like(x) if soft else torch.zeros(shape[0], *shape[2:], dtype=torch.int64)
        return "CrossEntropyBackward" in type(cross_entropy(x, target, **options).grad_fn).__name__

    monkeypatch.setattr(routes, "SMALL", 50)
    monkeypatch.setattr(routes, "SMALL_BY_ARRAYS", 100)
    monkeypatch.setattr(routes, "SMALL_IN_FULL", 200)
    assert not kernels_ran((7, 7))
    assert not kernels_ran((7, 7), weight=torch.ones(7), reduction="none")
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        assert kernels_ran((5, 5, 2), dtype=dtype)
    # What is not plain
    assert not kernels_ran((9, 11), weight=torch.ones(11))
    assert kernels_ran((10, 10), weight=torch.ones(10))
    assert not kernels_ran((10, 10), weight=torch.ones(10, dtype=torch.bfloat16), dtype=torch.bfloat16)
    assert not kernels_ran((10, 5, 2), weight=torch.ones(5))
    assert kernels_ran((20, 5, 2), weight=torch.ones(5))
    for options in ({"label_smoothing": 0.1}, {"z_loss": 0.1}, {"denominator": 2}, {"backend": "numpy"}):
        assert kernels_ran((2, 3), **options)
    assert kernels_ran((2, 3), soft=True)


def test_deprecated_arguments_name_a_reduction(calls: list[str]) -> None:
    x, target = problem()
    for size_average in (None, False, True):
        for reduce in (None, False, True):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                expected = functional.cross_entropy(x, target, None, size_average, -100, reduce)
            if size_average is None and reduce is None:
                found = cross_entropy(x, target, None, size_average, -100, reduce)
            else:
                with pytest.warns(UserWarning, match="give reduction="):
                    found = cross_entropy(x, target, None, size_average, -100, reduce)
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("target", "options"),
    [
        (torch.zeros(6, dtype=torch.int32), {}),
        (torch.zeros(6, 5, dtype=torch.int64), {}),
        (torch.zeros(6), {}),
        (torch.zeros(6, 5), {"ignore_index": 1}),
        (torch.zeros(6, dtype=torch.int64), {"label_smoothing": 1.5}),
        (torch.zeros(6, dtype=torch.int64), {"reduction": "median"}),
        (torch.zeros(6, dtype=torch.int64), {"weight": torch.ones(5, dtype=torch.float64)}),
    ],
)
def test_pytorch_reports_what_it_refuses(target: Any, options: dict[str, Any], calls: list[str]) -> None:
    x, _ = problem()
    with pytest.raises((RuntimeError, ValueError)) as expected:
        functional.cross_entropy(x, target, **options)
    with pytest.raises(type(expected.value)) as found:
        cross_entropy(x, target, **options)
    assert str(found.value) == str(expected.value)


def test_the_kernels_report_labels_shapes_and_options() -> None:
    x, target = problem()
    with pytest.raises(IndexError, match="target 5 at position 1 is outside"):
        cross_entropy(x, torch.tensor([0, 5, 1, 1, 1, 1]), z_loss=0.1)
    with pytest.raises(ValueError, match=r"targets of shape \(5,\) do not fit"):
        cross_entropy(x, target[:5], z_loss=0.1)
    with pytest.raises(ValueError, match="denominator goes with"):
        cross_entropy(x, target, reduction="sum", denominator=3)
    with pytest.raises(ValueError, match="z_loss must be"):
        cross_entropy(x, target, z_loss=-1.0)
    with pytest.raises(ValueError, match="backend"):
        cross_entropy(x, target, backend="no such")


# The module


def test_the_module_takes_the_place_of_pytorchs() -> None:
    x, target = problem()
    ours = CrossEntropyLoss(torch.arange(1.0, 6.0), label_smoothing=0.1, reduction="sum", z_loss=0.1)
    theirs = torch.nn.CrossEntropyLoss(torch.arange(1.0, 6.0), label_smoothing=0.1, reduction="sum")
    theirs.load_state_dict(ours.state_dict())
    assert isinstance(ours, torch.nn.CrossEntropyLoss)
    expected = theirs(x, target) + 0.1 * torch.logsumexp(x, 1)[:5].square().sum()
    torch.testing.assert_close(copy.deepcopy(ours)(x, target), expected)
    mean = CrossEntropyLoss(backend="numpy", softcap=3.0)
    capped = functional.cross_entropy(3 * torch.tanh(x / 3), target, reduction="sum") / 7
    torch.testing.assert_close(mean(x, target, denominator=torch.tensor(7)), capped)


def test_bfloat16_without_ml_dtypes_is_pytorchs(monkeypatch: pytest.MonkeyPatch, calls: list[str]) -> None:
    monkeypatch.setattr(routes, "DTYPES", kernels.DTYPES - {torch.bfloat16})
    monkeypatch.delitem(plain._NAMES, torch.bfloat16)
    x, target = problem(torch.bfloat16)
    assert torch.equal(cross_entropy(x, target), functional.cross_entropy(x, target))
    assert calls == []
    with pytest.raises(NotImplementedError, match="ml_dtypes"):
        cross_entropy(x, target, z_loss=0.1)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}])
def test_the_tangent_of_an_upstream_gradient_is_kept(options: dict[str, Any]) -> None:
    x, y = torch.randn(100, 100, requires_grad=True), torch.randint(0, 100, (100,))
    losses = cross_entropy(x, y, **options), functional.cross_entropy(x, y, **options)
    with torch.autograd.forward_ad.dual_level():
        upstream = torch.autograd.forward_ad.make_dual(torch.tensor(1.0), torch.tensor(2.0))
        ours, theirs = (torch.autograd.grad(loss, x, upstream)[0] for loss in losses)
        tangent, expected = (torch.autograd.forward_ad.unpack_dual(grad).tangent for grad in (ours, theirs))
        torch.testing.assert_close(tangent, expected)
