"""The memory of large gradients is used again, and only when nothing uses it any more."""

from __future__ import annotations

import gc
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch.nn import functional  # noqa: E402

from softmax_ce.torch import buffers, cross_entropy, release_buffers  # noqa: E402


def problem(dtype: Any = torch.float32) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 5, generator=generator).to(dtype).requires_grad_(), torch.tensor([0, 1, 2, 3, 4, -100])


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "LARGE", 1)
    release_buffers()


@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_the_memory_of_a_gradient_serves_the_next_one(dtype: Any) -> None:
    x, target = problem(dtype)
    places = set()
    for _ in range(4):
        x.grad = None
        cross_entropy(x, target, backend="numpy").backward()
        assert x.grad.data_ptr() % 64 == 0
        places.add(x.grad.data_ptr())
    assert len(places) == 1


@pytest.mark.usefixtures("all_large")
def test_memory_in_use_is_left_alone() -> None:
    x, target = problem()
    kept, expected = [], torch.autograd.grad(functional.cross_entropy(x, target), x)[0]
    for scale in range(1, 5):
        (grad,) = torch.autograd.grad(scale * cross_entropy(x, target, backend="numpy"), x)
        kept.append((grad.numpy() if scale % 2 else grad.view(-1)[2:], scale))  # arrays and views keep it, too
        del grad
        gc.collect()
    for array, scale in kept:
        flat = torch.as_tensor(array).reshape(-1)
        torch.testing.assert_close(flat, (scale * expected).reshape(-1)[-flat.numel() :])


@pytest.mark.usefixtures("all_large")
def test_released_memory_is_that_of_one_step() -> None:
    target = torch.zeros(100, dtype=torch.int64)
    for classes in (1000, 300, 40):
        x = torch.zeros(100, classes, requires_grad=True)
        cross_entropy(x, target, backend="numpy").backward()
    assert release_buffers() == 0  # `.grad` uses the last one, and the others did not fit
    del x
    assert release_buffers() == 100 * 40 * 4 + 64
    assert release_buffers() == 0
