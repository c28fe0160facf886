"""The sessions: the workloads, the calls that are timed side by side, and the goals that their ratios belong to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from softmax_ce_bench import ceilings
from softmax_ce_bench.inputs.workloads import Shape
from softmax_ce_bench.measure.operations import LOSSES, NORMALIZERS
from softmax_ce_bench.peers import BY_NAME
from tools.roofline import goals
from tools.roofline.axes import CASES, SEGMENTATION, AxisCase
from tools.roofline.candidates import CEILING, OPTIONS, TimedCall

LARGE_CLASSES = 1000  # a row of at least this many is worth a fused pass
SHORT_CLASSES, MANY_ROWS = 32, 30_000
ZIPF_CLASSES = 4096  # from here on labels are words
WITH_GOALS = ("torch", "jax")
WRITTEN = "numpy-written"
# Nanoseconds an element that a candidate takes, to share out the time: rough, and only that.
_COST = {"torch": 8.0, "jax": 4.0, "sklearn": 8.0, "scipy": 10.0, WRITTEN: 6.0, "numpy": 9.0, CEILING: 0.3}
_OWN_COST, _MAKING_COST = 1.0, 60.0
_COMPILING = 0.5  # seconds that JAX takes for a new shape
_A_SAMPLE = 4e-3  # seconds, at least
_ROUNDS = 12


@dataclass(frozen=True, slots=True)
class Comparison:
    """A ratio of two candidates' times, for one goal.

    Attributes
    ----------
    goal : str
        A key of :data:`tools.roofline.goals.BY_KEY`.
    above : TimedCall
    below : TimedCall or None
        None: the time of `above` itself.
    scale : float
        Times the ratio, or the seconds.
    """

    goal: str
    above: TimedCall
    below: TimedCall | None
    scale: float = 1.0

    @property
    def allocating(self) -> bool:
        """Return whether it belongs to the table of calls that allocate their results."""
        return self.above.new or (self.below is not None and self.below.new)


@dataclass(frozen=True, slots=True)
class Session:
    """Candidates that are timed in the same rounds.

    Attributes
    ----------
    key : str
        The name that ``--only`` is matched with.
    shape : Shape
    dtype : str
    threads : int or None
        None: all cores, as the kernels choose.
    candidates : tuple of TimedCall
    comparisons : tuple of Comparison
        The comparisons of these candidates.
    complete : bool
        Whether it is drawn in the figures: one session for each number of classes.
    axis : AxisCase or None
        More axes than two; `shape` has its positions as rows.
    """

    key: str
    shape: Shape
    dtype: str
    threads: int | None
    candidates: tuple[TimedCall, ...]
    comparisons: tuple[Comparison, ...] = ()
    complete: bool = False
    axis: AxisCase | None = None

    @property
    def elements(self) -> int:
        """Return the number of logits."""
        return self.shape.rows * self.shape.classes

    @property
    def megabytes(self) -> float:
        """Return the size of the logits."""
        return self.elements * {"float64": 8, "float16": 2}.get(self.dtype, 4) / 1e6

    @property
    def weight(self) -> float:
        """Return an estimate of the seconds that it takes."""
        costs = (_COST.get(c.who, _OWN_COST) for c in self.candidates)
        round_ = sum(max(_A_SAMPLE, cost * 1e-9 * self.elements) for cost in costs) + 2 * _A_SAMPLE
        peers = sum(c.who in BY_NAME for c in self.candidates)  # each loads a copy, and is checked; JAX compiles
        making = (1 + 0.3 * peers) * _MAKING_COST * 1e-9 * self.elements + (_COMPILING if peers else 0.0)
        return (_ROUNDS + 2) * round_ + making


@dataclass(frozen=True, slots=True)
class Scope:
    """What can be measured on this machine, and how large it may be.

    Attributes
    ----------
    backends : tuple of str
        Available and stable ones.
    default : str
        The backend that a call without a name gets: it runs against the peers.
    peers : tuple of str
        Installed ones.
    cores : int
        That this process may use.
    array_bytes : int
        The logits of a case that is to be out of cache.
    large_bytes : int
        The size from which a case is out of cache.
    quick : bool
    """

    backends: tuple[str, ...]
    default: str
    peers: tuple[str, ...]
    cores: int
    array_bytes: int
    large_bytes: int
    quick: bool

    @property
    def threads(self) -> tuple[int | None, ...]:
        """Return the numbers of threads: all cores, then one."""
        return (None, 1) if self.cores > 1 else (1,)


@dataclass(frozen=True, slots=True)
class GridShape:
    """One shape of the grid.

    Attributes
    ----------
    rows, classes : int
        The shape of the float32 logits. Large shapes are for a last-level cache of 32 MiB.
    large : bool
        Beyond the caches: the rows are those that fill the array.
    quick, all_cores : bool
        Whether it is in the quick run, and whether all cores are measured there too.
    drawn : bool
        In the figures.
    """

    rows: int
    classes: int
    large: bool = False
    quick: bool = False
    all_cores: bool = True
    drawn: bool = False


GRID = (
    # Beyond the caches: an ImageNet classifier's rows, a small vocabulary's, a large one's. No power of two.
    GridShape(33_000, 1021, large=True, quick=True, drawn=True),
    GridShape(1051, 31_999, large=True, drawn=True),
    GridShape(270, 128_256, large=True, drawn=True),
    # In cache: rows that fit L1 (1013) and not (32 000, 128 256); two rows that two threads share class by class.
    GridShape(300, 1013, quick=True, all_cores=False),
    GridShape(1024, 1000),
    GridShape(64, 32_000, all_cores=False),
    GridShape(8, 128_256, all_cores=False),
    GridShape(2, 262_144, quick=True, drawn=True),
    # Many short rows: boosting, binary classifiers; 31 is just below where rows fill vectors.
    GridShape(150_001, 10, drawn=True),
    GridShape(30_011, 31, drawn=True),
    GridShape(100_000, 2, quick=True, drawn=True),
    GridShape(100_000, 10, quick=True, all_cores=False),
    GridShape(65_536, 10, all_cores=False),
    # A batch of CIFAR-100.
    GridShape(1024, 100, quick=True, drawn=True),
    GridShape(64, 100, all_cores=False),
    # Small calls: the interpreter's steps are the bound.
    GridShape(1797, 10, all_cores=False),
    GridShape(64, 10, quick=True, all_cores=False),
    GridShape(40, 7, all_cores=False),
    GridShape(1, 10, quick=True, all_cores=False),
)


def sessions(scope: Scope) -> list[Session]:
    """Return all sessions. Those with one number of threads are neighbours, since each number needs its own processes
    of peers.

    The shorter ones come first: where the time is up early, most has been measured.
    """
    every: list[Session] = []
    for threads in scope.threads:
        found = [*_grid(scope, threads), *_segmentation(scope, threads)]
        if threads == scope.threads[0]:
            found += [*_costs(scope), *_axes(scope), *_written_out(scope)]
        if threads == 1:
            found += [*_options(scope), *_normalizers(scope), *_elements(scope)]
        every += sorted(found, key=lambda session: session.weight)
    return every


def shape(rows: int, classes: int) -> Shape:
    """Return the recipe of a workload: wide logits, with Zipf labels if the classes are a vocabulary."""
    return Shape(f"{rows} x {classes}", rows, classes, "", zipf=classes >= ZIPF_CLASSES)


_BOTH = (False, True)  # into buffers, and allocating


def _named(threads: int | None) -> str:
    return "all" if threads is None else "one"


def _rows(scope: Scope, cell: GridShape) -> int:
    """Return the number of rows, or 0 if the array is too small for the cell. A large cell fills the array."""
    if not cell.large:
        return cell.rows if 4 * cell.rows * cell.classes <= scope.array_bytes else 0
    usual = 4 * (32 << 20)
    if abs(scope.array_bytes / usual - 1) < 0.01:
        return cell.rows
    return max(1, round(cell.rows * scope.array_bytes / usual))


def _grid(scope: Scope, threads: int | None) -> Iterator[Session]:
    """Yield sessions of every backend against the loops, the peers and each other, over rows and classes."""
    own = [TimedCall(scope.default, "fused", new) for new in _BOTH]
    for cell in GRID:
        rows = _rows(scope, cell)
        if not rows or (scope.quick and not cell.quick) or (threads is None and not cell.all_cores):
            continue
        size = shape(rows, cell.classes)
        compared: list[Comparison] = []
        others = [TimedCall(name) for name in ("numba", "cython") if name in scope.backends and name != scope.default]
        if {"numba", "cython"} <= set(scope.backends):
            numba, cython = TimedCall("numba"), TimedCall("cython")
            compared += [Comparison("numba", numba, cython), Comparison("cython", cython, numba)]
        if cell.large:
            copy = TimedCall(CEILING, ceilings.best_copy())
            others += [TimedCall(scope.default, what) for what in LOSSES if what != "fused"]
            others += [TimedCall(CEILING, what) for what in ceilings.LOOPS]
            compared += [Comparison(f"copy/{name}", one, copy) for name in _settings(scope, threads) for one in own]
        for peer in scope.peers:
            # The written formula has one thread; peers without a goal take part where that costs little.
            if peer not in (*WITH_GOALS, "sklearn", WRITTEN) and (cell.large or not cell.drawn):
                continue
            if peer == WRITTEN and threads is None:
                continue
            others.append(TimedCall(peer))
            if goal := _goal_against(peer, scope, cell, rows):
                compared += [Comparison(goal, TimedCall(peer), one) for one in own]
        if threads == 1 and WRITTEN in scope.peers and "numpy" in scope.backends:
            numpy = [TimedCall("numpy", "fused", new) for new in _BOTH]
            others += [one for one in numpy if one not in own]
            if goal := _of_numpy(cell):
                compared += [Comparison(goal, one, TimedCall(WRITTEN)) for one in numpy]
        key = f"grid/{_named(threads)}/{rows}x{cell.classes}"
        candidates = tuple(dict.fromkeys((*own, *others)))
        yield Session(key, size, "float32", threads, candidates, tuple(compared), complete=cell.drawn)


def _settings(scope: Scope, threads: int | None) -> tuple[str, ...]:
    """Return the goals that a number of threads belongs to: both on a machine with one core."""
    return ("all", "one") if scope.cores == 1 else (_named(threads),)


def _goal_against(peer: str, scope: Scope, cell: GridShape, rows: int) -> str | None:
    """Return the goal that a cell belongs to against a peer."""
    if peer == "sklearn":
        return peer
    large = 4 * rows * cell.classes >= scope.large_bytes
    if peer in WITH_GOALS:
        return f"{peer}/{region(rows, cell.classes, large)}"
    if peer != WRITTEN:
        return None
    if cell.classes >= LARGE_CLASSES:
        return "written/large" if large else "written/cached"
    if cell.classes > SHORT_CLASSES:
        return "written/hundred"
    return "written/short" if rows >= 1000 else None


def region(rows: int, classes: int, large: bool) -> str:
    """Return the region of a cell among the goals of PyTorch and JAX."""
    if classes >= LARGE_CLASSES:
        return "large" if large else "cached"
    return "short" if classes <= SHORT_CLASSES and rows >= MANY_ROWS else "other"


def _of_numpy(cell: GridShape) -> str | None:
    """Return the goal of the numpy backend."""
    if (cell.rows, cell.classes) == (1, 10):
        return "numpy/one"
    return "numpy" if cell.rows * cell.classes >= 640 else None


def _costs(scope: Scope) -> Iterator[Session]:
    """Yield sessions for the cost of an option and of a narrow dtype, out of cache."""
    threads, own = scope.threads[0], scope.default
    plain = TimedCall(own)
    # Soft targets are read as well: three arrays cross the bus, not two.
    kinds = {"soft": 2 / 3, "weight": 1.0, "smoothing": 1.0, "z-loss": 1.0, "masked": 1.0}
    for classes in (1021,) if scope.quick else (10, 1021, 31_999):
        size = shape(max(1, scope.array_bytes // (4 * classes)), classes)
        some = [TimedCall(own, what) for what in kinds]
        compared = [Comparison(f"byte/{one.what}", one, plain, kinds[one.what]) for one in some]
        yield Session(f"bytes/{classes}", size, "float32", threads, (plain, *some), tuple(compared))
        narrow = [TimedCall(own, dtype) for dtype in ("bfloat16", "float16")]
        compared = [Comparison(one.what, one, plain) for one in narrow]
        yield Session(f"16-bit/{classes}", size, "float32", threads, (plain, *narrow), tuple(compared))


def _options(scope: Scope) -> Iterator[Session]:
    """Yield sessions of the loss alone and of every option, dtype and reduction, against PyTorch's, on one thread."""
    own = scope.default
    # A prediction's batch, CIFAR-100's, boosting's, ImageNet's.
    for rows, classes in ((64, 10),) if scope.quick else ((64, 10), (256, 100), (4096, 10), (1024, 1000)):
        plain = [TimedCall(own, "fused", new) for new in _BOTH]
        some = [TimedCall(own, what, new) for what in ("forward", *OPTIONS) for new in _BOTH]
        peers = []
        compared = []
        if "torch" in scope.peers:
            peers = [TimedCall("torch", what) for what in ("forward", *OPTIONS) if what != "z-loss"]
            compared = [
                Comparison("option/torch", peer, one) for peer in peers for one in some if one.what == peer.what
            ]
        if (rows, classes) == (64, 10):
            compared += [
                Comparison("option/small", one, bare)
                for bare in plain for one in some if one.new == bare.new and one.what != "forward"
            ]  # fmt: skip
        candidates = (*plain, *some, *peers)
        yield Session(f"options/{rows}x{classes}", shape(rows, classes), "float32", 1, candidates, tuple(compared))


