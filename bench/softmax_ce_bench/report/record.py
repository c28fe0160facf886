"""A comparison as plain values, and as a file that is either whole or not there."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from softmax_ce.profile.files import write_text
from softmax_ce_bench import timing
from softmax_ce_bench.compare import BASE, CHECKED_ELEMENTS, OPERATIONS, Comparison, Entry, Result
from softmax_ce_bench.digits import Fit
from softmax_ce_bench.stats import Ratio

SCHEMA = "softmax-ce/compare"
SCHEMA_VERSION = 1


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """The record of a comparison: dicts, lists, strings, numbers and None; times in seconds.

    A number that is infinite, such as the error of a backend that overflows, is None.
    """
    plan = comparison.plan
    return {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "date": comparison.date,
        "machine": comparison.machine,
        "settings": {
            "base": BASE,
            "threads": plan.threads,
            "time_budget": plan.seconds,
            "sample_seconds": timing.SAMPLE_SECONDS,
            "checked_elements": CHECKED_ELEMENTS,
        },
        "contaminated": bool(comparison.contaminated),
        "fits": [_fit(fit, comparison.fits[0]) for fit in comparison.fits],
        "workloads": [_result(result) for result in comparison.results],
    }


def save(record: dict[str, Any], path: Path) -> None:
    """Write a record as JSON, by way of a temporary file beside it: an interruption leaves the old file or the new.

    Parameters
    ----------
    record : dict
        As from :func:`as_dict`.
    path : Path
        Its folder must exist.
    """
    write_text(path, json.dumps(record, indent=1, allow_nan=False) + "\n")


def _fit(fit: Fit, base: Fit) -> dict[str, Any]:
    return {
        "backend": fit.backend,
        "steps": len(fit.losses),
        "final_loss": float(fit.losses[-1]),
        "accuracy": fit.accuracy,
        "difference": fit.difference(base),
        "difference_over_bound": _finite(fit.over_bound(base)),
        "losses": fit.losses.tolist(),
    }


def _result(result: Result) -> dict[str, Any]:
    rows, classes = result.workload.shape
    return {
        "name": result.workload.name,
        "regime": result.workload.regime,
        "rows": rows,
        "classes": classes,
        "dtype": result.workload.dtype,
        "checked_rows": result.checked_rows,
        "rounds": result.rounds,
        "control": _ratio(result.control),
        "drifted": result.drifted,
        "crowded": result.crowded,
        "cpus_of_others": result.others,
        "timer_overhead": result.overhead,
        "fastest": {operation: list(result.fastest(operation)) for operation in OPERATIONS},
        "backends": [_entry(entry) for entry in result.entries],
    }


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.backend,
        "worst_error_over_bound": _finite(entry.worst),
        "rejected": entry.rejected,
        "operations": {
            operation: {"median": cell.median, "speedup": _ratio(cell.speedup), "seconds": cell.seconds.tolist()}
            for operation, cell in entry.cells.items()
        },
    }


def _ratio(ratio: Ratio) -> dict[str, float | None]:
    return {"median": _finite(ratio.median), "low": _finite(ratio.low), "high": _finite(ratio.high)}


def _finite(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None
