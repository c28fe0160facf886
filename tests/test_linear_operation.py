"""The linear layer with its loss as an operation: its reference, who is rejected, the products alone, peak memory."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import clocks
import softmax_ce as sce
from helpers import known
from softmax_ce_bench import compare, peers
from softmax_ce_bench.ceilings import products
from softmax_ce_bench.compare import CompareRequest, first_call
from softmax_ce_bench.compare import request as planning
from softmax_ce_bench.inputs import workloads
from softmax_ce_bench.inputs.workloads import Shape
from softmax_ce_bench.measure import machine, operations, peak
from softmax_ce_bench.measure.process import ProcessError
from softmax_ce_bench.peers import layers
from softmax_ce_bench.report import comparison, html, record
from softmax_ce_bench.truth import layer as truth
from softmax_ce_bench.truth import oracle
from tools import linear_memory

NAMES = ("linear_forward", "linear")
SMALL = Shape("small", 60, 40, "small enough for a test", features=24)
AVAILABLE = tuple(info.name for info in sce.backends() if info.available)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    clock = clocks.quiet_machine(monkeypatch)
    monkeypatch.setattr(compare, "run", partial(compare.run, clock=clock))
    return clock


def plan(*backends: str, shapes: tuple[Shape, ...] = (SMALL,), soft: bool = False, **options: Any) -> CompareRequest:
    sources = tuple(planning.Source("test", shape, "float32", soft) for shape in shapes)
    settings: dict[str, Any] = {"threads": (1,), "seconds": 600.0, "operations": NAMES} | options
    return CompareRequest(backends, sources, **settings)


def printed(shown: Any) -> str:
    console = Console(width=100, record=True, force_terminal=False)
    console.print(shown)
    return console.export_text()


# The reference


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_every_backend_is_within_bounds_that_a_small_mistake_leaves(dtype: str, soft: bool, backend: str) -> None:
    made = workloads.synthetic(SMALL, dtype)
    made = workloads.softened(made) if soft else made
    options: dict[str, Any] = {"label_smoothing": 0.1, "z_loss": 1e-3}
    layer = operations.make_layer(made.logits, features=24)
    right = truth.evaluate(layer, made.targets, **options)
    call = operations.call(
        sce, "linear", made.logits, made.targets, None, operations.DerivedInputs(made.logits, features=24),
        reduction="none", backend=backend, **options,
    )  # fmt: skip
    found = operations.TABLE["linear"].results(call())
    allowed = right.bounds(sce.get_backend(backend).info)
    assert set(found) == set(right.results) == set(allowed)
    for part, result in found.items():
        assert oracle.over_bound(result, right.results[part], allowed[part]) <= 1
        assert oracle.over_bound(result * result.dtype.type(1.001), right.results[part], allowed[part]) > 1


def test_the_mean_in_blocks_is_that_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    made = workloads.synthetic(SMALL, "float64")
    layer = operations.make_layer(made.logits)
    right = truth.evaluate(layer, made.targets).results
    whole = truth.of_mean(layer, made.targets)
    monkeypatch.setattr(truth, "_BLOCK", 7 * SMALL.classes)
    in_blocks = truth.of_mean(layer, made.targets)
    soft = truth.of_mean(layer, np.eye(SMALL.classes)[made.targets])
    for part, each in right.items():
        mean = (each.sum() if part == "linear_loss" else each).astype(float) / SMALL.rows
        for found in (whole, in_blocks, soft):
            np.testing.assert_allclose(found[part], mean, rtol=1e-11, atol=1e-13)


# In compare


@pytest.mark.parametrize("soft", [False, True])
def test_it_is_judged_timed_and_recorded(soft: bool) -> None:
    run = compare.run(plan(*AVAILABLE, soft=soft, peers=("numpy-written",), base="numpy-written"))
    (cell,) = run.cells
    entries = (60 + 40) * 24 + 40
    more = 60 * 40 * 4 if soft else 0
    assert {o: facts.bytes for o, facts in cell.operations.items()} == {
        "linear_forward": 4 * entries + more, "linear": 8 * entries + more,
    }  # fmt: skip
    assert {o: facts.ceiling for o, facts in cell.operations.items()} == {
        "linear_forward": "product", "linear": "products",
    }  # fmt: skip
    assert cell.inputs.features == 24
    for entry in cell.entries:
        if entry.name == "naive":
            continue
        assert entry.status == "ranked"
        errors = known(entry.errors)
        assert tuple(entry.timings) == tuple(errors.operations) == NAMES
        assert max(errors.over_bound_of(o) for o in NAMES) <= 1
        for timed in entry.timings.values():
            assert timed.peak_memory is None
            assert known(timed.of_ceiling).median > 0
    assert "24 features" in printed(comparison.whole(run))
    assert "peak" not in printed(comparison.cell_table(run, cell, verbose=True))
    again = record.from_dict(json.loads(record.as_text(record.as_dict(run))))
    assert printed(comparison.whole(again)) == printed(comparison.whole(run))


def without_bias(function: Any) -> Any:
    return lambda *given, linear_bias, **options: function(*given, linear_bias=np.zeros_like(linear_bias), **options)


def wrong_part(part: str, change: Any) -> Any:
    """A decorator that changes one result of the function with the gradients."""

    def decorated(function: Any) -> Any:
        def wrong(*given: Any, **options: Any) -> Any:
            found = operations.TABLE["linear"].results(function(*given, **options))
            return tuple((found | {part: change(found[part])}).values())

        return wrong

    return decorated


@pytest.mark.parametrize(
    "wrong",
    [
        without_bias,
        wrong_part("grad_linear_bias", np.zeros_like),
        wrong_part("grad_hidden", lambda grad: grad / len(grad)),  # of the mean, where that of the sum was asked for
        wrong_part("grad_linear_weight", lambda grad: grad * np.float32(1.001)),
        wrong_part("grad_linear_weight", lambda grad: np.where(np.arange(len(grad))[:, None] < 39, grad, 0)),
        wrong_part("linear_loss", lambda loss: loss + np.float32(1e-3)),
    ],
    ids=["no bias", "no gradient of the bias", "mean", "0.1 % off", "last class left out", "loss"],
)
def test_a_wrong_backend_is_rejected(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sce, "linear_cross_entropy_with_grad", wrong(sce.linear_cross_entropy_with_grad))
    (cell,) = compare.run(plan()).cells
    numpy = cell.entries[0]
    assert numpy.status == "rejected"
    assert known(numpy.errors).over_bound_of("linear") > 1
    assert known(numpy.errors).over_bound_of("linear_forward") <= 1


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda loss, hidden, weight, bias: (loss, 60 * hidden, 60 * weight, 60 * bias), "row 0"),  # not of the mean
        (lambda loss, hidden, weight, bias: (loss, hidden, weight, 0 * bias), "row "),
        (lambda loss, hidden, weight, bias: (loss * 1.01, hidden, weight, bias), "its result is "),
    ],
    ids=["sum", "no gradient of the bias", "loss"],
)
def test_a_wrong_peer_is_rejected(change: Any, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*given: Any) -> Any:
        calls = layers.numpy_linear(*given)
        return calls | {"linear": lambda: change(*calls["linear"]())}  # type: ignore[misc]

    monkeypatch.setitem(peers.BY_NAME, "numpy-written", replace(peers.BY_NAME["numpy-written"], layer=wrong))
    (cell,) = compare.run(plan(peers=("numpy-written",))).cells
    written = cell.entries[-1]
    assert written.status == "rejected"
    assert part in known(written.reason)


def test_peers_that_have_none_of_the_operations_do_not_take_part() -> None:
    assert "torch-linear" not in planning.installed_peers()
    assert not {"sklearn", "scipy"} & set(planning.installed_peers(NAMES))
    assert "numpy-written" in planning.installed_peers(NAMES)


# The products alone


@pytest.mark.parametrize("budget", ["256MiB", 20_000])
def test_the_products_alone_are_those_of_the_last_block(budget: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_BUDGET", budget)
    rng = np.random.default_rng(0)
    hidden, weight = rng.standard_normal((2, 15, 4)), rng.standard_normal((50, 4))
    grads = np.empty_like(hidden), np.empty_like(weight)
    products.call(hidden, weight, grads)()
    np.testing.assert_allclose(grads[0], hidden @ weight.T @ weight, rtol=1e-12)
    x = hidden.reshape(30, 4)
    sums = [(x[start:] @ weight.T).T @ x[start:] for start in range(30)]  # the last block is some of the last rows
    found = [start for start, each in enumerate(sums) if np.allclose(grads[1], each)]
    assert len(found) == 1
    assert (found[0] == 0) == (budget == "256MiB")
    before = grads[1].copy()
    products.call(hidden, weight)()
    np.testing.assert_array_equal(grads[1], before)


# Peak memory


def two_sizes(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    def memory_of(request: Any, planned: Any, make: Any, name: str, operation: str | None = None) -> int | None:
        if name == "cython":
            raise ProcessError("it ended")
        return planned.source.elements * (1 if name == "numpy" else 4)

    monkeypatch.setattr(first_call, "memory_of", memory_of)
    shapes = (SMALL, replace(SMALL, name="wide", classes=80))
    backends = ("numpy", "cython") if "cython" in AVAILABLE else ("numpy",)
    settings: dict[str, Any] = {"cold_start": None, "peers": ("numpy-written",)} | options
    return compare.run(plan(*backends, shapes=shapes, **settings))


def test_peak_memory_is_a_column_and_a_picture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = two_sizes(monkeypatch)
    found = {
        (cell.inputs.classes, entry.name): entry.timings["linear"].peak_memory
        for cell in run.cells for entry in cell.entries if entry.name != "cython"
    }  # fmt: skip
    assert found == {
        (40, "numpy"): 2400, (40, "numpy-written"): 9600, (80, "numpy"): 4800, (80, "numpy-written"): 19_200,
    }  # fmt: skip
    for cell in run.cells:
        for verbose in (False, True):
            text = printed(comparison.cell_table(run, cell, verbose=verbose))
            assert "peak" in text
            assert ("2.4 kB" in text) == ("9.6 kB" in text) == (cell.inputs.classes == 40)
    page = html.page(run)
    assert "Memory of a linear layer" in page
    assert "With 40 classes: numpy 2.4 kB, numpy-written 9.6 kB. With 80 classes: numpy 4.8 kB" in page
    halves = [replace(run, cells=run.cells[:1]), replace(run, cells=run.cells[1:])]
    assert {cell.key for cell in linear_memory.joined(halves).cells} == {cell.key for cell in run.cells}
    linear_memory.draw(linear_memory.joined(halves), tmp_path / "memory.svg")
    assert (tmp_path / "memory.svg").read_text(encoding="utf-8").lstrip().startswith("<?xml")


def test_peak_memory_is_left_out_if_it_is_not_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = two_sizes(monkeypatch, cold_start=False)
    assert "This picture needs several numbers of classes" in html.page(run)
    with pytest.raises(SystemExit, match="no peak memory"):
        linear_memory.draw(run, tmp_path / "memory.svg")
    assert "Memory of a linear layer" not in html.page(compare.run(plan(operations=("fused",))))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of the resident memory as Linux reports it")
def test_the_peak_of_a_fresh_process_tells_blocks_from_all_logits() -> None:
    shape = Shape("tall", 6000, 8192, "196 MB of logits", features=8)
    logits = 6000 * 8192 * 4
    make = known(planning.Source("test", shape, "float32").maker_for_layer())
    options = {"reduction": "mean", "memory": "32MiB"}
    ours = known(peak.measure("numpy", False, make, 1, "linear_forward", options, False))
    theirs = known(peak.measure("numpy-written", True, make, 1, "linear_forward", {}, False))
    assert ours < 48 << 20 < logits < theirs


def test_a_workload_without_logits_takes_no_memory_for_them() -> None:
    shape = Shape("s", 30, 50, "", padding=20, zipf=True, features=3)
    made = workloads.in_memory(workloads.without_logits(shape, "float32"))
    assert (made.logits.shape, made.logits.strides, made.dtype, made.features) == ((30, 50), (0, 0), "float32", 3)
    assert (made.targets.dtype, made.targets.shape, made.targets.max() < 30) == (np.int64, (30,), True)
    for other in (Shape("images", 30, 5, "", inner=(3, 10)), planning.DIGITS):
        assert planning.Source("test", other, "float32").maker_for_layer() is None
    assert planning.Source("test", shape, "float32", soft=True).maker_for_layer() is None


# The record


def test_records_of_version_4_are_read() -> None:
    run = compare.run(plan(operations=("fused",)))
    run.machine = replace(run.machine, blas=None)
    old = json.loads(record.as_text(record.as_dict(run)))
    old["version"] = 4
    del old["machine"]["blas"]
    for cell in old["cells"]:
        del cell["inputs"]["features"]
        for entry in cell["entries"]:
            for timing in entry["timings"].values():
                del timing["peak_memory"]
    assert record.from_dict(old) == run
    assert "blas" not in old["machine"]  # it is left as it was
    for broken in ({"machine": 3}, {"cells": [1]}, {"cells": [{"inputs": 2, "entries": [{"timings": [1]}, None]}]}):
        with pytest.raises(record.RecordError):
            record.from_dict(old | broken)


def test_the_machine_names_its_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("threadpoolctl")
    found = machine.blas()
    assert found is None or found.endswith(" threads") or " " in found
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)  # not installed
    built = machine.blas()
    config: Any = np.show_config(mode="dicts")
    assert known(built).startswith(config["Build Dependencies"]["blas"]["name"])
    monkeypatch.setattr(np, "show_config", lambda mode: {})
    assert machine.blas() is None