def _normalizers(scope: Scope) -> Iterator[Session]:
    """Yield sessions of softmax, log_softmax and logsumexp against the libraries that have them, on one thread."""
    cells = ((1, 10), (1024, 1000), (100_000, 10))
    for rows, classes in cells if scope.quick else (*cells, (64, 1000), (64, 32_000), (1024, 100)):
        own = [TimedCall(scope.default, what, new) for what in NORMALIZERS for new in _BOTH]
        peers = [TimedCall(p, what) for p in scope.peers for what in NORMALIZERS if what in BY_NAME[p].operations]
        where = "one" if rows == 1 else "cached" if classes >= LARGE_CLASSES else "short"
        compared = [
            Comparison(f"{one.what}/{where}", peer, one)
            for peer in peers for one in own
            if peer.who == "torch" and peer.what == one.what and f"{one.what}/{where}" in goals.BY_KEY
        ]  # fmt: skip
        key = f"normalizers/{rows}x{classes}"
        yield Session(key, shape(rows, classes), "float32", 1, (*own, *peers), tuple(compared))


def _written_out(scope: Scope) -> Iterator[Session]:
    """Yield the session that shows that options at their defaults, and threads for one row, cost nothing."""
    bare = TimedCall(scope.default, "bare")
    some = tuple(TimedCall(scope.default, "written-out", threads=threads) for threads in (None, 1, 2, 64))
    compared = tuple(Comparison("written-out", one, bare) for one in some)
    yield Session("written-out/1x10", shape(1, 10), "float32", None, (bare, *some), compared)


