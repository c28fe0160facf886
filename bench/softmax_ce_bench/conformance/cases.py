"""Named inputs: what the accuracy checks are run on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Around every width that a kernel may treat specially: one class, a vector's lanes, a chunk of 2048.
CLASSES = (1, 2, 3, 7, 16, 17, 33, 100, 1000, 2047, 2048, 2049, 5000)


@dataclass(frozen=True, slots=True)
class Case:
    """One input.

    Attributes
    ----------
    name : str
    logits : ndarray, shape (N, C), float64
        To be rounded to the dtype under test.
    targets : ndarray, shape (N,) or (N, C)
    options : dict
        For the public functions, those that the oracle has too.
    moderate : bool
        Whether an unshifted exponential stands it.
    """

    name: str
    logits: Any
    targets: Any
    options: dict[str, Any] = field(default_factory=dict)
    moderate: bool = True


def rows_for(classes: int) -> int:
    """Enough rows to cut among threads, few enough to be quick."""
    return max(3, min(24, 8000 // classes))


def shapes() -> Iterator[Case]:
    """Every width, ordinary logits, confident and tied rows among them."""
    for classes in CLASSES:
        rng = np.random.default_rng(classes)
        rows = rows_for(classes)
        x = 3 * rng.standard_normal((rows, classes))
        y = rng.integers(0, classes, rows)
        x[0, y[0]] += 12  # confident and right
        x[1] = np.round(x[1])  # ties, also for the maximum
        yield Case(f"{classes} classes", x, y)


def wide() -> Iterator[Case]:
    """Spreads at which most exponentials underflow."""
    for spread in (30.0, 300.0, 3000.0):
        for classes in (2, 17, 100, 5000):
            rng = np.random.default_rng(int(spread) + classes)
            rows = rows_for(classes)
            x = spread * rng.standard_normal((rows, classes))
            y = rng.integers(0, classes, rows)
            y[::3] = x[::3].argmax(axis=1)
            yield Case(f"spread {spread:g}, {classes} classes", x, y, moderate=False)


def options() -> Iterator[Case]:
    """Each option alone, and all together, for hard and for soft labels."""
    for classes in (1, 5, 40, 2503):  # a prime, so that no vector divides it
        rng = np.random.default_rng(classes)
        rows = rows_for(classes)
        x = 2 * rng.standard_normal((rows, classes))
        y = rng.integers(0, classes, rows)
        soft = rng.random((rows, classes))
        soft /= soft.sum(axis=1, keepdims=True)
        soft[0] = np.eye(classes)[0]
        weight = rng.uniform(0.2, 3, classes)
        some_zero = weight * (np.arange(classes) % 3 > 0)
        sample = rng.uniform(0.1, 2, rows)
        sample[2] = 0
        upstream = rng.uniform(-2, 2, rows)
        signs = 1 - 2.0 * (np.arange(classes) % 2)
        cancelling = np.where(np.arange(classes) < classes // 2 * 2, signs, 0) if classes > 1 else -signs
        row_signs = 1 - 2.0 * (np.arange(rows) % 2)
        each: dict[str, dict[str, Any]] = {
            "plain": {},
            "weight": {"weight": weight},
            "weight with zeros": {"weight": some_zero},
            "sample_weight": {"sample_weight": sample},
            "label_smoothing 0.1": {"label_smoothing": 0.1},
            "label_smoothing 1": {"label_smoothing": 1.0},
            "z_loss": {"z_loss": 1e-2},
            "grad_output": {"grad_output": upstream},
            "everything": {
                "weight": weight,
                "sample_weight": sample,
                "label_smoothing": 0.3,
                "z_loss": 1e-3,
                "grad_output": upstream,
            },
            "weight with zeros, smoothing": {"weight": some_zero, "label_smoothing": 0.2},
            "negative weight": {"weight": -weight},
            "weight of either sign": {"weight": signs * weight},
            "weight that sums to 0, smoothing": {"weight": cancelling, "label_smoothing": 0.2},
            "weight that sums to 0, label_smoothing 1": {"weight": cancelling, "label_smoothing": 1.0},
            "sample_weight of either sign": {"sample_weight": row_signs * sample},
            "everything, of either sign": {
                "weight": signs * weight,
                "sample_weight": row_signs * sample,
                "label_smoothing": 0.3,
                "z_loss": 1e-3,
                "grad_output": upstream,
            },
        }
        for name, chosen in each.items():
            yield Case(f"hard, {classes} classes, {name}", x, y, chosen)
            yield Case(f"soft, {classes} classes, {name}", x, soft, chosen)
        ignored = y.copy()
        ignored[::2] = -100
        yield Case(f"ignored rows, {classes} classes", x, ignored, each["everything"])


def extremes(largest: float) -> Iterator[Case]:
    """Offsets, masks, subnormals and the largest numbers; `largest`: the format's."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal((6, 50))
    y = np.arange(6)
    far = min(1e8, largest / 4)
    yield Case("offset up", x * 1e3 + far, y, moderate=False)
    yield Case("offset down", x - min(far, 1e4), y, moderate=False)
    masked = x.copy()
    masked[:, 10:40] = -np.inf
    yield Case("-inf mask", masked, y)
    yield Case("-inf mask, label smoothing 0", masked, y, {"z_loss": 0.1})
    at_label = masked.copy()
    at_label[np.arange(6), y] = -np.inf
    yield Case("-inf at the label", at_label, y)
    yield Case("-inf under smoothing", masked, y, {"label_smoothing": 0.1})
    soft = np.where(np.isfinite(masked), 1.0, 0.0) / 20
    yield Case("-inf where the soft label is 0", masked, soft)
    long = rng.standard_normal((3, 9000))
    long[:, :5000] = -np.inf
    yield Case("leading chunks all -inf", long, np.array([8000, 6000, 5000]))
    yield Case("trailing chunks all -inf", long[:, ::-1], np.array([10, 100, 1000]))
    yield Case("subnormals", x * 1e-39, y)
    huge = np.array([[largest, -largest, 0], [largest / 4, -largest / 4, 1], [-largest, -largest, -largest]])
    yield Case("the largest numbers", huge, np.array([0, 0, 2]), moderate=False)
    yield Case("the largest numbers, wrong label", huge, np.array([1, 1, 1]), moderate=False)
    yield Case("the largest numbers, soft", huge, np.full((3, 3), 0.25), moderate=False)
    yield Case("the largest numbers, smoothed", huge, np.array([0, 1, 2]), {"label_smoothing": 0.01}, moderate=False)
    rising = np.repeat(np.arange(5.0) * 30, 2048)[None] + rng.standard_normal((2, 5 * 2048))
    yield Case("a maximum that rises from chunk to chunk", rising, np.array([0, 9999]), moderate=False)


def cases(largest: float) -> Iterator[Case]:
    """All of them."""
    yield from shapes()
    yield from wide()
    yield from options()
    yield from extremes(largest)
