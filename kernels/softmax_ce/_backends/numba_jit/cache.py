"""The cache of compiled kernels on disk: a folder of this project, whose name identifies what they were compiled from.

Numba's own cache checks whether one source file has changed, but the kernels are spread over several.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import sys
from pathlib import Path
from typing import Any

from numba.core import config
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.serialize import dumps

from softmax_ce._version import __version__
from softmax_ce.folders import cache_folder
from softmax_ce.tuning import COMPILED


def salt(version: str = __version__, folder: Path = Path(__file__).parent) -> str:
    """Return the version and a hash, which covers the sources of this backend and the sizes that are compiled in."""
    digest = hashlib.sha256(f"{version} {tuple(COMPILED)}".encode())
    for path in sorted(folder.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{version}-{digest.hexdigest()[:16]}"


def folder() -> Path:
    """Return the folder for this salt, in NUMBA_CACHE_DIR if that is set, else in the user's cache."""
    if chosen := getattr(config, "CACHE_DIR", ""):
        return Path(chosen) / "softmax_ce" / salt()
    base = cache_folder(sys.platform, os.environ)
    if base is None:
        raise RuntimeError("this user has no home folder to keep a cache in")
    return base / "softmax_ce" / salt()


class _Locator:
    """Tells Numba where to keep a kernel. The stamp that Numba compares is in the folder's name already."""

    def __init__(self, py_func: Any) -> None:
        self._line = py_func.__code__.co_firstlineno
        self._folder = folder()

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> _Locator:
        return cls(py_func)

    def get_cache_path(self) -> str:
        return str(self._folder)

    def ensure_cache_path(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)

    def get_source_stamp(self) -> str:
        return self._folder.name

    def get_disambiguator(self) -> str:
        return str(self._line)


class _Impl(CompileResultCacheImpl):
    """Keeps a compiled kernel as bytes with their hash: machine code that a crash has damaged must not be run."""

    _locator_classes: Any = (_Locator,)

    def reduce(self, data: Any) -> Any:
        payload = dumps(super().reduce(data))
        return hashlib.sha256(payload).digest(), payload

    def rebuild(self, target_context: Any, payload: Any) -> Any:
        digest, reduced = payload
        if hashlib.sha256(reduced).digest() != digest:
            raise ValueError("the file does not hold what was written")
        return super().rebuild(target_context, pickle.loads(reduced))


class Cache(FunctionCache):
    """Numba's cache in our folder. If that cannot be read or written, each process compiles the kernels."""

    _impl_class = _Impl

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # unreadable, or cut short by a crash: treated as missing
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception:  # Numba reads the index before it writes: a damaged one is replaced
            with contextlib.suppress(Exception):
                self.flush()
                super().save_overload(sig, data)
