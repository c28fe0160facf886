"""PyTorch's own samples for its cross_entropy and CrossEntropyLoss, computed by softmax_ce.torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("expecttest", reason="PyTorch's test package needs expecttest")

from torch.testing._internal.common_methods_invocations import op_db  # noqa: E402
from torch.testing._internal.common_modules import module_db  # noqa: E402

from softmax_ce.torch import CrossEntropyLoss, cross_entropy  # noqa: E402
from softmax_ce.torch import loss as routes  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")  # PyTorch's own

(OPERATION,) = (info for info in op_db if info.name == "nn.functional.cross_entropy")
(MODULE,) = (info for info in module_db if info.module_cls is torch.nn.CrossEntropyLoss)
DTYPES = sorted(OPERATION.dtypes, key=str)


@pytest.fixture(autouse=True)
def kernels_compute_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this, PyTorch's function would compute its own samples, which are small."""
    monkeypatch.setattr(routes, "SMALL", 0)
    monkeypatch.setattr(routes, "SMALL_IN_FULL", 0)


def samples(dtype: Any) -> Iterator[tuple[Any, list[Any], dict[str, Any]]]:
    """Input, targets and options of each sample, contiguous and not."""
    torch.manual_seed(0)
    for sample in OPERATION.sample_inputs("cpu", dtype, requires_grad=True):
        for variant in (sample, sample.noncontiguous()):
            yield variant.input, list(variant.args), variant.kwargs


def wide(value: Any) -> Any:
    """A tensor in float64, in which PyTorch computes what is right: its 16-bit results are off by several units."""
    if not torch.is_tensor(value) or not value.is_floating_point():
        return value
    return value.detach().double().requires_grad_(value.requires_grad)


def assert_close(found: Any, expected: Any, dtype: Any) -> None:
    units = torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), expected, rtol=4 * units, atol=max(4 * units, 1e-7))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_samples_of_the_function(dtype: Any) -> None:
    count = 0
    for x, targets, options in samples(dtype):
        loss = cross_entropy(x, *targets, **options)
        assert loss.dtype is dtype
        theirs = [wide(x), *map(wide, targets)]
        expected = OPERATION.op(*theirs, **{name: wide(value) for name, value in options.items()})
        assert_close(loss, expected, dtype)
        upstream = torch.rand_like(loss)
        wanted = [tensor for tensor in (x, *targets) if tensor.requires_grad]
        right = torch.autograd.grad(expected, [t for t in theirs if t.requires_grad], upstream.double())
        for create_graph in (False, True):
            found = torch.autograd.grad(loss, wanted, upstream, retain_graph=True, create_graph=create_graph)
            for one, other in zip(found, right, strict=True):
                assert_close(one, other, dtype)
        count += 1
    assert count >= 40


def test_samples_have_derivatives_of_first_and_second_order() -> None:
    for x, targets, options in samples(torch.float64):
        wanted = [tensor for tensor in (x, *targets) if tensor.requires_grad]
        rest = targets[len(wanted) - 1 :]

        def call(*tensors: Any, rest: Any = rest, options: Any = options) -> Any:
            return cross_entropy(*tensors, *rest, **options)

        assert torch.autograd.gradcheck(call, wanted)
        assert torch.autograd.gradgradcheck(call, wanted, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_samples_of_the_module(dtype: Any) -> None:
    torch.manual_seed(0)
    inputs = MODULE.module_inputs_func(MODULE, "cpu", dtype, requires_grad=True, training=True)
    assert len(inputs) >= 100
    for sample in inputs:
        made, given = sample.constructor_input, sample.forward_input
        module = CrossEntropyLoss(*made.args, **made.kwargs)
        loss = module(*given.args, **given.kwargs)
        assert "CrossEntropyBackward" in type(loss.grad_fn).__name__, sample.desc
        theirs = MODULE.module_cls(*made.args, **made.kwargs)(*given.args, **given.kwargs)
        torch.testing.assert_close(loss, theirs, equal_nan=True, msg=sample.desc)
        if sample.reference_fn is not None:
            expected = sample.reference_fn(module, *(tensor.detach() for tensor in given.args))
            torch.testing.assert_close(loss, expected, equal_nan=True, msg=sample.desc)
        wanted = [tensor for tensor in given.args if tensor.requires_grad]
        grads = [torch.autograd.grad(result.sum(), wanted) for result in (loss, theirs)]
        torch.testing.assert_close(*grads, msg=sample.desc)


def test_wrong_inputs_of_the_module() -> None:
    errors = MODULE.module_error_inputs_func(MODULE, "cpu", torch.float64, requires_grad=True, training=True)
    assert errors
    for error in errors:
        made, given = error.module_error_input.constructor_input, error.module_error_input.forward_input
        with pytest.raises(error.error_type, match=error.error_regex):
            CrossEntropyLoss(*made.args, **made.kwargs)(*given.args, **given.kwargs)
