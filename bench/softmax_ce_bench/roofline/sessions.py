"""The sessions: on which workload, what is timed side by side, and which goals its ratios speak to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from softmax_ce_bench import ceilings
from softmax_ce_bench.peers import BY_NAME
from softmax_ce_bench.roofline.candidates import CEILING, Candidate
from softmax_ce_bench.roofline.goals import BY_KEY
from softmax_ce_bench.workloads import Shape

MIB = 1 << 20
LARGE_CLASSES = 1000  # a row of at least this many is worth a fused pass
SHORT_CLASSES, MANY_ROWS = 32, 30_000
ZIPF_CLASSES = 4096  # from here on labels are words
# Nanoseconds an element that a candidate takes, to share out the time: rough, and only that.
_COST = {"torch": 2.0, "jax": 1.2, "sklearn": 3.0, "scipy": 4.0, "numpy-written": 1.5, "numpy": 1.5, CEILING: 0.15}
_OWN_COST, _MAKING_COST = 0.25, 30.0
_COMPILING = 0.5  # seconds that JAX takes for a new shape
_A_SAMPLE = 4e-3  # seconds, at least
_ROUNDS = 12


@dataclass(frozen=True, slots=True)
class Comparison:
    """A ratio of two candidates' times, for one goal.

    Attributes
    ----------
    goal : str
        A key of :data:`softmax_ce_bench.roofline.goals.BY_KEY`.
    above : Candidate
    below : Candidate or None
        None: the time of `above` itself.
    scale : float
        Times the ratio, or the seconds.
    """

    goal: str
    above: Candidate
    below: Candidate | None
    scale: float = 1.0

    @property
    def allocating(self) -> bool:
        """Whether it belongs to the table of calls that allocate their results."""
        return self.above.new or (self.below is not None and self.below.new)


@dataclass(frozen=True, slots=True)
class Session:
    """Candidates that are timed in the same rounds.

    Attributes
    ----------
    key : str
        What ``--only`` is matched with.
    shape : Shape
    dtype : str
    threads : int or None
        None: all cores, as the kernels choose.
    candidates : tuple of Candidate
    comparisons : tuple of Comparison
        Of these candidates.
    complete : bool
        Every backend and peer takes part, on the most rows of its classes: for the figures.
    """

    key: str
    shape: Shape
    dtype: str
    threads: int | None
    candidates: tuple[Candidate, ...]
    comparisons: tuple[Comparison, ...] = ()
    complete: bool = False

    @property
    def elements(self) -> int:
        """Logits."""
        return self.shape.rows * self.shape.classes

    @property
    def megabytes(self) -> float:
        """Of the logits."""
        return self.elements * (8 if self.dtype == "float64" else 4) / 1e6

    @property
    def weight(self) -> float:
        """About how many seconds it takes."""
        costs = (_COST.get(c.who, _OWN_COST) * (3 if c.what == "in-place" else 1) for c in self.candidates)
        round_ = sum(max(_A_SAMPLE, cost * 1e-9 * self.elements) for cost in costs) + 2 * _A_SAMPLE
        peers = sum(c.who in BY_NAME for c in self.candidates)  # each loads a copy, and is checked; JAX compiles
        making = (1 + 0.3 * peers) * _MAKING_COST * 1e-9 * self.elements + (_COMPILING if peers else 0.0)
        return (_ROUNDS + 2) * round_ + making


@dataclass(frozen=True, slots=True)
class Scope:
    """What there is to measure, and how large.

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
        From here on a case is out of cache.
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
        """The thread settings: all cores, then one."""
        return (None, 1) if self.cores > 1 else (1,)


def sessions(scope: Scope) -> list[Session]:
    """All of them, those of one thread setting together: each setting has its own processes of peers."""
    found = []
    for threads in scope.threads:
        found += list(_copies(scope, threads))
        if threads == scope.threads[0]:
            found += [*_other_dtypes(scope), *_options(scope), *_few_rows(scope), *_one_row(scope)]
        found += [*_elements(scope, threads), *_grid(scope, threads)]
    return found


