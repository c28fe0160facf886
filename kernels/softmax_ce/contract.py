"""What a backend is: two kernels, a row of facts, and the conventions they share.

Conventions (written once, used by every kernel)
------------------------------------------------
N rows, C classes, R the native dtype (float32 or float64). For row i, with lse the log-sum-exp
of its logits x, p = softmax(x), and 0 * inf = 0:

    T_ij   = mass_i * [j = y_i] + base_mass_j       hard labels, mass_i = label_mass[y_i]
           = target_scale_j * t_ij + base_mass_j    soft labels
    a_i    = sum_j T_ij                             hard labels: mass_i + base_total
    loss_i = r_i * (sum_j T_ij * (lse_i - x_ij) + z_loss * lse_i**2)
    grad_ij = r_i * v_i * ((a_i + 2 * z_loss * lse_i) * p_ij - T_ij)

with r = row_weight and v = upstream. A row counts when r_i != 0 and, for hard labels, its label
lies in [0, C) and is not ``ignore_index``; a row that does not count has loss 0 and gradient 0,
whatever its logits are. softmax is the gradient with mass 0, base_total 1, r = v = 1.

Masses, soft labels, row weights and upstream gradients have either sign. A target T_ij that is not 0 at
x_ij = -inf gives an infinite loss of the sign of r_i * T_ij, and NaN beside one of the other sign. base_total and
a_i may be 0 where the masses are not, so base_mass alone says whether there are any.

The shell has checked every argument before a kernel is called. A kernel allocates at most a
scratch of a few row blocks, raises nothing, holds no state, and writes only rows
[start, stop) of the outputs it was given. ``grad`` may be the same memory as ``logits``. What a
row gets depends on that row alone, never on start, stop, its neighbours or the thread.
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
ROW_ELEMENTS = 24  # what a row costs beside its classes, in elements: the size of work is rows * (classes + this)

# What short paths take for an integer or a real number at a glance. Not np.integer: np.timedelta64 is one.
INTEGERS = (int, np.long, np.longlong, np.intc, np.short, np.byte, np.unsignedinteger)
NUMBERS = (float, np.floating, *INTEGERS)

Floats = NDArray[np.float32] | NDArray[np.float64]


class HardKernel(Protocol):
    """Loss, gradient and log-sum-exp for one integer label a row."""

    def __call__(
        self,
        logits: Floats,  # IN   (N, C) R, C-contiguous
        labels: NDArray[np.int64],  # IN   (N,) or (1,): one for all rows
        ignore_index: int,
        label_mass: Floats,  # IN   (C,) or (1,) R
        base_mass: Floats | None,  # IN   (C,) or (1,) R; None: zero
        base_total: float,
        z_loss: float,
        row_weight: NDArray[np.float64],  # IN   (N,) or (1,)
        upstream: NDArray[np.float64],  # IN   (N,) or (1,)
        loss: Floats | None,  # OUT  (N,) R; None: not wanted, and so below
        grad: Floats | None,  # OUT  (N, C) R, may be logits itself
        row_max: Floats | None,  # OUT  (N,) R
        log_sum: Floats | None,  # OUT  (N,) R: log sum_j exp(x_j - row_max), lse = row_max + log_sum
        start: int,
        stop: int,
        /,
    ) -> None: ...


class SoftKernel(Protocol):
    """The same for a row of soft targets."""

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


class Team(Protocol):
    """One call that hands out its own pieces, to the threads that come for them. Made anew for each call.

    Attributes
    ----------
    helpers : int
        How many threads beside the caller's find work.
    """

    @property
    def helpers(self) -> int: ...

    def work(self, helping: bool, /) -> bool:
        """Work until nothing is left, or for a while: whether to come again. `helping`: this is not the caller."""
        ...

    def cancel(self) -> None:
        """Hand out nothing from now on."""
        ...

    def settled(self) -> bool:
        """After the last piece is handed out: whether no helper is at work, and none failed. May say no too often."""
        ...


@dataclass(frozen=True, slots=True)
class TeamKernels:
    """Optional: kernels that share out a call among threads by themselves, with the bits of the whole-row kernels.

    ``hard`` and ``soft`` take the whole-row kernel's arguments less start and stop, then ``threads``, the most that
    may come, and ``longest``, the elements after which ``Team.work`` returns, so that an interrupt is seen. They
    return a :class:`Team`. Where there are few long rows, several threads may work on one.

    Attributes
    ----------
    hard, soft : callable
    log_softmax : callable or None
        Optional, where the backend has ``log_softmax``: likewise.
    """

    hard: Callable[..., Team]
    soft: Callable[..., Team]
    log_softmax: Callable[..., Team] | None = None


@dataclass(frozen=True, slots=True)
class ShortCalls:
    """Optional: whole calls of small work, from the public function's arguments to its results.

    Where a kernel takes a microsecond, checking and folding the arguments in Python would take ten times that. Each of
    these checks them itself. Arguments that it does not know to be right, and work of ``most`` elements or more (rows
    times classes + ``ROW_ELEMENTS``), it answers with None, before anything is written: then the shell's full path
    computes the call, or says what is wrong. What it does compute has the full path's bits.

    Attributes
    ----------
    cross_entropy : callable
        ``(logits, targets, want_loss, want_grad, given, most)``; `given` are the options, a tuple in the order of
        :class:`softmax_ce.options.Options`.
    softmax, log_softmax, logsumexp : callable
        ``(x, axis, threads, out, most)``
    """

    cross_entropy: Callable[..., Any]
    softmax: Callable[..., Any]
    log_softmax: Callable[..., Any]
    logsumexp: Callable[..., Any]


ROW_AXES = 4  # of an array that a strided kernel is given, at most


@dataclass(frozen=True, slots=True)
class StridedKernels:
    """Optional: kernels that find their rows anywhere in memory, so that nothing is staged for them.

    ``hard`` and ``soft`` take the whole-row kernels' arguments, but logits, targets and gradient are arrays (..., C) of
    any strides, with up to `ROW_AXES` axes of rows, in R or, where R is float32, in float16 or bfloat16; native and
    aligned. Rows count in C order. The gradient may be the same memory as the logits or the targets, with the same
    strides. A row gets the bits that the whole-row kernels give it.

    Attributes
    ----------
    hard, soft : callable
    team : TeamKernels
        The same for several threads.
    log_softmax : callable or None
        Optional: `Backend.log_softmax` on such arrays.
    """

    hard: Callable[..., None]
    soft: Callable[..., None]
    team: TeamKernels
    log_softmax: Callable[..., None] | None = None


def sequential(classes: int) -> float:
    """Sum coefficient A of one running sum."""
    return max(classes - 1, 0)


def pairwise(classes: int) -> float:
    """Sum coefficient A of NumPy's pairwise sum (blocks of 128 in 8 lanes)."""
    return 18 + max(0, math.ceil(math.log2(max(classes, 1) / 128)))


