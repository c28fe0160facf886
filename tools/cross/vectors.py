"""Write the conformance suite's cases to one binary file: the arguments of a kernel, the right results, and the bounds.

All numbers are little-endian. The file: the magic ``sce-vec1``, the declared error of exp in ULP for float32 and
float64 (2 float64), the number of vectors (int64), then the vectors. A vector, R being float32 or float64:

- its name (64 bytes, UTF-8, padded with NUL);
- 9 int64: bytes of R, rows N, classes C, 1 for hard labels and 0 for soft ones, ignore_index, and the lengths of
  class_scale (1 or C), base_mass (0: none, 1 or C), row_weight (1 or N) and upstream (1 or N);
- 2 float64: base_total, z_loss;
- logits (N, C) R; labels (N,) int64 or targets (N, C) R; class_scale R; base_mass R; row_weight and upstream float64;
- for the loss (N), the gradient (N, C), lse = row_max + log_sum (N) and log_sum (N): what is right, as the sum of two
  float64 arrays, and the bound on the error, float64. NaN and infinities must come out as they are.

Names and meaning as in softmax_ce/contract.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

import softmax_ce as sce
from softmax_ce import checks
from softmax_ce.contract import NATIVE_DTYPES, BackendInfo
from softmax_ce.fold import fold
from softmax_ce.problem import Problem
from softmax_ce_bench.conformance.cases import Case, cases
from softmax_ce_bench.truth import oracle

MAGIC = b"sce-vec1"
NAME_BYTES = 64


def broken() -> Iterator[Case]:
    """Return rows without a distribution beside ordinary ones, and ignored rows with NaN, of odd and even widths."""
    for classes in (1, 2, 7, 32, 33, 2049, 4100):
        rng = np.random.default_rng(classes)
        x = rng.standard_normal((9, classes))
        y = rng.integers(0, classes, 9)
        soft = rng.random((9, classes))
        x[0, classes // 2] = np.nan
        x[2, -1] = np.inf
        x[3] = -np.inf
        x[4, 0], x[4, -1] = np.inf, np.nan
        x[5, : classes // 2] = -np.inf
        x[7, classes // 3] = np.nan
        y[7] = -100
        x[8] = 0  # all tied
        for options in ({}, {"label_smoothing": 0.1, "z_loss": 1e-3}):
            yield Case(f"broken rows, {classes} classes, {len(options)} options", x, y, options)
            yield Case(f"broken rows, soft, {classes} classes, {len(options)} options", x, soft, options)


def shapes() -> Iterator[Case]:
    """Return random rows on both sides of each width at which the kernels change: lanes, vectors, blocks, chunks."""
    for classes in (2, 3, 5, 10, 31, 32, 33, 47, 64, 127, 255, 256, 257, 300, 1013, 2048, 5000, 140_000):
        rng = np.random.default_rng(classes)
        rows = 2 if classes > 5000 else 37
        x = rng.normal(0, 4, (rows, classes))
        y = rng.integers(0, classes, rows)
        y[-1] = -100
        soft = rng.random((rows, classes)) / classes
        weight, sample_weight = rng.random(classes), rng.random(rows)
        given = {"weight": weight, "sample_weight": sample_weight}
        everything = {**given, "label_smoothing": 0.1, "z_loss": 1e-3}
        yield Case(f"{classes} classes at random", x, y)
        yield Case(f"{classes} classes at random, all options", x, y, everything)
        yield Case(f"{classes} classes at random, soft", x, soft, everything)


def write(path: Path, info: BackendInfo | None = None, more: Iterable[Case] = ()) -> int:
    """Write every case in both native dtypes, and return the number of cases.

    Parameters
    ----------
    path : Path
        The file, which is overwritten.
    info : BackendInfo, optional
        The backend whose declared accuracy the bounds assume; by default the compiled one.
    more : iterable of Case, optional
        Further cases, in addition to those of the suite.
    """
    more = tuple(more)
    info = info or next(one for one in sce.backends() if one.name == "cython")
    total = 0
    with path.open("wb") as file:
        file.write(MAGIC)
        file.write(struct.pack("<2d", *(info.accuracy[name].exp_ulp for name in NATIVE_DTYPES)))
        count_at = file.tell()
        file.write(struct.pack("<q", 0))
        for name in NATIVE_DTYPES:
            largest = float(np.finfo(name).max)
            for case in (*cases(largest), *broken(), *more):
                _write_vector(file, case, np.dtype(name), info)
                total += 1
        file.seek(count_at)
        file.write(struct.pack("<q", total))
    return total


def _write_vector(file: BinaryIO, case: Case, dtype: np.dtype[Any], info: BackendInfo) -> None:
    with np.errstate(all="ignore"):
        x = np.ascontiguousarray(case.logits, dtype)
    problem, factors = _as_the_shell(x, case)
    rows, classes = x.shape
    hard = problem.labels is not None
    name = case.name.encode()
    assert len(name) < NAME_BYTES, f"{case.name!r} is too long"
    file.write(name.ljust(NAME_BYTES, b"\0"))
    base = np.empty(0) if factors.base_mass is None else factors.base_mass
    lengths = (len(factors.class_scale), len(base), len(factors.row_weight), len(factors.upstream))
    ignore_index = case.options.get("ignore_index", -100)
    file.write(struct.pack("<9q", dtype.itemsize, rows, classes, hard, ignore_index, *lengths))
    file.write(struct.pack("<2d", factors.base_total, factors.z_loss))
    _write_array(file, x, dtype)
    _write_array(file, problem.labels if hard else problem.targets, "int64" if hard else dtype)
    _write_array(file, factors.class_scale, dtype)
    _write_array(file, base, dtype)
    _write_array(file, factors.row_weight, "float64")
    _write_array(file, factors.upstream, "float64")

    truth = oracle.evaluate(x, case.targets, **case.options)
    bound = oracle.bounds(info, truth, dtype)
    limit = np.finfo(dtype).max
    _write_judged(file, truth.loss, bound.loss, limit)
    _write_judged(file, truth.grad, bound.grad, limit)
    _write_judged(file, truth.lse, bound.lse, limit)
    log_sum, allowed = _log_sum(truth, info, dtype)
    _write_judged(file, log_sum, allowed, limit)


def _log_sum(truth: oracle.Truth, info: BackendInfo, dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """Return log_sum and its bound, which is that of lse without the rounding of row_max + log_sum."""
    accuracy = info.accuracy[dtype.name]
    unit, tiny = float(np.finfo(dtype).eps) / 2, float(np.finfo(dtype).smallest_subnormal)
    classes = truth.gap.shape[1]
    some = ~truth.broken[:, None] & (truth.softmax > 0)
    drift = (np.where(some, truth.softmax, 0) * np.where(some, truth.gap, 0)).sum(axis=1)
    log_sum = np.where(truth.broken, 0, truth.log_sum)
    relative = log_sum * (1 + 2 * accuracy.log_ulp) + drift + 2 * accuracy.exp_ulp + accuracy.summation(classes)
    # Without a distribution it is 0, or NaN as lse.
    right = np.where(truth.broken & np.isnan(truth.lse.astype(float)), np.nan, log_sum)
    return right, np.where(truth.broken, 0, unit * relative + classes * tiny)


def _as_the_shell(x: Any, case: Case) -> tuple[Problem, Any]:
    """Return the kernels' arguments, as the public functions make them for reduction "none"."""
    given: dict[str, Any] = {
        "weight": None,
        "sample_weight": None,
        "ignore_index": -100,
        "label_smoothing": 0.0,
        "z_loss": 0.0,
        "grad_output": None,
        **case.options,
    }
    problem = checks.check_logits(x, -1)
    checks.check_targets(problem, case.targets, given["ignore_index"])
    return problem, fold(problem, reduction="none", denominator=None, **given)


def _write_array(file: BinaryIO, values: Any, dtype: Any) -> None:
    file.write(np.ascontiguousarray(values).astype(np.dtype(dtype).newbyteorder("<")).tobytes())


def _write_judged(file: BinaryIO, right: Any, bound: Any, limit: Any) -> None:
    with np.errstate(all="ignore"):
        high = right.astype(np.float64)
        high = np.where(np.abs(high) > limit, np.sign(high) * np.inf, high)  # beyond the format: infinity
        low = np.where(np.isfinite(high), right - high, 0)
    _write_array(file, high, "float64")
    _write_array(file, low, "float64")
    _write_array(file, np.nan_to_num(np.asarray(bound, float), nan=0.0), "float64")