def _elements(scope: Scope) -> Iterator[Session]:
    """Yield sessions of rows shorter than a vector, with the copy of the same bytes."""
    for classes in (2, 10):
        size = shape(100_000, classes)
        own = tuple(TimedCall(scope.default, "fused", new) for new in _BOTH)
        scale = 1e9 / (size.rows * size.classes)
        compared = tuple(Comparison(f"element/{classes}", one, None, scale) for one in own)
        candidates = (*own, TimedCall(CEILING, "copy"))
        yield Session(f"element/{classes}", size, "float32", 1, candidates, compared)


def _axes(scope: Scope) -> Iterator[Session]:
    """Yield sessions with the class axis before others: with `axis`, and by moving the axis first."""
    for whole in CASES[:3] if scope.quick else CASES:
        case = whole.within(scope.array_bytes)
        one, moved = TimedCall(scope.default, case.operation), TimedCall(scope.default, "moved")
        compared = tuple(Comparison(f"axis/{by}", one, moved) for by in ("median", "worst"))
        yield Session(f"axis/{case.key}", case.flat, case.dtype, None, (one, moved), compared, axis=case)


def _segmentation(scope: Scope, threads: int | None) -> Iterator[Session]:
    """Yield the session of every pixel in a batch of images."""
    if scope.quick and threads is None:
        return
    case = SEGMENTATION.within(scope.array_bytes)
    one, last = TimedCall(scope.default), TimedCall(scope.default, "last axis")
    torch = [TimedCall("torch")] if "torch" in scope.peers else []
    compared = [Comparison("segmentation/last", one, last)]
    compared += [Comparison("segmentation/torch", peer, one) for peer in torch]
    key = f"segmentation/{_named(threads)}"
    yield Session(key, case.flat, case.dtype, threads, (one, last, *torch), tuple(compared), axis=case)
