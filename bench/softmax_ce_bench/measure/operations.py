"""The operations that are measured, and the one builder of their calls.

A row of `TABLE` is all that a new operation needs: commands, gate, suites, roofline and reports go by the table. A call
is the public function with its arguments bound and nothing around it, and its buffers are arrays as a user makes them.
Its time is therefore that of a user's own call.

This file needs NumPy alone, and can be loaded by its path. It does not import softmax_ce: a process that holds another
build hands that over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np

# What a buffer holds: one number a logit, in the first or the second array of that size; one a row; or the loss.
ARRAY, SECOND, ROWS = "array", "second", "rows"
LOSS, GRAD = "loss", "grad"
# A buffer for the gradient of an array of a linear layer, by the name of that array; and what the results are called.
HIDDEN, LINEAR_WEIGHT, LINEAR_BIAS = "hidden", "linear_weight", "linear_bias"
LINEAR_LOSS, LINEAR_GRADS = "linear_loss", ("grad_hidden", "grad_linear_weight", "grad_linear_bias")
FEATURES = 64  # of a linear layer, where a workload does not say how many
_LINEAR_WIDTH = 8.0  # the standard deviation of a linear layer's logits, about
_ALWAYS = ("axis", "backend", "threads")  # options of every function


@dataclass(frozen=True, slots=True)
class Operation:
    """One public function.

    Attributes
    ----------
    name : str
        Its name in commands and records.
    function : str
        Its name in softmax_ce.
    computes : tuple of str
        The results that it returns, in order, by the names of :class:`softmax_ce_bench.truth.expected.ExpectedResults`.
    buffers : mapping
        Keyword of each buffer that it can be given -> what that holds: `LOSS`, `ARRAY`, `SECOND` or `ROWS`.
    takes_targets : bool
        It takes the workload's targets.
    takes_target_logits : bool
        It takes a second array of logits: see :func:`make_target_logits`.
    takes_layer : bool
        It takes a linear layer in place of the logits: see :func:`make_layer`.
    """

    name: str
    function: str
    computes: tuple[str, ...]
    buffers: Mapping[str, str]
    takes_targets: bool = False
    takes_target_logits: bool = False
    takes_layer: bool = False

    @property
    def writes_array(self) -> bool:
        """Return whether the operation writes as many numbers as there are logits."""
        return ARRAY in self.buffers.values()

    @property
    def arrays_written(self) -> int:
        """Return how many arrays of the logits' size the operation writes."""
        return sum(what in (ARRAY, SECOND) for what in self.buffers.values())

    def arrays_moved(self, *, soft: bool) -> int:
        """Return how many arrays of the logits' size the operation reads and writes, with soft or with hard targets."""
        return (not self.takes_layer) + (self.takes_targets and soft) + self.takes_target_logits + self.arrays_written

    def bytes_moved(self, logits: Any, *, soft: bool, features: int | None = None) -> int:
        """Return the least number of bytes that the operation must move.

        These are N*C*itemsize to read the logits, as many to read soft targets or target logits, and as many to write
        a gradient and a Hessian each. If the operation takes a linear layer, they are those of the layer's arrays and
        of their gradients. Labels and losses, at most a few bytes a row, are not counted.

        Parameters
        ----------
        logits : ndarray, shape (N, C)
            Only its shape and dtype matter.
        soft : bool
            The targets are soft.
        features : int, optional
            The features of the layer.
        """
        moved = int(self.arrays_moved(soft=soft) * logits.nbytes)
        if not self.takes_layer:
            return moved
        rows, classes = logits.shape[0], logits.shape[1]
        features = features or FEATURES
        entries = (rows * (logits.size // (rows * classes)) + classes) * features + classes
        written = entries * max(4, logits.dtype.itemsize) if HIDDEN in self.buffers.values() else 0
        return moved + int(entries * logits.dtype.itemsize + written)

    def given(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of the losses' options that the function takes."""
        if self.takes_layer:
            return {name: value for name, value in options.items() if name != "axis"}
        if self.takes_targets:
            return dict(options)
        known = (*_ALWAYS, "reduction", "grad_output") if self.takes_target_logits else _ALWAYS
        return {name: value for name, value in options.items() if name in known}

    @property
    def loops(self) -> tuple[str, ...]:
        """Return the loops of :mod:`softmax_ce_bench.ceilings` whose speed bounds that of the operation."""
        if self.takes_layer:
            return ("products",) if HIDDEN in self.buffers.values() else ("product",)
        return ("copy", "stream") if self.writes_array else ("read",)

    def results(self, returned: Any) -> dict[str, Any]:
        """Return the results of a call by the names of `computes`."""
        values = returned if len(self.computes) > 1 else (returned,)
        return dict(zip(self.computes, values, strict=True))


TABLE = {
    operation.name: operation
    for operation in (
        Operation("forward", "cross_entropy", (LOSS,), {"out": LOSS}, takes_targets=True),
        Operation("backward", "cross_entropy_grad", (GRAD,), {"grad_out": ARRAY}, takes_targets=True),
        Operation(
            "fused", "cross_entropy_with_grad", (LOSS, GRAD), {"out": LOSS, "grad_out": ARRAY}, takes_targets=True
        ),
        Operation("softmax", "softmax", ("softmax",), {"out": ARRAY}),
        Operation("log_softmax", "log_softmax", ("log_softmax",), {"out": ARRAY}),
        Operation("logsumexp", "logsumexp", ("lse",), {"out": ROWS}),
        Operation(
            "hessian",
            "cross_entropy_with_hessian",
            (LOSS, GRAD, "hess"),
            {"out": LOSS, "grad_out": ARRAY, "hess_out": SECOND},
            takes_targets=True,
        ),
        Operation(
            "kl",
            "kl_divergence_with_grad",
            ("kl", "kl_grad"),
            {"out": LOSS, "grad_out": ARRAY},
            takes_target_logits=True,
        ),
        Operation(
            "linear_forward",
            "linear_cross_entropy",
            (LINEAR_LOSS,),
            {"out": LOSS},
            takes_targets=True,
            takes_layer=True,
        ),
        Operation(
            "linear",
            "linear_cross_entropy_with_grad",
            (LINEAR_LOSS, *LINEAR_GRADS),
            {
                "out": LOSS,
                "grad_hidden_out": HIDDEN,
                "grad_linear_weight_out": LINEAR_WEIGHT,
                "grad_linear_bias_out": LINEAR_BIAS,
            },
            takes_targets=True,
            takes_layer=True,
        ),
    )
}
# Compared unasked, and picked: what computes the loss, its gradient or both.
LOSSES = tuple(name for name, row in TABLE.items() if row.takes_targets and set(row.computes) <= {LOSS, GRAD})
OTHERS = tuple(name for name in TABLE if name not in LOSSES)
NORMALIZERS = tuple(name for name in OTHERS if not (TABLE[name].takes_targets or TABLE[name].takes_target_logits))


class LinearLayer(NamedTuple):
    """A linear layer with its inputs. The field names are those of :func:`softmax_ce.linear_cross_entropy`."""

    hidden: Any  # (N, D), or (..., D) if the rows have more axes
    linear_weight: Any  # (C, D)
    linear_bias: Any  # (C,)


class Buffers:
    """The memory for the results of all calls on one array of logits. Its pages have been touched.

    Parameters
    ----------
    logits : ndarray
    reduction : str
        "none" has one loss a row.
    axis : int
        Where the classes are.
    features : int, optional
        The features of the linear layer.
    """

    def __init__(self, logits: Any, reduction: str = "mean", axis: int = -1, features: int | None = None) -> None:
        # By type: an array that was read or sent may have an equal dtype that is another object, no user's buffer has.
        self._shape, self._kind = logits.shape, logits.dtype.type
        self._real = np.float64 if logits.dtype.itemsize == 8 else np.float32
        self._classes, self._features = logits.shape[axis], features or FEATURES
        rows = logits.shape[:axis] + logits.shape[axis:][1:]
        self.rows = np.zeros(rows, self._real)
        self.loss = np.zeros(rows if reduction == "none" else (), self._real)

    @cached_property
    def array(self) -> Any:
        """The first array of the logits' size. It is made when the first operation asks for it, like all below."""
        return _touched(self._shape, self._kind)

    @cached_property
    def second(self) -> Any:
        """The second array of the logits' size."""
        return _touched(self._shape, self._kind)

    @cached_property
    def hidden(self) -> Any:
        """The gradient by the input of a linear layer."""
        return _touched((*self.rows.shape, self._features), self._real)

    @cached_property
    def linear_weight(self) -> Any:
        """The gradient by the weight of a linear layer."""
        return _touched((self._classes, self._features), self._real)

    @cached_property
    def linear_bias(self) -> Any:
        """The gradient by the bias of a linear layer."""
        return _touched((self._classes,), self._real)

    def of(self, operation: str) -> dict[str, Any]:
        """Return the keyword arguments that pass the buffers of an operation."""
        return {keyword: getattr(self, what) for keyword, what in TABLE[operation].buffers.items()}


def _touched(shape: tuple[int, ...], kind: Any) -> Any:
    made = np.empty(shape, kind)
    made.fill(0)
    return made


class DerivedInputs:
    """What operations take beside or in place of the logits. It is made from these when the first operation asks.

    Parameters
    ----------
    logits : ndarray
    axis : int
        Where the classes are.
    features : int, optional
        The features of the linear layer.
    """

    def __init__(self, logits: Any, axis: int = -1, features: int | None = None) -> None:
        self._logits, self._axis, self._features = logits, axis, features

    @cached_property
    def target_logits(self) -> Any:
        """The logits of a second model."""
        return make_target_logits(self._logits)

    @cached_property
    def layer(self) -> LinearLayer:
        """A linear layer with as many rows and classes."""
        return make_layer(self._logits, self._axis, self._features)


def make_target_logits(logits: Any) -> Any:
    """Return the logits of a second model: those of the first, with normal noise of standard deviation 1.

    The same logits give the same. Classes at -inf stay there.
    """
    real = np.float64 if logits.dtype.itemsize == 8 else np.float32
    made = np.random.default_rng([3, *logits.shape]).standard_normal(logits.shape, real)
    made += logits.astype(real, copy=False)
    return made.astype(logits.dtype.type, copy=False)


def make_layer(logits: Any, axis: int = -1, features: int | None = None) -> LinearLayer:
    """Return a linear layer with as many rows and classes as some logits have, in their dtype.

    Everything is normal: inputs and bias with standard deviation 1, the weight so that that of the layer's own logits
    is about 8. The same shape gives the same.

    Parameters
    ----------
    logits : ndarray
        Only its shape and dtype matter.
    axis : int
        Where the classes are.
    features : int, optional
        The features of the layer, by default `FEATURES`.
    """
    real = np.float64 if logits.dtype.itemsize == 8 else np.float32
    classes, features = logits.shape[axis], features or FEATURES
    rng = np.random.default_rng([4, *logits.shape, features])
    hidden = rng.standard_normal((*logits.shape[:axis], *logits.shape[axis:][1:], features), real)
    weight: Any = rng.standard_normal((classes, features), real)
    weight *= _LINEAR_WIDTH / features**0.5
    made: tuple[Any, ...] = (hidden, weight, rng.standard_normal((classes,), real))
    return LinearLayer(*(array.astype(logits.dtype.type, copy=False) for array in made))


def call(
    module: Any,
    operation: str,
    logits: Any,
    targets: Any,
    buffers: Buffers | None = None,
    derived: DerivedInputs | None = None,
    **options: Any,
) -> Callable[[], Any]:
    """Return a call of an operation as a function without arguments.

    Parameters
    ----------
    module : module
        softmax_ce, of any build.
    operation : str
        A key of `TABLE`.
    logits, targets : ndarray
        The targets are left out if the operation takes none.
    buffers : Buffers, optional
        If None, the call allocates its results.
    derived : DerivedInputs, optional
        What is made from the logits, if the operation takes any of it. By default, it is made here.
    **options
        Options of the public function. Those that the operation does not take are left out.

    Returns
    -------
    callable
    """
    row = TABLE[operation]
    axis = options.get("axis", -1)
    derived = DerivedInputs(logits, axis) if derived is None else derived
    given: tuple[Any, ...] = (logits, targets) if row.takes_targets else (logits,)
    more: dict[str, Any] = {}
    if row.takes_target_logits:
        given = (logits, derived.target_logits)
    elif row.takes_layer:
        layer = derived.layer
        soft = targets.ndim == logits.ndim
        given = (layer.hidden, layer.linear_weight, np.moveaxis(targets, axis, -1) if soft and axis != -1 else targets)
        more = {"linear_bias": layer.linear_bias}
    out = buffers.of(operation) if buffers else {}
    return partial(getattr(module, row.function), *given, **more, **out, **row.given(options))
