"""Peers in a cell: why one does not take part, and the verdicts on those that do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from softmax_ce_bench import peers
from softmax_ce_bench.inputs.workloads import Workload
from softmax_ce_bench.measure.operations import NORMALIZERS
from softmax_ce_bench.measure.peer_process import PeerProcesses
from softmax_ce_bench.measure.process import ProcessError
from softmax_ce_bench.truth.judge import Judge, Verdict


def verdicts(
    processes: PeerProcesses, names: list[str], judge: Judge, operations: Iterable[str] = ()
) -> dict[str, Verdict]:
    """Return the verdict on each peer that runs in a process of its own.

    Normalizers among the operations are judged too, where a peer has them.
    """
    operations = tuple(operations)
    rows = np.arange(judge.subset.shape[0])
    failed = processes.load(names, judge.subset)
    found: dict[str, Verdict] = {name: (None, reason) for name, reason in failed.items()}
    for name in names:
        if name in failed:
            continue
        try:
            more = {o: processes[name].ask("normalized", o, rows) for o in normalizers_of(name, operations)}
            loss, grad = processes[name].ask("result", rows)
        except ProcessError as error:
            found[name] = None, str(error)
        else:
            found[name] = judge.peer(loss, grad, more)
    return found


def why_not(
    name: str, workload: Workload, options: dict[str, Any], reduction: str, operations: Iterable[str]
) -> str | None:
    """Return why a peer does not take part in a cell, or None."""
    if options or reduction != "mean":
        asked = [option.replace("_", "-") for option in options] + [f"reduction {reduction}"] * (reduction != "mean")
        return f"peers are called without options here: {', '.join(asked)}"
    peer = peers.BY_NAME[name]
    if not set(operations) & set(peer.operations):
        return f"{peer.title} has no {' or '.join(operations)}"
    if workload.logits.itemsize == 2:
        return f"peers are called with float32 or float64 here, not {workload.dtype}"  # whose losses they round
    return peer.why_not(workload)


def normalizers_of(name: str, operations: Iterable[str]) -> list[str]:
    """Return those of the operations that are normalizers, and that a peer has."""
    return [o for o in operations if o in NORMALIZERS and o in peers.BY_NAME[name].operations]
