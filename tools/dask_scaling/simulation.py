"""Simulate a task graph on many workers with one scheduler, which handles one task at a time."""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TaskCost:
    """What Dask adds to a task, in seconds: of the scheduler, of the worker, and of messages there and back."""

    scheduler: float
    worker: float
    latency: float


@dataclass(frozen=True)
class SimulatedTask:
    """A task. `home` is the number of the block of logits that it reads, or None."""

    needs: tuple[Any, ...]
    seconds: float
    home: int | None = None


class Simulation:
    """A graph on workers with one thread each.

    Blocks are spread over the workers, neighbours together. A task runs where its block is, or else where the first
    task that it needs ran. The scheduler spends half of its time on a task before it, and half after it. Transfers
    between workers cost nothing.

    Parameters
    ----------
    tasks : dict
        In the order of their priority.
    n_workers, n_blocks : int
    cost : TaskCost
    """

    def __init__(self, tasks: Mapping[Any, SimulatedTask], n_workers: int, n_blocks: int, cost: TaskCost) -> None:
        self.tasks, self.n_workers, self.n_blocks, self.cost = tasks, n_workers, n_blocks, cost
        self.rank = {key: number for number, key in enumerate(tasks)}
        self.dependents: dict[Any, list[Any]] = defaultdict(list)
        for key, task in tasks.items():
            for other in task.needs:
                self.dependents[other].append(key)
        self.missing = {key: len(task.needs) for key, task in tasks.items()}
        self.ran_on: dict[Any, int] = {}
        self.waiting: list[list[tuple[int, Any]]] = [[] for _ in range(n_workers)]
        self.is_busy = [False] * n_workers
        self.inbox: list[tuple[int, int, str, Any]] = []  # of the scheduler
        self.scheduler_is_busy = False
        self.serial = itertools.count()
        self.events: list[tuple[float, int, str, Any]] = []
        self.now = 0.0

    def seconds(self) -> float:
        """Return the seconds until the scheduler knows that the last task is done."""
        for key, count in self.missing.items():
            if not count:
                self._tell_scheduler("ready", key)
        handlers: dict[str, Callable[[Any], None]] = {
            "handled ready": self._assign, "handled done": self._note, "came": self._come, "ran": self._ran,
            "done": lambda key: self._tell_scheduler("done", key),
        }  # fmt: skip
        while self.events:
            self.now, _, what, key = heapq.heappop(self.events)
            handlers[what](key)
        return self.now

    def _post(self, after: float, what: str, key: Any) -> None:
        heapq.heappush(self.events, (self.now + after, next(self.serial), what, key))

    def _tell_scheduler(self, what: str, key: Any) -> None:
        order = self.rank[key] if what == "ready" else -1  # it notes what is done before it assigns what is ready
        heapq.heappush(self.inbox, (order, next(self.serial), what, key))
        self._handle_next()

    def _handle_next(self) -> None:
        if self.inbox and not self.scheduler_is_busy:
            self.scheduler_is_busy = True
            _, _, what, key = heapq.heappop(self.inbox)
            self._post(self.cost.scheduler / 2, f"handled {what}", key)

    def _assign(self, key: Any) -> None:
        task = self.tasks[key]
        if task.home is None and task.needs:
            self.ran_on[key] = self.ran_on[task.needs[0]]
        else:
            self.ran_on[key] = (task.home or 0) * self.n_workers // self.n_blocks
        self._post(self.cost.latency / 2, "came", key)
        self._handled()

    def _note(self, key: Any) -> None:
        for other in self.dependents[key]:
            self.missing[other] -= 1
            if not self.missing[other]:
                self._tell_scheduler("ready", other)
        self._handled()

    def _handled(self) -> None:
        self.scheduler_is_busy = False
        self._handle_next()

    def _come(self, key: Any) -> None:
        worker = self.ran_on[key]
        heapq.heappush(self.waiting[worker], (self.rank[key], key))
        self._start(worker)

    def _ran(self, key: Any) -> None:
        self.is_busy[self.ran_on[key]] = False
        self._post(self.cost.latency / 2, "done", key)
        self._start(self.ran_on[key])

    def _start(self, worker: int) -> None:
        if self.waiting[worker] and not self.is_busy[worker]:
            self.is_busy[worker] = True
            _, key = heapq.heappop(self.waiting[worker])
            self._post(self.cost.worker + self.tasks[key].seconds, "ran", key)


def simulate(tasks: Mapping[Any, SimulatedTask], n_workers: int, n_blocks: int, cost: TaskCost) -> float:
    """Return the seconds that a graph takes on so many workers."""
    return Simulation(tasks, n_workers, n_blocks, cost).seconds()
