"""The short cut for plain calls: it is taken, gives the full path's bits, and leaves to it whatever is not plain."""

import itertools

import numpy as np
import pytest

import softmax_ce as sce
from softmax_ce import plain

FULL = {"z_loss": 0}  # the default's value, but not its object: the full path
FUNCTIONS = (sce.cross_entropy, sce.cross_entropy_with_grad, sce.cross_entropy_grad)


def problem(rows, classes, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(rows, classes)) * 9).astype(dtype)
    return logits, rng.integers(0, classes, rows)


@pytest.fixture
def attempts(monkeypatch):
    """What the short cut gave, a call each."""
    found = []
    real = plain.attempt

    def spied(*arguments):
        found.append(real(*arguments))
        return found[-1]

    monkeypatch.setattr(plain, "attempt", spied)
    return found


def parts(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1), (1, 10), (3, 7), (17, 33), (64, 10), (2, 5000)])
def test_bits_of_the_full_path(backend, shape, dtype, attempts):
    logits, targets = problem(*shape, dtype)
    if shape[0] > 2:
        logits[1, 0] = np.nan
        logits[2] = -np.inf
    for function, reduction in itertools.product(FUNCTIONS, ("mean", "sum", "none")):
        options = {"reduction": reduction, "backend": backend}
        found = function(logits, targets, **options)
        assert attempts.pop() is not None
        for short, full in zip(parts(found), parts(function(logits, targets, **FULL, **options)), strict=True):
            assert not attempts
            np.testing.assert_array_equal(short, full)
            assert (type(short), short.dtype, short.shape) == (type(full), full.dtype, full.shape)


def test_buffers_are_the_results(attempts):
    logits, targets = problem(5, 12)
    out, grad = np.empty((), np.float32), np.empty_like(logits)
    loss, found = sce.cross_entropy_with_grad(logits, targets, out=out, grad_out=grad, threads=1)
    assert attempts[-1] is not None
    assert loss is out
    assert found is grad
    expected = sce.cross_entropy_with_grad(logits, targets, **FULL)
    assert out == expected[0]
    np.testing.assert_array_equal(grad, expected[1])


def name_of(value):
    """For pytest's ids: the name alone."""
    return value if type(value) is str else ""


def buffers_that_are_not_plain():
    logits, targets = problem(4, 6)
    memory = np.empty(100, np.float32)
    yield "in place", logits, targets, {"grad_out": logits}
    yield "in place, a view", logits, targets, {"grad_out": logits[...]}
    own = logits.copy()
    yield "in place, of a view", own[...], targets, {"grad_out": own}
    yield "strided", logits, targets, {"grad_out": np.empty((4, 12), np.float32)[:, ::2]}
    shared = memory[:24].reshape(4, 6)
    shared[...] = logits
    yield (
        "within the logits",
        shared,
        targets,
        {"grad_out": np.empty((4, 6), np.float32), "out": memory[3:4].reshape(())},
    )
    yield "half over the logits", shared, targets, {"grad_out": memory[6:30].reshape(4, 6)}
    yield "a dtype too wide", logits, targets, {"grad_out": np.empty((4, 6))}
    read_only = np.empty((4, 6), np.float32)
    read_only.flags.writeable = False
    yield "read-only", logits, targets, {"grad_out": read_only}
    yield "room for one loss of several", logits, targets, {"out": np.empty((), np.float32), "reduction": "none"}
    yield "room for several losses", logits, targets, {"out": np.empty(4, np.float32), "reduction": "none"}
    yield "room for more than their sum", logits, targets, {"out": np.empty(4, np.float32), "reduction": "sum"}


def outcome(function, *arguments, **options):
    try:
        return [np.array(part) for part in parts(function(*arguments, **options))]
    except Exception as error:
        return type(error), str(error)


def same(a, b):
    if isinstance(a, tuple) or isinstance(b, tuple):
        return a == b
    return all(np.array_equal(one, other, equal_nan=True) for one, other in zip(a, b, strict=True))


@pytest.mark.parametrize(("name", "logits", "targets", "options"), list(buffers_that_are_not_plain()), ids=name_of)
def test_unusual_buffers_are_left_to_the_full_path(name, logits, targets, options, attempts):
    before = logits.copy()
    found = outcome(sce.cross_entropy_with_grad, logits, targets, **options)
    assert attempts == [None]
    logits[...] = before
    assert same(found, outcome(sce.cross_entropy_with_grad, logits, targets, **FULL, **options))


def inputs_that_are_not_plain():
    logits, targets = problem(3, 5)
    for row in (slice(0, 1), slice(None)):  # one row is looked at in another way than several
        x, y = logits[row], targets[row]
        for label in (5, -1, -100, 2**40, -(2**62)):
            changed = y.copy()
            changed[-1] = label
            yield f"{len(y)} rows, label {label}", x, changed
        yield f"{len(y)} rows, int32", x, y.astype(np.int32)
        yield f"{len(y)} rows, labels as floats", x, y.astype(float)
        yield f"{len(y)} rows, one label too few", x, y[1:]
        yield f"{len(y)} rows, soft", x, np.full(x.shape, 0.2)
        yield f"{len(y)} rows, lists", x.tolist(), y.tolist()
        yield f"{len(y)} rows, float16", x.astype(np.float16), y
        yield f"{len(y)} rows, big-endian", x.astype(">f4"), y
        yield f"{len(y)} rows, by columns", np.asfortranarray(np.repeat(x, 2, axis=0)), np.repeat(y, 2)
        yield f"{len(y)} rows, no class", x[:, :0], y
        yield f"{len(y)} rows, three axes", x[:, :, None], y[:, None]
    yield "strided labels", logits, np.repeat(targets, 2)[::2]
    yield "no row", logits[:0], targets[:0]


@pytest.mark.parametrize(("name", "logits", "targets"), list(inputs_that_are_not_plain()), ids=name_of)
def test_unusual_inputs_are_left_to_the_full_path(name, logits, targets, attempts):
    found = outcome(sce.cross_entropy_with_grad, logits, targets)
    assert attempts == [None]
    assert same(found, outcome(sce.cross_entropy_with_grad, logits, targets, **FULL))


@pytest.mark.parametrize(
    "options",
    [
        {"reduction": "median"}, {"ignore_index": 2}, {"label_smoothing": 0.1}, {"z_loss": 0.1}, {"weight": np.ones(5)},
        {"sample_weight": np.ones(3)}, {"denominator": 2.0}, {"on_empty": "raise"}, {"axis": 1}, {"return_lse": True},
        {"grad_output": 2.0}, {"threads": 2}, {"threads": True}, {"lse_out": np.empty(3, np.float32)},
    ],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
def test_options_are_left_to_the_full_path(options, attempts):
    logits, targets = problem(3, 5)
    outcome(sce.cross_entropy_with_grad, logits, targets, **options)
    assert not any(found is not None for found in attempts)


def test_large_work_may_be_shared(attempts):
    """What threads may help with is not cut short."""
    sce.cross_entropy_with_grad(*problem(400, 1000))
    assert attempts == [None]
