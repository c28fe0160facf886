"""Build the calls that are timed: an operation of a backend or a peer, or a loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, cached_property, partial
from typing import Any

import softmax_ce as sce
from softmax_ce.threads import available_cpus
from softmax_ce_bench import ceilings, peers
from softmax_ce_bench.ceilings import products
from softmax_ce_bench.inputs.workloads import Workload
from softmax_ce_bench.measure import operations
from softmax_ce_bench.measure.timing import Call
from softmax_ce_bench.peers.adapters import Prepared
from softmax_ce_bench.peers.table import Peer


class SharedArrays:
    """A workload with buffers that all backends and loops share, so that their caches are equally warm.

    Parameters
    ----------
    workload : Workload
    reduction : str
        The reduction of the calls.
    buffers : Buffers, optional
        Those of another workload of this shape and dtype, to be shared too.
    """

    def __init__(self, workload: Workload, reduction: str = "mean", buffers: operations.Buffers | None = None) -> None:
        self.workload = workload
        if buffers is None:
            buffers = operations.Buffers(workload.logits, reduction, features=workload.features, **workload.axis)
        self.buffers = buffers
        self.derived = operations.DerivedInputs(workload.logits, features=workload.features, **workload.axis)

    @property
    def features(self) -> int:
        """Return the features of the linear layer."""
        return self.workload.features or operations.FEATURES

    def backend(self, operation: str, *, allocate: bool = False, **options: Any) -> Call:
        """Return a call of an operation of softmax_ce.

        Parameters
        ----------
        operation : str
        allocate : bool
            The call makes its results, in place of writing into the buffers.
        **options
            The options of the call, including the backend's name and the number of threads.
        """
        buffers = None if allocate else self.buffers
        logits, targets = self.workload.logits, self.workload.targets
        return operations.call(sce, operation, logits, targets, buffers, self.derived, **self.workload.axis, **options)

    def loop(self, name: str, threads: int | None) -> Call:
        """Return a loop of :mod:`softmax_ce_bench.ceilings` from the logits to the buffer of their size.

        The matrix products are those of the linear layer, into the buffers for its gradients.
        """
        if name in products.LOOPS:
            layer, buffers = self.derived.layer, self.buffers
            gradients = (buffers.hidden, buffers.linear_weight) if name == "products" else None
            return products.call(layer.hidden, layer.linear_weight, gradients)
        return ceilings.call(name, self.workload.logits, self.buffers.array, threads)


def peer(name: str, workload: Workload, threads: int | None = 1) -> Prepared:
    """Return a peer that is prepared for a workload in this process."""
    return prepared(peers.BY_NAME[name], workload, threads or available_cpus())


def peer_call(name: str, workload: Workload, threads: int | None, operation: str) -> Call:
    """Return one call of a peer. One on a linear layer has no need of the logits, and keeps no copy of them."""
    which = peers.BY_NAME[name]
    if not operations.TABLE[operation].takes_layer or which.layer is None:
        return peer(name, workload, threads).calls[operation]
    derived = operations.DerivedInputs(workload.logits, features=workload.features, **workload.axis)
    return which.layer(*_layer(derived, workload), threads or available_cpus())[operation]


def _layer(derived: operations.DerivedInputs, workload: Workload) -> tuple[Any, Any, Any, Any]:
    """Return inputs, weight and bias of the layer, and the targets, with a row for each position."""
    hidden, weight, bias = derived.layer
    return hidden.reshape(-1, hidden.shape[-1]), weight, bias, workload.as_rows(workload.targets)


def prepared(which: Peer, workload: Workload, threads: int, **options: Any) -> Prepared:
    """Return a peer that is prepared for a workload.

    Logits of a second model and a linear layer are made when it is first asked for an operation that takes them.
    """
    logits, targets = workload.logits, workload.targets
    made = which.prepare(logits, targets, threads, **options)
    derived = operations.DerivedInputs(logits, features=workload.features, **workload.axis)
    calls = dict(made.calls)
    if (divergence := which.divergence) is not None:
        calls["kl"] = _LazyCall(lambda: divergence(logits, derived.target_logits, threads))
    if (layer := which.layer) is not None:
        both: Any = cache(lambda: layer(*_layer(derived, workload), threads))
        calls |= {name: _LazyCall(partial(_item, both, name)) for name in peers.LINEAR}
    return replace(made, calls=calls)


def _item(make: Any, name: str) -> Call:
    found: Call = make()[name]
    return found


class _LazyCall:
    """A call that is made when it is first run."""

    def __init__(self, make: Callable[[], Call]) -> None:
        self._make = make

    @cached_property
    def _call(self) -> Call:
        return self._make()

    def __call__(self) -> object:
        return self._call()
