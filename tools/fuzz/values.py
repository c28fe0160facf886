"""Numbers for logits, targets and weights, described in a few words."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from softmax_ce_bench.inputs.workloads import dtype_of
from softmax_ce_bench.truth.oracle import limits_of

# From the plainest on: that is where Hypothesis shrinks to.
_KINDS = ("level", "grid", "normal", "confident", "masked", "rising", "offset", "tiny", "huge")
_SCALES = (1.0, 0.0, 8.0, 30.0, 100.0, 1e4)
_SPECIALS = ("-inf", "inf", "nan", "largest", "-largest", "smallest", "-0")

SEEDS = st.integers(0, 2**32 - 1)


def logits_recipes() -> st.SearchStrategy[Any]:
    """Return the strategy for descriptions of logits: a kind, and some special numbers in special places."""
    special = st.tuples(st.integers(0, 9999), st.sampled_from(_SPECIALS)).map(list)
    return st.fixed_dictionaries(
        {
            "kind": st.sampled_from(_KINDS),
            "scale": st.sampled_from(_SCALES),
            "seed": SEEDS,
            "special": st.lists(special, max_size=5),
        }
    )


def logits(recipe: dict[str, Any], rows: int, classes: int, dtype: str) -> Any:
    """Return the described logits, (rows, classes), contiguous and in native byte order."""
    to = dtype_of(dtype)
    limits = _limits(to)
    rng = np.random.default_rng(recipe["seed"])
    with np.errstate(all="ignore"):
        largest = float(np.iinfo(to).max if to.kind in "iu" else limits.max)
        x = _of_kind(recipe, rng, (rows, classes), limits, largest)
        for position, name in recipe["special"]:
            if x.size:
                x.flat[position % x.size] = _special(name, limits)
        if to.kind not in "iu":
            return x.astype(to)
        info = np.iinfo(to)
        return np.clip(np.nan_to_num(x), max(info.min, -(2**62)), min(info.max, 2**62)).astype(to)


def _of_kind(
    recipe: dict[str, Any], rng: np.random.Generator, shape: tuple[int, int], limits: Any, largest: float
) -> Any:
    kind = recipe["kind"]
    x = recipe["scale"] * rng.standard_normal(shape)
    if kind == "level":
        x = np.repeat(x[:, :1], shape[1], axis=1)
    elif kind == "grid":  # ties, for the maximum too
        x = np.round(x)
    elif kind == "confident":
        x[np.arange(shape[0]), rng.integers(0, shape[1], shape[0])] += 40
    elif kind == "masked":
        x[rng.random(shape) < 0.7] = -np.inf
    elif kind == "rising":
        x.sort(axis=1)
    elif kind == "offset":
        x += min(1e8, largest / 4) * rng.choice([-1, 1])
    elif kind == "tiny":
        x = float(limits.smallest_normal) * rng.standard_normal(shape)
    elif kind == "huge":
        x = largest * rng.uniform(-1, 1, shape)
    return x


def _limits(dtype: np.dtype[Any]) -> Any:
    return limits_of(dtype if dtype.kind in "fV" else np.dtype(np.float64))


def _special(name: str, limits: Any) -> float:
    named = {
        "largest": float(limits.max),
        "-largest": -float(limits.max),
        "smallest": float(limits.smallest_subnormal),
        "-0": -0.0,
    }
    return named[name] if name in named else float(name)


def vector_recipes(*, signed: bool = False, ordinary: bool = False) -> st.SearchStrategy[Any]:
    """Return the strategy for weights or upstream gradients.

    If `signed`, they may have both signs and cancel. If `ordinary`, their sizes are within an order of magnitude of 1.
    """
    kinds = ("uniform", "ones", "some zero") + (("opposite",) * signed if ordinary else ("one", "zero", "apart"))
    scales = (1.0,) if ordinary else (1.0, 1.0, 1.0, 1e-3, 1e3, 1e-30, 1e30, 1e-300, 1e300)
    return st.fixed_dictionaries(
        {
            "kind": st.sampled_from(kinds),
            "scale": st.sampled_from(scales),
            "seed": SEEDS,
            "dtype": st.sampled_from(("float64", "float64", "float32", "float16", "int64", "bool", ">f8", "list")),
            "signed": st.booleans() if signed else st.just(False),
        }
    )


def vector(recipe: dict[str, Any], size: int) -> Any:
    """Return the described float64 numbers; `shown` gives them the dtype that the caller sees."""
    rng = np.random.default_rng(recipe["seed"])
    values = np.ones(size) if recipe["kind"] == "ones" else rng.uniform(0.2, 3, size)
    if recipe["kind"] == "some zero":
        values[rng.random(size) < 0.4] = 0
    elif recipe["kind"] == "one":
        values[: max(size - 1, 0)] = 0
    elif recipe["kind"] == "zero":
        values[:] = 0
    elif recipe["kind"] == "apart":
        values *= 2.0 ** rng.integers(-60, 20, size)  # times the largest scale still a number
    values *= recipe["scale"]
    if recipe["kind"] == "opposite":  # the sum is exactly 0
        values[1::2] = -values[: size - size % 2 : 2]
        values[size - size % 2 :] = 0
    elif recipe["signed"]:
        values *= rng.choice([-1, 1], size)
    if recipe["dtype"] == "list":
        return values
    with np.errstate(all="ignore"):
        rounded = values.astype(recipe["dtype"]).astype(np.float64)
        most = 2.0**62 if recipe["dtype"] == "int64" else np.inf
        return rounded if (np.abs(values) < most).all() and np.isfinite(rounded).all() else np.ones(size)


def shown(recipe: dict[str, Any], values: Any) -> Any:
    """Return numbers as a user may have them: in another dtype, or in lists."""
    if recipe["dtype"] != "list":
        return values.astype(recipe["dtype"])
    return values.tolist() if values.size else values  # an empty list has no shape
