"""The table of backends. Backends are loaded on demand, and the reason is kept if one is not available."""

from __future__ import annotations

import copyreg
import importlib
from dataclasses import replace
from importlib import metadata
from pickle import PicklingError
from typing import Any

from softmax_ce import forks
from softmax_ce.contract import Accuracy, Backend, BackendInfo, lanes, pairwise, wide
from softmax_ce.interpreters import in_sub_interpreter

ENTRY_POINT_GROUP = "softmax_ce.backends"
OPTIONAL_PARTS = (
    "widen",
    "narrow",
    "team",
    "strided",
    "short",
    "log_softmax",
    "total",
    "plain",
    "hessian",
    "transformed",
    "shards",
    "kl",
)  # optional attributes of a backend's module, beside its two kernels

# In order from the simplest to the fastest: automatic choice takes the last backend that qualifies.
# Errors of exp and log: NumPy documents 2.52 ULP for its float32 AVX-512 exp. tools.exp_error measures the compiled exp
# over every float32 (docs/measurements/accuracy.md).
_TABLE: tuple[BackendInfo, ...] = (
    BackendInfo(
        name="naive",
        module="softmax_ce._backends.naive",
        summary="the textbook formula in NumPy, unshifted: overflows and underflows",
        stable=False,
        accuracy={"float32": Accuracy(2.6, 4.0, pairwise), "float64": Accuracy(1.0, 1.0, pairwise)},
    ),
    BackendInfo(
        name="numpy",
        module="softmax_ce._backends.shifted",
        summary="NumPy with the row maximum subtracted, in cache-sized blocks of rows",
        # Two threads over one on Zen 3: 1.2 to 1.4 at 130 000 elements, 0.9 to 1.25 at 260 000, 0.8 to 1.0 at 540 000.
        serial_elements=400_000,
        accuracy={"float32": Accuracy(2.6, 1.0, pairwise), "float64": Accuracy(1.0, 1.0, pairwise)},
    ),
    BackendInfo(
        name="numba",
        module="softmax_ce._backends.numba_jit",
        summary="Numba: inlined polynomial exp, one fused pass per row, compiled on first use",
        ahead_of_time=False,
        sub_interpreters=False,  # its import would wait forever for the interpreter's lock
        serial_elements=400_000,
        how_to_get="pip install 'softmax-ce[numba]'",
        accuracy={"float32": Accuracy(1.1, 1.0, wide(3)), "float64": Accuracy(1.5, 1.0, lanes(4, 2048))},
    ),
    BackendInfo(
        name="cython",
        module="softmax_ce._backends.cython",
        summary="Cython and C: explicit vectors, compiled per instruction set, one fused pass per row",
        how_to_get="install a C compiler (gcc or clang), then `make`, or pip install --force-reinstall softmax-ce",
        accuracy={"float32": Accuracy(1.0, 1.0, wide(7)), "float64": Accuracy(1.5, 1.0, lanes(4, 2048))},
    ),
)


class BackendUnavailableError(ImportError):
    """Raised if a backend is requested by name and cannot be loaded here."""


_lock = forks.Lock()
_entries: dict[str, BackendInfo] | None = None
_loaded: dict[str, Backend | BackendInfo] = {}


def backends() -> tuple[BackendInfo, ...]:
    """Return every known backend: first this package's own, in the table's order, then those of other packages.

    Every backend is loaded to find out whether it is available.

    Returns
    -------
    tuple of BackendInfo
    """
    return tuple(_info(_load(name)) for name in names())


def get_backend(name: str) -> Backend:
    """Load one backend.

    Parameters
    ----------
    name : str
        A name from :func:`backends`.

    Returns
    -------
    Backend

    Raises
    ------
    ValueError
        No backend has this name. The message lists the known ones.
    BackendUnavailableError
        The backend is known but cannot run here. The message says why, and how to get it. A subclass of ImportError.
    """
    found = _loaded.get(name) if isinstance(name, str) else None
    if type(found) is Backend:
        return found
    if not isinstance(name, str) or name not in names():
        raise ValueError(f"unknown backend {name!r}; known backends: {', '.join(names())}")
    found = _load(name)
    if isinstance(found, Backend):
        return found
    hint = f". To get it: {found.how_to_get}" if found.how_to_get else ""
    raise BackendUnavailableError(f"backend {name!r} is not available: {found.why_unavailable}{hint}")


def loaded(name: object) -> Backend | None:
    """Return a backend if it has been loaded, else None. Any object may be given as the name."""
    found = _loaded.get(name) if type(name) is str else None
    return found if type(found) is Backend else None


