"""Classes in shards that begin with whole chunks: the results have the bits of one call, for any grouping.

Where shards end elsewhere, the results are within the bounds that hold for one call.
"""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import softmax_ce as sce
from conftest import available
from helpers import run_python
from softmax_ce import registry, shards, threads
from softmax_ce.contract import Backend, ShardKernels
from softmax_ce_bench.truth import oracle

DTYPES = ["float32", "float64", "float16", "bfloat16"]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1},
    "weighted": {"weight": True, "sample_weight": True, "label_smoothing": 0.1, "z_loss": 0.01},
    "z-loss": {"z_loss": 0.1, "reduction": "none"},
    "scaled": {"logit_scale": 0.7, "where": True, "reduction": "sum"},
}


def with_kernels(name: str) -> ShardKernels:
    """Return a backend's kernels for shards, or skip the test."""
    kernels = sce.get_backend(name).shards
    if kernels is None:
        pytest.skip(f"{name} has no kernels for shards")
    return kernels


def dtype_of(name: str) -> Any:
    return pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else np.dtype(name)


def edge_logits(random: np.random.Generator, n_classes: int, dtype: Any) -> Any:
    """Return logits of 13 rows, most of which have infinities, NaN, or huge values in one shard or another."""
    x = (random.standard_normal((13, n_classes)) * 4).astype(np.float32)
    x[0, 3] = np.nan
    x[1, [n_classes // 2, n_classes // 2 + 300]] = np.inf
    x[2] = -np.inf
    x[3, : n_classes // 2] = -np.inf
    x[4, 1] = 3e4
    x[5] = -np.inf
    x[5, -1] = np.nan
    x[6, 2], x[6, -1] = np.inf, np.nan
    x[8] = -3e4
    x[9, [0, -1]] = 100  # a maximum that two shards have
    x[12, [2, 5]] = np.inf, np.nan
    return x.astype(dtype)


def problem_of(kind: str, options: dict[str, Any], n_classes: int, dtype: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Return logits, targets and options with arrays where they are True."""
    random = np.random.default_rng(n_classes)
    x = edge_logits(random, n_classes, dtype)
    arrays = {
        "weight": random.random(n_classes),
        "sample_weight": random.random(13) - 0.3,
        "where": random.random(n_classes) < 0.9,
    }
    arrays["sample_weight"][0] = 0  # of a row with a NaN
    options = {name: arrays[name] if value is True else value for name, value in options.items()}
    if kind == "soft":
        return x, random.random((13, n_classes)).astype(np.float32 if x.itemsize < 4 else x.dtype), options
    y = random.integers(0, n_classes, 13)
    y[7], y[9], y[10:12] = -100, n_classes - 1, [0, n_classes - 1]
    return x, y, options


def in_shards(
    x: Any, t: Any, edges: list[int], order: list[int] | None = None, count: int = 1, **options: Any
) -> tuple[Any, ...]:
    """Return loss, lse, correct, gradient, logsumexp and softmax, computed in shards that are combined in an order."""
    hard, spans = t.ndim == 1, list(itertools.pairwise(edges))
    parts = [
        shards.partial(
            x[:, first:stop], t if hard else t[:, first:stop], first_class=first, n_classes=x.shape[1],
            return_lse=True, return_correct=hard, threads=count, **options,
        ) for first, stop in spans
    ]  # fmt: skip
    pool = parts if order is None else [parts[k] for k in order]
    while len(pool) > 1:
        pool = [*pool[2:], shards.combine(pool[:2])]
    total = pickle.loads(pickle.dumps(pool[0]))
    loss, lse, *correct = shards.loss(total)
    grads = [
        shards.grad(x[:, first:stop], t if hard else t[:, first:stop], total, first_class=first, threads=count)
        for first, stop in spans
    ]
    results = loss, lse, *correct, np.concatenate(grads, axis=1), shards.logsumexp(total)
    if {"where", "logit_scale"} & options.keys():
        return results
    columns = [shards.softmax(x[:, first:stop], total, first_class=first, threads=count) for first, stop in spans]
    return *results, np.concatenate(columns, axis=1)


def in_one_call(x: Any, t: Any, **options: Any) -> tuple[Any, ...]:
    """Return the same results from one call."""
    hard, backend = t.ndim == 1, options["backend"]
    loss, grad, lse, *correct = sce.cross_entropy_with_grad(x, t, return_lse=True, return_correct=hard, **options)
    results = loss, lse, *correct, grad, lse
    if {"where", "logit_scale"} & options.keys():
        return results
    return *results, sce.softmax(x, backend=backend)


def assert_same_bits(found: Any, expected: Any) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one.astype(np.float64), other.astype(np.float64))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_bits_at_whole_chunks_are_those_of_one_call(
    backend: str, kind: str, options: dict[str, Any], dtype: str
) -> None:
    kernels = with_kernels(backend)
    for n_classes in (4100, 9000):
        x, t, filled = problem_of(kind, options, n_classes, dtype_of(dtype))
        chunk = kernels.chunk(n_classes, 8 if dtype == "float64" else 4)
        cuts = [chunk * k for k in range(1, -(-n_classes // chunk))]
        expected = in_one_call(x, t, backend=backend, **filled)
        for edges, order in (([0, *cuts, n_classes], None), ([0, cuts[-1], n_classes], [1, 0])):
            assert_same_bits(in_shards(x, t, edges, order, backend=backend, **filled), expected)
        random = np.random.default_rng(1)
        order = random.permutation(len(cuts) + 1).tolist()
        with threads.sharing_from(1):
            found = in_shards(x, t, [0, *cuts, n_classes], order, count=3, backend=backend, **filled)
        assert_same_bits(found, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [*OPTIONS.values(), {"softcap": 10.0, "where": True}], ids=[*OPTIONS, "capped"])
@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("n_classes", [1, 10, 300])
@pytest.mark.filterwarnings("ignore:overflow", "ignore:divide by zero", "ignore:invalid value")  # naive alone
def test_a_shard_of_all_classes_is_one_call(
    backend: str, n_classes: int, kind: str, options: dict[str, Any], dtype: str
) -> None:
    random = np.random.default_rng(2)
    x = (random.standard_normal((40, n_classes)) * 3).astype(dtype_of(dtype))
    t: Any = random.integers(0, n_classes, 40) if kind == "hard" else random.random(x.shape)
    arrays = {"weight": random.random(n_classes), "sample_weight": random.random(40), "where": x > -3}
    filled: dict[str, Any] = {name: arrays[name] if value is True else value for name, value in options.items()}
    hard = kind == "hard"
    loss, grad, lse, *correct = sce.cross_entropy_with_grad(
        x, t, backend=backend, return_lse=True, return_correct=hard, **filled
    )
    total = shards.partial(
        x, t, first_class=0, n_classes=n_classes, backend=backend, return_lse=True, return_correct=hard, **filled
    )
    found = shards.grad(x, t, shards.combine([total]), first_class=0, where=filled.get("where"))
    assert_same_bits((*shards.loss(total), found), (loss, lse, *correct, grad))
    if filled.keys() <= {"label_smoothing", "weight", "sample_weight", "z_loss", "reduction"}:
        probabilities = shards.softmax(x, total, first_class=0)
        assert_same_bits([probabilities], [sce.softmax(x, backend=backend)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 4999), max_size=4, unique=True), seed=st.integers(0, 99), soft=st.booleans())
def test_any_cuts_are_within_the_bounds_of_one_call(
    backend: str, dtype: str, cuts: list[int], seed: int, soft: bool
) -> None:
    if backend == "naive":
        pytest.skip("it overflows and underflows where shards do not")
    random = np.random.default_rng(seed)
    x = (random.standard_normal((4, 5000)) * random.choice([0.1, 3, 30])).astype(dtype)
    t: Any = random.random(x.shape).astype(dtype) if soft else random.integers(0, 5000, 4)
    options: dict[str, Any] = {"label_smoothing": 0.1, "z_loss": 0.01} if random.random() < 0.5 else {}
    loss, _, *_, grad, lse, softmax = in_shards(
        x, t, [0, *sorted(cuts), 5000], backend=backend, reduction="none", **options
    )
    truth = oracle.evaluate(x, t, **options)
    allowed = oracle.bounds(sce.get_backend(backend).info, truth, dtype)
    for found, right, bound in (
        (loss, truth.loss, allowed.loss),
        (grad, truth.grad, allowed.grad),
        (lse, truth.lse, allowed.lse),
        (softmax, truth.softmax, allowed.softmax),
    ):
        assert oracle.over_bound(found, right, bound) <= 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_with_classes_that_are_left_out_row_by_row(backend: str, dtype: str) -> None:
    kernels = with_kernels(backend)
    x, y, _ = problem_of("hard", {}, 4100, dtype_of(dtype))
    where = np.random.default_rng(6).random(x.shape) < 0.9
    where[4, :3000] = False
    first = kernels.chunk(4100, 8 if dtype == "float64" else 4)
    spans = [(0, first), (first, 4100)]
    total = shards.combine(
        shards.partial(
            x[:, a:b], y, first_class=a, n_classes=4100, where=where[:, a:b], reduction="none", backend=backend
        ) for a, b in spans
    )  # fmt: skip
    grads = [shards.grad(x[:, a:b], y, total, first_class=a, where=where[:, a:b]) for a, b in spans]
    expected = sce.cross_entropy_with_grad(x, y, where=where, reduction="none", backend=backend)
    assert_same_bits((shards.loss(total), np.hstack(grads)), expected)


def test_gradients_in_place_with_an_upstream_gradient(backend: str) -> None:
    kernels = with_kernels(backend)
    random = np.random.default_rng(3)
    x, t, v = random.standard_normal((5, 4100)), random.random((5, 4100)), random.standard_normal(5)
    first = kernels.chunk(4100, 8)
    total = shards.combine(
        shards.partial(x[:, a:b], t[:, a:b], first_class=a, n_classes=4100, reduction="none", backend=backend)
        for a, b in ((0, first), (first, 4100))
    )
    expected = sce.cross_entropy_grad(x, t, reduction="none", grad_output=v, backend=backend)[:, first:]
    over_logits, over_targets = np.array(x[:, first:]), np.array(t[:, first:])
    for logits, targets, out in (
        (over_logits, t[:, first:], over_logits),
        (np.array(x[:, first:]), over_targets, over_targets),
    ):
        shards.grad(logits, targets, total, first_class=first, grad_output=v, grad_out=out)
        np.testing.assert_array_equal(out, expected)


def test_a_partial_is_a_few_numbers_for_each_chunk(backend: str) -> None:
    chunk = with_kernels(backend).chunk(8192, 4)
    x, y = np.zeros((7, 4096), np.float32), np.zeros(7, np.int64)
    cases: tuple[tuple[int, dict[str, Any]], ...] = (2, {}), (4, {"label_smoothing": 0.1})
    for numbers, options in cases:
        part = shards.partial(x, y, first_class=4096, n_classes=8192, backend=backend, **options)
        assert part.pieces[0].chunks.shape == (7, 4096 // chunk, numbers)
        assert len(pickle.dumps(part)) < 2000 + 7 * 8 * (2 * numbers + 2)


def test_numbers_at_odd_addresses_and_without_permission_to_write(backend: str) -> None:
    """Such are those that come over a network."""
    with_kernels(backend)
    random = np.random.default_rng(4)
    x, y = random.standard_normal((6, 4100), np.float32), random.integers(0, 4100, 6)

    def moved(array: Any) -> Any:
        place = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
        place[...] = array
        place.flags.writeable = False
        return place

    def sent(part: shards.Partial) -> shards.Partial:
        pieces = tuple(replace(piece, chunks=moved(piece.chunks)) for piece in part.pieces)
        totals = part.totals and replace(part.totals, sums=moved(part.totals.sums))
        return replace(
            part, pieces=pieces, totals=totals, label_logit=moved(part.label_logit), label_mass=moved(part.label_mass)
        )

    parts = [
        shards.partial(x[:, a:b], y, first_class=a, n_classes=4100, backend=backend)
        for a, b in ((0, 4096), (4096, 4100))
    ]
    total, far = shards.combine(parts), sent(shards.combine(map(sent, parts)))
    assert shards.loss(total) == shards.loss(far)
    np.testing.assert_array_equal(
        shards.grad(x[:, 4096:], y, far, first_class=4096), shards.grad(x[:, 4096:], y, total, first_class=4096)
    )


def test_results_are_the_callers_own() -> None:
    total = shards.partial(np.zeros((2, 3)), [0, 1], first_class=0, n_classes=3, reduction="none")
    shards.loss(total)[:] = 7
    assert (shards.loss(total) != 7).all()


def test_what_does_not_fit_the_total_is_refused(backend: str) -> None:
    def part(first: int, **options: Any) -> shards.Partial:
        return shards.partial(
            np.zeros((2, 4), np.float32), [0, 1], first_class=first, n_classes=8, backend=backend, **options
        )

    total = shards.combine([part(0), part(4)])
    with pytest.raises(ValueError, match="computed in float64, but the total in float32"):
        shards.grad(np.zeros((2, 4)), [0, 1], total, first_class=0)
    with pytest.raises(ValueError, match="computed in float64, but the total in float32"):
        shards.softmax(np.zeros((2, 4)), total, first_class=0)
    with pytest.raises(ValueError, match="one has a where in the shape of its logits"):
        shards.combine([part(0), part(4, where=np.ones((2, 4), bool))])


def test_compiled_kernels_refuse_other_chunks() -> None:
    kernels = with_kernels(available("cython"))
    x, y, one = np.zeros((2, 3000), np.float32), np.zeros(2, np.int64), np.ones(1, np.float32)
    for chunk, shape, message in (
        (1000, (2, 3, 2), "chunks of 2048 classes, not 1000"),
        (2048, (2, 3, 2), "3000 classes do not have 3 chunks"),
        (2048, (2, 2, 3), "2 or 4 numbers for each chunk of 2 rows"),
        (2048, (1, 2, 2), "2 or 4 numbers for each chunk of 2 rows"),
    ):
        with pytest.raises(ValueError, match=message):
            kernels.sums(x, y, None, one, None, 0, chunk, np.empty(shape), np.empty(2), 0, 2)
    with pytest.raises(ValueError, match="4 totals for each of 2 rows"):
        kernels.fold(
            np.zeros((2, 1, 2)), np.zeros(1), np.zeros(1), 0.0, 0.0, np.ones(1), one, one, one, np.empty((2, 3)), 0, 2
        )


STREAMED = """
import numpy as np
import softmax_ce as sce
from softmax_ce import shards
backend, n_classes = {backend!r}, 4100
kernels = sce.get_backend(backend).shards
random = np.random.default_rng(5)
for dtype in (np.float32, np.float64):
    x = (random.standard_normal((9, n_classes)) * 4).astype(dtype)
    x[3, 5] = np.nan
    y = random.integers(0, n_classes, 9)
    y[5] = -100
    soft = random.random(x.shape).astype(dtype)
    first = kernels.chunk(n_classes, x.itemsize)
    for t, options in ((y, {{}}), (y, {{"label_smoothing": 0.1}}), (soft, {{}})):
        spans = [(0, first), (first, n_classes)]
        own = [(np.array(x[:, a:b]), t if t.ndim == 1 else np.array(t[:, a:b]), a) for a, b in spans]
        parts = [shards.partial(*s[:2], first_class=s[2], n_classes=n_classes, backend=backend, **options) for s in own]
        total = shards.combine(parts)
        places = [np.empty(s[0].size + 3, dtype)[k:][: s[0].size].reshape(s[0].shape) for k, s in enumerate(own, 1)]
        for s, place in zip(own, places):  # where lines begin differs
            shards.grad(*s[:2], total, first_class=s[2], grad_out=place)
        loss, grad = sce.cross_entropy_with_grad(x, t, backend=backend, **options)
        np.testing.assert_array_equal(shards.loss(total), loss)
        np.testing.assert_array_equal(np.hstack(places), grad)
print("same")
"""


@pytest.mark.parametrize("stream_from", ["1", str(1 << 40)], ids=["streamed", "cached"])
@pytest.mark.parametrize("isa", ["avx512", "avx2", "baseline"])
def test_no_bit_depends_on_streaming(isa: str, stream_from: str) -> None:
    if isa not in sce.get_backend(available("cython")).details:
        pytest.skip(f"this CPU cannot run {isa}")
    code = STREAMED.format(backend="cython")
    assert run_python(code, SOFTMAX_CE_ISA=isa, SOFTMAX_CE_STREAM_BYTES=stream_from).strip() == "same"


def test_no_bit_of_numba_depends_on_streaming() -> None:
    code = STREAMED.format(backend=available("numba"))
    assert run_python(code, SOFTMAX_CE_STREAM_BYTES="1").strip() == "same"


# Wrong ways to fold


def _other_order(chunks: Any) -> Any:
    return chunks[:, ::-1]


def _a_maximum_lost(chunks: Any) -> Any:
    chunks = chunks.copy()
    chunks[:, 1, 1] -= 1
    return chunks


def _relative_to_one_maximum(chunks: Any) -> Any:
    chunks = chunks.copy()
    chunks[:, :, 0] = chunks[:, :1, 0]
    return chunks


def _nan_lost(chunks: Any) -> Any:
    return np.nan_to_num(chunks)


def _in_float32(chunks: Any) -> Any:
    return chunks.astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("wrong", [_other_order, _a_maximum_lost, _relative_to_one_maximum, _nan_lost, _in_float32])
def test_a_wrong_fold_is_noticed(backend: str, wrong: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = with_kernels(backend)
    x, y, _ = problem_of("hard", {}, 9000, np.dtype(np.float64))
    options: dict[str, Any] = {"backend": backend, "label_smoothing": 0.1, "reduction": "none"}
    step = kernels.chunk(9000, 8)
    edges = [*range(0, 9000, step), 9000]
    expected = in_one_call(x, y, **options)
    assert_same_bits(in_shards(x, y, edges, **options), expected)

    def fold(chunks: Any, *others: Any) -> None:
        kernels.fold(np.ascontiguousarray(wrong(chunks)), *others)

    own: Backend = sce.get_backend(backend)
    monkeypatch.setitem(registry._loaded, backend, replace(own, shards=replace(kernels, fold=fold)))
    with pytest.raises(AssertionError):
        assert_same_bits(in_shards(x, y, edges, **options), expected)
