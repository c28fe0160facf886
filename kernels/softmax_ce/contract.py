"""The contract of a backend: two kernels, the facts about them, and the conventions that they share.

Conventions (stated once, used by every kernel)
------------------------------------------------
N rows, C classes, R the native dtype (float32 or float64). For row i, with lse the log-sum-exp
of its logits x, p = softmax(x), and 0 * inf = 0:

    T_ij   = mass_i * [j = y_i] + base_mass_j       hard labels, mass_i = label_mass[y_i]
           = target_scale_j * t_ij + base_mass_j    soft labels
    a_i    = sum_j T_ij                             hard labels: mass_i + base_total
    loss_i = r_i * (sum_j T_ij * (lse_i - x_ij) + z_loss * lse_i**2)
    grad_ij = r_i * v_i * ((a_i + 2 * z_loss * lse_i) * p_ij - T_ij)
    hess_ij = r_i * v_i * ((a_i + 2 * z_loss * lse_i) * p_ij * (1 - p_ij) + 2 * z_loss * p_ij**2)

with r = row_weight and v = upstream. A row counts when r_i != 0 and, for hard labels, its label
lies in [0, C) and is not ``ignore_index``; a row that does not count has loss, gradient and Hessian 0,
whatever its logits are. softmax is the gradient with mass 0, base_total 1 and r = v = 1.

Masses, soft labels, row weights and upstream gradients may have either sign. A target T_ij that is not 0 at
x_ij = -inf gives an infinite loss with the sign of r_i * T_ij. A row with infinities of both signs has the loss NaN.
base_total and a_i may be 0 even if the masses are not, so only base_mass says whether there are any.

The public functions check every argument before they call a kernel. A kernel allocates at most a scratch of a few row
blocks, raises nothing, holds no state, and writes only rows [start, stop) of its outputs. ``grad`` may be the same
memory as ``logits``. The result of a row depends on that row alone, never on start, stop, its neighbours or the thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from softmax_ce.dtypes import compute_dtype

NATIVE_DTYPES = ("float32", "float64")
ROW_ELEMENTS = 24  # the fixed cost of a row, in elements: the size of work is rows * (classes + this)

# The types that short paths accept as integers and as real numbers. np.integer is too wide: it includes np.timedelta64.
INTEGERS = (int, np.long, np.longlong, np.intc, np.short, np.byte, np.unsignedinteger)
NUMBERS = (float, np.floating, *INTEGERS)

Floats = NDArray[np.float32] | NDArray[np.float64]


class HardKernel(Protocol):
    """A kernel that computes loss, gradient and log-sum-exp for one integer label in each row."""

    def __call__(
        self,
        logits: Floats,  # IN   (N, C) R, C-contiguous
        labels: NDArray[np.int64],  # IN   (N,), or (1,) for all rows
        ignore_index: int,
        label_mass: Floats,  # IN   (C,) or (1,) R
        base_mass: Floats | None,  # IN   (C,) or (1,) R; None: zero
        base_total: float,
        z_loss: float,
        row_weight: NDArray[np.float64],  # IN   (N,) or (1,)
        upstream: NDArray[np.float64],  # IN   (N,) or (1,)
        loss: Floats | None,  # OUT  (N,) R; here and below, None: not wanted
        grad: Floats | None,  # OUT  (N, C) R, may be logits itself
        row_max: Floats | None,  # OUT  (N,) R: the row's maximum, or any number if the backend is not `stable`
        log_sum: Floats | None,  # OUT  (N,) R: log sum_j exp(x_j - row_max), lse = row_max + log_sum
        start: int,
        stop: int,
        /,
    ) -> None: ...


class SoftKernel(Protocol):
    """A kernel that computes loss, gradient and log-sum-exp for a soft label, a target for each class, in each row."""

    def __call__(
        self,
        logits: Floats,  # IN   (N, C) R, C-contiguous
        targets: Floats,  # IN   (N, C) R, C-contiguous, never the same memory as grad
        target_scale: Floats,  # IN   (C,) or (1,) R
        base_mass: Floats | None,  # IN   (C,) or (1,) R; None: zero
        z_loss: float,
        row_weight: NDArray[np.float64],  # IN   (N,) or (1,)
        upstream: NDArray[np.float64],  # IN   (N,) or (1,)
        loss: Floats | None,  # OUT  as for hard labels
        grad: Floats | None,
        row_max: Floats | None,
        log_sum: Floats | None,
        start: int,
        stop: int,
        /,
    ) -> None: ...


class KlKernel(Protocol):
    """A kernel that computes the KL divergence of softmax(target_logits / T) from softmax(logits / T) in each row.

    ``loss_i = r_i * sum_j t_ij * log(t_ij / p_ij)`` and ``grad_ij = r_i * v_i * (p_ij - t_ij) / T``. It computes in
    float64, with sums over the classes that are at least as accurate as NumPy's pairwise sums. No divergence is
    negative, and each is accurate however small it is.
    """

    def __call__(
        self,
        logits: Floats,  # IN   (N, C) R, or float64, C-contiguous
        target_logits: Floats,  # IN   (N, C), C-contiguous, in the dtype of logits
        temperature: float,
        row_weight: NDArray[np.float64],  # IN   (N,) or (1,)
        upstream: NDArray[np.float64],  # IN   (N,) or (1,)
        loss: Floats,  # OUT  (N,) R
        grad: Floats | None,  # OUT  (N, C) R, may be logits or target_logits itself
        start: int,
        stop: int,
        /,
    ) -> None: ...


class Team(Protocol):
    """One kernel call that several threads share. The backend cuts it into pieces and hands them out.

    Attributes
    ----------
    helpers : int
        The number of threads, beside the caller's, for which there is work.
    """

    @property
    def helpers(self) -> int: ...

    def work(self, helping: bool, /) -> bool:
        """Work until no piece is left, or for a while.

        Parameters
        ----------
        helping : bool
            Whether this thread is a helper, not the caller.

        Returns
        -------
        bool
            Whether to call this method again.
        """
        ...

    def cancel(self) -> None:
        """Hand out no more pieces."""
        ...

    def settled(self) -> bool:
        """Return whether, with all pieces handed out, no helper is at work and none failed. False may mean unknown."""
        ...


@dataclass(frozen=True, slots=True)
class TeamKernels:
    """Optional kernels that share one call among threads themselves, with the bits of the whole-row kernels.

    ``hard`` and ``soft`` take the arguments of the whole-row kernels without start and stop. Two more follow:
    ``threads``, the largest number of threads, and ``longest``, the number of elements after which ``Team.work``
    returns, so that an interrupt is noticed. They return a :class:`Team`. If rows are few and long, several threads may
    work on one row.

    Attributes
    ----------
    hard, soft : callable
    log_softmax : callable or None
        Optional: a kernel for log-probabilities, for backends with ``log_softmax``. It takes the arguments of that
        kernel without start and stop, then ``threads`` and ``longest``.
    """

    hard: Callable[..., Team]
    soft: Callable[..., Team]
    log_softmax: Callable[..., Team] | None = None


@dataclass(frozen=True, slots=True)
class ShortCalls:
    """Optional functions that compute whole small calls, from the public function's arguments to its results.

    If a kernel takes a microsecond, checking and folding the arguments in Python takes ten times as long, so each of
    these functions checks its arguments itself. It returns None, before it writes anything, for arguments that it does
    not know to be valid and for work of ``most`` elements (rows times classes + ``ROW_ELEMENTS``) or more. The full
    path then computes the call, or says what is wrong. Results have the bits of the full path.

    Attributes
    ----------
    cross_entropy : callable
        ``(logits, targets, want_loss, want_grad, given, most)``; `given` is a tuple of the options, in the order of
        :class:`softmax_ce.options.Options`.
    softmax, log_softmax, logsumexp : callable
        ``(x, axis, threads, out, most)``
    addressed : callable or None
        Optional, for plain calls of any size on memory of other libraries: ``(logits, shape, format, labels,
        labels_shape, ignore_index, reduction, loss, grad, threads, parallel_for)`` computes the loss and its gradient,
        and returns True. Before it writes anything, it returns False for a call that the other functions must compute
        or refuse. Arrays are given by their addresses and are contiguous. `format` is the name of the dtype of logits
        and gradient, (N, C, ...). The labels are int64, and the loss has the dtype that is computed in. The address 0
        stands for a gradient that is not wanted. With more than one thread, `parallel_for` is the address of PyTorch's
        ``torch_parallel_for``, whose threads do the work.
    """

    cross_entropy: Callable[..., Any]
    softmax: Callable[..., Any]
    log_softmax: Callable[..., Any]
    logsumexp: Callable[..., Any]
    addressed: Callable[..., bool] | None = None


@dataclass(frozen=True, slots=True)
class HessianKernels:
    """Optional kernels that also compute the diagonal of the Hessian.

    ``hard`` and ``soft`` take the arguments of the whole-row kernels with one more output, ``hess``, (N, C) R or None,
    after ``grad``. It shares no memory with an input. Without these kernels, it is composed from the softmax that
    ``hard`` computes, in one more pass.

    Attributes
    ----------
    hard, soft : callable
    strided : HessianKernels or None
        Optional: the same kernels for arrays of any strides, as in `StridedKernels`. For float64 logits, the gradient
        and the Hessian may each be float32. The Hessian may be the same memory as the logits or the targets, with the
        same strides.
    """

    hard: Callable[..., None]
    soft: Callable[..., None]
    strided: HessianKernels | None = None


SHARD_TOTALS = 4  # the numbers of a row that `ShardKernels.fold` writes


@dataclass(frozen=True, slots=True)
class ShardKernels:
    """Optional kernels for some of the classes of each row, if the classes are divided into shards.

    The whole-row kernels sum a row in chunks of classes and then combine the chunks. Here, each shard has sums of its
    own chunks, and all chunks are combined at the end. If each shard begins with a whole chunk, the results have the
    bits of the whole-row kernels, but for rows that these compute in another way because they have few classes.
    Without these kernels, shards are computed with the whole-row kernels, and combined in NumPy.

    A chunk has 2 numbers, float64: its maximum, NaN left out, and the sum relative to it, which is NaN if one of its
    logits is. There are 2 more, up to the backend, if there are soft labels or a base mass.

    Attributes
    ----------
    chunk : callable
        ``chunk(n_classes, itemsize)``: the number of classes in a chunk of a row with so many classes. The last chunk
        of a shard may have fewer.
    sums : callable
        ``sums(logits, labels, targets, target_scale, base_mass, first_class, chunk, chunks, label_logit, start, stop)``
        writes `chunks`, (N, chunks of the shard, 2 or 4), and for hard labels `label_logit`, float64 (N,): the logits
        at the labels, NaN where the label is in another shard.
    fold : callable
        ``fold(chunks, label_logit, label_mass, base_total, z_loss, row_weight, loss, row_max, log_sum, totals, start,
        stop)`` combines the chunks of all shards. It writes `totals`, float64 (N, `SHARD_TOTALS`), and the outputs of
        the whole-row kernels.
    grad : callable
        ``grad(logits, labels, targets, target_scale, base_mass, base_total, z_loss, row_weight, upstream, first_class,
        chunk, chunks, label_logit, label_mass, totals, grad, start, stop)`` computes a shard's columns of the gradient,
        given the shard's own `chunks` and the `totals`.

    Notes
    -----
    Arguments that the whole-row kernels take too are those of the shard: its columns of logits, targets and tables.
    But `base_total` and the labels are those of all classes. `label_mass` is the mass at each row's label, NaN if the
    row does not count. Like `label_logit` it is float64, (N,) or (1,). For soft labels, these two and `labels` are
    None; for hard labels, `targets` is None.
    """

    chunk: Callable[[int, int], int]
    sums: Callable[..., None]
    fold: Callable[..., None]
    grad: Callable[..., None]


ROW_AXES = 4  # the most axes of rows that an array for a strided kernel may have


@dataclass(frozen=True, slots=True)
class StridedKernels:
    """Optional kernels for arrays of any strides, for which nothing need be staged.

    ``hard`` and ``soft`` take the arguments of the whole-row kernels, except that logits, targets and gradient are
    arrays (..., C) of any strides, with up to `ROW_AXES` axes of rows. Their dtype is R, or float16 or bfloat16 if R is
    float32, in native byte order and aligned. Rows are counted in C order. The gradient may be the same memory as the
    logits or the targets, with the same strides. The bits of a row are those of the whole-row kernels.

    Attributes
    ----------
    hard, soft : callable
    team : TeamKernels
        Kernels for such arrays that several threads share.
    log_softmax : callable or None
        Optional: `Backend.log_softmax` for such arrays.
    """

    hard: Callable[..., None]
    soft: Callable[..., None]
    team: TeamKernels
    log_softmax: Callable[..., None] | None = None


def sequential(classes: int) -> float:
    """Return the sum coefficient A of one running sum."""
    return max(classes - 1, 0)


def pairwise(classes: int) -> float:
    """Return the sum coefficient A of NumPy's pairwise sum (blocks of 128 in 8 lanes)."""
    return 18 + max(0, math.ceil(math.log2(max(classes, 1) / 128)))


