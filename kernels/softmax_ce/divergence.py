"""The arithmetic of the KL divergence, on blocks of rows in float64, with a backend's softmax.

With t = softmax(z / T), p = softmax(x / T) and delta_j = log p_j - log t_j, the terms t_j sum to 1 as the p_j do. Hence

    sum_j t_j (log t_j - log p_j) = sum_j t_j (expm1(delta_j) - delta_j),

and no term on the right is negative: nothing cancels, however small the divergence is. An error that all delta_j share
comes in squared. The differences delta are computed in float64, with the rounding error of x - z carried along.

A float32 result needs that care only where the divergence is small. Elsewhere it is the difference of two
cross-entropies in float64, those of t with p and of t with itself. The kernel for soft labels computes the first, and
p - t. A row's own numbers decide which, so its bits depend on it alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from softmax_ce.contract import Backend
from softmax_ce.fold import NO_LABEL, NO_MASS, ONE_CLASS, ONE_ROW

_FLOAT64 = np.dtype(np.float64)
_NO_MASS: Any = NO_MASS[_FLOAT64]
_ONE: Any = ONE_CLASS[_FLOAT64]

_SMALL = 2.0**-19  # below this part of the cross-entropy, the difference of two is not accurate enough for a float32
_CHUNK = 1 << 13  # elements of a polynomial at a time: they stay in L1

# (expm1(d) - d) / d**2 on [-1, 1], from the highest power: the interpolant of relative error 2**-54 in the Chebyshev
# points, computed with mpmath. Evaluated in float64, it is off by 1.4 units of roundoff at most.
_EXCESS = (
    7.746178593018827e-13, 1.1639194124150522e-11, 1.6057679623801638e-10, 2.0874435575864273e-09,
    2.5052117695907823e-08, 2.755733506893373e-07, 2.7557319191381816e-06, 2.4801587246096818e-05,
    0.00019841269841324198, 0.0013888888888981404, 0.008333333333333299, 0.04166666666666609, 0.16666666666666666, 0.5,
)  # fmt: skip


class Softmax(NamedTuple):
    """The numbers of each row of a softmax at a temperature T.

    Attributes
    ----------
    top, log_sum : ndarray
        (rows,): the log-sum-exp of the logits over T is top / T + log_sum.
    """

    top: Any
    log_sum: Any

    @property
    def broken(self) -> Any:
        """Which rows have no distribution: those with a NaN or +inf, and those of -inf alone."""
        return ~np.isfinite(self.top + self.log_sum)


class Blocks:
    """What computes the divergence of one block of rows after another. Each thread has its own.

    Parameters
    ----------
    backend : Backend
    temperature : float
    is_narrow : bool
        Whether the results are rounded to float32 or less.
    want_grad : bool
    size : int
        The most elements of a block.
    """

    def __init__(self, backend: Backend, temperature: float, is_narrow: bool, want_grad: bool, size: int) -> None:
        self._hard, self._soft = backend.hard, backend.soft
        self._temperature = temperature
        self._is_narrow = is_narrow
        self._want_grad = want_grad
        self._scratch = [np.empty(size) for _ in range(3 if is_narrow else 2)]

    def evaluate(self, x: Any, z: Any) -> tuple[Any, Any]:
        """Return the divergences of the rows, and p - t or None. The next call overwrites both.

        Parameters
        ----------
        x, z : ndarray, shape (rows, C)
            Logits and target logits, float32 or float64.
        """
        p, t, *room = (part[: x.size].reshape(x.shape) for part in self._scratch)
        if not self._is_narrow:
            return self._carefully(_float64(x), _float64(z), p, t)
        kl, difference, is_small = self._quickly(x, z, p, t, *room)
        small = np.flatnonzero(is_small)
        if small.size:
            again = np.empty((2, small.size, x.shape[1]))
            kl[small], rows = self._carefully(_float64(x[small]), _float64(z[small]), *again)
            if difference is not None:
                difference[small] = rows
        return kl, difference

    def _quickly(self, x: Any, z: Any, p: Any, t: Any, room: Any) -> tuple[Any, Any, Any]:
        """Return the divergences, p - t or None, and which rows need more care. The scratches are overwritten."""
        np.copyto(p, x)
        np.copyto(room, z)
        if self._temperature != 1.0:
            self._divide(p, p)
            self._divide(room, room)
        top, log_sum, crossed = np.empty((3, len(x)))
        self._hard(room, NO_LABEL, -1, _NO_MASS, None, 1.0, 0.0, ONE_ROW, ONE_ROW, None, t, top, log_sum, 0, len(x))
        grad = p if self._want_grad else None
        self._soft(p, t, _ONE, None, 0.0, ONE_ROW, ONE_ROW, crossed, grad, None, None, 0, len(x))
        room -= top[:, None]
        room *= t
        entropy = log_sum - _sums(room)
        if not np.isfinite(entropy).all():
            np.copyto(room, 0.0, where=t == 0)  # 0 * inf = 0
            entropy = log_sum - _sums(room)
        kl = crossed - entropy
        return kl, grad, ~((kl >= _SMALL * (1 + crossed)) & (kl < np.inf))

    def _carefully(self, x: Any, z: Any, p: Any, t: Any) -> tuple[Any, Any]:
        """Return sum_j t_j (expm1(delta_j) - delta_j) and p - t, of which no digit is lost. p and t are overwritten."""
        of_t, of_x = self._softmax(z, t), self._softmax(x, p)
        delta = self._differences(x, z, *self._shift(of_x, of_t))
        linear = t * delta
        some_masked = not np.isfinite(_sums(linear)).all()
        if some_masked:
            np.copyto(linear, 0.0, where=t == 0)  # 0 * inf = 0
        difference = np.subtract(p, t, out=p)
        terms = difference - linear
        at: Any = np.flatnonzero(np.abs(delta).reshape(-1) <= 1)
        if at.size == delta.size:
            at = slice(None)
        excess = t.reshape(-1)[at] * _excess(delta.reshape(-1)[at])
        terms.reshape(-1)[at] = excess
        difference.reshape(-1)[at] = excess + linear.reshape(-1)[at]
        # p and t have the same sum. What is left of their difference is an error that all delta share, taken out here.
        surplus = _sums(difference)
        kl = np.maximum(_sums(terms) - 0.5 * surplus * surplus, 0.0)
        difference -= t * surplus[:, None]
        difference /= (1 + surplus)[:, None]
        if some_masked:
            far = ~(kl < np.inf) & ~((x == -np.inf) & (t > 0)).any(axis=1)
            if far.any():
                kl[far] = self._far(x[far], z[far], t[far], of_x, of_t, far)
        kl[of_x.broken | of_t.broken] = np.nan
        return kl, difference

    def _divide(self, logits: Any, out: Any) -> Any:
        """Write the logits less their maximum, over T, and return the maximum: large offsets cost no digits."""
        largest = np.maximum.reduce(logits, axis=1)
        np.subtract(logits, largest[:, None], out=out)
        np.divide(out, self._temperature, out=out)
        return largest

    def _softmax(self, logits: Any, out: Any) -> Softmax:
        """Return the softmax of a block, which is written to `out`."""
        top, log_sum = np.empty((2, len(logits)))
        largest = None
        if self._temperature != 1.0:
            largest, logits = self._divide(logits, out), out
        self._hard(
            logits, NO_LABEL, -1, _NO_MASS, None, 1.0, 0.0, ONE_ROW, ONE_ROW, None, out, top, log_sum, 0, len(logits)
        )
        if largest is not None:
            top = top * self._temperature + largest
        return Softmax(top, log_sum)

    def _shift(self, of_x: Softmax, of_t: Softmax) -> tuple[Any, Any]:
        """Return T times the difference of the log-sum-exps as a sum of two numbers."""
        high, low = _subtract(of_x.top, of_t.top)
        total, rest = _subtract(high, self._temperature * (of_t.log_sum - of_x.log_sum))
        return total, rest + low

    def _differences(self, x: Any, z: Any, shift: Any, low_shift: Any) -> Any:
        """Return delta. x - z and the shift may be huge and nearly equal: their rounding errors are carried along."""
        delta, low = _subtract(x, z)
        delta -= shift[:, None]
        low -= low_shift[:, None]
        delta += low
        if self._temperature != 1.0:
            delta /= self._temperature
        return delta

    def _far(self, x: Any, z: Any, t: Any, of_x: Softmax, of_t: Softmax, rows: Any) -> Any:
        """Return -sum_j t_j delta_j of rows with logits so far apart that x - z overflows, in quarters."""
        tops = 0.25 * of_x.top[rows] - 0.25 * of_t.top[rows]
        sums = 0.25 * self._temperature * (of_x.log_sum[rows] - of_t.log_sum[rows])
        terms = (0.25 * x - 0.25 * z - (tops + sums)[:, None]) * t
        np.copyto(terms, 0.0, where=t == 0)
        return _sums(terms) / -self._temperature * 4.0


def _subtract(a: Any, b: Any) -> tuple[Any, Any]:
    """Return a - b rounded, and the rounding error, 0 if the difference is not finite (Knuth, 1969)."""
    difference = a - b
    part = difference - a
    low = (a - (difference - part)) - (b + part)
    np.copyto(low, 0.0, where=~np.isfinite(low))
    return difference, low


def _excess(delta: Any) -> Any:
    """Return expm1(delta) - delta of a vector in [-1, 1]."""
    result = np.full(delta.shape, _EXCESS[0])
    for start in range(0, delta.size, _CHUNK):
        d, value = delta[start : start + _CHUNK], result[start : start + _CHUNK]
        for coefficient in _EXCESS[1:]:
            value *= d
            value += coefficient
        value *= d
        value *= d
    return result


def _sums(terms: Any) -> Any:
    """Return the sum of each row. Those of few classes are twice as fast so as along an axis."""
    return np.add.reduceat(terms.reshape(-1), np.arange(0, terms.size, terms.shape[1]))


def _float64(block: Any) -> Any:
    return block.astype(np.float64, copy=False)
