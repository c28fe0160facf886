"""The losses on Dask arrays: the numbers of one call, for any chunks, on any scheduler, when a worker dies too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import softmax_ce as sce
from problems import assert_close, random_problem

dask = pytest.importorskip("dask", reason="Dask is not installed: pip install 'softmax-ce[dask]'")
da = pytest.importorskip("dask.array")

from softmax_ce import dask as sce_dask  # noqa: E402
from softmax_ce import shards  # noqa: E402


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_chunks_give_the_results_of_one_call(dtype: str) -> None:
    for seed in range(60):
        problem, random = random_problem(seed, dtype), np.random.default_rng(seed)
        chunks = tuple(int(random.integers(1, length + 1)) for length in problem.logits.shape)
        x = da.from_array(problem.logits, chunks=chunks)
        expected = sce.cross_entropy_with_grad(problem.logits, problem.targets, **problem.options)
        lazy = sce_dask.cross_entropy_with_grad(x, problem.targets, **problem.options)
        assert lazy[1].chunks == x.chunks
        for found, lazily, wanted in zip(dask.compute(*lazy, scheduler="threads"), lazy, expected, strict=True):
            assert lazily.dtype == wanted.dtype
            assert lazily.shape == np.shape(wanted)
            assert_close(found, wanted, dtype)
        alone = sce_dask.cross_entropy(x, problem.targets, **problem.options).compute(scheduler="threads")
        assert_close(alone, expected[0], dtype)


def test_normalizers() -> None:
    random = np.random.default_rng(0)
    values = random.standard_normal((6, 9, 4))
    values[0, :, 0], values[1, 3, 1] = -np.inf, np.nan
    x = da.from_array(values, chunks=(2, 4, 3))
    for axis in range(3):
        found = dask.compute(sce_dask.softmax(x, axis), sce_dask.logsumexp(x, axis), scheduler="threads")
        assert_close(found[0], sce.softmax(values, axis), "float64")
        assert_close(found[1], sce.logsumexp(values, axis), "float64")


def test_a_class_axis_in_the_middle_with_an_upstream_gradient() -> None:
    random = np.random.default_rng(1)
    values, labels = random.standard_normal((4, 5, 6)).astype(np.float32), random.integers(0, 5, (4, 6))
    upstream = random.standard_normal((4, 6))
    x = da.from_array(values, chunks=(2, 2, 3))
    how = {"axis": 1, "reduction": "none", "grad_output": upstream}
    found = dask.compute(*sce_dask.cross_entropy_with_grad(x, labels, **how), scheduler="threads")  # type: ignore[arg-type]
    expected = sce.cross_entropy_with_grad(values, labels, **how)  # type: ignore[call-overload]
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, "float32")


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_no_row_counts(reduction: Any) -> None:
    x = da.from_array(np.ones((4, 3)), chunks=(2, 2))
    found = dask.compute(
        *sce_dask.cross_entropy_with_grad(x, np.full(4, -100), reduction=reduction, on_empty="zero"), scheduler="sync"
    )
    assert found[0] == 0
    assert (found[1] == 0).all()


def test_on_empty_raise_is_an_error_of_the_task() -> None:
    x = da.from_array(np.ones((4, 3)), chunks=(2, 2))
    with pytest.raises(ValueError, match="no row counts towards the mean"):
        sce_dask.cross_entropy(x, np.full(4, -100), on_empty="raise").compute(scheduler="sync")


FAR_APART = [1e-50, 1.0, 1e40, 1.0]
CANCEL = [0.1, 0.2, 0.7, -0.2, -0.7, -0.1 + 2.0**-40]


@pytest.mark.parametrize("is_lazy", [False, True])
@pytest.mark.parametrize("chunks", [(2, 4), (4, 3)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("labels", "options"),
    [
        ([0, 0, 0, 0, 0, 0], {"weight": FAR_APART}),
        ([0, 1, 2, 0, 1, -100], {"weight": FAR_APART, "label_smoothing": 0.1}),
        ([0, 0, 1, 1, 2, 3], {"sample_weight": [1e308, 1.5e308, 1.7e308, 1e308, 1e-308, 1.0]}),
        ([0, 0, 1, 1, 2, 3], {"sample_weight": [1e-320, 2e-320, 3e-320, 1e-320, 0.0, 1e-320]}),
        ([0, 1, 2, 3, 2, 1], {"sample_weight": CANCEL}),
        ([0, 1, 2, 3, 2, 1], {"sample_weight": CANCEL, "weight": [1.0, -2.0, 3.0, 1.0], "label_smoothing": 0.1}),
        ([0, 1, 2, 3, 2, 1], {"weight": [-1.0, -2.0, -3.0, -1.0], "z_loss": 0.1}),
        ([0, 1, 2, 3, 2, -100], {"weight": [-5.0, 2.0, 1.0, -1.0], "z_loss": 0.1, "label_smoothing": 0.1}),
        (None, {"weight": [-5.0, 2.0, 1.0, -1.0], "sample_weight": CANCEL, "z_loss": 0.1}),
    ],
)
def test_a_mean_is_that_of_one_call_whatever_its_weights(
    labels: Any, options: dict[str, Any], dtype: str, chunks: tuple[int, int], is_lazy: bool
) -> None:
    random = np.random.default_rng(3)
    values = random.standard_normal((6, 4)).astype(dtype)
    targets = random.dirichlet(np.ones(4), 6) if labels is None else np.array(labels)
    expected = sce.cross_entropy_with_grad(values, targets, **options)
    if is_lazy:
        targets = da.from_array(targets, chunks=chunks[: targets.ndim])
        if "sample_weight" in options:
            options = options | {"sample_weight": da.from_array(np.array(options["sample_weight"]), chunks=chunks[0])}
    x = da.from_array(values, chunks=chunks)
    found = dask.compute(*sce_dask.cross_entropy_with_grad(x, targets, **options), scheduler="sync")
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, dtype)
        assert np.any(one)


def test_weights_that_sum_to_0_over_all_blocks_leave_no_row() -> None:
    x = da.from_array(np.ones((4, 3)), chunks=(1, 3))
    weights = da.from_array(np.array([0.1, 0.2, -0.1, -0.2]), chunks=1)
    loss, grad = sce_dask.cross_entropy_with_grad(x, np.zeros(4, int), sample_weight=weights, on_empty="zero")
    found = dask.compute(loss, grad, scheduler="sync")
    assert found[0] == 0
    assert (found[1] == 0).all()


def test_losses_whose_sum_leaves_the_range_have_the_mean_of_one_call() -> None:
    values = np.array([[1.5e308, 0.0]] * 4)
    x = da.from_array(values, chunks=(2, 2))
    loss = sce_dask.cross_entropy(x, np.ones(4, int))
    assert loss.compute(scheduler="sync") == sce.cross_entropy(values, np.ones(4, int)) == 1.5e308


@pytest.mark.parametrize("chunks", [(2, 3), (2, 2)])
def test_whole_rows_have_the_bits_of_one_call(chunks: tuple[int, int]) -> None:
    random = np.random.default_rng(4)
    values, labels = random.standard_normal((7, 3)).astype(np.float32), np.array([0, 1, -100, 2, 0, 1, 1])
    loss, grad = sce_dask.cross_entropy_with_grad(da.from_array(values, chunks=chunks), labels, reduction="none")
    expected = sce.cross_entropy_with_grad(values, labels, reduction="none")
    found = dask.compute(loss, grad, scheduler="sync")
    for one, other in zip(found, expected, strict=True):
        if chunks[1] == 3:
            np.testing.assert_array_equal(one, other)
        assert_close(one, other, "float32")


def test_a_block_of_whole_rows_is_three_tasks() -> None:
    x = da.ones((64, 3), chunks=(4, 3))
    loss, grad = sce_dask.cross_entropy_with_grad(x, np.zeros(64, int))
    graph = dict(loss.dask) | dict(grad.dask)
    names = Counter(dask.utils.key_split(key) for key in graph if key not in dict(x.dask))
    one_each = dict.fromkeys(("softmax_ce-loss-and-grad", "softmax_ce-part", "softmax_ce-grad"), 16)
    assert names == one_each | {"softmax_ce-loss": 1}


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"logits": np.ones((4, 3))}, TypeError, "must be a dask.array.Array"),
        ({"targets": np.zeros(3, int)}, ValueError, r"targets of shape \(3,\) does not fit"),
        ({"targets": da.zeros(4, dtype=int, chunks=1)}, ValueError, "must be chunked as the logits are"),
        ({"axis": 2}, ValueError, "axis 2 is out of range"),
        ({"reduction": "max"}, ValueError, "reduction='max' is not known"),
        ({"denominator": 2.0, "reduction": "sum"}, ValueError, "denominator goes with"),
        ({"denominator": -2.0}, ValueError, "denominator must be finite and above 0"),
        ({"return_lse": True}, TypeError, "return_lse is no option here"),
        ({"sample_weight": np.ones(5)}, ValueError, "sample_weight of shape"),
        ({"sample_weight": np.full(4, np.nan)}, ValueError, "sample_weight must be finite"),
        ({"weight": np.ones(4)}, ValueError, r"weight must have shape \(3,\)"),
        ({"targets": np.array([0, 1, 3, 0])}, IndexError, "3"),
        ({"targets": np.array([0, 1, 3, 0]), "reduction": "sum"}, IndexError, "3"),
        ({"label_smoothing": 2.0}, ValueError, "label_smoothing must be in"),
        ({"targets": np.full(4, -100), "on_empty": "raise"}, ValueError, "no row counts towards the mean"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(change: dict[str, Any], kind: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"logits": da.ones((4, 3), chunks=(2, 2)), "targets": np.zeros(4, int)}
    with pytest.raises(kind, match=message):
        sce_dask.cross_entropy(**(arguments | change))


def test_no_task_holds_more_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    partial = shards.partial

    def watched(x: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal largest
        largest = max(largest, x.size)
        return partial(x, *arguments, **options)

    monkeypatch.setattr(shards, "partial", watched)
    x = da.random.default_rng(0).standard_normal((64, 64), chunks=(8, 16))
    sce_dask.cross_entropy(x, np.zeros(64, int)).compute(scheduler="sync")
    assert largest == 8 * 16


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_gives_the_same_bits(tmp_path: Path) -> None:
    """An array four times the workers' memory, from a memory map; a worker is killed in the middle."""
    distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
    n_rows, n_classes = 16_384, 8192  # 512 MiB of float32
    path = tmp_path / "logits.npy"
    stored = np.lib.format.open_memmap(path, "w+", np.float32, (n_rows, n_classes))
    random = np.random.default_rng(0)
    for first in range(0, n_rows, 1024):
        stored[first : first + 1024] = random.standard_normal((1024, n_classes), np.float32)
    stored.flush()
    labels = random.integers(0, n_classes, n_rows)

    def lazy() -> Any:
        blocks = [
            [
                da.from_delayed(_read(path, first, begin), (1024, 2048), np.float32)
                for begin in range(0, n_classes, 2048)
            ]
            for first in range(0, n_rows, 1024)
        ]
        loss, grad = sce_dask.cross_entropy_with_grad(da.block(blocks), labels, label_smoothing=0.1)
        return loss, (grad * grad).sum()

    expected = dask.compute(*lazy(), scheduler="sync")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit="256MiB", protocol="tcp://", dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        futures = client.compute(lazy())
        victim = next(iter(cluster.workers.values())).pid
        deadline = time.monotonic() + 60
        while not any(client.has_what().values()) and time.monotonic() < deadline:  # until the first results are there
            time.sleep(0.01)
        os.kill(victim, signal.SIGKILL)
        assert tuple(client.gather(futures)) == expected
    whole = sce.cross_entropy(np.asarray(stored), labels, label_smoothing=0.1)
    assert_close(expected[0], whole, "float32")