def lanes(width: int, chunk: int) -> Callable[[int], float]:
    """Return the sum coefficient A, as a function of the classes, of `width` running sums in each chunk."""
    return partial(_lanes, width, chunk)  # not a closure, which could not be pickled


def _lanes(width: int, chunk: int, classes: int) -> float:
    return min(classes, chunk) / width + math.log2(width) + classes / chunk + 2


def wide(additions: int = 0) -> Callable[[int], float]:
    """Return the sum coefficient A, as a function of the classes, of float32 terms summed in float64.

    `additions` of the additions are in float32.
    """
    return partial(_wide, additions)


def _wide(additions: int, classes: int) -> float:
    return 1 + additions + classes * 2.0**-29


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The accuracy of a backend's arithmetic, from which its error bounds follow.

    Attributes
    ----------
    exp_ulp, log_ulp : float
        The largest error of its exp (for arguments <= 0) and of its log, in units in the last place.
    summation : callable
        From the number of classes to the coefficient A of a sum over them: error <= A * u * sum.
    """

    exp_ulp: float = 4.0
    log_ulp: float = 4.0
    summation: Callable[[int], float] = sequential


class ReadOnlyDict(dict[str, Accuracy]):
    """A read-only dictionary that, unlike a MappingProxyType, can be pickled and copied."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("the facts about a backend cannot be changed")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)


