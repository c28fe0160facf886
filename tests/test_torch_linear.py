"""`softmax_ce.torch.linear_cross_entropy`: PyTorch's own samples, gradients, and calls that PyTorch computes."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("expecttest", reason="PyTorch's test package needs expecttest")

from torch.nn import functional  # noqa: E402
from torch.testing._internal.common_methods_invocations import op_db  # noqa: E402

from softmax_ce.torch import linear_cross_entropy  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")  # PyTorch's own

SAMPLED = [operator for operator in op_db if operator.name == "nn.functional.linear_cross_entropy"]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("memory", [40_000, "256MiB"])
def test_pytorchs_samples(dtype: Any, memory: Any) -> None:
    operator = SAMPLED[0]
    tried = 0
    for sample in operator.sample_inputs("cpu", dtype, requires_grad=True):
        if sample.kwargs.get("options") is not None:
            continue
        tried += 1
        arguments = [sample.input, *sample.args]
        expected = functional.linear_cross_entropy(*arguments, **sample.kwargs)
        found = linear_cross_entropy(*arguments, memory=memory, **sample.kwargs)
        # Both round to 16 bits on the way, at different places.
        how: Any = {"rtol": 0.05, "atol": 5e-3} if dtype is torch.bfloat16 else {}
        torch.testing.assert_close(found, expected, **how)
        leaves = [t for t in (*arguments, *sample.kwargs.values()) if isinstance(t, torch.Tensor) and t.requires_grad]
        upstream = torch.rand_like(expected)
        of_theirs = torch.autograd.grad(expected, leaves, upstream, allow_unused=True)
        of_ours = torch.autograd.grad(found, leaves, upstream, allow_unused=True)
        for one, other in zip(of_ours, of_theirs, strict=True):
            torch.testing.assert_close(one, other, equal_nan=True, **how)
    assert tried > 5


def layer(dtype: Any = torch.float64) -> tuple[Any, Any, Any, Any]:
    torch.manual_seed(0)
    hidden, weight = torch.randn(12, 5, dtype=dtype), torch.randn(30, 5, dtype=dtype)
    return hidden.requires_grad_(), weight.requires_grad_(), torch.randint(30, (12,)), torch.randn(30, dtype=dtype)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradcheck(reduction: str) -> None:
    hidden, weight, target, bias = layer()

    def call(hidden: Any, weight: Any, bias: Any) -> Any:
        return linear_cross_entropy(
            hidden, weight, target, linear_bias=bias, reduction=reduction, label_smoothing=0.1, z_loss=0.01,
            softcap=5.0,
        )  # fmt: skip

    assert torch.autograd.gradcheck(call, (hidden, weight, bias.requires_grad_()))


def test_a_second_backward_pass_has_the_same_bits() -> None:
    hidden, weight, target, _ = layer(torch.float32)
    loss = linear_cross_entropy(hidden, weight, target)
    first = torch.autograd.grad(loss, (hidden, weight), retain_graph=True)
    second = torch.autograd.grad(loss, (hidden, weight))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


def test_a_weight_of_more_dimensions_is_pytorchs() -> None:
    torch.manual_seed(1)
    hidden, weight, target = torch.randn(4, 5), torch.randn(6, 3, 5), torch.randint(6, (4, 3))
    assert torch.equal(
        linear_cross_entropy(hidden, weight, target), functional.linear_cross_entropy(hidden, weight, target)
    )
    with pytest.raises(NotImplementedError, match="has no z_loss"):
        linear_cross_entropy(hidden, weight, target, z_loss=0.1)


def test_without_grad_no_gradient_is_computed() -> None:
    hidden, weight, target, _ = layer()
    with torch.no_grad():
        loss = linear_cross_entropy(hidden, weight, target)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, functional.cross_entropy(hidden @ weight.T, target).detach())
