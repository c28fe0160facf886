"""A correct backend with a method for every formula, and backends that each get one formula wrong.

The correct backend passes the whole conformance suite, and each wrong one must fail it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from softmax_ce._backends._rows import row_blocks, rows_of
from softmax_ce.contract import Accuracy, BackendInfo, HessianKernels, pairwise
from softmax_ce.divergence import Blocks

_ACCURACY = {"float32": Accuracy(2.6, 1.0, pairwise), "float64": Accuracy(1.0, 1.0, pairwise)}


class CorrectBackend:
    """A correct and slow backend. Its wrong subclasses each override one method."""

    def __init__(self) -> None:
        name = type(self).__name__.lower()
        self.BACKEND = BackendInfo(name=name, module=__name__, accuracy=_ACCURACY)

    # The formulas.

    def peak(self, x: Any) -> Any:
        return x.max(axis=1, keepdims=True)

    def sum_others(self, e: Any, at_top: Any) -> Any:
        """Return the sum without one of the maxima."""
        e = e.copy()
        e[np.arange(len(e)), at_top] = 0
        return e.sum(axis=1).astype(float)

    def log_sum(self, others: Any) -> Any:
        return np.log1p(others)

    def label_loss(self, mass: Any, top: Any, log_sum: Any, x_label: Any) -> Any:
        return 2 * (mass * (0.5 * top - 0.5 * x_label)) + mass * log_sum

    def label_pull(self, p: Any, others: Any) -> Any:
        """Return p_y - 1."""
        return -others

    def counts(self, known: Any, ignored: Any, weight: Any) -> Any:
        return known & ~ignored & (weight != 0)

    def base(self, base_mass: Any, classes: int) -> Any:
        return np.broadcast_to(base_mass, classes).astype(float)

    def z_pull(self, z_loss: float, lse: Any) -> Any:
        return 2 * z_loss * lse

    def gain(self, weight: Any, upstream: Any) -> Any:
        return weight * upstream

    def rows(self, array: Any, rows: slice) -> Any:
        return array[rows]

    def row_weight(self, weight: Any) -> Any:
        return weight

    def label_mass(self, mass: Any) -> Any:
        return mass

    def complement(self, p: Any, others: Any) -> Any:
        """Return 1 - p from the share of the other classes."""
        return others

    def z_curve(self, z_loss: float, p: Any) -> Any:
        """Return the part of the Hessian that the slope of lse adds."""
        return 2 * z_loss * p * p

    def soft_cost(self, target: Any, gap: Any) -> Any:
        return np.where(target != 0, target * gap, 0.0).sum(axis=1)

    # The kernels, which use the formulas.

    def hard(
        self, logits: Any, labels: Any, ignore_index: int, label_mass: Any, base_mass: Any, base_total: float,
        z_loss: float, row_weight: Any, upstream: Any,
        loss: Any, grad: Any, row_max: Any, log_sum: Any, start: int, stop: int, hess: Any = None,
    ) -> None:  # fmt: skip
        classes = logits.shape[1]
        for rows in row_blocks(start, stop, classes):
            count = rows.stop - rows.start
            y = np.broadcast_to(rows_of(labels, rows), count)
            known = (y >= 0) & (y < classes)
            label = np.where(known, y, 0)
            mass = self.label_mass(np.broadcast_to(label_mass, classes)[label].astype(float))
            weight = self.row_weight(np.broadcast_to(rows_of(row_weight, rows), count))
            counts = self.counts(known, y == ignore_index, weight)
            target = (
                np.zeros((count, classes)) if base_mass is None else np.tile(self.base(base_mass, classes), (count, 1))
            )
            spread = np.full(count, base_total)
            self._rows(
                logits,
                rows,
                target,
                spread,
                mass,
                label,
                z_loss,
                counts,
                weight,
                upstream,
                loss,
                grad,
                row_max,
                log_sum,
                hess,
            )

    def soft(
        self, logits: Any, targets: Any, target_scale: Any, base_mass: Any, z_loss: float, row_weight: Any,
        upstream: Any, loss: Any, grad: Any, row_max: Any, log_sum: Any, start: int, stop: int, hess: Any = None,
    ) -> None:  # fmt: skip
        classes = logits.shape[1]
        for rows in row_blocks(start, stop, classes):
            count = rows.stop - rows.start
            with np.errstate(all="ignore"):
                target = self.rows(targets, rows) * target_scale.astype(float)
                if base_mass is not None:
                    target = target + self.base(base_mass, classes)
                total = target.sum(axis=1)
            weight = self.row_weight(np.broadcast_to(rows_of(row_weight, rows), count))
            nothing = np.zeros(count)
            self._rows(
                logits, rows, target, total, nothing, None, z_loss, weight != 0, weight, upstream,
                loss, grad, row_max, log_sum, hess,
            )  # fmt: skip

    def _rows(
        self, logits: Any, rows: slice, target: Any, spread: Any, mass: Any, label: Any, z_loss: float, counts: Any,
        weight: Any, upstream: Any, loss: Any, grad: Any, row_max: Any, log_sum: Any, hess: Any,
    ) -> None:  # fmt: skip
        with np.errstate(all="ignore"):
            x = self.rows(logits, rows)
            at = np.arange(len(x)), np.zeros(len(x), int) if label is None else label
            peak = self.peak(x)
            top = peak[:, 0].astype(float)
            broken = ~np.isfinite(x.max(axis=1))
            e = np.exp(x - peak)
            others = self.sum_others(e, x.argmax(axis=1))
            log_s = np.where(broken, 0.0, self.log_sum(others))
            lse = top + log_s
            s = 1 + others
            x_label = x[at].astype(float)
            weight = np.where(counts, weight, 0.0)
            if row_max is not None:
                row_max[rows] = top
            if log_sum is not None:
                log_sum[rows] = log_s
            if loss is not None:
                half = 0.5 * top[:, None] - 0.5 * x.astype(float)
                value = 2 * self.soft_cost(target, half) + target.sum(axis=1) * log_s
                value += np.where(mass != 0, self.label_loss(mass, top, log_s, x_label), 0.0)
                value += z_loss * lse * lse if z_loss else 0.0
                loss[rows] = np.where(counts, np.where(broken, np.nan, weight * value), 0.0)
            if grad is not None or hess is not None:
                gain = self.gain(weight, np.broadcast_to(rows_of(upstream, rows), len(x)))
                p = e.astype(float) / s[:, None]
                z_pull = self.z_pull(z_loss, lse) if z_loss else 0.0
            if hess is not None:
                share = (s[:, None] - e) / s[:, None]
                share[np.arange(len(x)), x.argmax(axis=1)] = others / s
                h = (mass + spread + z_pull)[:, None] * p * self.complement(p, share) + self.z_curve(z_loss, p)
                h *= gain[:, None]
                h[broken] = np.nan
                h[~counts] = 0.0
                self.rows(hess, rows)[...] = h
            if grad is not None:
                rest = (spread + z_pull)[:, None] * p - target
                g = gain[:, None] * (mass[:, None] * p + rest)
                if label is not None:
                    e_label = e[at].astype(float)
                    share = np.where(x_label == top, others, s - e_label) / s
                    g[at] = gain * (mass * self.label_pull(p[at], share) + rest[at])
                g[broken] = np.nan
                g[~counts] = 0.0
                self.rows(grad, rows)[...] = g


class WithHessian(CorrectBackend):
    """A correct backend whose kernels compute the Hessian too."""

    @property
    def hessian(self) -> HessianKernels:
        return HessianKernels(
            lambda *given: self.hard(*given[:11], *given[12:], hess=given[11]),  # type: ignore[misc]
            lambda *given: self.soft(*given[:9], *given[10:], hess=given[9]),  # type: ignore[misc]
        )


class WithKl(CorrectBackend):
    """A correct backend with a kernel for the KL divergence."""

    def divergence(self, x: Any, z: Any, temperature: float) -> tuple[Any, Any]:
        """Return the divergences of float64 rows, and p - t."""
        backend: Any = self
        return Blocks(backend, temperature, False, True, x.size).evaluate(x, z)

    def slope(self, gain: Any, temperature: float) -> Any:
        return gain / temperature

    def kl(
        self, logits: Any, target_logits: Any, temperature: float, row_weight: Any, upstream: Any, loss: Any, grad: Any,
        start: int, stop: int,
    ) -> None:  # fmt: skip
        rows = slice(start, stop)
        weight = np.broadcast_to(row_weight, len(logits))[rows]
        gain = weight * np.broadcast_to(upstream, len(logits))[rows]
        with np.errstate(all="ignore"):
            x, z = (part[rows].astype(np.float64) for part in (logits, target_logits))
            kl, difference = self.divergence(x, z, temperature)
            loss[rows] = np.where(weight != 0, weight * kl, 0)
            if grad is not None:
                slope = self.slope(gain, temperature)[:, None]
                grad[rows] = np.where(weight[:, None] != 0, slope * difference, 0)


class MaximumOfTheArray(CorrectBackend):
    """The maximum is over the whole block, not the row, which goes unnoticed if test inputs lie in [0, 1)."""

    def peak(self, x: Any) -> Any:
        return np.full((len(x), 1), np.nanmax(x), x.dtype)


class SumBeforeDifference(CorrectBackend):
    """The loss is (m + log s) - x_y, which is inaccurate for logits with an offset."""

    def label_loss(self, mass: Any, top: Any, log_sum: Any, x_label: Any) -> Any:
        return mass * ((top.astype(np.float32) + log_sum.astype(np.float32)).astype(float) - x_label)


class WithoutHalves(CorrectBackend):
    """The loss is mass * (m - x_y), which overflows where the result does not."""

    def label_loss(self, mass: Any, top: Any, log_sum: Any, x_label: Any) -> Any:
        return mass * (top - x_label) + mass * log_sum


class CancellingGradient(CorrectBackend):
    """The gradient at the label is p_y - 1, which cancels as p_y approaches 1."""

    def label_pull(self, p: Any, others: Any) -> Any:
        return (p.astype(np.float32) - 1).astype(float)


class PlainLogarithm(CorrectBackend):
    """log s takes the place of log1p(s - 1), so that a small loss becomes 0."""

    def log_sum(self, others: Any) -> Any:
        return np.log(1 + others)


class ForgottenIgnoredRow(CorrectBackend):
    """Rows with the ignored label count if that label is a class."""

    def counts(self, known: Any, ignored: Any, weight: Any) -> Any:
        return known & (weight != 0)


class SmoothingWithoutWeights(CorrectBackend):
    """The smoothed mass ignores the class weights."""

    def base(self, base_mass: Any, classes: int) -> Any:
        base = super().base(base_mass, classes)
        return np.full(classes, base.mean())


class ShortOffset(CorrectBackend):
    """Offsets are computed in 32 bits and wrap beyond 2**31 elements."""

    def rows(self, array: Any, rows: slice) -> Any:
        first = int(np.array([rows.start * array.shape[1]], np.int64).astype(np.int32)[0]) // array.shape[1]
        return array[first : first + rows.stop - rows.start]


class ZeroTimesInfinity(CorrectBackend):
    """A target of 0 at a logit of -inf gives NaN."""

    def soft_cost(self, target: Any, gap: Any) -> Any:
        return (target * gap).sum(axis=1)


class HalfTheZGradient(CorrectBackend):
    """The derivative of lse**2 lacks its factor of 2."""

    def z_pull(self, z_loss: float, lse: Any) -> Any:
        return z_loss * lse


class ForgottenUpstream(CorrectBackend):
    """The gradient ignores the upstream gradient."""

    def gain(self, weight: Any, upstream: Any) -> Any:
        return weight


class SinglePrecisionSum(CorrectBackend):
    """float64 terms are summed in float32."""

    def sum_others(self, e: Any, at_top: Any) -> Any:
        return super().sum_others(e.astype(np.float32), at_top)


class WeightWithoutSign(CorrectBackend):
    """The absolute value of a row's weight is used, forward and backward."""

    def row_weight(self, weight: Any) -> Any:
        return np.abs(weight)