def _cautious() -> Mapping[str, Accuracy]:
    return {name: Accuracy() for name in NATIVE_DTYPES}


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """The facts about one backend, as listed by :func:`softmax_ce.backends`.

    Attributes
    ----------
    name : str
        The name that ``backend=`` takes.
    module : str
        The dotted name of the module with the kernels ``hard`` and ``soft``.
    summary : str
        One line for tables.
    stable : bool
        False if it overflows or underflows where a stable formula would not. Automatic choice never takes it then.
    ahead_of_time : bool
        Whether it is compiled before the first call. Automatic choice requires this.
    how_to_get : str
        What to do if it is not available.
    serial_elements : int
        A call with less work than this runs on one thread, however many it may use: two would not be faster. In
        elements: rows times classes + ``ROW_ELEMENTS``.
    accuracy : mapping
        From the name of a native dtype to its :class:`Accuracy`.
    dtypes : tuple of str
        The dtypes that its kernels compute. 16-bit logits are staged through float32, and integers through float64.
    sub_interpreters : bool
        Whether it works in a sub-interpreter. If not, loading it there would hang or end the process.
    available : bool
        Whether it can run here.
    why_unavailable : str or None
        Why it cannot run here.
    """

    name: str
    module: str
    summary: str = ""
    stable: bool = True
    ahead_of_time: bool = True
    how_to_get: str = ""
    serial_elements: int = 1 << 16
    accuracy: Mapping[str, Accuracy] = field(default_factory=_cautious, compare=False)
    dtypes: tuple[str, ...] = NATIVE_DTYPES
    sub_interpreters: bool = True
    available: bool = True
    why_unavailable: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "accuracy", ReadOnlyDict(self.accuracy))


