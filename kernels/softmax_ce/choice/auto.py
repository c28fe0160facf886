"""Choose the backend for calls that name none.

The first of these decides: the variable SOFTMAX_CE_BACKEND; the profile that SOFTMAX_CE_PROFILE names, or else the one
in the user's data folder; the safe default. All are read once, at the first call that names no backend.

The safe default is the last backend in the registry's table that is stable, compiled ahead of time and available here:
the Cython backend if it was built, else shifted NumPy. Numba is never the default, because its first call compiles for
seconds. A profile may choose it, because whoever made the profile has agreed to that.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from softmax_ce import forks, registry
from softmax_ce.contract import NATIVE_DTYPES, Backend

if TYPE_CHECKING:  # the profile's modules are imported by the first call that needs them
    from softmax_ce.choice.profile.follow import Follower


class Decision:
    """How backends are chosen for the rest of the process.

    Attributes
    ----------
    source : {"variable", "profile", "default"}
    reason : str
        A sentence without its full stop.
    path : str or None
        The profile that was found, whether or not it is followed.
    backend : Backend or None
        The backend for every call; None if a profile decides by shape.
    follower : Follower or None
        What chooses by the profile, if one is followed.
    """

    # Not a dataclass: making one would add a millisecond to every import.
    __slots__ = ("backend", "follower", "path", "reason", "source")

    def __init__(
        self,
        source: str,
        reason: str,
        path: str | None = None,
        backend: Backend | None = None,
        follower: Follower | None = None,
    ) -> None:
        self.source = source
        self.reason = reason
        self.path = path
        self.backend = backend
        self.follower = follower


fixed: Backend | None = None  # the backend of every call that names none, once it is known; it saves a call of at_once
_decision: Decision | None = None
_lock = forks.Lock()


def choose(
    name: str | None, want_loss: bool, want_grad: bool,
    dtype: np.dtype[Any], n_rows: int, n_classes: int, threads: int | None,
) -> Backend:  # fmt: skip
    """Return the backend that was named, else the automatic choice. Every step here slows small calls.

    Parameters
    ----------
    name : str or None
        The call's `backend`.
    want_loss, want_grad : bool
        The results to compute. Both are false for a log-sum-exp alone.
    dtype : dtype
        The logits' dtype, which must be one that logits may have.
    n_rows, n_classes : int
    threads : int or None
        The call's `threads`.

    Returns
    -------
    Backend

    Raises
    ------
    ValueError, BackendUnavailableError
        The backend that was named, here or by SOFTMAX_CE_BACKEND, is unknown or cannot run.
    ProfileError
        In strict mode, the profile cannot be followed.
    """
    if name is not None:
        return registry.get_backend(name)
    decision = _decision or decide()
    if decision.backend is not None:
        return decision.backend
    assert decision.follower is not None
    return decision.follower.choose(want_loss, want_grad, dtype, n_rows, n_classes, threads)


def at_once(
    name: str | None, want_loss: bool, want_grad: bool, logits: Any, axis: Any, threads: Any
) -> Backend | None:  # fmt: skip
    """Return the backend for a call with unchecked arguments, or None if :func:`choose` needs them checked first."""
    if name is not None:
        return registry.loaded(name)
    decision = _decision or decide()
    if decision.backend is not None:
        return decision.backend
    if type(logits) is not np.ndarray or logits.dtype.kind != "f" or logits.ndim == 0 or logits.size == 0:
        return None
    if logits.dtype.itemsize > 8 or type(axis) is not int or axis not in (-1, logits.ndim - 1):
        return None
    if threads is not None and (type(threads) is not int or threads < 1):
        return None
    n_classes = logits.shape[-1]
    return choose(None, want_loss, want_grad, logits.dtype, logits.size // n_classes, n_classes, threads)


def check_dtype(backend: Backend, dtype: np.dtype[Any]) -> None:
    """Check that a backend computes this dtype: some compute only one of the native dtypes."""
    native = backend.info.dtypes
    if native is not NATIVE_DTYPES and dtype.name not in native:  # the name of a dtype takes microseconds
        raise ValueError(f"backend {backend.name!r} computes {', '.join(native)} only, not {dtype.name}")


def default_name() -> str:
    """Return the name of the safe default on this machine."""
    for info in reversed(registry.table()):
        if info.stable and info.ahead_of_time and registry.is_available(info.name):
            return info.name
    raise registry.BackendUnavailableError("no backend of softmax_ce can be loaded; is the installation complete?")


def decide() -> Decision:
    """Read the variables and the profile, once. If the profile cannot be followed, warn, or raise in strict mode."""
    global _decision, fixed
    with _lock.held():
        if _decision is not None:
            return _decision
        decision, complaint = _read()
        _decision, fixed = decision, decision.backend
    if complaint is not None:  # without the lock: a filter may raise it as an exception, and a hook may call this
        _warn(complaint)
    return decision


def reload() -> None:
    """Read the environment variables and the profile again, at the next call that names no backend."""
    global _decision, fixed
    with _lock.held():
        _decision = fixed = None


def _read() -> tuple[Decision, str | None]:
    """Return the decision, and the text of a warning or None."""
    from softmax_ce.choice.profile import where

    asked = where.backend_asked_for()
    if asked is not None:
        return Decision("variable", f"{where.BACKEND_VARIABLE} names it", backend=_named_by_variable(asked)), None
    path = where.file_asked_for()
    if path is None:
        path = where.default_path()
        if path is None or not os.path.lexists(path):
            return _absent(path, where.is_strict()), None
    return _follow(path, where.is_strict())


def _named_by_variable(name: str) -> Backend:
    """Return the backend with this name, which may be in any case."""
    name = next((known for known in registry.names() if known.lower() == name), name)
    try:
        return registry.get_backend(name)
    except (ValueError, registry.BackendUnavailableError) as error:
        raise type(error)(f"environment variable SOFTMAX_CE_BACKEND: {error}") from error


def _absent(path: Path | None, strict: bool) -> Decision:
    from softmax_ce.choice.profile.errors import ProfileError

    looked = "this user has no home folder to hold one" if path is None else f"none at {path}"
    if strict:
        raise ProfileError(f"SOFTMAX_CE_PROFILE_STRICT requires a profile, and there is none: {looked}")
    return _default(f"there is no profile ({looked})")


def _follow(path: Path, strict: bool) -> tuple[Decision, str | None]:
    """Return a decision to follow this profile, or else the default and a warning that says why."""
    from softmax_ce.choice.profile.errors import ProfileError

    try:
        follower = _follower(path, strict)
    except Exception as error:  # whatever is wrong with the file, calls run on the default
        reason = str(error) if isinstance(error, ProfileError) else f"profile {path}: {type(error).__name__}: {error}"
        if strict:
            raise ProfileError(reason) from error
        decision = _default(reason, str(path))
        assert decision.backend is not None
        return decision, f"{reason}. Calls run on {decision.backend.name!r}, the default"
    return Decision("profile", f"profile {path}", str(path), follower=follower), None


def _follower(path: Path, strict: bool) -> Follower:
    from softmax_ce.choice import fingerprint
    from softmax_ce.choice.profile.errors import ProfileError
    from softmax_ce.choice.profile.follow import Follower
    from softmax_ce.choice.profile.format import load

    stored = load(path)
    unknown = sorted({*stored.order} - {*registry.names()})
    if unknown:
        raise ProfileError(
            f"profile {path}: it names {unknown[0][:40]!r}, but the backends here are {', '.join(registry.names())}"
        )
    here = fingerprint.collect()
    differences = fingerprint.differences(stored.fingerprint, here)
    if differences:
        others = ", ".join(difference.field for difference in differences[1:])
        raise ProfileError(
            f"profile {path}: it is for another machine or build: {differences[0]}"
            + (f"; these differ too: {others}" if others else "")
            + ". To measure here: softmax-ce pick; with --append, the file keeps what it holds"
        )

    def default() -> Backend:
        return registry.get_backend(default_name())

    return Follower(stored, path, here["cpus_available"], strict, default, _warn)


def _default(reason: str, path: str | None = None) -> Decision:
    return Decision("default", reason, path, registry.get_backend(default_name()))


def _warn(text: str) -> None:
    """Warn, with the package's caller as the source of the warning."""
    from softmax_ce.choice.profile.errors import ProfileWarning

    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "softmax_ce":
        level, frame = level + 1, frame.f_back
    warnings.warn(text, ProfileWarning, stacklevel=level)