def lanes(width: int, chunk: int) -> Callable[[int], float]:
    """Sum coefficient A of `width` running sums a chunk, then one sum over the chunks."""
    return partial(_lanes, width, chunk)  # no closure, which could not be pickled


def _lanes(width: int, chunk: int, classes: int) -> float:
    return min(classes, chunk) / width + math.log2(width) + classes / chunk + 2


def wide(additions: int = 0) -> Callable[[int], float]:
    """Sum coefficient A of float32 terms summed in float64, after `additions` of them in float32."""
    return partial(_wide, additions)


def _wide(additions: int, classes: int) -> float:
    return 1 + additions + classes * 2.0**-29


@dataclass(frozen=True, slots=True)
class Accuracy:
    """What the error bounds need to know of a backend's arithmetic.

    Attributes
    ----------
    exp_ulp, log_ulp : float
        Largest error, in units in the last place, of its exp (arguments <= 0) and its log.
    summation : callable
        Classes -> the coefficient A of its sum over classes: error <= A * u * sum.
    """

    exp_ulp: float = 4.0
    log_ulp: float = 4.0
    summation: Callable[[int], float] = sequential


class ReadOnlyDict(dict[str, Accuracy]):
    """A dictionary that does not change, and unlike a MappingProxyType can be pickled and copied."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("the facts of a backend cannot be changed")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)


def _cautious() -> Mapping[str, Accuracy]:
    return {name: Accuracy() for name in NATIVE_DTYPES}


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """One backend's facts, as listed by :func:`softmax_ce.backends`.

    Attributes
    ----------
    name : str
        What ``backend=`` takes.
    module : str
        Dotted name of the module that holds the kernels ``hard`` and ``soft``.
    summary : str
        One line for tables.
    stable : bool
        False: it overflows and underflows, and automatic choice never takes it.
    ahead_of_time : bool
        True: the first call pays no compilation. Automatic choice asks for this.
    how_to_get : str
        What to do when it is not available.
    serial_elements : int
        Work below which a call stays on one thread, however many it may use: where two threads break even. In
        elements: rows times classes + ``ROW_ELEMENTS``.
    accuracy : mapping
        Native dtype name -> :class:`Accuracy`.
    dtypes : tuple of str
        The dtypes its kernels compute; 16-bit logits are staged through float32, integers through float64.
    sub_interpreters : bool
        False: loading it in a sub-interpreter would not end, or end the process.
    available : bool
    why_unavailable : str or None
        The reason when not available.
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
    """A loaded backend: its facts and its two kernels. Pickled by its name: who unpickles it loads it there.

    Attributes
    ----------
    info : BackendInfo
    hard : HardKernel
    soft : SoftKernel
    widen, narrow : callable or None
        Optional: ``widen(narrow_as_uint16, float32_out, is_bfloat16)`` and ``narrow(float32, out_as_uint16,
        is_bfloat16)`` on contiguous vectors, rounded to nearest even, for staging 16-bit logits. NumPy's casts
        do without, slowly.
    team : TeamKernels or None
        Optional: less overhead on several threads, and few rows of many classes shared among them.
    short : ShortCalls or None
        Optional: small calls without the interpreter's steps.
    log_softmax : callable or None
        Optional: ``log_softmax(logits, out, start, stop)``, with arrays as for the gradient: (x - row maximum) -
        log_sum, NaN throughout a row that has no distribution. Else it is composed of what ``hard`` gives.
    total : callable or None
        Optional: ``total(vector, divisor)``, the sum of a vector (R or float64) over a number, in float64, in a
        fixed order; where the sum alone is not finite, that of a 2**64th of each term is taken. A backend with
        ``short`` has it, so that both paths sum alike. Else NumPy's sum.
    strided : StridedKernels or None
        Optional: arrays of any strides and 16-bit floats without staging.
    plain : callable or None
        Optional, for small calls: ``plain(logits, labels, divisor, loss, grad, reduced)``, what ``hard`` gives all rows
        where no option is in use and upstream is 1 / divisor, the float. It checks the labels itself: None, and
        nothing written, if one is not a class. Else a float: if ``reduced``, what ``total`` gives for the losses and
        the divisor; ``loss`` is None then. The bits are those of ``hard`` and ``total``. No array shares memory
        with another, and all are contiguous.
    details : str
        What it found at load, such as the instruction set in use. Empty when there is nothing to say.
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

    @property
    def name(self) -> str:
        """The backend's name."""
        return self.info.name

    def __copy__(self) -> Backend:
        return self  # nothing in it changes

    def __deepcopy__(self, memo: object) -> Backend:
        return self

    def warmup(self, dtypes: Any = NATIVE_DTYPES) -> None:
        """Run both kernels once per dtype, so that nothing is compiled on the first real call.

        Parameters
        ----------
        dtypes : dtype-like, or iterable of dtype-like
            Of the logits that are to come. 16-bit floats and integers are computed in float32 and
            float64; the kernel that will run for them is warmed up.

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
            logits = np.zeros((1, 2), native)
            one = np.ones(1, native)
            row = np.ones(1)
            outputs = np.empty(1, native), np.empty((1, 2), native), np.empty(1, native), np.empty(1, native)
            self.hard(logits, np.zeros(1, np.int64), -100, one, None, 0.0, 0.0, row, row, *outputs, 0, 1)
            self.soft(logits, np.ones((1, 2), native), one, None, 0.0, row, row, *outputs, 0, 1)
            if self.total is not None:
                self.total(one, 1.0)
