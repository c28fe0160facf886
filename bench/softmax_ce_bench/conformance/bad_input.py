"""Bad input gets the right error, which names what was wrong, on every entry point; nothing is written."""

from __future__ import annotations

from typing import Any

import numpy as np

import softmax_ce as sce
from softmax_ce_bench.conformance.harness import Subject, check

_X = np.linspace(-1, 1, 12).reshape(3, 4)
_Y = np.array([0, 1, 3])
_T = np.full((3, 4), 0.25)

# arguments, options, the error, what its message must name
_CASES: tuple[tuple[Any, Any, dict[str, Any], type[Exception], str], ...] = (
    (_X, np.array([0, 1]), {}, ValueError, r"(2,)"),
    (_X, np.zeros((3, 5)), {}, ValueError, r"(3, 5)"),
    (_X, _Y[:, None], {}, ValueError, r"(3, 1)"),
    (np.float64(3), 0, {}, ValueError, "at least one axis"),
    (np.zeros((3, 0)), _Y, {}, ValueError, "no classes"),
    (_X, _Y, {"axis": 2}, ValueError, "axis 2"),
    (_X, _Y, {"axis": 0.5}, TypeError, "axis"),
    (_X, _Y, {"reduction": "avg"}, ValueError, "'mean', 'sum', 'none'"),
    (_X, _Y, {"on_empty": "skip"}, ValueError, "'nan', 'zero', 'raise'"),
    (_X, _Y, {"label_smoothing": 1.5}, ValueError, "[0, 1]"),
    (_X, _Y, {"label_smoothing": float("nan")}, ValueError, "label_smoothing"),
    (_X, _Y, {"label_smoothing": "much"}, TypeError, "label_smoothing"),
    (_X, _Y, {"z_loss": -1}, ValueError, "z_loss"),
    (_X, _Y, {"z_loss": float("inf")}, ValueError, "z_loss"),
    (_X, _Y, {"denominator": 0}, ValueError, "denominator"),
    (_X, _Y, {"denominator": float("inf")}, ValueError, "denominator"),
    (_X, _Y, {"denominator": 2, "reduction": "sum"}, ValueError, "sum"),
    (_X, _Y, {"threads": 0}, ValueError, "threads"),
    (_X, _Y, {"threads": 1.5}, TypeError, "threads"),
    (_X, _Y, {"ignore_index": 0.5}, TypeError, "ignore_index"),
    (_X, _Y, {"ignore_index": 2**70}, ValueError, "ignore_index"),
    (_X, _T, {"ignore_index": 1}, ValueError, "sample_weight"),
    (_X, _Y, {"weight": np.ones(3)}, ValueError, "(4,)"),
    (_X, _Y, {"weight": np.array([1, -np.inf, -1, 1.0])}, ValueError, "entry 1"),
    (_X, _Y, {"weight": np.array([1, 1, np.inf, 1.0])}, ValueError, "entry 2"),
    (_X, _Y, {"weight": np.array([1, 1, 1, np.nan])}, ValueError, "entry 3"),
    (_X, _Y, {"weight": np.ones(4, complex)}, TypeError, "complex"),
    (_X, _Y, {"sample_weight": np.ones(4)}, ValueError, "(3,)"),
    (_X, _Y, {"sample_weight": np.array([1, -1, np.nan])}, ValueError, "entry 2"),
    (_X, _Y.astype(float), {}, TypeError, "float64"),
    (_X, _Y.astype(bool), {}, TypeError, "bool"),
    (_X, _T.astype(complex), {}, TypeError, "complex128"),
    (_X.astype(complex), _Y, {}, TypeError, "complex128"),
    (_X.astype(object), _Y, {}, TypeError, "object"),
    (_X > 0, _Y, {}, TypeError, "bool"),
    (_X.astype(np.longdouble), _Y, {}, TypeError, str(np.dtype(np.longdouble))),
    (_X, np.array([0, 4, 1]), {}, IndexError, "target 4 at position 1"),
    (_X, np.array([0, 1, -1]), {}, IndexError, "target -1 at position 2"),
    (_X, np.array([0, 1, 2**64 - 100], np.uint64), {}, IndexError, str(2**64 - 100)),
    (_X, np.array([0, 1, 7]), {"ignore_index": 1}, IndexError, "target 7 at position 2"),
    (np.zeros((2, 3, 4)), np.array([[0, 1, 2], [3, 4, 0]]), {}, IndexError, "position (1, 1)"),
    (_X, _Y, {"out": np.zeros(4)}, ValueError, "(3,)"),
    (_X, _Y, {"out": np.zeros(3, np.float32)}, ValueError, "float64"),
    (_X, _Y, {"out": [0, 0, 0]}, ValueError, "list"),
    (_X, _Y, {"lse_out": np.zeros((3, 1))}, ValueError, "(3,)"),
)
_GRAD_CASES: tuple[tuple[Any, Any, dict[str, Any], type[Exception], str], ...] = (
    (_X, _Y, {"grad_output": np.ones(4)}, ValueError, "(3,)"),
    (_X, _Y, {"grad_output": np.ones(3), "reduction": "mean"}, ValueError, "()"),
    (_X, _Y, {"grad_output": "up"}, TypeError, "grad_output"),
    (_X, _Y, {"grad_out": np.zeros((4, 3))}, ValueError, "(3, 4)"),
    (_X, _Y, {"grad_out": np.zeros((3, 4), np.float16)}, ValueError, "float64"),
    (_X, _Y, {"grad_out": np.zeros((3, 4)).astype(">f8")}, ValueError, "float64"),
)