class MassWithoutSign(CorrectBackend):
    """The absolute value of a class weight is used."""

    def label_mass(self, mass: Any) -> Any:
        return np.abs(mass)


class SumOfSizes(CorrectBackend):
    """Sums are of absolute values, of losses and weights alike. They are right unless something is negative."""

    def total(self, vector: Any, divisor: float) -> float:
        return float(np.abs(vector).sum(dtype=np.float64)) / divisor


class CancelledBase(CorrectBackend):
    """Smoothed masses that sum to 0 are ignored."""

    def base(self, base_mass: Any, classes: int) -> Any:
        base = super().base(base_mass, classes)
        return base if base.sum() else np.zeros(classes)


class RowsOfTheCall(CorrectBackend):
    """The bits of a row depend on how the rows were cut."""

    def log_sum(self, others: Any) -> Any:
        return np.log1p(others) * (1 + 2.0**-22 * (len(others) % 2))


class HessianByDifference(WithHessian):
    """The Hessian is p (1 - p), which cancels as p approaches 1."""

    def complement(self, p: Any, others: Any) -> Any:
        return (1 - p.astype(np.float32)).astype(float)


class HessianWithoutTheZTerm(WithHessian):
    """The Hessian lacks what the slope of lse adds: 2 * z_loss * p**2."""

    def z_curve(self, z_loss: float, p: Any) -> Any:
        return 0.0


