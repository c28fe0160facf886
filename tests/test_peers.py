"""Other libraries' adapters, each in its own process: right against the oracle, and honest about what goes wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import softmax_ce as sce
from softmax_ce.threads import available_cpus
from softmax_ce_bench.inputs.workloads import Shape, Workload, synthetic
from softmax_ce_bench.measure import timing
from softmax_ce_bench.measure.operations import LOSSES, OTHERS, make_layer
from softmax_ce_bench.measure.peer_process import PeerSampler, PeerService, peer_process
from softmax_ce_bench.measure.process import ProcessError
from softmax_ce_bench.peers import BY_NAME, PEERS, Peer, adapters
from softmax_ce_bench.truth import oracle, reference

SHAPE = Shape("small", 40, 9, "")
SINGLE_AND_DOUBLE = ("float32", "float64")


@pytest.fixture(params=[peer.name for peer in PEERS])
def peer(request: pytest.FixtureRequest) -> Peer:
    found = BY_NAME[request.param]
    if found.why_missing is not None:
        pytest.skip(f"{found.title} is {found.why_missing}")
    return found


def soft(dtype: str) -> Workload:
    """Soft labels and moderate logits."""
    rng = np.random.default_rng(5)
    targets = rng.random((SHAPE.rows, SHAPE.classes))
    targets /= targets.sum(axis=1, keepdims=True)
    return Workload("soft", "", (3 * rng.standard_normal(targets.shape)).astype(dtype), targets.astype(dtype))


def ignoring(dtype: str) -> Workload:
    """Every third row ignored."""
    workload = synthetic(SHAPE, dtype)
    targets = workload.targets.copy()
    targets[::3] = -100
    return Workload("ignoring", "", workload.logits, targets)


def die() -> Workload:
    os._exit(3)


def test_every_peer_is_right(peer: Peer) -> None:
    """float32 within the reference's tolerance; float64 close to extended precision."""
    makers: list[Callable[..., Workload]] = [partial(synthetic, SHAPE)]
    makers += [soft] if peer.soft_targets else []
    makers += [ignoring] if peer.ignored_rows else []
    with peer_process(peer.name, 1) as worker:
        for make in makers:
            for dtype in SINGLE_AND_DOUBLE:  # in this order: JAX is told to keep float64 by then
                workload = make(dtype)
                truth = reference.evaluate(workload.logits, workload.targets)
                worker.ask("load", partial(make, dtype))
                loss, grad = worker.ask("result", truth.rows)
                assert grad.dtype == dtype
                assert truth.complaint(loss, grad) is None
                if dtype == "float64":
                    exact = oracle.evaluate(workload.logits, workload.targets)
                    counted = int(exact.counts.sum())
                    assert loss == pytest.approx(float(exact.loss.sum() / counted), rel=1e-12)
                    right = (exact.grad[truth.rows] / counted).astype(float)
                    np.testing.assert_allclose(grad, right, rtol=1e-9, atol=1e-15)


def test_every_peers_other_operations_and_gradient_alone_are_right(peer: Peer) -> None:
    workload = synthetic(SHAPE, "float32")
    truth = reference.evaluate(workload.logits, workload.targets)
    with peer_process(peer.name, 1) as worker:
        worker.ask("load", workload)
        for operation in OTHERS:
            if operation in peer.operations:
                right = reference.others(workload.logits, workload.targets, operation)
                rows = {part: each.rows for part, each in right.items() if each.values.ndim}
                found = worker.ask("others", operation, rows)
                assert reference.first_complaint(right, found) is None
                for part, each in right.items():
                    assert "right is" in (each.complaint(found[part] + 0.01) or "")
        assert peer.operations[: len(LOSSES)] == LOSSES or peer.name == "torch-linear"
    made = peer.prepare(workload.logits, workload.targets, 1)
    grad = np.array(made.as_array(made.calls["backward"]()))
    if peer.name == "sklearn":  # one a row, as its users have it
        grad /= SHAPE.rows
    assert truth.complaint(None, grad[truth.rows]) is None


WEIGHT = np.linspace(0.5, 2, SHAPE.classes)
UPSTREAM = np.linspace(-1, 2, SHAPE.rows)


OPTIONS: dict[str, dict[str, Any]] = {
    "weight": {"weight": WEIGHT},
    "ignored": {"ignore_index": 3},
    "smoothed": {"label_smoothing": 0.1},
    "by row": {"reduction": "none", "grad_output": UPSTREAM},
    "all": {"weight": WEIGHT, "ignore_index": 2, "label_smoothing": 0.3},
}


