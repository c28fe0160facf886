"""The table of peers: what each is, what a call includes, and why one is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from softmax_ce_bench.inputs.workloads import IGNORE_INDEX, Workload
from softmax_ce_bench.peers import adapters, divergences, layers
from softmax_ce_bench.peers.adapters import Call, Prepared
from softmax_ce_bench.peers.layers import LINEAR

_DTYPES = ("float32", "float64")
# What each library has, by the names of softmax_ce_bench.measure.operations.
_LOSSES = ("forward", "backward", "fused")
_NORMALIZERS = ("softmax", "log_softmax", "logsumexp")


@dataclass(frozen=True, slots=True)
class Peer:
    """One library.

    Attributes
    ----------
    name : str
    title : str
        Its name among its users.
    includes : str
        The parts of a call's time beside the arithmetic: allocation, copies, dispatch.
    distribution : str
        The distribution whose version is shown.
    modules : tuple of str
        The modules that must be importable.
    how_to_get : str
    prepare : callable
        (logits, targets, threads, **options) -> Prepared: see :mod:`softmax_ce_bench.peers.adapters`.
    divergence : callable or None
        (logits, target_logits, threads) -> the call of "kl": see :mod:`softmax_ce_bench.peers.divergences`.
    layer : callable or None
        (hidden, weight, bias, targets, threads) -> the calls of the operations `LINEAR`: see
        :mod:`softmax_ce_bench.peers.layers`.
    soft_targets, ignored_rows : bool
        Whether it supports soft labels, and labels of -100.
    operations : tuple of str
        The operations that it has, of :data:`softmax_ce_bench.measure.operations.TABLE`.
    dtypes : tuple of str
        The dtypes of logits that it accepts.
    options : tuple of str
        The options of softmax_ce that it supports.
    more_axes : bool
        Whether it takes logits of more than two axes, with the classes on axis 1.
    in_process : bool
        Whether it runs in this process. It then has no threads of its own and needs no copy of the arrays.
    """

    name: str
    title: str
    includes: str
    distribution: str
    modules: tuple[str, ...]
    how_to_get: str
    prepare: Callable[..., Prepared]
    soft_targets: bool = False
    ignored_rows: bool = False
    operations: tuple[str, ...] = (*_LOSSES, *_NORMALIZERS)
    dtypes: tuple[str, ...] = _DTYPES
    options: tuple[str, ...] = ()
    more_axes: bool = False
    in_process: bool = False
    divergence: Callable[[Any, Any, int], Call] | None = None
    layer: Callable[[Any, Any, Any, Any, int], dict[str, Call]] | None = None

    def has_any(self, operations: Iterable[str]) -> bool:
        """Return whether the peer has one of the operations."""
        return not set(self.operations).isdisjoint(operations)

    @property
    def why_missing(self) -> str | None:
        """Return why the peer cannot be used here, or None. Nothing is imported."""
        missing = [name for name in self.modules if importlib.util.find_spec(name) is None]
        return f"not installed: {', '.join(missing)}" if missing else None

    @property
    def version(self) -> str | None:
        """Return the installed version."""
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return None

    def why_not(self, workload: Workload, options: Mapping[str, Any] | None = None) -> str | None:
        """Return why the peer cannot run on this workload with these options, or None."""
        if workload.dtype not in self.dtypes:
            *most, last = self.dtypes
            return f"{self.title} is called with {', '.join(most)} or {last} here, not {workload.dtype}"
        unknown = [name for name in options or {} if name not in self.options]
        if unknown:
            return f"{self.title} has no {unknown[0]}"
        if workload.logits.ndim > 2 and not self.more_axes:
            return f"{self.title} is called with two axes here, not {workload.logits.ndim}"
        if workload.is_soft:
            return None if self.soft_targets else f"{self.title} takes no soft labels"
        if not self.ignored_rows and (workload.targets == IGNORE_INDEX).any():
            return f"{self.title} cannot ignore rows"
        return None


_EXTRA = "pip install 'softmax-ce[peers]'"
PEERS = (
    Peer(
        "torch",
        "PyTorch",
        "F.cross_entropy and autograd.grad: the autograd graph, a new array of log-probabilities and a new gradient; "
        "torch.softmax, log_softmax and logsumexp: new results; F.kl_div of two log_softmax, and autograd.grad; "
        "F.linear with F.cross_entropy, and autograd.grad: all logits at once",
        "torch",
        ("torch",),
        _EXTRA,
        adapters.torch_cross_entropy,
        soft_targets=True,
        ignored_rows=True,
        operations=(*_LOSSES, *_NORMALIZERS, "kl", *LINEAR),
        divergence=divergences.torch_kl,
        layer=layers.torch_linear,
        dtypes=(*_DTYPES, "float16", "bfloat16"),
        options=("weight", "ignore_index", "label_smoothing", "reduction", "grad_output"),
        more_axes=True,
    ),
    Peer(
        "torch-linear",
        "PyTorch's linear_cross_entropy",
        "F.linear_cross_entropy and autograd.grad: the autograd graph and new gradients",
        "torch",
        ("torch",),
        _EXTRA,
        adapters.torch_cross_entropy,
        soft_targets=True,
        ignored_rows=True,
        operations=LINEAR,
        layer=layers.torch_fused,
    ),
    Peer(
        "jax",
        "JAX jit with optax",
        "the compiled value_and_grad of optax's loss, also of a linear layer, or jax.nn's function, on arrays already "
        "on the device: dispatch, new results, the wait until they are ready; not the compilation",
        "jax",
        ("jax", "jaxlib", "optax"),
        _EXTRA,
        adapters.jax_cross_entropy,
        soft_targets=True,
        operations=(*_LOSSES, *_NORMALIZERS, "kl", *LINEAR),
        divergence=divergences.jax_kl,
        layer=layers.jax_linear,
    ),
    Peer(
        "sklearn",
        "scikit-learn",
        "HalfMultinomialLoss.loss_gradient: new arrays of the losses and the gradient; not the mean over the rows; "
        "gradient_hessian, without the losses, as its gradient boosting calls it",
        "scikit-learn",
        ("sklearn",),
        _EXTRA,
        adapters.sklearn_multinomial,
        operations=(*_LOSSES, "hessian"),
    ),
    Peer(
        "scipy",
        "SciPy",
        "special.log_softmax, its exponential, labels and mean by NumPy: new arrays at each step; one thread; "
        "the normalizers of special",
        "scipy",
        ("scipy",),
        _EXTRA,
        adapters.scipy_log_softmax,
    ),
    Peer(
        "numpy-written",
        "NumPy, written out",
        "the max-shifted formula on whole arrays: new arrays at each step; one thread; of a linear layer, all logits "
        "at once, and the products on the threads of NumPy's BLAS",
        "numpy",
        ("numpy",),
        "",
        adapters.numpy_shifted,
        soft_targets=True,
        ignored_rows=True,
        operations=(*_LOSSES, *_NORMALIZERS, "hessian", "kl", *LINEAR),
        divergence=divergences.numpy_kl,
        layer=layers.numpy_linear,
        in_process=True,
    ),
)
BY_NAME = {peer.name: peer for peer in PEERS}
