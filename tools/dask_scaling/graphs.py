"""The task graphs of softmax_ce.dask, as the simulation takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tools.dask_scaling.simulation import SimulatedTask

N_CLASSES = 8192


def nodes_of(arrays: Any) -> dict[Any, Any]:
    """Return the nodes of the graph behind arrays, in the order in which Dask would run them."""
    from dask._task_spec import convert_legacy_graph
    from dask.order import order

    nodes = convert_legacy_graph({key: task for array in arrays for key, task in dict(array.dask).items()})
    rank = order(nodes)
    return {key: nodes[key] for key in sorted(nodes, key=rank.__getitem__)}


def name_of(key: Any) -> str:
    """Return the name of a task without its hash."""
    from dask.utils import key_split

    return str(key_split(key))


def build(n_rows: int, chunks: tuple[int, int], values: Any = None, upstream: float = 1.0) -> tuple[Any, Any]:
    """Return the loss and the gradient, lazily. Without values, only the graph matters."""
    import dask.array as da

    from softmax_ce.dask import cross_entropy_with_grad

    x = da.zeros((n_rows, N_CLASSES), np.float32, chunks=chunks) if values is None else values
    labels = np.random.default_rng(0).integers(0, N_CLASSES, n_rows)
    return cross_entropy_with_grad(x, labels, grad_output=upstream)


def simulated(arrays: Any, seconds: Mapping[str, float]) -> tuple[dict[Any, SimulatedTask], int]:
    """Return the tasks of a graph with the times of tasks of their names, and the number of blocks of logits."""
    nodes = nodes_of(arrays)
    blocks = {key: number for number, key in enumerate(sorted(k for k in nodes if not _is_ours(k)))}
    tasks = {}
    for key, node in nodes.items():
        if key not in blocks:
            needs = sorted((each for each in node.dependencies if each not in blocks), key=str)
            home = next((blocks[each] for each in node.dependencies if each in blocks), None)
            tasks[key] = SimulatedTask(tuple(needs), seconds.get(name_of(key), 0.0), home)
    return tasks, len(blocks)


def _is_ours(key: Any) -> bool:
    return name_of(key).startswith("softmax_ce")


def rows_for(chunks: tuple[int, int], n_tasks: int) -> int:
    """Return the number of rows whose graph has about so many tasks."""
    one, two = (len(simulated(build(n * chunks[0], chunks), {})[0]) for n in (1, 2))
    return max(1, round(n_tasks / (two - one))) * chunks[0]
