"""Rows of few classes: several rows at a time, a row in each lane, so that a row shorter than a vector wastes none."""

from __future__ import annotations

from typing import Any

from numba import njit, types
from numba.extending import overload

from softmax_ce._backends.numba_jit.arithmetic import EXACT, exp, exp_scale, log1p
from softmax_ce._backends.numba_jit.memory import (
    at,
    is_null,
    load_tiles,
    null_if,
    prefetch,
    prefetch_to_write,
    store_tiles,
    store_where,
)
from softmax_ce._backends.numba_jit.vectors import (
    as_bits,
    filled,
    lanes_below,
    lanes_of,
    maximum,
    rounded,
    where,
    widen,
)

_inlined: Any = njit(**EXACT)
_function: Any = njit(error_model="numpy")


@_inlined
def is_few(classes: int, w: int, soft: bool) -> bool:
    """Whether this is the faster way, as measured: about as long as the tiles stay in L1. w: lanes of a vector."""
    most = 128 if soft else 256 if w > 8 else 160  # soft labels have tiles too; float64 has half the lanes
    return classes <= most


@_inlined
def tiled(classes: int, w: int) -> int:
    """Vectors that whole tiles have for so many classes."""
    return (classes + w - 1) // w * w


@_inlined
def _load_rows(tiles: Any, p: Any, classes: int, rows: int) -> None:
    w = lanes_of(p)
    for j in range(0, classes, w):
        load_tiles(at(tiles, j), at(p, j), classes, min(w, classes - j), rows)


@_inlined
def _target(t: Any, soft: Any, j: int) -> Any:
    """T of class j in every row."""
    soft_rows, scale, scale_step, base, base_step = t
    v = filled(soft, 0.0)
    if not is_null(soft_rows):
        v = soft[j] * filled(soft, scale[j * scale_step])
    if not is_null(base):
        v = v + filled(soft, base[j * base_step])
    return v


def _add(sums: Any, term: Any) -> Any:
    """One more term of a sum in float64: eight partial sums take turns where the terms are float64 themselves."""
    raise AssertionError("compiled code only")


@overload(_add, jit_options=EXACT)
def _add_of(sums: Any, term: Any) -> Any:
    def wide(sums: Any, term: Any) -> Any:
        return (sums[0] + widen(term), *sums[1:])

    def in_turns(sums: Any, term: Any) -> Any:
        return (*sums[1:], sums[0] + term)

    return wide if term.dtype == types.float32 else in_turns


@_function
def few_rows(
    x: Any, classes: int, label: Any, t: Any, base_total: float, z_loss: float,
    weight: Any, upstream: Any, i: int, count: int, outputs: Any, tiles: Any,
) -> int:  # fmt: skip
    """`count` rows from row i on, at x, of which a vector has a lane each; as `row` does them one by one.

    Gives a bit for each row that is left to do, untouched: it does not count, or has no distribution, or an infinity.
    """
    loss, grads, row_max, log_sum = outputs
    w = lanes_of(x)
    there = (1 << count) - 1
    hard = is_null(t[0])
    has_target = not (hard and is_null(t[3]))
    soft = at(tiles, tiled(classes, w))
    _load_rows(tiles, x, classes, there)
    if not hard:
        _load_rows(soft, t[0], classes, there)

    top = tiles[0]
    for j in range(1, classes):
        top = maximum(tiles[j], top)
    zero = filled(tiles, 0.0)
    index = ties = x_label = e_label = at_label = zero
    nothing = widen(zero)
    soft_mass = cost = nothing
    sums = nothing, nothing, nothing, nothing, nothing, nothing, nothing, nothing
    label_mass, mass_step = t[1], t[2]
    mass = filled(tiles, label_mass[0])
    ahead, out = at(x, count * classes), null_if(is_null(grads), at(grads, i * classes))
    for j in range(classes):
        # As many rows as lanes are more streams than the hardware's prefetcher follows: two lines of the rows ahead a
        # class, and of the gradient, make all of them.
        for line in range(2):
            prefetch(ahead, (2 * j + line) * w)
            if not is_null(out):
                prefetch_to_write(out, (2 * j + line) * w)
        v = tiles[j]
        e = exp(v - top)
        is_top, is_label = v == top, label == index
        index = index + 1.0
        sums = _add(sums, where(is_top, 0.0, e))
        ties = where(is_top, ties + 1.0, ties)
        x_label, e_label = where(is_label, v, x_label), where(is_label, e, e_label)
        if mass_step != 0:
            mass = where(is_label, filled(tiles, label_mass[j]), mass)
        if has_target:
            target = _target(t, soft, j)
            soft_mass = soft_mass + widen(target)
            cost = cost + widen(where(target == 0.0, 0.0, target * (top * 0.5 - v * 0.5)))
            at_label = where(is_label, target, at_label)
        tiles[j] = e

    unscale = 1 / exp_scale(x)
    highest, at_x = widen(top), widen(x_label)
    rest = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]))
    rest = rest * unscale + (widen(ties) - 1.0)
    check = rest + (highest + at_x) * 0.0  # NaN also where one of them is infinite
    plain = lanes_below(count, zero) & (check == check) & (weight != 0.0)
    if hard:
        plain = plain & (label > -1.0)
    s = 1.0 + rest
    inverse = 1.0 / s
    log_s = log1p(rest, s, inverse)
    lse = highest + log_s
    total = widen(mass) + base_total if hard else soft_mass
    z_pull = lse * (2 * z_loss) if z_loss != 0 else nothing
    if not is_null(loss):
        value = cost * 2.0 + total * log_s
        if hard:
            value = value + widen(mass) * (0.5 * highest - 0.5 * at_x) * 2.0
        if z_loss != 0:
            value = value + z_loss * lse * lse
        store_where(loss, i, plain, weight * value)
    if not is_null(row_max):
        store_where(row_max, i, plain, highest)
    if not is_null(log_sum):
        store_where(log_sum, i, plain, log_s)
    if not is_null(grads):
        gain = weight * upstream
        p_label = widen(e_label) * unscale  # times s; what follows is as in `row`
        others = where(at_x == highest, rest, s - p_label)
        pull = (base_total + z_pull) * (p_label * inverse) - widen(mass) * (others * inverse) - widen(at_label)
        at_label = rounded(gain * pull, zero)
        share = (total + z_pull) * inverse
        factor = share if has_target else gain * share
        is_small = (factor > -1.0) & (factor < 1.0)
        by = rounded(where(is_small, factor, factor * unscale), zero)
        then = rounded(where(is_small, unscale, 1.0), zero)
        gains = rounded(gain, zero)
        place = where(mass == 0.0, -1.0, label)  # without mass, the label is a class like the others
        index = zero
        for j in range(classes):
            value = tiles[j] * by * then
            if has_target:
                value = gains * (value - _target(t, soft, j))  # the difference first: one class gives exactly 0
            tiles[j] = where(place == index, at_label, value)
            index = index + 1.0
        grad = at(grads, i * classes)
        for j in range(0, classes, w):
            store_tiles(at(tiles, j), at(grad, j), classes, min(w, classes - j), as_bits(plain))
    return there & ~as_bits(plain)
