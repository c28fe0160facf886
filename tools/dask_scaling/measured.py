"""Measure what the simulation needs: the times of tasks, what a task costs Dask, and real runs."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from typing import Any

import numpy as np

from tools.dask_scaling.graphs import N_CLASSES, build, name_of, nodes_of
from tools.dask_scaling.simulation import TaskCost


def seconds_of_tasks(chunks: tuple[int, int], rounds: int = 6) -> dict[str, float]:
    """Return the median time of the tasks of each name, which run one by one in this process."""
    import dask.array as da

    n_rows = 2 * chunks[0]
    values = np.random.default_rng(0).standard_normal((n_rows, N_CLASSES), np.float32)
    found: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        results: dict[Any, Any] = {}
        for key, node in nodes_of(build(n_rows, chunks, da.from_array(values, chunks=chunks))).items():
            begin = time.perf_counter()
            results[key] = node({each: results[each] for each in node.dependencies})
            if number:  # the first round warms up
                found[name_of(key)].append(time.perf_counter() - begin)
    return {name: statistics.median(times) for name, times in found.items() if name.startswith("softmax_ce")}


def seconds_of_call(n_rows: int, threads: int, rounds: int = 7) -> list[float]:
    """Return the seconds of one call on one machine, which allocates its gradient as the tasks do."""
    from softmax_ce import cross_entropy_with_grad

    random = np.random.default_rng(0)
    values, labels = random.standard_normal((n_rows, N_CLASSES), np.float32), random.integers(0, N_CLASSES, n_rows)
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        held = cross_entropy_with_grad(values, labels, threads=threads)
        times.append(time.perf_counter() - begin)
        del held
    return sorted(times[1:])


class Cluster:
    """A LocalCluster of processes with one thread each."""

    def __init__(self, n_workers: int) -> None:
        from distributed import Client, LocalCluster

        self.cluster = LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address=None)
        self.client = Client(self.cluster)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.cluster.close()

    def run(self, graph: dict[Any, Any], of: str, n_tasks: int) -> float:
        """Return the seconds until all tasks of a graph, the keys (of, 0), (of, 1), …, are done."""
        import dask.array as da
        from dask.highlevelgraph import HighLevelGraph

        array = da.Array(HighLevelGraph({of: graph}, {of: set()}), of, chunks=((1,) * n_tasks,), dtype=np.int64)
        return self.persist((array,))

    def persist(self, arrays: Any) -> float:
        """Return the seconds that it takes to compute arrays, which stay on the workers until they are dropped."""
        import dask
        from distributed import wait

        begin = time.perf_counter()
        held = dask.persist(*arrays)
        wait(held)
        seconds = time.perf_counter() - begin
        del held
        time.sleep(0.2)
        return seconds


def cost_of_tasks(cluster: Cluster, n_tasks: int = 400) -> TaskCost:
    """Measure what a task costs that does nothing. The scheduler runs in this process."""
    cluster.run({("first", i): (len, [i]) for i in range(n_tasks)}, "first", n_tasks)

    def on_workers() -> float:
        return float(sum(cluster.client.run(time.process_time).values()))

    before, own = on_workers(), time.process_time()
    cluster.run({("nothing", i): (len, [i]) for i in range(n_tasks)}, "nothing", n_tasks)
    scheduler, worker = (time.process_time() - own) / n_tasks, (on_workers() - before) / n_tasks
    chain: dict[Any, Any] = {("chain", 0): (len, [0])}
    chain.update({("chain", i): (abs, ("chain", i - 1)) for i in range(1, 50)})
    length = len(chain)
    each = cluster.run(chain, "chain", length) / length
    return TaskCost(scheduler, worker, max(0.0, each - scheduler - worker))


def real_seconds(cluster: Cluster, chunks: tuple[int, int], n_rows: int, rounds: int = 5) -> list[float]:
    """Return the seconds of runs whose logits are in the memory of the workers."""
    import dask.array as da
    from distributed import wait

    x = da.random.default_rng(0).standard_normal((n_rows, N_CLASSES), dtype=np.float32, chunks=chunks).persist()
    wait(x)
    # No run may find the results of another one, so each has a gradient of its own.
    runs = [cluster.persist(build(n_rows, chunks, x, 1.0 + 0.001 * number)) for number in range(rounds + 1)]
    return sorted(runs[1:])
