"""The comparisons of the campaign: which builds are compared, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from softmax_ce_bench.gate.builds import Edit
from softmax_ce_bench.gate.cells import WORKLOADS
from softmax_ce_bench.inputs.workloads import Shape
from tools.gate_credentials.mutants import REALISTIC, SHARE, WORK, BuildMutant

LEVELS = (0.05, 0.10, 0.20, 0.50)
ALIKE, ALIKE_LOADED = "A/A", "A/A, loaded"

CLEAN, CLONE = "clean", "clone"
# What is built, each under a name of five letters: paths of one length. The clean build twice, under two names.
BUILDS: dict[str, tuple[Edit, ...]] = {
    CLEAN: (),
    CLONE: (),
    "extra": WORK,
    **{f"slow{k}": tuple(mutant.edit for mutant in mutants) for k, mutants in enumerate(REALISTIC, 1)},
}


@dataclass(frozen=True, slots=True)
class Arm:
    """One comparison that is made many times.

    Attributes
    ----------
    name : str
    base, head : str
        Keys of `BUILDS`.
    runs : int
    share : float
        The share of injected work, if a side has it.
    loaded : bool
        With a busy neighbour.
    mutants : tuple of BuildMutant
        In head.
    """

    name: str
    base: str
    head: str
    runs: int
    share: float = 0.0
    loaded: bool = False
    mutants: tuple[BuildMutant, ...] = ()

    @property
    def environment(self) -> tuple[tuple[str, str], ...]:
        """Return the environment of both sides' processes."""
        return ((SHARE, f"{self.share:.3f}"),)

    @property
    def workloads(self) -> tuple[tuple[Shape, str], ...]:
        """Return the workloads that are measured."""
        return INJECTED if self.share else WORKLOADS


def work(share: float, *, loaded: bool = False) -> str:
    """Return the name of the arm with so much injected work."""
    return f"{share:.0%} more work{', loaded' * loaded}"


# Where the least share of the rows is one whole row in every call. Elsewhere some calls would have the work and some
# not, and the least of many samples is a time without it.
INJECTED = tuple(each for each in WORKLOADS if each[0].rows * min(LEVELS) >= 1)
FASTER = "10% less work"
ARMS = (
    Arm(ALIKE, CLEAN, CLONE, 30),
    *(Arm(work(share), CLEAN, "extra", 10, share) for share in LEVELS),
    *(Arm(f"mutants {k}", CLEAN, f"slow{k}", 10, mutants=mutants) for k, mutants in enumerate(REALISTIC, 1)),
    Arm(FASTER, "extra", CLEAN, 4, 0.10),
    Arm(ALIKE_LOADED, CLEAN, CLONE, 30, loaded=True),
    Arm(work(0.05, loaded=True), CLEAN, "extra", 10, 0.05, loaded=True),
    Arm(work(0.10, loaded=True), CLEAN, "extra", 4, 0.10, loaded=True),
)


def following(done: dict[str, int], arms: Sequence[Arm] = ARMS, scale: int = 1) -> Arm | None:
    """Return the arm that is furthest behind, so that all are about equally far at an early end, or None at the end."""
    behind = [arm for arm in arms if done.get(arm.name, 0) < scale * arm.runs]
    return min(behind, key=lambda arm: done.get(arm.name, 0) / arm.runs, default=None)