def _read(path: Path, first: int, begin: int) -> Any:
    return dask.delayed(_block, pure=True)(str(path), first, begin)


def _block(path: str, first: int, begin: int) -> Any:
    return np.array(np.load(path, mmap_mode="r")[first : first + 1024, begin : begin + 2048])


@pytest.mark.slow
def test_a_zarr_array_larger_than_the_workers_of_a_cluster_over_tcp(tmp_path: Path) -> None:
    """A scheduler and two workers started from the command line: 512 MiB of logits on two workers of 192 MiB."""
    distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
    zarr = pytest.importorskip("zarr", reason="Zarr is not installed")
    n_rows, n_classes, rows = 16_384, 8192, 512
    random = np.random.default_rng(0)
    stored = zarr.open_array(
        str(tmp_path / "logits.zarr"), mode="w", shape=(n_rows, n_classes), chunks=(rows, n_classes), dtype="float32"
    )
    for first in range(0, n_rows, rows):
        stored[first : first + rows] = random.standard_normal((rows, n_classes), np.float32)
    labels = random.integers(0, n_classes, n_rows)

    loss, grad = sce_dask.cross_entropy_with_grad(da.from_zarr(str(tmp_path / "logits.zarr")), labels)
    saved = grad.to_zarr(str(tmp_path / "grad.zarr"), compute=False)
    with command_line_cluster(tmp_path / "scheduler.json", "192MiB") as address, distributed.Client(address) as client:
        client.wait_for_workers(2, timeout=60)
        found = client.gather(client.compute([loss, saved]))[0]
        shown = client.run_on_scheduler(lambda dask_scheduler: set(dask_scheduler.task_prefixes))
    assert any("softmax_ce-loss-and-grad" in name for name in shown)
    assert "softmax_ce-loss" in shown
    assert found == loss.compute(scheduler="sync")
    result = zarr.open_array(str(tmp_path / "grad.zarr"), mode="r")
    for first in (0, n_rows - rows):
        block = slice(first, first + rows)
        expected = sce.cross_entropy_with_grad(stored[block], labels[block], denominator=n_rows)[1]
        np.testing.assert_array_equal(result[block], expected)