def shape(rows: int, classes: int) -> Shape:
    """A workload's recipe: wide logits; Zipf labels where the classes are a vocabulary."""
    return Shape(f"{rows} x {classes}", rows, classes, "", zipf=classes >= ZIPF_CLASSES)


def _named(threads: int | None) -> str:
    return "all" if threads is None else "one"


def _copies(scope: Scope, threads: int | None) -> Iterator[Session]:
    """Fused against the copy and forward against the read, out of cache."""
    # 1000: ImageNet. 4096: a row fills a third of L1. 32768: a small vocabulary, in L2. 131072: a large one.
    for classes in (1000, 32_768) if scope.quick else (1000, 4096, 32_768, 131_072):
        backends = [b for b in scope.backends if f"copy/{b}/all" in BY_KEY]
        own = [Candidate(b, w, n) for b in backends for w, n in _WAYS]
        limits = [Candidate(CEILING, what) for what in ceilings.LOOPS]
        compared = []
        for backend in backends:
            copy = Candidate(CEILING, ceilings.best_copy())
            # On one core both names hold the same: the machine has no other.
            for goal in {_named(threads), *(("all", "one") if scope.cores == 1 else ())}:
                compared += [Comparison(f"copy/{backend}/{goal}", Candidate(backend, "fused", n), copy) for n in _BOTH]
            if threads == scope.threads[0]:
                read = Candidate(CEILING, "read")
                compared += [Comparison(f"read/{backend}", Candidate(backend, "forward", n), read) for n in _BOTH]
        rows = max(1, scope.array_bytes // (4 * classes))
        key = f"copy/{_named(threads)}/{classes}"
        yield Session(key, shape(rows, classes), "float32", threads, (*own, *limits), tuple(compared))


_BOTH = (False, True)
_WAYS = tuple((what, new) for what in ("fused", "forward") for new in _BOTH)


def _other_dtypes(scope: Scope) -> Iterator[Session]:
    """float64 against its copy; 16 bits against float32."""
    threads, own = scope.threads[0], scope.default
    for classes in (4096,) if scope.quick else (1000, 32_768):
        rows = max(1, scope.array_bytes // (8 * classes))
        copy = Candidate(CEILING, ceilings.best_copy())
        fused = [Candidate(own, "fused", new) for new in _BOTH]
        compared = tuple(Comparison("float64", one, copy) for one in fused)
        yield Session(f"float64/{classes}", shape(rows, classes), "float64", threads, (*fused, copy), compared)
    for classes in (4096,) if scope.quick else (10, 1000, 32_768):
        rows = max(1, min(scope.array_bytes // (4 * classes), 10**6))
        plain = Candidate(own)
        short = [Candidate(own, dtype) for dtype in ("bfloat16", "float16")]
        compared = tuple(Comparison(one.what, one, plain) for one in short)
        yield Session(f"16-bit/{classes}", shape(rows, classes), "float32", threads, (plain, *short), compared)


def _options(scope: Scope) -> Iterator[Session]:
    """What an option costs, and the gradient in place."""
    threads, own = scope.threads[0], scope.default
    for classes in (1000,) if scope.quick else (10, 1000, 32_768):
        rows = max(1, min(scope.array_bytes // (4 * classes), 10**6))
        plain = Candidate(own)
        # Soft targets are read as well: three arrays cross the bus, not two.
        kinds = {"soft": 2 / 3, "weight": 1.0, "smoothing": 1.0, "z-loss": 1.0}
        some = [Candidate(own, what) for what in kinds]
        compared = [Comparison(f"option/{one.what}", one, plain, kinds[one.what]) for one in some]
        if classes >= LARGE_CLASSES:
            some.append(Candidate(own, "in-place"))
            compared.append(Comparison("in-place", some[-1], plain))
        size = shape(rows, classes)
        yield Session(f"options/{classes}", size, "float32", threads, (plain, *some), tuple(compared))


def _few_rows(scope: Scope) -> Iterator[Session]:
    """A row or a few, so long that their classes must be shared out."""
    if scope.cores < 2:
        return
    one, two = (Candidate(scope.default, threads=threads) for threads in (1, 2))
    # 2 MiB: beyond L2 of one core. 8 MiB: within L3. 32 MiB: beyond it with its gradient.
    for mebibytes in (2, 8, 32):
        if mebibytes * MIB > scope.array_bytes:
            break
        for rows in (1, 4) if scope.quick else (1, 2, 4):
            goals = ["few-rows/2", *(["few-rows/8"] if mebibytes >= 8 else [])]
            compared = tuple(Comparison(goal, one, two) for goal in goals)
            size = shape(rows, mebibytes * MIB // (4 * rows))
            yield Session(f"few-rows/{mebibytes}/{rows}", size, "float32", None, (one, two), compared)


def _one_row(scope: Scope) -> Iterator[Session]:
    """The cost of a call."""
    # The plain call, with no option at all; the same into buffers is timed beside it.
    public, into_buffers, kernel = (Candidate(scope.default, what) for what in ("defaults", "fused", "kernel"))
    compared = (Comparison("one-row/public", public, None, 1e6), Comparison("one-row/kernel", kernel, None, 1e6))
    yield Session("one-row", shape(1, 10), "float32", None, (public, into_buffers, kernel), compared)


def _elements(scope: Scope, threads: int | None) -> Iterator[Session]:
    """Rows shorter than a vector."""
    if threads != 1:
        return
    size = shape(100_000, 10)
    own = tuple(Candidate(scope.default, "fused", new) for new in _BOTH)
    scale = 1e9 / (size.rows * size.classes)
    compared = tuple(Comparison("element", one, None, scale) for one in own)
    yield Session("element", size, "float32", 1, own, compared)


def _grid(scope: Scope, threads: int | None) -> Iterator[Session]:
    """The default backend against the peers, over rows and classes."""
    own = [Candidate(scope.default, "fused", new) for new in _BOTH]
    for rows, classes, largest in _cells(scope, threads):
        size = shape(rows, classes)
        # On the largest arrays everything is there, for the plots; elsewhere the peers that have a goal.
        others = [Candidate(p) for p in scope.peers if p in WITH_GOALS or largest]
        if largest:
            others += [Candidate(b) for b in scope.backends if b != scope.default]
            others.append(Candidate(CEILING, ceilings.best_copy()))
        if not others:
            continue
        compared = []
        for peer in WITH_GOALS:
            if peer in scope.peers:
                for goal in regions(scope, rows, classes, threads):
                    compared += [Comparison(f"{peer}/{goal}", Candidate(peer), one) for one in own]
        key = f"grid/{_named(threads)}/{rows}x{classes}"
        yield Session(key, size, "float32", threads, (*own, *others), tuple(compared), complete=largest)


WITH_GOALS = ("torch", "jax")


def regions(scope: Scope, rows: int, classes: int, threads: int | None) -> list[str]:
    """The goals that a cell speaks to."""
    found = ["any"]
    if classes <= SHORT_CLASSES and rows >= MANY_ROWS:
        found.append("short")
    if classes >= LARGE_CLASSES and 4 * rows * classes >= scope.large_bytes:
        found += ["large/all", "large/one"] if scope.cores == 1 else [f"large/{_named(threads)}"]
    return found


def _cells(scope: Scope, threads: int | None) -> Iterable[tuple[int, int, bool]]:
    """Rows, classes, and whether there is no larger cell of these classes."""
    room = scope.array_bytes // 4
    if scope.quick:
        # One cell a regime: the largest arrays, short rows, one row, in cache.
        cells = [(room // 32_768, 32_768, threads is None), (100_000, 10, False), (1, 10, False), (1000, 1000, False)]
        if threads is None or scope.cores == 1:
            cells += [(room // 1000, 1000, True), (10**6, 10, True), (10**6, 2, False), (30_000, 32, False)]
            cells += [(1, 262_144, False), (100, 100, False)]
        return [cell for cell in cells if 0 < cell[0] * cell[1] <= room]
    every = []
    for classes in (2, 10, 32, 100, 1000, 8192, 32_768, 262_144):
        fitting = [10**k for k in range(7) if 10**k * classes <= room]
        if classes >= LARGE_CLASSES and room // classes > fitting[-1]:
            fitting.append(room // classes)  # fills the array, and so is out of cache
        every += [(rows, classes, rows == fitting[-1]) for rows in fitting]
    return every