def _expect(error: type[Exception], named: str, call: Any, *arguments: Any, **options: Any) -> None:
    shown = ", ".join(f"{k}={v!r}" for k, v in options.items() if k not in ("backend", "threads"))
    try:
        call(*arguments, **options)
    except error as raised:
        assert named in str(raised), f"{call.__name__}({shown}): the message does not name {named}: {raised}"
    except Exception as raised:
        raise AssertionError(
            f"{call.__name__}({shown}) raised {type(raised).__name__}, not {error.__name__}: {raised}"
        ) from None
    else:
        raise AssertionError(f"{call.__name__}({shown}) raised no {error.__name__}")


@check(dtypes=("float64",), threads=(1, 2), stable=None)
def every_bad_argument(subject: Subject) -> None:
    """Shapes, dtypes, option values, labels and buffers that do not fit."""
    entries = (sce.cross_entropy, sce.cross_entropy_with_grad, sce.cross_entropy_grad)
    for entry in entries:
        wanted = _CASES if entry is sce.cross_entropy else _CASES + _GRAD_CASES
        for logits, targets, options, error, named in wanted:
            if "out" in options and entry is sce.cross_entropy_grad:
                continue
            _expect(error, named, entry, logits, targets, **{"reduction": "none", **subject.where, **_mean(options)})


def _mean(options: dict[str, Any]) -> dict[str, Any]:
    return {"reduction": "mean", **options} if "denominator" in options else options


@check(dtypes=("float64",), threads=(1,), stable=None)
def buffers_that_overlap(subject: Subject) -> None:
    """Partial overlap with an input, another output or itself, read-only and broadcast buffers."""
    room = np.zeros(100)
    x = room[:12].reshape(3, 4)
    x[...] = _X
    before = room.copy()
    where = {"reduction": "none", **subject.where}
    for buffers, named in (
        ({"grad_out": room[4:16].reshape(3, 4)}, "overlaps logits"),
        ({"grad_out": room[:12].reshape(3, 4)[::-1]}, "overlaps logits"),
        ({"out": room[9:12]}, "overlaps logits"),
        ({"lse_out": room[9:12]}, "overlaps logits"),
        ({"grad_out": room[20:32].reshape(3, 4), "out": room[30:33]}, "overlaps"),
        ({"out": room[50:53], "lse_out": room[50:53]}, "overlaps"),
        ({"grad_out": np.broadcast_to(np.zeros(4), (3, 4))}, "read-only"),
    ):
        _expect(ValueError, named, sce.cross_entropy_with_grad, x, _Y, **buffers, **where)
        assert (room == before).all(), f"memory was written before the error: {named}"
    t = np.full(16, 0.25)
    _expect(
        ValueError, "overlaps targets", sce.cross_entropy_with_grad, _X, t[:12].reshape(3, 4),
        grad_out=t[4:].reshape(3, 4), **where,
    )  # fmt: skip
    frozen = np.zeros((3, 4))
    frozen.flags.writeable = False
    _expect(ValueError, "read-only", sce.cross_entropy_grad, _X, _Y, grad_out=frozen, **where)
    _expect(ValueError, "overlaps", sce.softmax, x, out=room[1:13].reshape(3, 4), **subject.where)
    interleaved = np.zeros((3, 8))
    interleaved[:, ::2] = _X
    sce.cross_entropy_grad(interleaved[:, ::2], _Y, grad_out=interleaved[:, 1::2], **where)
    assert (interleaved[:, ::2] == _X).all(), "interleaved memory that does not overlap was taken for the same"
    before = room.copy()
    for strides in ((8, 8), (24, 8), (-8, 16)):  # rows that share entries, in either direction
        folded = np.lib.stride_tricks.as_strided(room[60:], (3, 4), strides)
        for call in (sce.cross_entropy_grad, sce.cross_entropy_with_grad):
            _expect(ValueError, "overlaps itself", call, _X, _Y, grad_out=folded, **where)
        _expect(ValueError, "overlaps itself", sce.softmax, _X, out=folded, **subject.where)
        _expect(ValueError, "overlaps itself", sce.log_softmax, _X, out=folded, **subject.where)
    point = np.lib.stride_tricks.as_strided(room[60:], (3,), (0,))
    for name in ("out", "lse_out"):
        _expect(ValueError, "overlaps itself", sce.cross_entropy_with_grad, _X, _Y, **{name: point}, **where)
    _expect(ValueError, "overlaps itself", sce.logsumexp, _X, out=point, **subject.where)
    assert (room == before).all(), "memory was written before the error"


@check(dtypes=("float64",), threads=(1,), stable=None)
def normalising_bad_input(subject: Subject) -> None:
    """softmax, log_softmax and logsumexp refuse what the losses refuse."""
    for entry in (sce.softmax, sce.log_softmax, sce.logsumexp):
        _expect(TypeError, "complex", entry, _X.astype(complex), **subject.where)
        _expect(ValueError, "no classes", entry, np.zeros((3, 0)), **subject.where)
        _expect(ValueError, "axis 5", entry, _X, axis=5, **subject.where)
        _expect(ValueError, "shape", entry, _X, out=np.zeros((9, 9)), **subject.where)
        _expect(
            ValueError,
            "dtype",
            entry,
            _X,
            out=np.zeros((3, 4) if entry is not sce.logsumexp else 3, "f4"),
            **subject.where,
        )
