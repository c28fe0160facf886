"""Plain calls of softmax_ce.torch: they reach the kernels by address, run on PyTorch's threads, and change no bit."""

from __future__ import annotations

import ctypes
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import softmax_ce as sce

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytestmark = pytest.mark.skipif(
    not any(info.name == "cython" and info.available for info in sce.backends()), reason="needs the Cython backend"
)

from softmax_ce.torch import buffers, cross_entropy, plain, release_buffers  # noqa: E402
from softmax_ce.torch import loss as routes  # noqa: E402

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [(1, 1), (1, 10), (5, 7), (3, 1, 4), (2, 21, 5, 7), (3, 300), (2, 300, 3), (1, 50_000)]


@pytest.fixture(autouse=True)
def kernels_compute_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "SMALL", 0)
    monkeypatch.setattr(routes, "SMALL_IN_FULL", 0)


@pytest.fixture
def in_threads() -> Any:
    """Set PyTorch's number of threads, and restore it."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def problem(shape: tuple[int, ...], dtype: Any = torch.float32, seed: int = 0) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    x = (3 * torch.randn(shape, generator=generator)).to(dtype).requires_grad_()
    labels = torch.randint(0, shape[1], shape[:1] + shape[2:], generator=generator)
    if labels.numel() > 1:
        labels.view(-1)[1] = -100
    return x, labels


def is_plain(loss: Any) -> bool:
    return type(loss.grad_fn).__name__ == "_PlainCrossEntropyBackward"


def assert_same_bits(found: Any, expected: Any) -> None:
    assert found.dtype is expected.dtype
    assert found.shape == expected.shape
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[found.element_size()]
    assert torch.equal(found.detach().contiguous().view(bits), expected.detach().contiguous().view(bits))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_plain_calls_have_the_bits_of_others(dtype: Any) -> None:
    for shape in SHAPES:
        for reduction in ("mean", "sum", "none"):
            x, target = problem(shape, dtype)
            loss = cross_entropy(x, target, reduction=reduction)
            other = cross_entropy(x, target, reduction=reduction, backend="cython")
            assert is_plain(loss)
            assert not is_plain(other)
            assert_same_bits(loss, other)
            grads = [torch.autograd.grad(result.sum(), x)[0] for result in (loss, other)]
            assert_same_bits(*grads)
            assert grads[0].stride() == x.stride()
            with torch.no_grad():
                assert_same_bits(cross_entropy(x, target, reduction=reduction), loss)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(500, 300), (3, 70_000), (20_000, 10), (2, 21, 60, 70)], ids=str)
def test_pytorchs_threads_change_no_bit(shape: tuple[int, ...], dtype: Any, in_threads: Any) -> None:
    x, target = problem(shape, dtype)
    results = []
    for threads in (1, 2, 5):
        in_threads(threads)
        loss = cross_entropy(x, target)
        assert is_plain(loss)
        results.append((loss, torch.autograd.grad(loss, x)[0]))
    for loss, grad in results[1:]:
        assert_same_bits(loss, results[0][0])
        assert_same_bits(grad, results[0][1])


def test_other_calls_are_not_plain() -> None:
    x, target = problem((6, 8))
    others = [
        (x.T, target[:0].new_zeros(8), {}),
        (x[:, ::2], target % 4, {}),
        (x, target.repeat_interleave(2)[::2], {}),
        (x[0], target[0], {}),
        (x, target % 8, {"weight": torch.ones(8)}),
        (x, (target % 8).to(torch.uint8), {}),
        (torch._neg_view(x), target, {}),
    ]
    for logits, labels, options in others:
        loss = cross_entropy(logits, labels, **options)
        assert not is_plain(loss)
        torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, labels.long(), **options))


def test_memory_between_items_is_left_to_other_calls() -> None:
    buffer = np.zeros(6 * 8 * 4 + 1, np.uint8)
    x = torch.from_numpy(np.ndarray((6, 8), np.float32, buffer, 1))
    assert x.data_ptr() % 4
    assert plain.attempt(x, torch.zeros(6, dtype=torch.int64), -100, "mean") is None
    assert cross_entropy(x, torch.zeros(6, dtype=torch.int64)).item() == pytest.approx(math.log(8))


def test_wrong_calls_are_reported_by_others() -> None:
    x, target = problem((6, 8))
    for labels, error in ((target.clone().fill_(8), IndexError), (target[:5], ValueError)):
        assert plain.attempt(x, labels, -100, "mean") is None
        with pytest.raises(error):
            cross_entropy(x, labels)
    for reduction in ("wrong", "MEAN"):
        assert plain.attempt(x, target, -100, reduction) is None
    assert plain.attempt(x[:0], target[:0], -100, "mean") is None
    assert plain.attempt(x, target, 2**70, "mean") is None


def test_an_upstream_gradient_other_than_one_counts() -> None:
    x, target = problem((6, 8))
    expected = torch.autograd.grad(cross_entropy(x, target, backend="cython"), x)[0]
    for upstream in (torch.tensor(1.0), torch.tensor(-2.0), torch._neg_view(torch.tensor(-1.0))):
        (grad,) = torch.autograd.grad(cross_entropy(x, target), x, upstream)
        torch.testing.assert_close(grad, upstream * expected, rtol=0, atol=0)
    loss = cross_entropy(x, target)
    (batched,) = torch.autograd.grad(loss, x, torch.tensor([1.0, 3.0]), is_grads_batched=True)
    torch.testing.assert_close(batched, torch.stack([expected, 3 * expected]))


def test_a_tensor_that_has_left_a_transform() -> None:
    left = []

    def keeps(x: Any) -> Any:
        left.append(x)
        return x.sum()

    torch.func.grad(keeps)(torch.zeros(6, 8))
    loss = cross_entropy(left[0], torch.zeros(6, dtype=torch.int64))
    assert loss.item() == pytest.approx(math.log(8))


PARALLEL_FOR = ctypes.CFUNCTYPE(
    ctypes.c_int32, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p
)
TASK = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)


def refuses(begin: int, end: int, grain: int, task: Any, context: Any) -> int:
    return 1


def has_one_thread(begin: int, end: int, grain: int, task: Any, context: Any) -> int:
    TASK(task)(begin, end, context)
    return 0


def has_a_thread_for_each(begin: int, end: int, grain: int, task: Any, context: Any) -> int:
    threads = [threading.Thread(target=TASK(task), args=(k, k + 1, context)) for k in range(begin, end)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 0


def fails_at_the_end(*arguments: Any) -> int:
    has_a_thread_for_each(*arguments)
    return 1


@pytest.mark.parametrize("run", [refuses, has_one_thread, has_a_thread_for_each, fails_at_the_end])
@pytest.mark.parametrize("shape", [(500, 300), (2, 100_000)], ids=str)
def test_any_threads_do_the_work(
    shape: tuple[int, ...], run: Callable[..., int], in_threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, target = problem(shape)
    in_threads(1)
    expected = cross_entropy(x, target)
    in_threads(3)
    ran: list[int] = []

    def watched(*arguments: Any) -> int:
        ran.append(arguments[1] - arguments[0])
        return run(*arguments)

    function = PARALLEL_FOR(watched)
    monkeypatch.setattr(plain._Threads, "parallel_for", ctypes.cast(function, ctypes.c_void_p).value)
    loss = cross_entropy(x, target)
    assert ran == [3]
    assert_same_bits(loss, expected)
    assert_same_bits(*(torch.autograd.grad(result, x)[0] for result in (loss, expected)))


def test_without_pytorchs_threads_large_calls_take_softmax_ces(
    in_threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_threads(2)
    monkeypatch.setattr(plain._Threads, "parallel_for", 0)
    x, target = problem((1000, 1000))
    assert not is_plain(cross_entropy(x, target))
    x, target = problem((10, 1000))
    assert is_plain(cross_entropy(x, target))


def test_pytorchs_threads_are_found() -> None:
    assert plain._Threads.parallel_for != 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_wait_for_pytorchs_threads() -> None:
    code = """
