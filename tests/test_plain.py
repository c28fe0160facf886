"""The short path: it is taken, gives the full path's bits, and leaves to that path whatever is not plain."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import softmax_ce as sce
from conftest import available
from softmax_ce import checks, evaluation, registry
from softmax_ce.choice import auto
from softmax_ce.contract import ROW_ELEMENTS
from softmax_ce.reduction import numpy_total, total_of
from softmax_ce.threads import sharing_from
from softmax_ce.tuning import NUMPY_BLOCK_ELEMENTS

FUNCTIONS = (sce.cross_entropy, sce.cross_entropy_with_grad, sce.cross_entropy_grad)
NORMALISERS = (sce.softmax, sce.log_softmax, sce.logsumexp)
DTYPES = {name: np.dtype(name) for name in ("float32", "float64", "float16")} | {
    "bfloat16": np.dtype(ml_dtypes.bfloat16)
}


def problem(rows: int, classes: int, dtype: Any = np.float32, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(rows, classes)) * 9).astype(dtype)
    return logits, rng.integers(0, classes, rows)


@contextmanager
def full_calls() -> Iterator[list[str]]:
    """What took the full path meanwhile: it alone checks logits in Python."""
    found: list[str] = []
    real = checks.check_logits

    def spied(logits: Any, axis: Any, name: str = "logits") -> Any:
        found.append(name)
        return real(logits, axis, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "check_logits", spied)
        yield found


def in_short(function: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[Any, ...]:
    """The results, by the short path alone."""
    with full_calls() as full:
        result = function(*arguments, **options)
    assert not full, "the full path was taken"
    return parts(result)


def leave_to_the_full_path(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(auto, "fixed", None)
    patch.setattr(auto, "at_once", lambda *_: None)
    patch.setattr(registry, "loaded", lambda _: None)


def in_full(function: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[Any, ...]:
    """The results of the full path."""
    with pytest.MonkeyPatch.context() as patch, full_calls() as full:
        leave_to_the_full_path(patch)
        result = function(*arguments, **options)
    assert full
    return parts(result)


def parts(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


def assert_same(short: tuple[Any, ...], full: tuple[Any, ...]) -> None:
    """The same bits in the same form; of NaN, that it is one."""
    for one, other in zip(short, full, strict=True):
        assert (type(one), one.dtype, one.shape) == (type(other), other.dtype, other.shape)
        kind = f"u{one.dtype.itemsize}"
        both_nan = np.isnan(np.asarray(one, np.float64)) & np.isnan(np.asarray(other, np.float64))
        equal = np.asarray(one).view(kind) == np.asarray(other).view(kind)
        assert (equal | both_nan).all(), (one, other)


def has_short_calls(name: str) -> bool:
    return sce.get_backend(name).short is not None


NO_SHORT_CALLS = [pytest.param("", marks=pytest.mark.skip("no backend here has short calls"))]
SHORT = [name for name in registry.names() if registry.is_available(name) and has_short_calls(name)]


@pytest.fixture(params=SHORT or NO_SHORT_CALLS)
def shortest(request: pytest.FixtureRequest) -> str:
    """Each backend that has a short path of its own."""
    return available(request.param)


PLAIN = [name for name in registry.names() if registry.is_available(name) and sce.get_backend(name).plain is not None]


@pytest.fixture(params=PLAIN)
def plainest(request: pytest.FixtureRequest) -> str:
    """Each backend that has a plain call of its own."""
    return available(request.param)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1), (1, 10), (3, 7), (17, 33), (64, 10), (2, 5000), (1000, 3)])
def test_bits_of_the_full_path(backend: str, shape: tuple[int, int], dtype: Any) -> None:
    logits, targets = problem(*shape, dtype)
    if shape[0] > 2:
        logits[1, 0] = np.nan
        logits[2] = -np.inf
    for function, reduction in itertools.product(FUNCTIONS, ("mean", "sum", "none")):
        options = {"reduction": reduction, "backend": backend}
        found = in_short(function, logits, targets, **options)
        assert_same(found, in_full(function, logits, targets, **options))


def test_buffers_are_the_results(backend: str) -> None:
    logits, targets = problem(5, 12)
    out, grad = np.empty((), np.float32), np.empty_like(logits)
    loss, found = in_short(
        sce.cross_entropy_with_grad, logits, targets, out=out, grad_out=grad, threads=1, backend=backend
    )
    assert loss is out
    assert found is grad
    expected = in_full(sce.cross_entropy_with_grad, logits, targets, backend=backend)
    assert out == expected[0]
    np.testing.assert_array_equal(grad, expected[1])


def unpickled(array: Any) -> Any:
    """The same array with a dtype that is equal and another object."""
    twin = pickle.loads(pickle.dumps(array))
    assert twin.dtype == array.dtype
    assert twin.dtype is not array.dtype
    return twin


def joined(word: str) -> str:
    """A string that is equal and another object."""
    twin = "".join(list(word))
    assert twin is not word
    return twin


# Each is the default, as another object or of another type.
TWINS: list[dict[str, Any]] = [
    {"z_loss": float("0")}, {"z_loss": 0}, {"z_loss": -0.0}, {"z_loss": np.float64(0)}, {"z_loss": np.float32(0)},
    {"z_loss": np.int8(0)}, {"z_loss": False}, {"label_smoothing": float("0")}, {"label_smoothing": 0},
    {"label_smoothing": np.float64(0)}, {"label_smoothing": np.longdouble(0)}, {"ignore_index": int("-100")},
    {"ignore_index": np.int64(-100)}, {"ignore_index": np.int16(-100)}, {"ignore_index": -1},
    {"on_empty": joined("nan")}, {"on_empty": "zero"}, {"on_empty": "raise"}, {"reduction": joined("mean")},
    {"axis": int("-1")}, {"axis": 1}, {"axis": np.int64(-1)}, {"axis": np.int8(1)}, {"return_lse": np.False_},
    {"return_lse": 0}, {"threads": 1}, {"threads": 2}, {"threads": 1000}, {"threads": np.int64(2)}, {"threads": True},
    dict.fromkeys(("weight", "sample_weight", "denominator", "grad_output", "out", "grad_out", "lse_out", "threads")),
    {
        "weight": None, "sample_weight": None, "ignore_index": -100, "label_smoothing": 0.0, "z_loss": 0.0,
        "reduction": "mean", "denominator": None, "on_empty": "nan", "axis": -1, "grad_output": None,
        "return_lse": False, "threads": None, "out": None, "grad_out": None, "lse_out": None,
    },
]  # fmt: skip


def shown(options: dict[str, Any]) -> str:
    return ",".join(f"{name}={value!r}" for name, value in options.items()) if len(options) < 3 else "all"


@pytest.mark.parametrize("options", TWINS, ids=shown)
def test_what_equals_a_default_is_the_default(options: dict[str, Any], backend: str) -> None:
    logits, targets = problem(3, 5)
    right = in_short(sce.cross_entropy_with_grad, logits, targets, backend=backend)
    assert_same(in_short(sce.cross_entropy_with_grad, logits, targets, backend=joined(backend), **options), right)
    if "grad_output" not in options:
        options = {name: value for name, value in options.items() if name != "grad_out"}
        assert_same(in_short(sce.cross_entropy, logits, targets, backend=backend, **options), right[:1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_equals_a_dtype_is_that_dtype(dtype: Any, backend: str) -> None:
    logits, targets = problem(3, 5, dtype)
    right = in_short(sce.cross_entropy_with_grad, logits, targets, backend=backend)
    for twin in (unpickled, lambda array: array.astype(array.dtype.newbyteorder("="))):
        x, y, grad, out = (twin(array) for array in (logits, targets, np.empty_like(logits), np.empty((), dtype)))
        assert_same(in_short(sce.cross_entropy_with_grad, x, y, backend=backend), right)
        found = in_short(sce.cross_entropy_with_grad, x, y, backend=backend, grad_out=grad, out=out)
        assert found[0] is out
        assert found[1] is grad
        assert out == right[0]
        np.testing.assert_array_equal(grad, right[1])


def test_an_unpickled_option_is_that_option(shortest: str) -> None:
    logits, targets = problem(6, 5, np.float16)
    options = {"weight": np.arange(1.0, 6), "sample_weight": np.arange(6, dtype=np.float32), "backend": shortest}
    right = in_short(sce.cross_entropy_with_grad, logits, targets, **options)
    again = {name: unpickled(value) if isinstance(value, np.ndarray) else value for name, value in options.items()}
    assert_same(in_short(sce.cross_entropy_with_grad, unpickled(logits), unpickled(targets), **again), right)
    for reduction in ("sum", "none"):
        assert_same(
            in_short(sce.cross_entropy, logits, targets, reduction=joined(reduction), **options),
            in_full(sce.cross_entropy, logits, targets, reduction=reduction, **options),
        )


@st.composite
def plain_calls(draw: st.DrawFn) -> tuple[Any, Any, Any, dict[str, Any], dict[str, str]]:
    """A loss function, logits, targets and options that the short path takes; buffers by dtype."""
    outer = tuple(draw(st.lists(st.integers(1, 9), max_size=3)))
    classes = draw(st.one_of(st.integers(1, 12), st.sampled_from((33, 80))))  # 2**16 elements are cast at most
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    logits = (rng.normal(size=(*outer, classes)) * draw(st.sampled_from((0.1, 5.0, 300.0)))).astype(dtype)
    for special in draw(st.lists(st.sampled_from((np.nan, np.inf, -np.inf, -np.inf)), max_size=2)):
        logits.flat[rng.integers(logits.size)] = special
    options: dict[str, Any] = {"ignore_index": draw(st.sampled_from((-100, -1, 0, 2, 400, np.int64(0))))}
    if draw(st.booleans()):
        kind = draw(st.sampled_from(("int64", "int64", "int32", "uint8", "int8", ">i8", ">i2")))
        targets = np.asarray(rng.integers(0, min(classes, 127), outer))
        if draw(st.booleans()) and -128 <= options["ignore_index"] < 128 and "u" not in kind:
            targets[rng.random(outer) < 0.3] = options["ignore_index"]
        targets = targets.astype(kind)
    else:
        options["ignore_index"] = -abs(int(options["ignore_index"])) - 1
        kinds = ("float32", "float64") if dtype == np.float64 else tuple(DTYPES)
        targets = rng.random((*outer, classes)).astype(DTYPES[draw(st.sampled_from(kinds))])
    numbers = st.sampled_from((0.0, 0.1, 1, np.float32(0.3), np.int64(1), True))
    vectors = st.sampled_from(("float32", "float64", "int64", "bool", ">i4"))
    for name, value in {
        "label_smoothing": numbers, "z_loss": numbers, "return_lse": st.booleans(),
        "reduction": st.sampled_from(("mean", "sum", "none")), "on_empty": st.sampled_from(("nan", "zero")),
    }.items():  # fmt: skip
        if draw(st.booleans()):
            options[name] = draw(value)
    scale = 10.0 ** draw(st.sampled_from((0, 0, -40, 40, -320, 300)))  # beyond what float32 holds, and float64's end
    for name, shape in (("weight", (classes,)), ("sample_weight", outer)):
        if draw(st.booleans()):
            weights = np.asarray(rng.integers(0, 4, shape) * rng.random(shape))
            weights.flat[0] = draw(st.sampled_from((1, 1, 0)))
            weights[...] *= draw(st.sampled_from((1, 1, 1, 1, 0)))  # no row counts
            wanted = draw(vectors)
            options[name] = np.asarray(weights * (scale if wanted == "float64" else 3)).astype(wanted)
    reduction = options.get("reduction", "mean")
    if reduction == "mean" and draw(st.booleans()):
        options["denominator"] = draw(st.sampled_from((2.5, 7, np.float32(0.1))))
    function = draw(st.sampled_from(FUNCTIONS))
    if function is not sce.cross_entropy and draw(st.booleans()):
        options["grad_output"] = draw(st.sampled_from((2.0, -3, np.float32(0.1), np.inf)))
        if reduction == "none" and draw(st.booleans()):
            options["grad_output"] = np.asarray(10 * rng.normal(size=outer)).astype(draw(vectors))
    native = "float64" if dtype == np.float64 else "float32"
    buffers = {}
    if draw(st.booleans()) and function is not sce.cross_entropy_grad:
        buffers["out"] = native
    if draw(st.booleans()) and function is not sce.cross_entropy:
        buffers["grad_out"] = draw(st.sampled_from((str(dtype), native, "in place")))
    if draw(st.booleans()):
        buffers["lse_out"] = native
    return function, logits, targets, options, buffers


def buffered(logits: Any, options: dict[str, Any], buffers: dict[str, str]) -> tuple[Any, dict[str, Any]]:
    """Logits of one's own, and the options with new buffers."""
    own = logits.copy()
    shapes = {"out": logits.shape[:-1] if options.get("reduction") == "none" else (), "grad_out": logits.shape}
    made = {
        name: own if dtype == "in place" else np.full(shapes.get(name, logits.shape[:-1]), 7, DTYPES[dtype])
        for name, dtype in buffers.items()
    }
    return own, {**options, **made}