@pytest.mark.parametrize("dtype", [*SINGLE_AND_DOUBLE, "float16", "bfloat16"])
def test_pytorchs_options_are_ours(dtype: str) -> None:
    """What is timed side by side means the same; beside the plain workload, as variants."""
    torch = BY_NAME["torch"]
    if torch.why_missing is not None:
        pytest.skip(f"PyTorch is {torch.why_missing}")
    workload, plain = synthetic(SHAPE, dtype), synthetic(SHAPE, "float32")
    coarse = {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(dtype, 0.0)
    with peer_process("torch", 1) as worker:
        worker.ask("load", plain)
        for name, options in OPTIONS.items():
            truth = reference.evaluate(workload.logits, workload.targets, **options)
            ours = sce.cross_entropy_with_grad(workload.logits, workload.targets, **options)
            assert truth.complaint(float(np.mean(ours[0])), ours[1][truth.rows]) is None, name
            worker.ask("load", workload, name, options)
            loss, grad = worker.ask("result", truth.rows, name)
            assert grad.dtype == workload.logits.dtype
            assert truth.complaint(loss, grad, coarse) is None, name
        truth = reference.evaluate(plain.logits, plain.targets)
        assert truth.complaint(*worker.ask("result", truth.rows)) is None


def test_pytorch_takes_more_axes() -> None:
    torch = BY_NAME["torch"]
    if torch.why_missing is not None:
        pytest.skip(f"PyTorch is {torch.why_missing}")
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((3, 5, 4, 2)).astype(np.float32)
    labels = rng.integers(0, 5, (3, 4, 2))
    truth = reference.evaluate(np.moveaxis(logits, 1, -1).reshape(-1, 5), labels.ravel())
    with peer_process("torch", 1) as worker:
        worker.ask("load", Workload("", "", logits, labels))
        assert truth.complaint(*worker.ask("result", truth.rows)) is None
        found = worker.ask("others", "softmax")["softmax"]
        np.testing.assert_allclose(found, sce.softmax(np.moveaxis(logits, 1, -1).reshape(-1, 5)), rtol=1e-5)
        assert worker.ask("others", "logsumexp")["lse"].shape == (24,)
        layer = make_layer(logits, 1)
        found = worker.ask("others", "linear")
        right = sce.linear_cross_entropy_with_grad(layer.hidden, layer.linear_weight, labels, linear_bias=layer[2])
        np.testing.assert_allclose(found["linear_loss"], right[0], rtol=1e-5)
        np.testing.assert_allclose(found["grad_hidden"], right[1].reshape(24, -1), atol=1e-5)


def test_every_peer_is_timed_in_its_process(peer: Peer) -> None:
    with peer_process(peer.name, 1) as worker:
        worker.ask("load", partial(synthetic, SHAPE, "float32"))
        samples = timing.measure(
            {what: PeerSampler(worker, what) for what in peer.operations}, seconds=0, sample_seconds=1e-5
        )
        assert samples.rounds == 1
        assert all((seconds > 0).all() for seconds in samples.seconds.values())
        assert worker.cpu_seconds > 0


def test_what_a_peer_cannot_do_is_said_before_it_is_asked(peer: Peer) -> None:
    assert peer.why_not(synthetic(SHAPE, "float64")) is None
    assert (peer.why_not(soft("float32")) is None) == peer.soft_targets
    assert (peer.why_not(ignoring("float32")) is None) == peer.ignored_rows
    half = Workload("half", "", np.zeros((2, 3), np.float16), np.zeros(2, np.int64))
    said = None if "float16" in peer.dtypes else f"{peer.title} is called with float32 or float64 here, not float16"
    assert peer.why_not(half) == said
    known = "label_smoothing" in peer.options
    said = peer.why_not(synthetic(SHAPE, "float32"), {"label_smoothing": 0.1}) or ""
    assert said == ("" if known else f"{peer.title} has no label_smoothing")
    assert peer.includes


def test_a_process_that_fails_says_why_and_goes_on() -> None:
    with peer_process("numpy-written", 1) as worker:
        with pytest.raises(ProcessError, match="ValueError: NumPy, written out has no weight"):
            worker.ask("load", partial(soft, "float32"), "", {"weight": np.ones(SHAPE.classes)})
        with pytest.raises(ProcessError, match="no workload was loaded"):
            worker.ask("result", np.arange(2))
        worker.ask("load", partial(synthetic, SHAPE, "float32"))
        with pytest.raises(ProcessError, match="process of numpy-written ended"):
            worker.ask("load", die)


def prepared(loss: float, forward_loss: float, grad: Any) -> adapters.Prepared:
    return adapters.Prepared({"forward": lambda: forward_loss}, lambda: (loss, grad))


def test_a_peer_whose_losses_disagree_is_caught() -> None:
    service = PeerService("numpy-written", available_cpus())
    service._prepared[""] = prepared(1.0, 1.5, np.zeros((40, 9)))
    with pytest.raises(ArithmeticError, match=r"the loss alone is 1\.5, and with the gradient 1"):
        service.result(np.arange(3))


@pytest.mark.parametrize("spoil", ["loss", "scale", "label", "shift"])
def test_a_wrong_peer_is_rejected(spoil: str) -> None:
    workload = synthetic(SHAPE, "float32")
    truth = reference.evaluate(workload.logits, workload.targets)
    loss, grad = adapters.numpy_shifted(workload.logits, workload.targets, 1).result()
    assert truth.complaint(loss, grad[truth.rows]) is None
    if spoil == "loss":
        loss *= SHAPE.rows  # a sum, not a mean
    elif spoil == "scale":
        grad = grad * SHAPE.rows
    elif spoil == "label":  # softmax, from which nothing was taken
        grad[np.arange(SHAPE.rows), workload.targets] += 1 / SHAPE.rows
    else:
        grad = np.roll(grad, 1, axis=1)
    assert truth.complaint(loss, grad[truth.rows]) is not None
