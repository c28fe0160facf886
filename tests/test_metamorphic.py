"""The metamorphic relations on generated inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import softmax_ce as sce
from conftest import available
from softmax_ce_bench.conformance import Subject, relations
from softmax_ce_bench.conformance.harness import NATIVE, judge_all

_SETTINGS = settings(max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])

# 0 or well above what underflows once divided by the classes: 0 times infinity is 0, a tiny number times it is not.
_WEIGHTS = st.one_of(st.just(0.0), st.floats(1e-6, 10))
# Upstream gradients likewise: one that underflows is beside the bounds.
_UPSTREAM = st.one_of(_WEIGHTS, _WEIGHTS.map(lambda weight: -weight))
_STABLE = [info.name for info in sce.backends() if info.stable]


@pytest.fixture(params=[f"{name}-{dtype}" for name in _STABLE for dtype in NATIVE])
def subject(request: pytest.FixtureRequest) -> Subject:
    name, dtype = request.param.split("-")
    return Subject(available(name), dtype, 1)


def _grids() -> Any:
    """Multiples of 1/64 below 100 in absolute value."""
    shapes = st.tuples(st.integers(1, 4), st.integers(1, 40))
    return shapes.flatmap(lambda shape: hnp.arrays(np.int64, shape, elements=st.integers(-6400, 6400))).map(
        lambda grid: grid / 64
    )


def _logits() -> Any:
    """Anything finite that float32 holds and whose differences it holds; -inf too, but not a whole row."""
    shapes = st.tuples(st.integers(1, 4), st.integers(1, 40))
    numbers = st.one_of(st.floats(-50, 50, width=32), st.floats(-(2.0**100), 2.0**100, width=32), st.just(-np.inf))
    return shapes.flatmap(lambda shape: hnp.arrays(np.float64, shape, elements=numbers)).map(_with_a_finite_entry)


def _with_a_finite_entry(x: Any) -> Any:
    x = x.copy()
    x[np.isneginf(x).all(axis=1), 0] = 1.0
    return x


def _labels(data: st.DataObject, x: Any, *, finite: bool = False) -> Any:
    allowed = [np.flatnonzero(np.isfinite(row)) if finite else np.arange(x.shape[1]) for row in x]
    return np.array([data.draw(st.sampled_from(list(map(int, row)))) for row in allowed])


@given(data=st.data(), x=_logits())
@_SETTINGS
def test_within_the_bounds(subject: Subject, data: st.DataObject, x: Any) -> None:
    options = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "label_smoothing": st.one_of(st.just(0.0), st.floats(1e-6, 1)),
                "z_loss": st.sampled_from([0.0, 1e-4, 1.0]),
                "weight": hnp.arrays(np.float64, x.shape[1], elements=_WEIGHTS),
                "sample_weight": hnp.arrays(np.float64, x.shape[0], elements=_WEIGHTS),
                "grad_output": hnp.arrays(np.float64, x.shape[0], elements=_UPSTREAM),
            },
        )
    )
    judge_all(subject, subject.array(x), _labels(data, x), str(options), **options)


@given(data=st.data(), grid=_grids(), shift=st.sampled_from([1024.0, -1024.0, 4096.0]))
@_SETTINGS
def test_shift(subject: Subject, data: st.DataObject, grid: Any, shift: float) -> None:
    relations.shift_invariant(subject, grid, _labels(data, grid), shift)


@given(data=st.data(), x=_logits())
@_SETTINGS
def test_permutation(subject: Subject, data: st.DataObject, x: Any) -> None:
    order = np.array(data.draw(st.permutations(range(x.shape[1]))))
    relations.permutation_within_bounds(subject, subject.array(x), _labels(data, x, finite=True), order)


@given(data=st.data(), x=_logits(), extra=st.integers(1, 40))
@_SETTINGS
def test_padding(subject: Subject, data: st.DataObject, x: Any, extra: int) -> None:
    relations.padding_within_bounds(subject, subject.array(x), _labels(data, x, finite=True), extra)


@given(data=st.data(), grid=_grids())
@_SETTINGS
def test_merging(subject: Subject, data: st.DataObject, grid: Any) -> None:
    if grid.shape[1] > 1:
        relations.merging_within_bounds(subject, subject.array(grid), data.draw(st.integers(1, grid.shape[1] - 1)))


@given(data=st.data(), grid=_grids())
@_SETTINGS
def test_convexity_and_limits(subject: Subject, data: st.DataObject, grid: Any) -> None:
    other = data.draw(hnp.arrays(np.int64, grid.shape, elements=st.integers(-6400, 6400))) / 64
    labels = _labels(data, grid)
    relations.midpoint_convex(subject, subject.array(grid), subject.array(other), labels)
    relations.between_its_limits(subject, subject.array(grid), labels)
