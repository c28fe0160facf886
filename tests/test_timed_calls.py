"""What the commands and suites time is what a user's own call takes: the same functions run, one after the other."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import softmax_ce as sce
from softmax_ce_bench.compare import participants
from softmax_ce_bench.compare import request as planning
from softmax_ce_bench.gate import worker
from softmax_ce_bench.inputs import workloads
from softmax_ce_bench.inputs.workloads import Shape
from softmax_ce_bench.measure import operations, peak
from softmax_ce_bench.truth import reference
from tools.roofline import candidates
from tools.roofline.candidates import TimedCall

SHAPE = Shape("small", 64, 10, "")


def path_of(call: Callable[[], Any]) -> list[str]:
    """Every function that a call enters, in Python and in C, by name and in order."""
    entered: list[str] = []

    def watch(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            entered.append(f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}")
        elif event == "c_call":
            entered.append(argument.__qualname__)

    call()  # what is loaded or compiled once is not a call's
    call()
    gc.disable()  # what a collection ends is not the call's
    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(None)
        gc.enable()
    return entered[: -1 if entered and entered[-1] == "setprofile" else None]


def users(operation: str, *, allocate: bool, **options: Any) -> Callable[[], Any]:
    """The call as a user writes it."""
    rng = np.random.default_rng(0)
    x = (30 * rng.standard_normal((SHAPE.rows, SHAPE.classes))).astype(np.float32)
    y: Any = rng.integers(0, SHAPE.classes, SHAPE.rows)
    none = options.get("reduction") == "none"
    loss, grad = np.empty(SHAPE.rows if none else (), np.float32), np.empty_like(x)
    given: dict[str, Any] = {
        "forward": {"out": loss},
        "backward": {"grad_out": grad},
        "fused": {"out": loss, "grad_out": grad},
        "softmax": {"out": grad},
        "log_softmax": {"out": grad},
        "logsumexp": {"out": np.empty(SHAPE.rows, np.float32)},
        "hessian": {"out": loss, "grad_out": grad, "hess_out": np.empty_like(x)},
        "kl": {"out": loss, "grad_out": grad},
        "linear_forward": {"out": loss},
    }
    if operations.TABLE[operation].takes_layer:
        layer = [rng.standard_normal(shape).astype(np.float32) for shape in ((len(x), 64), (x.shape[1], 64))]
        bias = rng.standard_normal((x.shape[1],)).astype(np.float32)
        names = ("grad_hidden_out", "grad_linear_weight_out", "grad_linear_bias_out")
        given["linear"] = {"out": loss, **dict(zip(names, map(np.empty_like, (*layer, bias)), strict=True))}
        out = {} if allocate else given[operation]
        return partial(
            getattr(sce, operations.TABLE[operation].function), *layer, y, linear_bias=bias, **out, **options
        )
    out = {} if allocate else given[operation]
    function = operations.TABLE[operation].function
    if operation in operations.NORMALIZERS:
        options.pop("reduction", None)
        return partial(getattr(sce, function), x, **out, **options)
    if operation == "kl":
        return partial(getattr(sce, function), x, x + rng.standard_normal(x.shape).astype(np.float32), **out, **options)
    return partial(getattr(sce, function), x, y, **out, **options)


def comparing(operation: str, allocate: bool, tmp_path: Path) -> Any:
    """compare and pick, on a named workload."""
    source = planning.Source("test", SHAPE, "float32")
    plan = planning.CompareRequest(("numpy",), (source,), allocate=allocate, operations=(operation,))
    ready = participants.PreparedWorkload(plan, plan.sources[0].maker())
    made = participants.calls(plan, plan.cells[0], ready, "numpy")[operation]
    return made, {"backend": "numpy", "reduction": "mean", "threads": None}


def comparing_files(operation: str, allocate: bool, tmp_path: Path) -> Any:
    """compare on the user's own files."""
    made = workloads.synthetic(SHAPE, "float32")
    np.save(tmp_path / "x.npy", made.logits)
    np.save(tmp_path / "y.npy", made.targets)
    own = planning.own(tmp_path / "x.npy", tmp_path / "y.npy")
    plan = planning.CompareRequest(("numpy",), (own,), allocate=allocate, operations=(operation,))
    ready = participants.PreparedWorkload(plan, plan.sources[0].maker())
    call = participants.calls(plan, plan.cells[0], ready, "numpy")[operation]
    return call, {"backend": "numpy", "reduction": "mean", "threads": None}