class KlOfFloat32Probabilities(WithKl):
    """The divergence is t (log t - log p) of float32 probabilities: nothing is left of a small one."""

    def divergence(self, x: Any, z: Any, temperature: float) -> tuple[Any, Any]:
        x, z = (part.astype(np.float32) / np.float32(temperature) for part in (x, z))
        p, t = (np.exp(part - part.max(axis=1, keepdims=True)) for part in (x, z))
        p, t = p / p.sum(axis=1, keepdims=True), t / t.sum(axis=1, keepdims=True)
        return np.where(t > 0, t * (np.log(t) - np.log(p)), 0).sum(axis=1), (p - t).astype(float)


class KlGradientWithoutTemperature(WithKl):
    """The gradient of the divergence is not divided by the temperature."""

    def slope(self, gain: Any, temperature: float) -> Any:
        return gain


WRONG = [
    MaximumOfTheArray,
    SumBeforeDifference,
    WithoutHalves,
    CancellingGradient,
    PlainLogarithm,
    ForgottenIgnoredRow,
    SmoothingWithoutWeights,
    ShortOffset,
    ZeroTimesInfinity,
    HalfTheZGradient,
    ForgottenUpstream,
    SinglePrecisionSum,
    WeightWithoutSign,
    MassWithoutSign,
    SumOfSizes,
    CancelledBase,
    RowsOfTheCall,
    HessianByDifference,
    HessianWithoutTheZTerm,
    KlOfFloat32Probabilities,
    KlGradientWithoutTemperature,
]