@dataclass(frozen=True, slots=True)
class Backend:
    """A loaded backend: its facts and its kernels. It is pickled by name, and loaded again where it is unpickled.

    Attributes
    ----------
    info : BackendInfo
    hard : HardKernel
    soft : SoftKernel
    widen, narrow : callable or None
        Optional: ``widen(narrow_as_uint16, float32_out, is_bfloat16)`` and ``narrow(float32, out_as_uint16,
        is_bfloat16)`` on contiguous vectors, rounded to nearest even, for staging 16-bit logits. Without them,
        NumPy's operations are used, which are slower.
    team : TeamKernels or None
        Optional: kernels with less overhead on several threads, which can also share few rows of many classes.
    short : ShortCalls or None
        Optional: small calls without the interpreter's overhead.
    log_softmax : callable or None
        Optional: ``log_softmax(logits, out, start, stop)``, with arrays as for the gradient. It computes (x - row
        maximum) - log_sum; a row without a distribution is NaN throughout. Without it, log-probabilities are
        computed from the results of ``hard``.
    total : callable or None
        Optional: ``total(vector, divisor)``, the sum of a vector (R or float64) divided by a number, in float64 and
        in a fixed order. If the sum overflows, it is taken again with each term scaled by 2**-64. A backend with
        ``short`` needs it, so that both paths sum alike. Without it, NumPy's sum is used.
    strided : StridedKernels or None
        Optional: kernels for arrays of any strides and for 16-bit floats, without staging.
    plain : callable or None
        Optional, for small calls: ``plain(logits, labels, divisor, loss, grad, reduced)`` computes what ``hard``
        computes for all rows if no option is in use and the upstream gradient is the float 1 / divisor. It checks the
        labels itself. If one is not a class, it writes nothing and returns None. Otherwise it returns a float: with
        ``reduced``, what ``total`` gives for the losses and the divisor; `loss` is None then. The bits are those of
        ``hard`` and ``total``. The arrays are contiguous and share no memory.
    hessian : HessianKernels or None
        Optional: kernels for loss, gradient and the Hessian's diagonal in one pass.
    transformed : callable or None
        Optional: ``transformed(factor, softcap, where, correct, spread)`` returns :class:`StridedKernels` that compute
        on softcap * tanh(factor * x), or factor * x if `softcap` is 0, with -inf for the classes that `where` leaves
        out. `where` is an array of bool, (..., C), of any strides, with the logits' rows in C order, or None. The
        gradient is with respect to factor * x, and 0 at classes left out. `correct`, a vector of bool for the rows or
        None, receives whether the label is the first maximum. `spread`, R, (C,) or (1,), or None, goes with a mask and
        without a base_mass: divided by the number of classes that take part in a row, it is added to the target of each
        of them. Without these kernels, such logits are staged and transformed by NumPy.
    shards : ShardKernels or None
        Optional: kernels for some of the classes of each row.
    kl : KlKernel or None
        Optional: a kernel for the KL divergence. Without it, the divergence is composed from ``hard`` and ``soft`` with
        NumPy.
    details : str
        What the backend found when it was loaded, such as the instruction set in use. It may be empty.
    """

    info: BackendInfo
    hard: HardKernel
    soft: SoftKernel
    details: str = ""
    widen: Callable[[Any, Any, bool], None] | None = None
    narrow: Callable[[Any, Any, bool], None] | None = None
    team: TeamKernels | None = None
    short: ShortCalls | None = None
    log_softmax: Callable[[Any, Any, int, int], None] | None = None
    total: Callable[[Any, float], float] | None = None
    strided: StridedKernels | None = None
    plain: Callable[[Any, Any, float, Any, Any, bool], float | None] | None = None
    hessian: HessianKernels | None = None
    transformed: Callable[[float, float, Any, Any, Any], StridedKernels] | None = None
    shards: ShardKernels | None = None
    kl: KlKernel | None = None

    @property
    def name(self) -> str:
        """The backend's name."""
        return self.info.name

    def __copy__(self) -> Backend:
        return self  # immutable

    def __deepcopy__(self, memo: object) -> Backend:
        return self

    def warmup(self, dtypes: Any = NATIVE_DTYPES) -> None:
        """Run both kernels once for each dtype, so that the first real call compiles nothing.

        Parameters
        ----------
        dtypes : dtype-like, or iterable of dtype-like
            The dtypes of later logits. For 16-bit floats and integers, which are computed in float32 and float64, the
            kernels of those dtypes are warmed up. What the backend does not compute is skipped.

        Raises
        ------
        TypeError
            A dtype that logits cannot have.
        """
        if isinstance(dtypes, str | type | np.dtype):
            dtypes = (dtypes,)
        elif not isinstance(dtypes, Iterable):
            raise TypeError(f"dtypes must be a dtype or an iterable of dtypes, got {dtypes!r}")
        for native in {compute_dtype(np.dtype(dtype)) for dtype in dtypes}:
            if native.name not in self.info.dtypes:
                continue
            logits = np.zeros((1, 2), native)
            one = np.ones(1, native)
            row = np.ones(1)
            outputs = np.empty(1, native), np.empty((1, 2), native), np.empty(1, native), np.empty(1, native)
            self.hard(logits, np.zeros(1, np.int64), -100, one, None, 0.0, 0.0, row, row, *outputs, 0, 1)
            self.soft(logits, np.ones((1, 2), native), one, None, 0.0, row, row, *outputs, 0, 1)
            if self.total is not None:
                self.total(one, 1.0)