def peaking(operation: str, allocate: bool, tmp_path: Path) -> Any:
    """Peak memory."""
    workload = workloads.synthetic(SHAPE, "float32")
    call = peak._call("numpy", False, workload, 1, operation, {"reduction": "mean"}, allocate)
    return call, {"backend": "numpy", "reduction": "mean", "threads": 1}


def gating(operation: str, allocate: bool, tmp_path: Path) -> Any:
    """The gate's worker, on arrays that it has read from a file."""
    if allocate:
        pytest.skip("the gate writes into buffers")
    made = workloads.synthetic(SHAPE, "float32")
    np.savez(tmp_path / "0.npz", logits=made.logits, labels=made.targets)
    service = worker.Service(tmp_path)
    service.prepare(0, "numpy", operation, 0)
    return service._calls[0], {"backend": "numpy", "threads": 1}


def roofing(operation: str, allocate: bool, tmp_path: Path) -> Any:
    """The roofline's candidates."""
    workload = workloads.synthetic(SHAPE, "float32")
    shared = candidates.SharedWorkload(workload, reference.evaluate(workload.logits, workload.targets), 1, lambda: 0.0)
    sampler, complaint = shared.build(TimedCall("numpy", operation, allocate))
    assert complaint is None
    return sampler.run, {"backend": "numpy", "threads": 1}


def suite(operation: str, allocate: bool, tmp_path: Path) -> Any:
    """asv's suite."""
    pytest.importorskip("asv_runner")
    if allocate:
        pytest.skip("the asv suite writes into buffers")
    sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
    try:
        inputs = importlib.import_module("suite.inputs")
    finally:
        sys.path.pop(0)
    call = inputs.prepared(operation, "numpy", "float32", (SHAPE.rows, SHAPE.classes))
    return call, {"backend": "numpy", "reduction": "none", "threads": 1}


def unpickled(operation: str, allocate: bool, tmp_path: Path) -> Any:
    """pytest-benchmark's suite, whose buffers are made here; and logits that came through a pipe."""
    import pickle

    workload = workloads.synthetic(SHAPE, "float32")
    buffers = None if allocate else operations.Buffers(pickle.loads(pickle.dumps(workload.logits)), "none")
    options: dict[str, Any] = {"reduction": "none", "backend": "numpy"}
    return operations.call(sce, operation, workload.logits, workload.targets, buffers, **options), options


@pytest.mark.parametrize("allocate", [False, True], ids=["buffers", "allocating"])
@pytest.mark.parametrize("operation", operations.TABLE)
@pytest.mark.parametrize("build", [comparing, comparing_files, peaking, gating, roofing, suite, unpickled])
def test_a_timed_call_is_a_users_call(build: Any, operation: str, allocate: bool, tmp_path: Path) -> None:
    timed, options = build(operation, allocate, tmp_path)
    assert path_of(timed) == path_of(users(operation, allocate=allocate, **options))


@pytest.mark.parametrize("operation", operations.LOSSES)
@pytest.mark.parametrize("build", [comparing, comparing_files, peaking, gating, roofing])
def test_a_small_timed_call_takes_the_short_path(
    build: Any, operation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The full path begins by looking at the logits."""
    from softmax_ce import checks

    timed, _ = build(operation, False, tmp_path)
    seen: list[Any] = []
    whole = checks.check_logits

    def check_logits(*given: Any) -> Any:
        seen.append(given)
        return whole(*given)

    monkeypatch.setattr(checks, "check_logits", check_logits)
    timed()
    assert not seen
    sce.cross_entropy(np.zeros((2, 3), np.float32), [0, 1])  # lists do not take it
    assert len(seen) == 1


def test_the_path_tells_a_wrapper_and_an_option() -> None:
    """The test's own eye: what it must not miss."""
    bare = users("fused", allocate=False, backend="numpy")
    assert path_of(lambda: bare()) != path_of(bare)
    x, y = bare.args  # type: ignore[attr-defined]
    assert path_of(partial(sce.cross_entropy_grad, x, y, backend="numpy")) != path_of(
        partial(sce.cross_entropy_grad, x, y, backend="numpy", label_smoothing=0.1)
    )