@settings(max_examples=600)
@given(call=plain_calls())
@pytest.mark.parametrize("name", SHORT)
def test_every_option_s_bits_are_those_of_the_full_path(call: Any, name: str) -> None:
    function, logits, targets, options, buffers = call
    own, full_options = buffered(logits, options, buffers)
    full = in_full(function, own, targets, **full_options, backend=name)
    own, short_options = buffered(logits, options, buffers)
    short = in_short(function, own, targets, **short_options, backend=name)
    assert_same(short, full)
    given_buffers = [short_options[buffer] for buffer in ("out", "grad_out", "lse_out") if buffer in buffers]
    assert all(any(buffer is part for part in short) for buffer in given_buffers)


@st.composite
def plain_normalisers(draw: st.DrawFn) -> tuple[Any, Any, Any, Any]:
    shape = tuple(draw(st.lists(st.integers(1, 40), min_size=1, max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    x = (rng.normal(size=shape) * 20).astype(DTYPES[draw(st.sampled_from(sorted(DTYPES)))])
    for special in draw(st.lists(st.sampled_from((np.nan, np.inf, -np.inf)), max_size=2)):
        x[rng.integers(shape[0])] = special
    axis = draw(st.sampled_from((-1, x.ndim - 1, np.int64(-1))))
    return draw(st.sampled_from(NORMALISERS)), x, axis, draw(st.sampled_from(("new", "buffer", "in place")))


@settings(max_examples=300)
@given(call=plain_normalisers(), threads=st.sampled_from((None, 1, 2, np.int32(7))))
@pytest.mark.parametrize("name", SHORT)
def test_normalisers_have_the_bits_of_the_full_path(call: Any, threads: Any, name: str) -> None:
    function, x, axis, room = call
    native = np.float64 if x.dtype == np.float64 else np.float32
    if room == "in place" and function is sce.logsumexp:
        room = "new"
    results = []
    for path in (in_full, in_short):
        own = x.copy()
        shape, dtype = (x.shape[:-1], native) if function is sce.logsumexp else (x.shape, x.dtype)
        out = {"new": None, "in place": own, "buffer": np.empty(shape, dtype)}[room]
        results.append(path(function, own, axis, out=out, threads=threads, backend=name))
        assert out is None or results[-1][0] is out
    assert_same(*results)


def test_size_decides(backend: str) -> None:
    """Work that threads may share is left to the full path, and so is what a test wants shared."""
    most = sce.get_backend(backend).info.serial_elements
    classes = 100
    rows = most // (classes + ROW_ELEMENTS) + 1
    for count, is_full in ((rows - 1, False), (rows, True)):
        if (rows - 1) * (classes + ROW_ELEMENTS) == most:
            continue
        logits, targets = problem(count, classes)
        with full_calls() as full:
            sce.cross_entropy(logits, targets, backend=backend)
        assert bool(full) == is_full
    with full_calls() as full, sharing_from(1000):
        sce.cross_entropy(*problem(10, 76), backend=backend)
    assert full == ["logits"]


@pytest.mark.parametrize("threads", [1, np.int64(1), True])
def test_one_thread_takes_larger_calls(threads: Any, backend: str) -> None:
    """No other thread would share them; the compiled short path keeps to its limit."""
    if has_short_calls(backend):
        pytest.skip("it has a short path in C")
    logits, targets = problem(2000, 100)
    options = {"backend": backend, "threads": threads}
    for x in (logits, logits.astype(np.float64)):
        found = in_short(sce.cross_entropy_with_grad, x, targets, **options)
        assert_same(found, in_full(sce.cross_entropy_with_grad, x, targets, **options))
    with full_calls() as full:
        rows = max(NUMPY_BLOCK_ELEMENTS, sce.get_backend(backend).info.serial_elements) // (100 + ROW_ELEMENTS) + 1
        sce.cross_entropy(*problem(rows, 100), **options)
    assert full


def buffers_that_are_not_plain() -> Iterator[tuple[str, Any, Any, dict[str, Any]]]:
    logits, targets = problem(4, 6)
    memory = np.empty(100, np.float32)
    yield "strided", logits, targets, {"grad_out": np.empty((4, 12), np.float32)[:, ::2]}
    shared = memory[:24].reshape(4, 6)
    shared[...] = logits
    inside = memory[3:4].reshape(())
    yield "within the logits", shared, targets, {"grad_out": np.empty((4, 6), np.float32), "out": inside}
    yield "half over the logits", shared, targets, {"grad_out": memory[6:30].reshape(4, 6)}
    yield "the loss within the gradient", logits, targets, {"grad_out": shared, "out": inside}
    yield "the log-sum-exp within the gradient", logits, targets, {"grad_out": shared, "lse_out": memory[3:7]}
    yield "the loss and the log-sum-exp", logits, targets, {
        "out": memory[:4], "lse_out": memory[:4], "reduction": "none",
    }  # fmt: skip
    yield "a dtype too wide", logits, targets, {"grad_out": np.empty((4, 6))}
    yield "of the other byte order", logits, targets, {"grad_out": np.empty((4, 6), ">f4")}
    read_only = np.empty((4, 6), np.float32)
    read_only.flags.writeable = False
    yield "read-only", logits, targets, {"grad_out": read_only}
    yield "no array", logits, targets, {"grad_out": logits.tolist()}
    yield "room for one loss of several", logits, targets, {"out": np.empty((), np.float32), "reduction": "none"}
    yield "room for more than their mean", logits, targets, {"out": np.empty(4, np.float32)}
    yield "room for more than their sum", logits, targets, {"out": np.empty(4, np.float32), "reduction": "sum"}
    yield "over the weights", logits, targets, {"weight": memory[:6], "grad_out": shared}
    yield "over the sample weights", logits, targets, {"sample_weight": memory[2:6], "lse_out": memory[:4]}
    yield "over the upstream gradient", logits, targets, {
        "grad_output": memory[:4], "lse_out": memory[:4], "reduction": "none",
    }  # fmt: skip
    yield "over soft labels", logits, shared, {"grad_out": shared}
    yield "over logits that are the soft labels", shared, shared, {"grad_out": shared}


def outcome(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    try:
        return [np.array(part) for part in parts(function(*arguments, **options))]
    except Exception as error:
        return type(error), str(error)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) or isinstance(b, tuple):
        return bool(a == b)
    return all(np.array_equal(one, other, equal_nan=True) for one, other in zip(a, b, strict=True))


def name_of(value: Any) -> str:
    """For pytest's ids: the name alone."""
    return value if type(value) is str else ""


@pytest.mark.parametrize("count", range(len(list(buffers_that_are_not_plain()))))
def test_unusual_buffers_are_left_to_the_full_path(count: int, backend: str) -> None:
    outcomes = []
    for path in ("usual", "full"):
        name, logits, targets, options = list(buffers_that_are_not_plain())[count]
        for value in options.values():
            if isinstance(value, np.ndarray) and value.flags.writeable and not np.may_share_memory(value, logits):
                value[...] = 1
        if path == "full":
            outcomes.append(outcome(in_full, sce.cross_entropy_with_grad, logits, targets, **options, backend=backend))
        else:
            with full_calls() as full:
                found = outcome(sce.cross_entropy_with_grad, logits, targets, **options, backend=backend)
            outcomes.append(found)
            assert full, name
    assert same(*outcomes), name


def test_in_place(backend: str) -> None:
    """Also by another view of the same memory, and of a view."""
    logits, targets = problem(4, 6)
    right = in_full(sce.cross_entropy_grad, logits, targets, backend=backend)
    for x in (logits.copy(), logits.copy()[...]):
        for buffer in (x, x[...], x.reshape(24).reshape(4, 6)):
            x[...] = logits
            found = sce.cross_entropy_grad(x, targets, grad_out=buffer, backend=backend)
            assert found is buffer
            assert_same((found,), right)
    if has_short_calls(backend):
        x[...] = logits
        assert_same(in_short(sce.cross_entropy_grad, x, targets, grad_out=x[...], backend=backend), right)


def inputs_that_are_not_plain() -> Iterator[tuple[str, Any, Any]]:
    logits, targets = problem(3, 5)
    for row in (slice(0, 1), slice(None)):  # one row is looked at in another way than several
        x, y = logits[row], targets[row]
        for label in (5, -1, -100, 2**40, -(2**62)):
            changed = y.copy()
            changed[-1] = label
            yield f"{len(y)} rows, label {label}", x, changed
        yield f"{len(y)} rows, labels as floats", x, y.astype(float)
        yield f"{len(y)} rows, uint64", x, y.astype(np.uint64)
        yield f"{len(y)} rows, one label too few", x, y[1:]
        yield f"{len(y)} rows, soft, by columns", x, np.asfortranarray(np.full((2, 5), 0.2, np.float32))[: len(y)]
        yield f"{len(y)} rows, soft integers", x, np.ones(x.shape, int)
        yield f"{len(y)} rows, lists", x.tolist(), y.tolist()
        yield f"{len(y)} rows, labels in a list", x, y.tolist()
        yield f"{len(y)} rows, integers", x.astype(int), y
        yield f"{len(y)} rows, complex", x.astype(complex), y
        yield f"{len(y)} rows, big-endian", x.astype(">f4"), y
        yield f"{len(y)} rows, by columns", np.asfortranarray(np.repeat(x, 2, axis=0)), np.repeat(y, 2)
        yield f"{len(y)} rows, no class", x[:, :0], y
        yield f"{len(y)} rows, classes in between", x[:, :, None], y[:, None]
        yield f"{len(y)} rows, a subclass", x.view(np.matrix), y
        yield f"{len(y)} rows, masked", np.ma.array(x), y
    misaligned = np.empty(logits.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(logits.shape)
    misaligned[...] = logits
    yield "misaligned", misaligned, targets
    yield "no row", logits[:0], targets[:0]
    yield "one row without an axis", logits[0], targets[0]


@pytest.mark.parametrize(("name", "logits", "targets"), list(inputs_that_are_not_plain()), ids=name_of)
def test_unusual_inputs_are_left_to_the_full_path(name: str, logits: Any, targets: Any, backend: str) -> None:
    with full_calls() as full:
        found = outcome(sce.cross_entropy_with_grad, logits, targets, backend=backend, ignore_index=-7)
    assert full, name
    right = outcome(in_full, sce.cross_entropy_with_grad, logits, targets, backend=backend, ignore_index=-7)
    assert same(found, right)


class Number:
    def __float__(self) -> float:
        return 0.5

    def __repr__(self) -> str:  # a test's name says no address: processes that share the tests out compare names
        return "Number()"


UNUSUAL: list[dict[str, Any]] = [
    {"reduction": "median"}, {"reduction": None}, {"on_empty": "never"}, {"on_empty": 0}, {"ignore_index": 2.0},
    {"ignore_index": 2**63}, {"ignore_index": np.array(2)}, {"label_smoothing": 1.5}, {"label_smoothing": np.nan},
    {"label_smoothing": Number()}, {"label_smoothing": np.array(0.0)}, {"z_loss": np.inf}, {"z_loss": -1},
    {"z_loss": np.zeros(1)}, {"z_loss": 10**400}, {"z_loss": "0"}, {"weight": [1.0] * 5}, {"weight": np.ones(4)},
    {"weight": np.array([1, -1, 1, 1, 1.0])}, {"weight": np.full(5, np.nan)}, {"weight": np.ones(10)[::2]},
    {"weight": np.zeros(5), "on_empty": "raise"}, {"sample_weight": np.zeros(3), "on_empty": "raise"},
    {"weight": np.ones(5, np.float16)}, {"weight": np.ones(5, complex)}, {"weight": np.ones((1, 5))}, {"weight": 2.0},
    {"sample_weight": np.full(3, np.inf)}, {"sample_weight": np.ones(5)},
    {"denominator": 0.0}, {"denominator": np.nan}, {"denominator": 2.0, "reduction": "sum"}, {"denominator": [2.0]},
    {"axis": 2}, {"axis": 0}, {"axis": -2}, {"axis": -1.0}, {"grad_output": np.ones(3)}, {"grad_output": np.array(2.0)},
    {"grad_output": 1j}, {"grad_output": "2"}, {"grad_output": 2**70}, {"grad_output": np.ones(2), "reduction": "none"},
    {"return_lse": np.zeros(2)}, {"return_lse": []}, {"threads": 0}, {"threads": 1.0}, {"threads": "2"},
    {"threads": np.array(2)}, {"threads": np.timedelta64(2)}, {"ignore_index": np.timedelta64(2)},
    {"axis": np.timedelta64(1)}, {"z_loss": np.timedelta64(0)}, {"grad_output": np.timedelta64(1)},
    {"lse_out": np.zeros(4, np.float32)}, {"backend": "none"}, {"backend": 3},
]  # fmt: skip


@pytest.mark.parametrize("options", UNUSUAL, ids=shown)
def test_unusual_options_are_left_to_the_full_path(options: dict[str, Any], backend: str) -> None:
    logits, targets = problem(3, 5)
    given_options = {"backend": backend, **options}
    with pytest.MonkeyPatch.context() as patch:
        entered = []
        real = evaluation.evaluate_in_full

        def in_full(*given: Any) -> Any:
            entered.append(1)
            return real(*given)

        patch.setattr(evaluation, "evaluate_in_full", in_full)
        found = outcome(sce.cross_entropy_with_grad, logits, targets, **given_options)
        assert entered
        leave_to_the_full_path(patch)
        assert same(found, outcome(sce.cross_entropy_with_grad, logits, targets, **given_options))


@pytest.mark.parametrize(
    ("x", "options"),
    [
        (np.zeros((3, 4), int), {}), (np.zeros((3, 8))[:, ::2], {}), (np.zeros((3, 4)), {"axis": 0}),
        (np.float64(3), {}), (np.zeros((3, 0)), {}), (np.zeros((0, 3)), {}), (np.zeros((3, 4)), {"threads": 0}),
        (np.zeros((3, 4)), {"out": np.empty((3, 4), np.float32)}), ([[1.0, 2.0]], {}), (np.ma.zeros((3, 4)), {}),
        (np.zeros((3, 4)), {"threads": np.timedelta64(1)}), (np.zeros((3, 4)), {"axis": np.timedelta64(1)}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("function", NORMALISERS)
def test_unusual_normalisers_are_left_to_the_full_path(function: Any, x: Any, options: Any, shortest: str) -> None:
    with full_calls() as full:
        found = outcome(function, x, backend=shortest, **options)
    assert full == ["x"]
    assert same(found, outcome(in_full, function, x, backend=shortest, **options))


@pytest.mark.parametrize("ignore_index", [-100, 2])
@pytest.mark.parametrize("weighted", [("weight",), ("sample_weight",), ("weight", "sample_weight")])
def test_a_denominator_of_many_rows(weighted: tuple[str, ...], ignore_index: int, shortest: str) -> None:
    """Summed pairwise, over the rows that count, in the full path's order."""
    rng = np.random.default_rng(8)
    logits, targets = rng.normal(size=(1001, 5)), rng.integers(0, 5, 1001)
    weights = {"weight": rng.random(5), "sample_weight": rng.random(1001)}
    options = {name: weights[name] for name in weighted} | {"ignore_index": ignore_index, "backend": shortest}
    short = in_short(sce.cross_entropy_with_grad, logits, targets, **options)
    assert_same(short, in_full(sce.cross_entropy_with_grad, logits, targets, **options))
    counted = targets != ignore_index
    rows = np.ones(1001) if "sample_weight" not in weighted else weights["sample_weight"]
    mass = rows * (weights["weight"][targets] if "weight" in weighted else 1)
    options = {"ignore_index": ignore_index, "backend": shortest, "reduction": "sum"}
    total = in_short(sce.cross_entropy, logits, targets, **options, **{name: weights[name] for name in weighted})[0]
    assert short[0] == pytest.approx(total / mass[counted].sum(), rel=1e-14)


def test_labels_and_weights_may_be_read_only_and_shared(shortest: str) -> None:
    """One array as several inputs; nothing is written to any."""
    row = np.arange(5.0)
    row.flags.writeable = False
    logits = np.tile(row, (5, 1))
    logits.flags.writeable = False
    options = {"weight": row, "sample_weight": row, "backend": shortest}
    short = in_short(sce.cross_entropy_with_grad, logits, logits, **options)
    assert_same(short, in_full(sce.cross_entropy_with_grad, logits, logits, **options))
    np.testing.assert_array_equal(row, np.arange(5))


@pytest.mark.parametrize("rows", [40, 400])
@pytest.mark.parametrize("name", [*SHORT, *PLAIN])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sum_that_leaves_the_format_raises_no_flag(rows: int, dtype: Any, name: str) -> None:
    """Finite losses whose sum is infinite in this dtype; and those whose mean is finite all the same."""
    large = np.finfo(dtype).max / 4
    logits = np.full((rows, 2), [large, -large], dtype)
    targets = np.ones(rows, np.int64)
    with np.errstate(all="raise"):
        for reduction in ("sum", "mean"):
            short = in_short(sce.cross_entropy, logits, targets, reduction=reduction, backend=name)
            assert_same(short, in_full(sce.cross_entropy, logits, targets, reduction=reduction, backend=name))
            assert np.isinf(short[0]) == (reduction == "sum")


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_negative_weights(reduction: str, shortest: str) -> None:
    """Of one sign they are left to the short path; of either, unless a mean divides by their sum."""
    logits, targets = problem(6, 5)
    negative, either = -np.arange(1.0, 7), np.array([1.0, -2, 3, -4, 5, -7])
    for options in ({"sample_weight": negative}, {"sample_weight": either}, {"weight": -np.arange(1.0, 6)}):
        if reduction != "mean" or options.get("sample_weight") is not either:
            call = {"reduction": reduction, "backend": shortest, "label_smoothing": 0.1, "z_loss": 0.1, **options}
            short = in_short(sce.cross_entropy_with_grad, logits, targets, **call)
            assert_same(short, in_full(sce.cross_entropy_with_grad, logits, targets, **call))


def test_a_backend_s_own_sum(shortest: str) -> None:
    """Halves of whole eights down to 128 values; these in eight lanes, then in pairs; in float64 for float32 too."""

    def pairwise(values: list[float]) -> float:
        if len(values) > 128:
            half = len(values) // 16 * 8
            return pairwise(values[:half]) + pairwise(values[half:])
        lanes = [0.0] * 8
        for i, value in enumerate(values):
            lanes[i % 8] += value
        pairs = [lanes[i] + lanes[i + 1] for i in range(0, 8, 2)]
        return (pairs[0] + pairs[1]) + (pairs[2] + pairs[3])

    total = sce.get_backend(shortest).total
    assert total is not None
    rng = np.random.default_rng(3)
    for dtype, n in itertools.product((np.float32, np.float64), (1, 2, 7, 8, 9, 16, 100, 1001)):
        values = (rng.normal(size=n) * 10.0 ** rng.integers(-6, 6, n)).astype(dtype)
        for divisor in (1.0, 3.0):
            assert total(values, divisor) == pairwise(values.tolist()) / divisor
    assert total(np.full(4, 1e308), 4.0) == 1e308
    assert total(np.full(4, 1e308), 1.0) == np.inf


def by_hard(name: str, logits: Any, labels: Any, divisor: float, loss: Any, grad: Any) -> float:
    """What a backend's plain call must give, by its kernel and its sum."""
    chosen = sce.get_backend(name)
    one, row, n = np.ones(1, logits.dtype), np.ones(1), len(logits)
    losses = np.empty(n, logits.dtype) if loss is None else loss
    chosen.hard(logits, labels, -1, one, None, 0.0, 0.0, row, row / divisor, losses, grad, None, None, 0, n)
    return total_of(losses, divisor, chosen.total or numpy_total)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 3), (5, 1), (64, 10), (128, 7), (129, 7), (3, 300)])
def test_a_backend_s_own_plain_call(shape: tuple[int, int], dtype: Any, plainest: str) -> None:
    """Its bits are those of the kernel and the sum, in whatever combination of results; inputs may be read-only."""
    logits, targets = problem(*shape, dtype)
    call = sce.get_backend(plainest).plain
    assert call is not None
    logits.flags.writeable = targets.flags.writeable = False
    for divisor in (1, 3, float(shape[0])):
        right_loss, right_grad = np.empty(shape[0], dtype), np.empty(shape, dtype)
        right = by_hard(plainest, logits, targets, divisor, right_loss, right_grad)
        for kinds in itertools.product((None, False, True), (False, True)):
            reduced = bool(kinds[0])
            loss: Any = np.empty(shape[0], dtype) if kinds[0] is False else None
            grad: Any = np.empty(shape, dtype) if kinds[1] else None
            found = call(logits, targets, divisor, loss, grad, reduced)
            assert found == (right if reduced else 0.0)
            assert loss is None or loss.tobytes() == right_loss.tobytes()
            assert grad is None or grad.tobytes() == right_grad.tobytes()


@pytest.mark.parametrize("wrong", [7, -1, -(2**63), 2**63 - 1, 2**40])
@pytest.mark.parametrize("rows", [1, 5, 300])
def test_a_plain_call_writes_nothing_where_a_label_is_not_a_class(rows: int, wrong: int, plainest: str) -> None:
    call = sce.get_backend(plainest).plain
    assert call is not None
    logits, targets = problem(rows, 7)
    targets[rows // 2] = wrong
    for reduced in (False, True):
        loss, grad = np.full(rows, 5, np.float32), np.full_like(logits, 5)
        assert call(logits, targets, 1.0, None if reduced else loss, grad, reduced) is None
        assert (loss == 5).all()
        assert (grad == 5).all()
    assert targets[rows // 2] == wrong


def test_plain_calls_leave_floating_point_errors_as_they_are(plainest: str) -> None:
    """Nothing is raised in any of several threads, and what the caller has set is still set."""
    logits, targets = problem(64, 10)
    logits[0, 0], logits[1], logits[2, 3] = np.inf, -np.inf, -1e30
    right = in_full(sce.cross_entropy_with_grad, logits, targets, reduction="none", backend=plainest)

    def call(_: int) -> Any:
        with np.errstate(all="raise"):
            before = np.geterr()
            found = sce.cross_entropy_with_grad(logits, targets, reduction="none", backend=plainest)
            assert np.geterr() == before
        return found

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(call, range(200)):
            assert_same(found, right)
