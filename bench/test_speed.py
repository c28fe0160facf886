"""The pytest-benchmark suite: one group a workload, operation and dtype, the backends side by side in it.

``make bench`` measures; under ``make test`` each runs once. Correctness before time: a backend whose
result is wrong on a workload is not timed there.
"""

from functools import cache

import numpy as np
import pytest
import scipy.special

import softmax_ce as sce
from softmax_ce import profile
from softmax_ce.choice import auto, fingerprint
from softmax_ce.choice.profile import where
from softmax_ce_bench.inputs.workloads import SHAPES, synthetic
from softmax_ce_bench.measure import operations


@cache
def _workload(shape, dtype):
    return synthetic(shape, dtype)


@cache
def _reference(shape, dtype, operation):
    """Return what the operation computes, by name, in float64, by SciPy."""
    workload = _workload(shape, dtype)
    x = workload.logits.astype(np.float64)
    at_label = np.arange(len(x)), workload.targets
    loss = scipy.special.logsumexp(x, axis=1) - x[at_label]
    grad = scipy.special.softmax(x, axis=1)
    grad[at_label] -= 1
    p = scipy.special.softmax(x, axis=1)
    right = {"loss": loss, "grad": grad, "hess": p * (1 - p), "lse": scipy.special.logsumexp(x, axis=1)}
    right |= {name: getattr(scipy.special, name)(x, axis=1) for name in ("softmax", "log_softmax")}
    if operations.TABLE[operation].takes_layer:
        return _layer(workload)
    right |= _divergence(x, operations.make_target_logits(workload.logits).astype(np.float64))
    return {part: right[part] for part in operations.TABLE[operation].computes}


def _layer(workload):
    hidden, weight, bias = (each.astype(np.float64) for each in operations.make_layer(workload.logits))
    x = hidden @ weight.T + bias
    at_label = np.arange(len(x)), workload.targets
    grad = scipy.special.softmax(x, axis=1)
    grad[at_label] -= 1
    loss = scipy.special.logsumexp(x, axis=1) - x[at_label]
    found = (loss, grad @ weight, grad.T @ hidden, grad.sum(axis=0))
    return dict(zip((operations.LINEAR_LOSS, *operations.LINEAR_GRADS), found, strict=True))


def _divergence(x, z):
    log_p, log_t = (scipy.special.log_softmax(each, axis=1) for each in (x, z))
    t = np.exp(log_t)
    surprise = np.where(t > 0, log_t, 0) - np.where(t > 0, log_p, 0)
    return {"kl": (t * surprise).sum(axis=1), "kl_grad": np.exp(log_p) - t}


@pytest.mark.parametrize("info", sce.backends(), ids=lambda info: info.name)
@pytest.mark.parametrize("operation", operations.TABLE)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_speed(benchmark, shape, dtype, operation, info):
    if not info.available:
        pytest.skip(f"{info.name}: {info.why_unavailable}")
    workload = _workload(shape, dtype)
    buffers = operations.Buffers(workload.logits, "none")
    options = {"reduction": "none", "backend": info.name}
    call = operations.call(sce, operation, workload.logits, workload.targets, buffers, **options)
    found = call()
    # A sanity check in the units of a user; the error bounds are the correctness suite's matter. A sum over the rows of
    # a layer may be as large as they are many.
    tolerance = 1e-4 if dtype == "float32" else 1e-10
    right = _reference(shape, dtype, operation)
    for part, ours in operations.TABLE[operation].results(found).items():
        if not np.allclose(ours, right[part], rtol=tolerance, atol=tolerance):
            assert not info.stable, f"{info.name} is wrong on {shape.name}"
            pytest.skip(f"{info.name} overflows on {shape.name}: not timed")
    benchmark.group = f"{operation}, {shape.name} {shape.rows} x {shape.classes} {dtype}: {shape.regime}"
    # At least: what is read and written of the logits' size.
    benchmark.extra_info["bytes"] = operations.TABLE[operation].bytes_moved(workload.logits, soft=False)
    benchmark(call)


@pytest.fixture(params=["explicit", "default", "profile"])
def chooser(request, tmp_path, monkeypatch):
    """What the call names: the backend; nothing, where there is no profile; nothing, where there is a large one."""
    monkeypatch.delenv(where.BACKEND_VARIABLE, raising=False)
    monkeypatch.delenv(where.PROFILE_VARIABLE, raising=False)
    monkeypatch.setattr(where, "default_path", lambda: None)
    name = auto.default_name()
    if request.param == "profile":
        shapes = [(rows, classes) for rows in 4 ** np.arange(8) for classes in 10 * 4 ** np.arange(7)]
        measured = (profile.Measured(backend=name, seconds=1e-3), profile.Measured(backend="naive", rejected="wrong"))
        cells = tuple(
            profile.Cell(rows=int(rows), classes=int(classes), dtype="float32", operation=operation, threads=None,
                         winner=name, measured=measured)
            for rows, classes in shapes for operation in operations.LOSSES
        )  # fmt: skip
        made = profile.Profile(fingerprint=fingerprint.collect(), cells=cells, order=("naive", name))
        monkeypatch.setenv(where.PROFILE_VARIABLE, str(profile.save(made, tmp_path / "profile.json")))
    profile.reload()
    yield name if request.param == "explicit" else None
    profile.reload()


# One prediction: the smallest call there is, on which the choice of a backend may cost a microsecond.
def test_dispatch(benchmark, chooser):
    logits, labels = np.linspace(-1, 1, 10, dtype=np.float32).reshape(1, 10), np.zeros(1, np.int64)
    benchmark.group = "dispatch, 1 x 10 float32: automatic choice against a backend named in the call"
    benchmark.extra_info["source"] = sce.explain(logits, labels, backend=chooser).source
    loss, _ = benchmark(sce.cross_entropy_with_grad, logits, labels, backend=chooser)
    assert abs(loss - scipy.special.logsumexp(logits) - 1) < 1e-5
