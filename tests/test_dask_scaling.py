"""tools/dask_scaling: graphs whose time is known by hand, and the graph of the library."""

from __future__ import annotations

from collections import Counter

import pytest

from tools.dask_scaling.simulation import SimulatedTask, TaskCost, simulate

FREE = TaskCost(0.0, 0.0, 0.0)
# Two blocks, of which one result each goes into a sum.
TWO = {
    "a": SimulatedTask((), 3.0, 0),
    "b": SimulatedTask((), 2.0, 1),
    "sum": SimulatedTask(("a", "b"), 1.0),
}


@pytest.mark.parametrize(("workers", "seconds"), [(1, 6.0), (2, 4.0)])
def test_tasks_that_cost_nothing_else(workers: int, seconds: float) -> None:
    assert simulate(TWO, workers, 2, FREE) == seconds


def test_the_scheduler_handles_one_task_at_a_time() -> None:
    # a goes out at 1 and b at 2; they are done at 4 and at 4, a is noted at 5, b at 6; the sum goes out at 7, is done
    # at 8 and noted at 9.
    assert simulate(TWO, 2, 2, TaskCost(2.0, 0.0, 0.0)) == 9.0


def test_a_worker_spends_time_on_each_of_its_tasks() -> None:
    assert simulate(TWO, 1, 2, TaskCost(0.0, 0.5, 0.0)) == 7.5
    assert simulate(TWO, 2, 2, TaskCost(0.0, 0.5, 0.0)) == 5.0


def test_a_message_takes_half_of_the_latency_each_way() -> None:
    assert simulate(TWO, 2, 2, TaskCost(0.0, 0.0, 0.5)) == 5.0


def test_the_order_of_the_tasks_is_that_of_their_priority() -> None:
    """One worker: `first` runs before `second`, so that what needs it can start on the other worker."""
    tasks = {
        "first": SimulatedTask((), 1.0, 0),
        "second": SimulatedTask((), 5.0, 0),
        "after": SimulatedTask(("first",), 5.0, 1),
    }
    assert simulate(tasks, 2, 2, FREE) == 6.0
    late = {key: tasks[key] for key in ("second", "first", "after")}
    assert simulate(late, 2, 2, FREE) == 11.0


def test_the_graph_of_the_library() -> None:
    pytest.importorskip("dask", reason="Dask is not installed: pip install 'softmax-ce[dask]'")
    from tools.dask_scaling import graphs

    tasks, n_blocks = graphs.simulated(graphs.build(12, (4, 4096)), {"softmax_ce-partial": 1.0})
    assert n_blocks == 6
    count = Counter(graphs.name_of(key) for key in tasks)
    partials = [task for task in tasks.values() if task.seconds == 1.0]
    assert len(partials) == count["softmax_ce-partial"] == 6
    assert sorted(task.home for task in partials if task.home is not None) == list(range(6))
    assert graphs.rows_for((4, 8192), 30) == 40
    # All tasks of a row block, and then the sum: a block needs its two partials, which two workers compute at once.
    assert simulate(tasks, 6, n_blocks, FREE) == 1.0
    assert simulate(tasks, 1, n_blocks, FREE) == 6.0
