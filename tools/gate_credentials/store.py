"""The results of the runs, one line of JSON each. They are written at once, so that a campaign can be continued."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from softmax_ce.choice.profile.files import write_text
from softmax_ce_bench.gate.result import GateResult
from tools.gate_credentials.arms import Arm

FORMAT = 1
DISTURBED = 0.25  # CPUs that others used: what was to be an idle machine was none


class StoreError(RuntimeError):
    """A store cannot be continued. The message is one line and says why."""


@dataclass(frozen=True, slots=True)
class GateRun:
    """One run of the gate.

    Attributes
    ----------
    arm : str
    exit : int
    control : float
        The control's ratio.
    seconds : float
    others : float or None
        CPUs that others used meanwhile.
    disturbed : bool
        Whether it was to be alone on the machine, and was not. Kept, and counted apart.
    logs : dict
        log(head / base) of each cell, one per round of the first measurement.
    verdicts : dict
        The :class:`softmax_ce_bench.gate.decision.Verdict` on each cell.
    """

    arm: str
    exit: int
    control: float
    seconds: float
    others: float | None
    disturbed: bool
    logs: dict[str, Any]
    verdicts: dict[str, str]


class Store:
    """A file of runs.

    Parameters
    ----------
    path : Path
    about : dict
        The facts that all runs must have in common: commit, machine, settings.
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path = path
        self.about = about
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._append({"format": FORMAT, **about})
        text = path.read_text(encoding="utf-8")
        if not text.endswith("\n"):  # somebody was interrupted while writing the last line
            write_text(path, text[: text.rfind("\n") + 1])
        first, *_ = self._lines()
        if first != {"format": FORMAT, **about}:
            differ = [name for name in about if first.get(name) != about[name]] or ["format"]
            raise StoreError(f"{path} has runs with another {', '.join(differ)}: remove it, or name another folder")

    def add(self, arm: Arm, result: GateResult) -> None:
        """Add a run."""
        self._append({
            "arm": arm.name,
            "disturbed": not arm.loaded and (result.others or 0) > DISTURBED,
            "exit": int(result.exit),
            "control": result.control.median,
            "seconds": round(result.seconds, 1),
            "others": result.others,
            "cells": {
                each.cell.text: {
                    "verdict": str(each.verdict),
                    "base": [float(f"{value:.5g}") for value in each.base],
                    "head": [float(f"{value:.5g}") for value in each.head],
                }
                for each in result.cells
            },
        })  # fmt: skip

    def runs(self) -> list[GateRun]:
        """Return all runs so far."""
        _, *lines = self._lines()
        return [
            GateRun(
                line["arm"], line["exit"], line["control"], line["seconds"], line["others"], line["disturbed"],
                {name: np.log(np.divide(cell["head"], cell["base"])) for name, cell in line["cells"].items()},
                {name: cell["verdict"] for name, cell in line["cells"].items()},
            )
            for line in lines
        ]  # fmt: skip

    def counts(self) -> dict[str, int]:
        """Return the number of runs of each arm. Disturbed runs do not count."""
        _, *lines = self._lines()
        return Counter(line["arm"] for line in lines if not line["disturbed"])

    def _append(self, line: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _lines(self) -> Iterator[dict[str, Any]]:
        with self.path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)
