"""Valid calls of the losses: every backend is within its bounds, with the same bits however the call is written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

import softmax_ce as sce
from softmax_ce.contract import BackendInfo
from softmax_ce_bench.conformance.harness import assert_same_bits
from softmax_ce_bench.truth import oracle
from tools.fuzz import calls
from tools.fuzz.calls import RandomCall

_MODERATE = 40.0  # below it, an unshifted exponential neither overflows nor underflows
_CALLED = {"grad": "gradient", "hess": "Hessian"}
_ORACLES = ("weight", "sample_weight", "ignore_index", "label_smoothing", "z_loss", "grad_output")


def check(case: dict[str, Any]) -> None:
    """Check one case on every available backend."""
    call = calls.build(case)
    counted = _Counted.of(call)
    if counted.empty and call.options.get("on_empty") == "raise":
        for info in calls.backends():
            _must_refuse_an_empty_mean(call, info.name)
        return
    truth = _Reference.of(call, counted) if _in_domain(call, counted) else None
    for info in calls.backends():
        _check_backend(case, info, truth)


def _check_backend(case: dict[str, Any], info: BackendInfo, truth: _Reference | None) -> None:
    call = calls.build(case)  # anew: the last backend may have written over the logits
    plain = _plain_call(call, info.name)
    if truth is not None and (info.stable or is_moderate(call.logits)):
        truth.judge(info, call, plain)
    found = call.run(info.name)
    for name, array in found.items():
        _check_form(call, name, array)
        assert_same_bits(call.to_rows(name, array), plain[name], f"{name} of {info.name}, against the plain call")
    _check_memory(call, found)


def _plain_call(call: RandomCall, backend: str) -> dict[str, Any]:
    """Return all results on one thread from contiguous rows, with the dtypes of the call's gradient and Hessian.

    The Hessian is among them if the call asks for it.
    """
    options = {name: value for name, value in call.options.items() if name != "on_empty" or value != "raise"}
    names = ["grad", "hess"] if "hess" in call.names() else ["grad"]
    buffers = {f"{name}_out": np.empty(call.logits.shape, call.result(name)) for name in names}
    entry: Any = sce.cross_entropy_with_hessian if "hess" in names else sce.cross_entropy_with_grad
    with calls.strict():
        found = entry(call.logits, call.targets, **options, return_lse=True, **buffers, threads=1, backend=backend)
    return dict(zip(("loss", *names, "lse"), (np.asarray(found[0]).reshape(-1), *found[1:]), strict=True))


def _check_form(call: RandomCall, name: str, array: Any) -> None:
    """Check shapes and dtypes, and that given buffers are returned."""
    reduced = name == "loss" and call.arguments.get("reduction", "mean") != "none"
    of_logits = name in ("grad", "hess")
    shape = call.rooms["logits"].view.shape if of_logits else () if reduced else call.outer
    dtype = call.result(name) if of_logits else call.compute
    assert np.shape(array) == shape, f"{name} has shape {np.shape(array)}, not {shape}"
    assert array.dtype == dtype, f"{name} has dtype {array.dtype}, not {dtype}"
    buffer = call.arguments.get("out" if name == "loss" else f"{name}_out")
    assert buffer is None or array is buffer, f"{name} is not the buffer that was given"
    assert buffer is not None or isinstance(array, np.ndarray if shape else np.generic), f"{name} is {type(array)}"


def _check_memory(call: RandomCall, found: dict[str, Any]) -> None:
    """Check that inputs are unchanged, and that nothing was written beside the outputs."""
    for name, room in call.rooms.items():
        if any(room.view is array for array in found.values()):
            assert room.margin_untouched(), f"something was written beside {name}"
        else:
            assert room.untouched(), f"{name} was written to"


def _must_refuse_an_empty_mean(call: RandomCall, backend: str) -> None:
    try:
        call.run(backend)
    except ValueError as error:
        assert "no row counts" in str(error), f"the message for an empty mean is {error}"
    else:
        raise AssertionError('on_empty="raise" raised nothing')
    for name, room in call.rooms.items():
        assert room.untouched(), f"{name} was written to before the error"


@dataclass(frozen=True, slots=True)
class _Counted:
    """The divisors of a mean: the sum of sample_weight * weight[y] over the counted rows, and that of sample_weight.

    `sizes`: of the absolute values.
    """

    weighted: float
    plain: float
    sizes: float
    empty: bool

    @classmethod
    def of(cls, call: RandomCall) -> _Counted:
        rows, classes = call.logits.shape
        sample = call.options.get("sample_weight", np.ones(rows))
        by_label = np.ones(rows)
        if call.is_hard:
            counts = call.targets != call.options["ignore_index"]
            sample = np.where(counts, sample, 0.0)
            by_label = call.options.get("weight", np.ones(classes))[np.where(counts, call.targets, 0)]
        natural = call.options.get("reduction", "mean") == "mean" and "denominator" not in call.options
        products = [Fraction(r) * Fraction(w) for r, w in zip(sample.tolist(), by_label.tolist(), strict=True)]
        exact, rows_sum = sum(products, Fraction()), sum(map(Fraction, sample.tolist()), Fraction())
        has_z = call.options.get("z_loss", 0.0) != 0
        empty = natural and (exact == 0 or (has_z and rows_sum == 0))
        return cls(_float(exact), _float(rows_sum), _float(sum(map(abs, products), Fraction())), empty)


def _float(exact: Fraction) -> float:
    try:
        return float(exact)
    except OverflowError:  # beyond the range of float64 the bounds are not asked for
        return math.inf if exact > 0 else -math.inf


def _in_domain(call: RandomCall, counted: _Counted) -> bool:
    """Return whether the bounds apply. They assume factors that neither overflow nor underflow."""
    if counted.empty:
        return False
    options = call.options
    upstream = np.abs(np.asarray(options.get("grad_output", 1.0), float))
    factors = [options.get("weight", 1.0), options.get("sample_weight", 1.0), upstream]
    factors += [options.get("label_smoothing", 0.0), options.get("denominator", 1.0)]
    if not call.is_hard:
        factors.append(call.targets.astype(np.float64))
    sizes = [np.abs(np.asarray(factor)) for factor in factors]
    ordinary = all(bool(((f == 0) | ((f >= 1e-6) & (f <= 1e4))).all()) for f in sizes)
    if options.get("reduction", "mean") == "mean" and "denominator" not in options:
        cancels = counted.sizes > 1e4 * abs(counted.weighted) or (
            options.get("z_loss", 0.0) != 0 and counted.sizes > 1e4 * abs(counted.plain)
        )
        ordinary = ordinary and not cancels
    return ordinary and options.get("z_loss", 0.0) <= 100


def is_moderate(logits: Any) -> bool:
    """Return whether an unshifted exponential of these logits neither overflows nor underflows."""
    x = logits.astype(np.float64)
    return bool((np.abs(x[np.isfinite(x)]) <= _MODERATE).all())


@dataclass(frozen=True, slots=True)
class _Reference:
    """The oracle's rows, scaled so that their sum over the divisor is the mean."""

    truth: oracle.Truth
    scaled: oracle.Truth
    divisor: float
    options: dict[str, Any]

    @classmethod
    def of(cls, call: RandomCall, counted: _Counted) -> _Reference:
        options = {name: call.options[name] for name in _ORACLES if name in call.options}
        divisor = 1.0
        if call.options.get("reduction", "mean") == "mean":
            divisor = call.options.get("denominator", counted.weighted)
            if "denominator" not in call.options and options.get("z_loss", 0.0):
                # The z-loss is divided by the sample weights alone, the rest by the class weights too.
                options["z_loss"] *= counted.weighted / counted.plain
        upstream = np.asarray(options.pop("grad_output", 1.0), float)
        truth = oracle.evaluate(call.logits, call.targets, **options)
        scaled = oracle.evaluate(call.logits, call.targets, **options, grad_output=upstream / divisor)
        return cls(truth, scaled, divisor, options)

    def judge(self, info: BackendInfo, call: RandomCall, found: dict[str, Any]) -> None:
        """Check that the results of the plain call are within the backend's bounds."""
        truth = self.truth
        bound = oracle.bounds(info, truth, call.compute)
        unit = (8 + len(call.logits)) * 2.0**-53  # of divisors and sums, which are float64
        self._judge_derivatives(info, call, found, unit)
        _judge(found["lse"], truth.lse, bound.lse, f"log-sum-exp of {info.name}")
        limits = np.finfo(call.compute)
        if _largest_signed_sum(truth) > float(limits.max) / 16:
            return
        if call.options.get("reduction", "mean") == "none":
            _judge(found["loss"], truth.loss, bound.loss, f"loss of {info.name}")
            return
        if self.options.get("z_loss", 0.0) >= 0:  # no row has a z-loss of the other sign, but a mean may come to it
            with calls.strict():
                rows = sce.cross_entropy(call.logits, call.targets, **self.options, reduction="none", backend=info.name)
            _judge(rows, truth.loss, bound.loss, f"row losses of {info.name}")
        sizes = np.abs(np.where(np.isfinite(truth.loss), truth.loss, 0))
        if sizes.max(initial=0) > 1e-12 * float(limits.max):
            return  # a row beyond the format's range makes the sum infinite, or not, as its weights were scaled
        allowed = (bound.loss.sum() + (float(limits.eps) + unit) * sizes.sum()) / abs(self.divisor)
        _judge(found["loss"], [truth.loss.sum() / self.divisor], [allowed], f"loss of {info.name}")

    def _judge_derivatives(self, info: BackendInfo, call: RandomCall, found: dict[str, Any], unit: float) -> None:
        """Check the gradient, and the Hessian if the call computes it."""
        scaled, names = self.scaled, [name for name in ("grad", "hess") if name in found]
        with np.errstate(all="ignore"):  # of rows that are not finite, on which nothing is to be allowed
            pull = np.abs(4 * scaled.lse * scaled.z_loss)
            z_pull = np.abs(scaled.gain) * pull
            z_parts = {"grad": z_pull, "hess": z_pull + np.abs(2 * scaled.gain * scaled.z_loss)}
            rounding = {name: unit * (np.abs(getattr(scaled, name)) + z_parts[name][:, None]) for name in names}
            factors = np.maximum(pull, z_pull + np.abs(scaled.gain) * np.abs(scaled.target).sum(axis=1))
        # Beyond the format's range a factor is infinite, and 0 times it is no number.
        if np.where(scaled.broken, 0, factors).max(initial=0) >= float(np.finfo(call.compute).max) / 16:
            return
        for wide in (True, False):  # a wide buffer has the digits of the computation
            of_this = [name for name in names if (call.result(name) == call.compute) == wide]
            bound = oracle.bounds(info, scaled, call.compute if wide else call.logits.dtype) if of_this else None
            for name in of_this:
                allowed = getattr(bound, name) + np.nan_to_num(rounding[name].astype(float))
                _judge(found[name], getattr(scaled, name), allowed, f"{_CALLED[name]} of {info.name}")


def _largest_signed_sum(truth: oracle.Truth) -> float:
    """Return the largest sum of absolute terms among the losses of rows that have masses of either sign.

    There a partial sum may overflow although the loss is an ordinary number.
    """
    with np.errstate(all="ignore"):
        terms = np.where(truth.target != 0, np.abs(truth.target) * truth.gap, 0)
        sums = np.where((truth.target < 0).any(axis=1) & ~truth.broken, terms.sum(axis=1), 0)
    return float(sums.max(initial=0))


def _judge(result: Any, truth: Any, bound: Any, what: str) -> None:
    worst = oracle.over_bound(result, truth, bound)
    assert worst <= 1, f"{what}: {worst:.4g} times the error bound; {np.asarray(result)} and not {np.asarray(truth)}"
