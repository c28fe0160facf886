"""softmax, log_softmax and logsumexp: results within the bounds, with the same bits however the call is written."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

import softmax_ce as sce
from softmax_ce.contract import BackendInfo
from softmax_ce.dtypes import compute_dtype, result_dtype
from softmax_ce_bench.conformance.harness import assert_same_bits
from softmax_ce_bench.truth import oracle
from tools.fuzz import calls, memory, values
from tools.fuzz.losses import is_moderate


def cases() -> st.SearchStrategy[Any]:
    """Return the strategy for descriptions of valid calls."""
    return st.fixed_dictionaries(
        {
            "entry": st.sampled_from(("softmax", "log_softmax", "logsumexp")),
            "shape": calls.shapes(),
            "dtype": calls.dtypes(),
            "logits": values.logits_recipes(),
            "layout": memory.layouts(),
            "out": st.one_of(st.none(), st.just("in place"), memory.layouts()),
            "threads": st.sampled_from((None, 1, 2, 3, 8)),
        }
    )


def check(case: dict[str, Any]) -> None:
    """Check one case on every available backend."""
    shape = case["shape"]
    rows = int(np.prod(shape["outer"], dtype=int))
    x = values.logits(case["logits"], rows, shape["classes"], case["dtype"])
    truth = oracle.evaluate(x, np.zeros(rows, int))
    for info in calls.backends():
        _check_backend(case, info, x, truth)


def _check_backend(case: dict[str, Any], info: BackendInfo, x: Any, truth: oracle.Truth) -> None:
    name, shape = case["entry"], case["shape"]
    function, axis = getattr(sce, name), shape["axis"]
    with calls.strict():
        plain = function(x, backend=info.name, threads=1)
    if info.stable or is_moderate(x):
        bounds = oracle.bounds(info, truth, x.dtype if x.dtype.kind in "fV" else np.float64)
        fact = "lse" if name == "logsumexp" else name
        worst = oracle.over_bound(plain, getattr(truth, fact), getattr(bounds, fact))
        assert worst <= 1, f"{name} of {info.name}: {worst:.4g} times the error bound; {plain}"

    given = np.moveaxis(x.reshape(*shape["outer"], shape["classes"]), -1, axis)
    in_place = case["out"] == "in place" and name != "logsumexp" and given.dtype == result_dtype(x.dtype)
    room = memory.place(given, case["layout"], writeable=in_place)
    rooms, options = [room], {}
    right_dtype = compute_dtype(x.dtype) if name == "logsumexp" else result_dtype(x.dtype)
    right_shape = tuple(shape["outer"]) if name == "logsumexp" else given.shape
    if in_place:
        options["out"] = room.view
    elif isinstance(case["out"], dict):
        rooms.append(memory.place(np.zeros(right_shape, right_dtype), case["out"], writeable=True))
        options["out"] = rooms[1].view
    with calls.strict(), calls.sharing(case["threads"]):
        found = function(
            room.view,
            axis - (given.ndim if shape["from_end"] else 0),
            backend=info.name,
            threads=case["threads"],
            **options,
        )

    assert np.shape(found) == right_shape, f"{name} has shape {np.shape(found)}, not {right_shape}"
    assert found.dtype == right_dtype, f"{name} has dtype {found.dtype}, not {right_dtype}"
    assert found is options.get("out", found), f"{name} is not the buffer that was given"
    flat = np.asarray(found).reshape(-1) if name == "logsumexp" else np.moveaxis(found, axis, -1).reshape(x.shape)
    assert_same_bits(flat, np.asarray(plain), f"{name} of {info.name}, against the plain call")
    for one in rooms:
        kept = one.margin_untouched() if one.view is found else one.untouched()
        assert kept, f"{name} of {info.name} wrote where it must not"