def table() -> tuple[BackendInfo, ...]:
    """Return this package's own backends, from the simplest to the fastest, without loading any."""
    return _TABLE


def names() -> tuple[str, ...]:
    """Return the name of every known backend, in the order of :func:`backends`, without loading any."""
    return tuple(_known())


def is_available(name: str) -> bool:
    """Return whether a known backend can be loaded here."""
    return isinstance(_load(name), Backend)


def register(module: object) -> Backend:
    """Add a backend for the rest of this process.

    A package can instead declare an entry point in the group ``softmax_ce.backends``; its backend is then found
    without a call of this function.

    Parameters
    ----------
    module : module or any object
        It has ``BACKEND``, a :class:`~softmax_ce.contract.BackendInfo`, and the kernels ``hard`` and ``soft``.

    Returns
    -------
    Backend

    Raises
    ------
    ValueError
        The name is taken.
    TypeError
        A part of the contract is missing.
    """
    backend = _backend_of(module, _declared(module))
    with _lock.held():
        if backend.name in names():
            raise ValueError(f"a backend named {backend.name!r} is already registered")
        _known()[backend.name] = backend.info
        _loaded[backend.name] = backend
    return backend


def unregister(name: str) -> None:
    """Remove a backend that was added by :func:`register`."""
    if any(info.name == name for info in _TABLE):
        raise ValueError(f"{name!r} is one of softmax_ce's own backends and cannot be removed")
    with _lock.held():
        _known().pop(name, None)
        _loaded.pop(name, None)


def _known() -> dict[str, BackendInfo]:
    """Return the backends of the table and of entry points. They are found once, and nothing is imported."""
    global _entries
    if _entries is None:
        with _lock.held():
            if _entries is None:
                found = {info.name: info for info in _TABLE}
                for entry in metadata.entry_points(group=ENTRY_POINT_GROUP):
                    # The first owner keeps a name: no package can replace a backend.
                    found.setdefault(entry.name, BackendInfo(name=entry.name, module=entry.module))
                _entries = found
    return _entries


def _info(loaded: Backend | BackendInfo) -> BackendInfo:
    return loaded.info if isinstance(loaded, Backend) else loaded


def _load(name: str) -> Backend | BackendInfo:
    """Return the backend, or its info with the reason why it cannot be loaded. Loading is tried once in a process."""
    with _lock.held():
        if name not in _loaded:
            info = _known()[name]
            own = info in _TABLE
            try:
                if not info.sub_interpreters and in_sub_interpreter():
                    raise ImportError("it works only in the main interpreter, and this is a sub-interpreter")
                module = importlib.import_module(info.module)
                declared = info if own else replace(_declared(module), name=name)
                _loaded[name] = _backend_of(module, declared)
            except Exception as error:  # a broken dependency may raise anything, and must not end the process
                reason = str(error) or type(error).__name__
                if not isinstance(error, ImportError):
                    reason = f"{type(error).__name__}: {reason}"
                _loaded[name] = replace(info, available=False, why_unavailable=reason)
        return _loaded[name]


def _declared(module: object) -> BackendInfo:
    info = getattr(module, "BACKEND", None)
    if not isinstance(info, BackendInfo):
        raise TypeError(f"{_where(module)} has no BACKEND that is a softmax_ce.contract.BackendInfo")
    return info


def _backend_of(module: Any, info: BackendInfo) -> Backend:
    for kernel in ("hard", "soft"):
        if not callable(getattr(module, kernel, None)):
            raise TypeError(f"{_where(module)} has no kernel {kernel!r}, which the contract requires")
    if (serial_elements := getattr(module, "SERIAL_ELEMENTS", None)) is not None:  # known only after loading
        info = replace(info, serial_elements=serial_elements)
    optional = {name: getattr(module, name) for name in OPTIONAL_PARTS if hasattr(module, name)}
    return Backend(info, module.hard, module.soft, getattr(module, "DETAILS", ""), **optional)


def _by_name(backend: Backend) -> tuple[Any, ...]:
    if loaded(backend.name) is not backend:
        raise PicklingError(
            f"backend {backend.name!r} is pickled by its name, but it is not the backend registered under that name"
        )
    return get_backend, (backend.name,)


copyreg.pickle(Backend, _by_name)  # kernels cannot be pickled, but every process can load its own


def _where(module: object) -> str:
    return getattr(module, "__name__", None) or repr(module)
