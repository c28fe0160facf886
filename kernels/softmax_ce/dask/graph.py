"""The task graph of one call on Dask arrays.

A graph is a few dictionaries, one for each layer, so that a task is added in a few microseconds. A block that has all
classes is one task, and a short one for each result. The name of a task, without its hash, is what Dask's dashboard
shows.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from softmax_ce.dask import tasks
from softmax_ce.dask.arguments import Arguments
from softmax_ce.dask.blocks import Index
from softmax_ce.dtypes import result_dtype

_FAN_IN = 8  # Partials, or surveys, that one task combines
_SUMS = 64  # sums that one task adds

Layer = dict[Any, Any]
Key = Any


class Graph:
    """The tasks of one call, and the arrays that they make.

    Parameters
    ----------
    arguments : Arguments
    kind : str
        What is computed: it tells the tasks of one call from those of another with the same arguments.
    """

    def __init__(self, arguments: Arguments, kind: str) -> None:
        self.cut, self.arguments, self.kind = arguments.cut, arguments, kind
        self.inputs = [self.cut.x, *(each for each in arguments.by_block if isinstance(each, da.Array))]
        names = [each.name if isinstance(each, da.Array) else each for each in arguments.by_block]
        self.token = tokenize(kind, self.cut.x.name, names, arguments.settings)
        self.work: Layer = {}
        self.targets, self.sample_weight, self.where, self.grad_output = (
            self.cut.argument(value, self._name(name), self.work)
            for name, value in zip(("targets", "sample-weight", "where", "upstream"), arguments.by_block, strict=True)
        )

    def loss(self) -> da.Array:
        """Return the loss."""
        settings, parts = self.arguments.settings, {row: self._loss_part(row) for row in self.cut.rows()}
        if settings.reduction == "none":
            return self._by_row("losses", lambda row: parts[row])
        name, dtype = self._name("loss"), settings.dtype
        layer: Layer = {}
        rest = self._tree(layer, self._name("sum"), list(parts.values()), tasks.add, _SUMS)
        layer[name,] = (tasks.reduced, self._settings, rest)
        return self._array(name, layer, (), dtype)

    def grad(self) -> da.Array:
        """Return the gradient."""
        if self.cut.has_whole_rows:
            return self._by_logit("grad", lambda row, at, first: (operator.getitem, self._loss_and_grad(row), 1))
        return self._by_logit(
            "grad",
            lambda row, at, first: (
                tasks.grad, *self._block(row, at), self.grad_output(row), first, self._total(row)
            ),
        )  # fmt: skip

    def softmax(self) -> da.Array:
        """Return the softmax."""
        settings, key = self._settings, self.cut.key
        if self.cut.has_whole_rows:
            return self._by_logit("softmax", lambda row, at, first: (tasks.softmax, settings, key(at)))
        return self._by_logit(
            "softmax", lambda row, at, first: (tasks.softmax_of_total, key(at), first, self._total(row))
        )

    def logsumexp(self) -> da.Array:
        """Return the log-sum-exp of each row."""
        if self.cut.has_whole_rows:
            return self._by_row("logsumexp", lambda row: (tasks.logsumexp, self._settings, self.cut.key(self._at(row))))
        return self._by_row("logsumexp", lambda row: (tasks.logsumexp_of_total, self._total(row)))

    # The parts of the work. Each returns the key of a task, which it adds to the layer of the work.

    @cached_property
    def _settings(self) -> Any:
        """The settings, or the key of the task that completes them."""
        settings = self.arguments.settings
        own: Any = settings
        if settings.options["weight"] is not None or settings.options["where"] is not None:
            own = self._name("settings")  # sent to each worker once, not with each task
            self.work[own] = settings
        if not self.arguments.must_survey:
            return own
        surveys = []
        for row in self.cut.rows():
            labels = self.targets(row) if self.arguments.is_hard else None
            surveys.append((self._name("survey"), *row))
            self.work[surveys[-1]] = (tasks.survey, own, labels, self.cut.shape(row), self.sample_weight(row))
        rest = self._tree(self.work, self._name("combine-surveys"), surveys, tasks.combine_surveys, _FAN_IN)
        finished = self._name("weights")
        self.work[finished] = (tasks.finish, own, rest)
        return finished

    def _at(self, row: Index) -> Index:
        """Return the index of the block that has all classes of a row block."""
        ((at, _),) = self.cut.shards(row)
        return at

    def _block(self, row: Index, at: Index) -> tuple[Any, ...]:
        """Return the first arguments of a task on a block of logits."""
        targets = self.targets(row if self.arguments.is_hard else at)
        return self._settings, self.cut.key(at), targets, self.sample_weight(row), self.where(at)

    def _loss_and_grad(self, row: Index) -> Key:
        key = (self._name("loss-and-grad"), *row)
        if key not in self.work:
            self.work[key] = (tasks.loss_and_grad, *self._block(row, self._at(row)), self.grad_output(row))
        return key

    def _loss_part(self, row: Index) -> Key:
        """Return the loss of a row block."""
        key = (self._name("part"), *row)
        if not self.cut.has_whole_rows:
            self.work[key] = (tasks.loss_of_total, self._settings, self._total(row))
        elif self.kind == "loss-and-grad":
            self.work[key] = (operator.getitem, self._loss_and_grad(row), 0)
        else:
            self.work[key] = (tasks.loss, *self._block(row, self._at(row)))
        return key

    def _total(self, row: Index) -> Key:
        """Return the Partial of all classes of a row block."""
        total = (self._name("total"), *row)
        if total not in self.work:
            parts = []
            for at, first in self.cut.shards(row):
                parts.append((self._name("partial"), *at))
                self.work[parts[-1]] = (tasks.partial, *self._block(row, at), first)
            rest = self._tree(self.work, self._name("combine"), parts, tasks.combine, _FAN_IN, row)
            self.work[total] = (tasks.combine, rest)
        return total

    def _tree(
        self, layer: Layer, name: str, parts: Sequence[Key], combine: Callable[..., Any], fan_in: int, of: Index = ()
    ) -> list[Key]:
        """Combine parts, always the same ones, until one more task can combine the rest, which is returned."""
        level, rest = 0, list(parts)
        while len(rest) > fan_in:
            groups = [rest[i : i + fan_in] for i in range(0, len(rest), fan_in)]
            rest = [(name, *of, level, i) for i in range(len(groups))]
            layer.update((key, (combine, group)) for key, group in zip(rest, groups, strict=True))
            level += 1
        return rest

    # The arrays.

    def _by_row(self, name: str, task: Callable[[Index], Any]) -> da.Array:
        """Return an array with an entry for each row."""
        name = self._name(name)
        layer = {(name, *row): task(row) for row in self.cut.rows()}
        return self._array(name, layer, self.cut.row_chunks, self.arguments.settings.dtype)

    def _by_logit(self, name: str, task: Callable[[Index, Index, int], Any]) -> da.Array:
        """Return an array in the shape and chunks of the logits."""
        name = self._name(name)
        layer = {
            (name, *at): task(row, at, first) for row in self.cut.rows() for at, first in self.cut.shards(row)
        }  # fmt: skip
        return self._array(name, layer, self.cut.x.chunks, result_dtype(self.cut.x.dtype))

    def _array(self, name: str, layer: Layer, chunks: Any, dtype: np.dtype[Any]) -> da.Array:
        given = HighLevelGraph.merge(*(each.dask for each in self.inputs))
        before = {each for array in self.inputs for each in array.__dask_layers__()}
        work = self._name("work")
        layers = {**given.layers, work: self.work, name: layer}
        needs = {**given.dependencies, work: before, name: {work, *before}}
        return da.Array(HighLevelGraph(layers, needs), name, chunks=chunks, dtype=dtype)

    def _name(self, what: str) -> str:
        return f"softmax_ce-{what}-{self.token}"
