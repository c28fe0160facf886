"""Measure the graphs of softmax_ce.dask on one and two workers, simulate more, and print both.

The simulation takes the graph that the library builds, the times of its tasks, measured one by one in one process, and
what a task costs Dask. `measure` needs a quiet machine of two CPUs and writes a record; `simulate` reads it::

    python -m tools.dask_scaling measure record.json
    python -m tools.dask_scaling simulate record.json --figure docs/measurements/figures/dask_scaling.svg
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tools.dask_scaling.graphs import build, rows_for, simulated
from tools.dask_scaling.simulation import TaskCost, simulate

KINDS = {  # rows and classes of a block
    "32 MiB, whole rows": (1024, 8192),
    "64 MiB, whole rows": (2048, 8192),
    "128 MiB, whole rows": (4096, 8192),
    "32 MiB, a quarter of the classes": (4096, 2048),
}
N_ROWS = 32768  # of the real runs: 1 GiB
TASKS = 10_000
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def measure() -> dict[str, Any]:
    """Return the times of tasks, of real runs and of one call, and what a task costs."""
    from tools.dask_scaling import measured

    seconds = {name: measured.seconds_of_tasks(chunks) for name, chunks in KINDS.items()}
    runs: dict[str, Any] = {name: {} for name in KINDS}
    costs, calls = {}, {}
    for workers in (1, 2):
        calls[workers] = measured.seconds_of_call(N_ROWS, workers)
        with measured.Cluster(workers) as cluster:
            costs[workers] = asdict(measured.cost_of_tasks(cluster))
            for name, chunks in KINDS.items():
                runs[name][workers] = measured.real_seconds(cluster, chunks, N_ROWS)
    return {"seconds": seconds, "runs": runs, "calls": calls, "costs": costs}


def print_runs(record: Mapping[str, Any]) -> None:
    """Print the real runs with their simulation."""
    for workers, cost in record["costs"].items():
        call = record["calls"][workers]
        print(f"{workers} workers: a task costs { ({name: f'{value * 1e3:.2f} ms' for name, value in cost.items()}) }")
        print(f"one call with as many threads: {statistics.median(call):.3f} ({call[0]:.3f}-{call[-1]:.3f})")
    print("\n| blocks | workers | seconds | of one call's speed | simulated |\n| --- | ---: | ---: | ---: | ---: |")
    for name, by_workers in record["runs"].items():
        for workers, runs in by_workers.items():
            tasks, n_blocks = simulated(build(N_ROWS, KINDS[name]), record["seconds"][name])
            guess = simulate(tasks, int(workers), n_blocks, TaskCost(**record["costs"][workers]))
            middle, share = statistics.median(runs), statistics.median(record["calls"][workers])
            spread = f"{runs[0]:.3f}-{runs[-1]:.3f}"
            print(f"| {name} | {workers} | {middle:.3f} ({spread}) | {share / middle:.2f} | {guess:.3f} |")


def print_speedups(record: Mapping[str, Any]) -> dict[str, Any]:
    """Print and return the simulated speed-ups over the tasks' own times on one worker."""
    print("\n| blocks | tasks | " + " | ".join(map(str, WORKERS)) + " |")
    print("| --- " + "| ---: " * (len(WORKERS) + 1) + "|")
    cost, found = TaskCost(**record["costs"]["1"]), {}
    for name, chunks in KINDS.items():
        tasks, n_blocks = simulated(build(rows_for(chunks, TASKS), chunks), record["seconds"][name])
        work = sum(task.seconds for task in tasks.values())
        found[name] = [work / simulate(tasks, workers, n_blocks, cost) for workers in WORKERS]
        print(f"| {name} | {len(tasks)} | " + " | ".join(f"{value:.3g}" for value in found[name]) + " |")
    return found


def draw(path: Path, found: Mapping[str, list[float]]) -> None:
    """Draw the speed-ups against the number of workers."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    axes.plot(WORKERS, WORKERS, "--", color="0.6", label="one for each worker")
    for (name, values), marker in zip(found.items(), "osD^", strict=False):
        axes.plot(WORKERS, values, marker=marker, label=name)
    axes.set(xscale="log", yscale="log", xlabel="workers, one thread each", ylabel="speed-up, simulated")
    axes.set_xticks(WORKERS, map(str, WORKERS))
    axes.set_yticks(WORKERS, map(str, WORKERS))
    axes.minorticks_off()
    axes.legend(title=f"blocks, {TASKS:,} tasks", frameon=False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("measure", "simulate"))
    parser.add_argument("record", type=Path)
    parser.add_argument("--figure", type=Path, help="write the picture of the simulation to this file")
    given = parser.parse_args()
    if given.what == "measure":
        given.record.write_text(json.dumps(measure(), indent=1))
        return
    record = json.loads(given.record.read_text())
    print_runs(record)
    found = print_speedups(record)
    if given.figure:
        draw(given.figure, found)


if __name__ == "__main__":
    main()
