"""Which backends may win, and why others may not. Speed plays no part here."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import softmax_ce as sce
from softmax_ce.contract import BackendInfo
from softmax_ce.dtypes import compute_dtype
from softmax_ce_bench import conformance
from softmax_ce_bench.inputs.workloads import dtype_of

_LONGEST = 300  # characters of a reason

Reasons = dict[tuple[str, str], str]


def screen(
    dtypes: Iterable[str],
    threads: Iterable[int],
    allow: tuple[str, ...] | None,
    deny: tuple[str, ...],
    tell: Callable[[str], None],
) -> Reasons:
    """Return why backends may not win, by (backend, dtype). All others may win.

    Every known backend is looked at. One that is allowed, available and stable is put through the conformance
    checks: random, wide, tied and one-class inputs, -inf, offsets, subnormals, every option; loss and gradient against
    the oracle, and the edge contract.

    Parameters
    ----------
    dtypes : iterable of str
    threads : iterable of int
        Numbers of threads to check.
    allow : tuple of str or None
        None: every backend.
    deny : tuple of str
    tell : callable
        Called with a text for each step.

    Returns
    -------
    dict

    Raises
    ------
    AssertionsOff
        Python runs with -O: nothing would be checked.
    """
    found: Reasons = {}
    counts = tuple(dict.fromkeys(threads))
    for info in sce.backends():
        barred = _barred(info, allow, deny)
        for dtype in dtypes:
            reason = barred
            if reason is None:
                tell(f"checking {info.name} in {dtype}")
                reason = _failing(info, dtype, counts)
            if reason is not None:
                found[info.name, dtype] = reason
    return found


def _barred(info: BackendInfo, allow: tuple[str, ...] | None, deny: tuple[str, ...]) -> str | None:
    if info.name in deny:
        return "denied by --deny"
    if allow is not None and info.name not in allow:
        return f"not among those of --allow: {', '.join(allow)}"
    if not info.available:
        return shortened(f"not available here: {info.why_unavailable}")
    return None if info.stable else "it overflows by design: it is not stable"


def _failing(info: BackendInfo, dtype: str, threads: tuple[int, ...]) -> str | None:
    compute = compute_dtype(dtype_of(dtype)).name
    if compute not in info.dtypes:
        return f"it does not compute {compute}"
    results = conformance.run_checks(info.name, (dtype,), threads)
    failed = [result for result in results if not result.passed]
    if not failed:
        return None
    first = failed[0]
    return shortened(
        f"fails {len(failed)} of {len(results)} correctness checks; the first, {first.check}: {first.message}"
    )


def shortened(text: str) -> str:
    """Return text as one printable line of limited length."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