@contextmanager
def command_line_cluster(file: Path, memory: str) -> Iterator[str]:
    """Start a scheduler and two workers on the loopback address, and yield the scheduler's address."""
    dask_command = (sys.executable, "-m", "dask")
    local = ("--host", "127.0.0.1", "--no-dashboard")
    scheduler = ["scheduler", *local, "--port", "0", "--scheduler-file", str(file)]
    worker = ["worker", *local, "--scheduler-file", str(file), "--nthreads", "1", "--memory-limit", memory]
    with ExitStack() as stack:
        for command in (scheduler, worker, worker):
            started = subprocess.Popen(
                [*dask_command, *command], cwd=file.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            process = stack.enter_context(started)
            stack.callback(process.terminate)
        deadline = time.monotonic() + 60
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        yield json.loads(file.read_text(encoding="utf-8"))["address"]


def test_what_the_caller_changes_later_does_not_matter() -> None:
    x, y, w = np.random.default_rng(0).standard_normal((12, 5)), np.arange(12) % 5, np.ones(12)
    expected = sce.cross_entropy(x, y, sample_weight=w)
    loss = sce_dask.cross_entropy(da.from_array(x, chunks=(4, 5)), y, sample_weight=w)
    y[:6], w[:6] = -100, 3.0
    assert abs(float(loss.compute(scheduler="sync")) - expected) < 1e-14
