"""The request to the gate."""

from __future__ import annotations

from dataclasses import dataclass

from softmax_ce_bench.gate import decision
from softmax_ce_bench.gate.builds import BuildSource
from softmax_ce_bench.gate.cells import OPERATIONS, WORKLOADS
from softmax_ce_bench.inputs.workloads import Shape


@dataclass(frozen=True, slots=True)
class GateRequest:
    """What to compare, and how.

    Attributes
    ----------
    base, head : BuildSource
    backends : tuple of str
        Empty: all stable ones that the builds have.
    workloads : tuple of (Shape, dtype)
    operations : tuple of str
        On each workload.
    extra : tuple of (Shape, dtype, operation)
        More cells, each with an operation of its own.
    rounds : int
        The rounds of each measurement before the first look.
    seconds : float or None
        For measuring. Building and checking come before. None: the first rounds of all cells take what they take, and
        cells that are not clear yet go on for as long again.
    instructions : bool
        Whether to count them, too.
    seed : int
    command : tuple of str
    """

    base: BuildSource
    head: BuildSource
    backends: tuple[str, ...] = ()
    workloads: tuple[tuple[Shape, str], ...] = WORKLOADS
    operations: tuple[str, ...] = OPERATIONS
    extra: tuple[tuple[Shape, str, str], ...] = ()
    rounds: int = decision.ROUNDS
    seconds: float | None = None
    instructions: bool = False
    seed: int = 0
    command: tuple[str, ...] = ()
