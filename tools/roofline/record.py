"""A run as plain values, for the tables, the figures and the JSON file."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from softmax_ce_bench.measure import timing
from softmax_ce_bench.measure.stats import Ratio
from tools.roofline.goals import GOALS, Goal
from tools.roofline.pool_cost import PoolCost
from tools.roofline.run import RooflineRun, SessionResult

SCHEMA = "softmax-ce/roofline"
SCHEMA_VERSION = 2


def as_dict(report: RooflineRun) -> dict[str, Any]:
    """Return the record of a run: dicts, lists, strings, numbers and None; times in seconds.

    A number that is infinite, such as an interval's end after too few rounds, is None.
    """
    return {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "date": report.date,
        "machine": report.machine,
        "settings": {
            "quick": report.plan.quick,
            "time_budget": report.plan.seconds,
            "array_mb": report.plan.array_mb,
            "only": list(report.plan.only),
            "sample_seconds": timing.SAMPLE_SECONDS,
            "cores": report.scope.cores,
            "default_backend": report.scope.default,
        },
        "left_out": report.left_out,
        "contaminated": any(outcome.drifted or outcome.crowded for outcome in report.outcomes),
        "goals": [_goal(report, goal, allocating) for allocating in (False, True) for goal in GOALS],
        "sessions": [_session(outcome) for outcome in report.outcomes],
        "pool": None if report.pool is None else _pool(report.pool),
    }


def _goal(report: RooflineRun, goal: Goal, allocating: bool) -> dict[str, Any]:
    """Return one row of the table, with its cells from the worst to the best."""
    cells = report.cells(goal, allocating)
    cells.sort(key=lambda cell: cell[2].median, reverse=not goal.at_least)
    ratios = [ratio for _, _, ratio in cells]
    isa = report.machine["isa"]
    decisive = goal.decisive(ratios) if cells else None
    return {
        "key": goal.key,
        "case": goal.case,
        "isa": isa,
        "goal": goal.text(isa),
        "limit": goal.limit(isa),
        "limits": dict(goal.limits),
        "by_median": goal.by_median,
        "at_least": goal.at_least,
        "unit": goal.unit,
        "against": goal.against,
        "allocating": allocating,
        "mark": goal.mark(decisive, isa) if decisive else None,
        "off": goal.off(decisive.median, isa) if decisive else None,
        "median": float(np.median([ratio.median for ratio in ratios])) if cells else None,
        "met": sum(goal.met(ratio.median, isa) for ratio in ratios),
        "cells": [
            {
                "session": outcome.session.key,
                "above": str(comparison.above),
                "below": None if comparison.below is None else str(comparison.below),
                "ratio": _ratio(ratio),
            }
            for outcome, comparison, ratio in cells
        ],
    }


def _session(outcome: SessionResult) -> dict[str, Any]:
    session, samples = outcome.session, outcome.samples
    return {
        "key": session.key,
        "rows": session.shape.rows,
        "classes": session.shape.classes,
        "dtype": session.dtype,
        "shape": [session.shape.rows, session.shape.classes] if session.axis is None else list(session.axis.shape),
        "axis": -1 if session.axis is None else session.axis.axis,
        "bytes": round(1e6 * session.megabytes),
        "threads": session.threads,
        "complete": session.complete,
        "rounds": samples.rounds,
        "control": _ratio(samples.control_ratio),
        "drifted": outcome.drifted,
        "crowded": outcome.crowded,
        "cpus_of_others": outcome.others,
        "rejected": outcome.rejected,
        "candidates": {
            name: {
                "who": name.partition(" ")[0],
                "median": float(np.median(seconds)),
                "low": float(np.quantile(seconds, 0.25)),
                "high": float(np.quantile(seconds, 0.75)),
                "calls": samples.calls[name],
                "seconds": seconds.tolist(),
            }
            for name, seconds in samples.seconds.items()
        },
    }


def _pool(cost: PoolCost) -> dict[str, Any]:
    rows = [{k: _ratio(v) if isinstance(v, Ratio) else v for k, v in row.items()} for row in cost.rows]
    return {"why_missing": cost.why_missing, "why_no_openmp": cost.why_no_openmp, "rows": rows}


def _ratio(ratio: Ratio) -> dict[str, float | None]:
    finite = (float(x) if math.isfinite(x) else None for x in (ratio.median, ratio.low, ratio.high))
    return dict(zip(("median", "low", "high"), finite, strict=True))