import os, torch
from softmax_ce.torch import cross_entropy
torch.set_num_threads(2)
x = torch.zeros(1000, 1000, requires_grad=True)
target = torch.zeros(1000, dtype=torch.int64)
expected = cross_entropy(x, target).item()
child = os.fork()
if child == 0:
    os._exit(0 if cross_entropy(x, target).item() == expected else 1)
assert os.waitpid(child, 0)[1] == 0
assert cross_entropy(x, target).item() == expected
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_gradients_beyond_a_size_use_kept_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "_LARGE", 0)
    monkeypatch.setattr(buffers, "LARGE", 1)
    for dtype in DTYPES:
        x, target = problem((6, 8, 3), dtype)
        places = set()
        release_buffers()
        for _ in range(3):
            x.grad = None
            cross_entropy(x, target).backward()
            places.add(x.grad.data_ptr())
        assert len(places) == 1
        assert_same_bits(x.grad, torch.autograd.grad(cross_entropy(x, target, backend="cython"), x)[0])


def test_a_tensor_without_memory_of_its_own_is_not_read() -> None:
    x, y = torch.randn(100, 100, requires_grad=True), torch.randint(0, 100, (100,))
    nothing = torch._efficientzerotensor(())
    cross_entropy(x, y).backward(nothing)
    assert not x.grad.any()
    assert not torch.autograd.grad(cross_entropy(x, y), x, nothing)[0].any()
    zeros = torch._efficientzerotensor((100, 100))
    torch.testing.assert_close(cross_entropy(zeros, y), torch.tensor(100.0).log())
    torch.testing.assert_close(cross_entropy(x, torch._neg_view(-y)), cross_entropy(x, y))


def test_a_reduction_may_be_a_string_of_another_class() -> None:
    x, y = torch.randn(100, 100), torch.randint(0, 100, (100,))
    torch.testing.assert_close(cross_entropy(x, y, reduction=np.str_("sum")), cross_entropy(x, y, reduction="sum"))
