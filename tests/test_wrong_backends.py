"""The suite can fail: an honest backend passes it, and each deliberately wrong one is rejected by name.

Each wrong backend meets the check that must notice it, and no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

import wrong_backends
import wrong_formulas
from softmax_ce import exact_sums, registry, weights
from softmax_ce_bench import conformance

# What must notice each; more checks may.
NOTICED_BY = {
    "MaximumOfTheArray": "wide_spreads",
    "SumBeforeDifference": "extreme_values",
    "WithoutHalves": "large_gaps_with_small_masses",
    "CancellingGradient": "confident_gradient_is_not_zero",
    "PlainLogarithm": "small_loss_is_not_zero",
    "ForgottenIgnoredRow": "ignoring_equals_leaving_out",
    "SmoothingWithoutWeights": "every_option",
    "ShortOffset": "beyond_two_to_the_31_elements",
    "ZeroTimesInfinity": "no_mass_at_minus_infinity",
    "HalfTheZGradient": "every_option",
    "ForgottenUpstream": "upstream_vector_scales_rows",
    "SinglePrecisionSum": "every_width",
    "WeightWithoutSign": "every_option",
    "MassWithoutSign": "every_option",
    "SumOfSizes": "reductions",
    "CancelledBase": "every_option",
    "RowsOfTheCall": "rows_are_independent",
    "HessianByDifference": "confident_hessian_is_not_zero",
    "HessianWithoutTheZTerm": "hessian_of_the_z_loss",
    "KlOfFloat32Probabilities": "divergences_large_and_small",
    "KlGradientWithoutTemperature": "divergences_large_and_small",
}


@contextmanager
def registered(backend: wrong_backends.CorrectBackend) -> Iterator[str]:
    registry.register(backend)
    try:
        yield backend.BACKEND.name
    finally:
        registry.unregister(backend.BACKEND.name)


def failures(backend: wrong_backends.CorrectBackend) -> dict[str, str]:
    with registered(backend) as name:
        results = conformance.run_checks(name, conformance.harness.NATIVE, (1, 2))
    return {result.check: result.message for result in results if not result.passed}


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Have the suite run these checks alone."""
    meant = [check for check in conformance.CHECKS if check.name in names]
    assert len(meant) == len(names)
    monkeypatch.setattr(conformance.harness, "CHECKS", meant)


@pytest.mark.parametrize(("dtype", "threads"), [("float32", 1), ("float64", 2)])
def test_the_correct_backend_passes(dtype: str, threads: int) -> None:
    with registered(wrong_backends.CorrectBackend()) as name:
        results = conformance.run_checks(name, (dtype,), (threads,))
    assert [result for result in results if not result.passed] == []


def test_a_correct_backend_with_hessian_kernels_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    own = [check.name for check in conformance.CHECKS if "hessian" in check.name]
    only(monkeypatch, *own, "every_option", "extreme_values", "classes_left_out", "scaled_and_capped_logits")
    assert failures(wrong_backends.WithHessian()) == {}


def test_a_correct_backend_with_a_kl_kernel_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, *(check.name for check in conformance.CHECKS if "diverge" in check.name))
    assert failures(wrong_backends.WithKl()) == {}


@pytest.mark.parametrize("wrong", wrong_backends.WRONG, ids=lambda wrong: wrong.__name__)
def test_a_wrong_backend_is_rejected(
    wrong: type[wrong_backends.CorrectBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    noticed_by = NOTICED_BY[wrong.__name__]
    only(monkeypatch, noticed_by)
    assert noticed_by in failures(wrong())


@pytest.mark.parametrize(("formula", "noticed_by"), wrong_formulas.NOTICED_BY)
def test_a_wrong_formula_of_the_shell_is_rejected(
    formula: Callable[[pytest.MonkeyPatch], None], noticed_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, noticed_by)
    formula(monkeypatch)
    assert noticed_by in failures(wrong_backends.CorrectBackend())


def test_a_denominator_of_absolute_weights_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the backend: a mean that divides by the sum of the weights' absolute values."""
    exact = exact_sums.rounded_sum
    monkeypatch.setattr(weights, "rounded_sum", lambda terms, powers: exact([np.abs(terms[0])], powers))
    noticed_by = "reductions", "weights_that_nearly_cancel", "no_row_counts"
    only(monkeypatch, *noticed_by)
    assert set(failures(wrong_backends.CorrectBackend())) == set(noticed_by)


def test_every_wrong_backend_has_its_check() -> None:
    assert sorted(NOTICED_BY) == sorted(wrong.__name__ for wrong in wrong_backends.WRONG)
