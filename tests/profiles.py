"""Profiles made up for tests: costs are given by formulas, so that every choice can be worked out by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from softmax_ce.choice import fingerprint
from softmax_ce.profile import Cell, Measured, Profile

Cost = Callable[[int, int], float]


def cell(
    rows: int, classes: int, seconds: Mapping[str, float], *, winner: str | None = None, dtype: str = "float32",
    operation: str = "fused", threads: int | None = None, rejected: Mapping[str, str] | None = None,
    tied: tuple[str, ...] = (),
) -> Cell:  # fmt: skip
    """One cell; the winner is the fastest that was not rejected, unless named."""
    rejected = rejected or {}
    eligible = [name for name in seconds if name not in rejected]
    measured = tuple(
        Measured(backend=name, seconds=time, seconds_low=time * 0.99, seconds_high=time * 1.01, error=0.5,
                 rejected=rejected.get(name))
        for name, time in seconds.items()
    )  # fmt: skip
    return Cell(
        rows=rows, classes=classes, dtype=dtype, operation=operation, threads=threads,
        winner=winner or min(eligible, key=seconds.__getitem__), measured=measured, rounds=30, tied=tied,
    )  # fmt: skip


def grid(
    all_rows: Iterable[int], all_classes: Iterable[int], costs: Mapping[str, Cost], **options: Any
) -> tuple[Cell, ...]:
    """The cells of a full grid."""
    return tuple(
        cell(rows, classes, {name: cost(rows, classes) for name, cost in costs.items()}, **options)
        for rows, classes in itertools.product(all_rows, all_classes)
    )


def profile(cells: Iterable[Cell], **fields: Any) -> Profile:
    """A profile of this machine."""
    cells = tuple(cells)
    names = {one.backend for cell in cells for one in cell.measured}
    order = tuple(name for name in ("naive", "numpy", "cython", "numba") if name in names)
    return Profile(
        **{
            "fingerprint": fingerprint.collect(),
            "cells": cells,
            "order": (*order, *sorted(names - set(order))),
            "date": "2026-01-02T03:04:05+00:00",
            "command": "softmax-ce pick",
            **fields,
        }
    )


# Two backends that cross: numpy costs 10 us a call and 1 ns an element, cython 100 us and a tenth of a nanosecond.
# By hand: they are equal at 100 000 elements.
CROSSING: dict[str, Cost] = {
    "numpy": lambda rows, classes: 10e-6 + 1e-9 * rows * classes,
    "cython": lambda rows, classes: 100e-6 + 1e-10 * rows * classes,
}
