"""Instruction counts of calls, by valgrind's callgrind, as a second instrument.

A count hardly varies from run to run and from machine to machine, and a load on the machine does not touch it. But
it is not time. A cache miss, a stall, a store that must wait cost nothing here, a slow instruction is as dear as a
quick one, and a loop that does the same in fewer, wider instructions has fewer. And it is not the same code: valgrind
knows no AVX-512, so on a CPU that has it the kernels for AVX2 are counted, and those for AVX-512 are not seen at all.
So a count explains a verdict, or makes one look closer; it is never one.

Calls are counted n times and 2 n times in one process: the difference is free of what the counting itself takes. What
the process did before moves a count by up to 3 % where Python has most of it, so both builds do the same in the same
order: counts of different runs are not to be compared.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from softmax_ce_bench.gate.cells import GateCell
from softmax_ce_bench.gate.process import environment, interpreter
from softmax_ce_bench.gate.session import Build, BuildError, BuildTimer
from softmax_ce_bench.measure.process import interrupts_held_off

COUNT_SECONDS = 1800.0  # the default cells take three minutes, and one and a half before that to compile
_ELEMENTS = 1 << 15  # of logits: cells with fewer are called several times ...
_MOST_CALLS = 32  # ... but the smallest not more often than this

# Numba compiles for the CPU that it finds, which under valgrind is another one: it is told one that both are, so that
# what a process without valgrind has compiled fits.
_SAME_CODE = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe,+popcnt",
    "PYTHONHASHSEED": "0",  # the order of a set decides how many steps a look-up takes
}


def available() -> str | None:
    """Return None if instructions can be counted here, or else the reason in one line."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "instructions are counted on Linux and x86-64 only"
    if " avx2 " not in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        return "the CPU has no AVX2, which the counted kernels use"
    if shutil.which("valgrind") is None:
        return "valgrind is not installed (in a package of that name)"
    return None


def count(builds: tuple[Build, Build], cells: Sequence[GateCell], folder: Path) -> dict[GateCell, tuple[float, float]]:
    """Return the instructions per call, of base and of head.

    Parameters
    ----------
    builds : pair of Build
    cells : sequence of GateCell
        That both builds compute right: nothing is checked.
    folder : Path
        The folder in which a folder `instructions` is made, for the workloads and callgrind's files.

    Returns
    -------
    dict

    Raises
    ------
    BuildError
        Nothing can be counted here, or a build's process failed.
    """
    if (why := available()) is not None:
        raise BuildError(why)
    folder = folder / "instructions"
    folder.mkdir()
    session = BuildTimer(builds, cells, folder)  # it puts the workloads into the folder
    plan = [(cell.backend, cell.operation, session.workload(cell), calls(cell)) for cell in cells]
    _run([], builds, plan, folder)  # compiles what is compiled on first use: that would take an hour under valgrind
    valgrind = ["valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no", "--collect-atstart=no"]
    _run([*valgrind, "--callgrind-out-file=counts"], builds, plan, folder)
    of_base, of_head = (read((folder / build.side).glob("counts.*")) for build in builds)
    return {
        cell: (_per_call(of_base, key, calls(cell)), _per_call(of_head, key, calls(cell)))
        for key, cell in enumerate(cells)
    }


def calls(cell: GateCell) -> int:
    """Return the number of calls that are counted at first."""
    return min(_MOST_CALLS, max(1, _ELEMENTS // (cell.rows * cell.classes)))


def read(files: Iterable[Path]) -> dict[tuple[int, int], int]:
    """Read callgrind's files: (cell's number, calls) -> instructions.

    Raises
    ------
    BuildError
        A file does not say what it counted.
    """
    counts = {}
    for file in files:
        text = file.read_text(encoding="utf-8", errors="replace")
        what = re.search(r"^desc: Trigger: Client Request: (\d+) (\d+)$", text, re.MULTILINE)
        total = re.search(r"^totals: (\d+)$", text, re.MULTILINE)
        if what is None or total is None:
            raise BuildError(f"{file.name}: it lacks the counts of callgrind")
        counts[int(what[1]), int(what[2])] = int(total[1])
    return counts


def _per_call(counts: dict[tuple[int, int], int], key: int, calls: int) -> float:
    try:
        return (counts[key, 2 * calls] - counts[key, calls]) / calls
    except KeyError:
        raise BuildError("callgrind did not count every cell") from None


def _run(
    prefix: Sequence[str], builds: tuple[Build, Build], plan: Sequence[tuple[str, str, int, int]], folder: Path
) -> None:
    """Run the processes of both builds in parallel, until they have made all calls."""
    running: list[tuple[Build, subprocess.Popen[bytes]]] = []
    try:
        for build in builds:
            place = folder / build.side
            place.mkdir(exist_ok=True)
            (place / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
            command = [*prefix, *interpreter("counted.py"), str(folder)]
            around = environment(build.site) | dict(build.extra) | _SAME_CODE
            with (place / "plan.json").open("rb") as given, (place / "said").open("wb") as said, interrupts_held_off():
                process = subprocess.Popen(command, env=around, cwd=place, stdin=given, stdout=said, stderr=said)
            running.append((build, process))
        for build, process in running:
            try:
                code = process.wait(COUNT_SECONDS)
            except subprocess.TimeoutExpired:
                raise BuildError(f"{build.side}: not counted within {COUNT_SECONDS / 60:.0f} minutes") from None
            if code != 0:
                lines = (folder / build.side / "said").read_text("utf-8", "replace").strip().splitlines()
                raise BuildError(f"{build.side}: counting ended with code {code}: {(lines or ['it said nothing'])[-1]}")
    finally:
        for _, process in running:
            process.kill()
            process.wait()
