"""The machine and the installed packages, for a bug report or a record."""

from __future__ import annotations

import os
import platform
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

import softmax_ce as sce
from softmax_ce import threads
from softmax_ce.choice import auto, fingerprint
from softmax_ce.documents import Limits
from softmax_ce_bench.measure import git

SCHEMA = "softmax-ce/info"
SCHEMA_VERSION = 1

_Number = Annotated[int, Limits(minimum=1)]
_PACKAGES = ("numpy", "numba", "llvmlite", "cython", "scipy", "scikit-learn")
_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a run was made, and with what.

    `softmax-ce diff` compares runs only if cpu, instruction_sets, cpus_installed and os agree.

    Attributes
    ----------
    cpu : str
        The processor's name, as the system calls it.
    instruction_sets : tuple of str
        Its vector instruction sets, by the names that Linux gives them.
    cpus_available : int
        CPUs that the process might use: affinity, a container's quota, OMP_NUM_THREADS.
    cpus_installed : int or None
        CPUs of the machine; None if the system does not say.
    os : str
        System, kernel and C library.
    thread_variables : dict
        The environment variables that set numbers of threads, as far as they were set.
    python : str
        Version and implementation.
    softmax_ce : str
        The version of softmax-ce.
    commit : str or None
        The git commit of the checkout that was measured, followed by "+" if files differed from it; None for an
        installed package.
    packages : dict
        Package -> version; None: not installed.
    blas : str or None
        What computes NumPy's matrix products: the library, its version, the kernel that it chose for this processor and
        its number of threads, as far as threadpoolctl tells; else what NumPy was built with. None: not known.
    """

    cpu: str
    instruction_sets: tuple[str, ...]
    cpus_available: _Number
    cpus_installed: int | None
    os: str
    thread_variables: dict[str, str]
    python: str
    softmax_ce: str
    commit: str | None
    packages: dict[str, str | None]
    blas: str | None = None


def facts() -> dict[str, Any]:
    """Return the facts as plain values that JSON can hold.

    Every backend is loaded to find out whether it is available.

    Returns
    -------
    dict
    """
    return {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "softmax_ce": sce.__version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "os": platform.platform(),
        "packages": {name: fingerprint.package_version(name) for name in _PACKAGES},
        "cpu": fingerprint.cpu_model(),
        "instruction_sets": fingerprint.instruction_sets(),
        "cpus_available": threads.available_cpus(),
        "cpus_installed": os.cpu_count(),
        "blas": blas(),
        "thread_variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "default_backend": auto.default_name(),
        "profile": _profile(),
        "backends": backends(),
    }


def _profile() -> str | None:
    """Return the profile that calls without a backend follow, or why the existing one is not followed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the same is said in words here
        try:
            decision = auto.decide()
        except (ValueError, ImportError) as error:  # strict mode, or a variable that names no backend
            return f"none: {error}"
    if decision.path is None:
        return None
    return decision.path if decision.source == "profile" else f"not followed: {decision.reason}"


def backends() -> list[dict[str, Any]]:
    """Return the facts about every known backend: if it is missing, why, and how to get it."""
    return [_backend(info) for info in sce.backends()]


def _backend(info: sce.BackendInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "summary": info.summary,
        "available": info.available,
        "stable": info.stable,
        "details": sce.get_backend(info.name).details if info.available else "",
        "why_unavailable": info.why_unavailable,
        "how_to_get": info.how_to_get,
    }


def collect() -> Machine:
    """Return this machine in the form that is recorded."""
    found = facts()
    return Machine(
        cpu=found["cpu"],
        instruction_sets=tuple(found["instruction_sets"]),
        cpus_available=found["cpus_available"],
        cpus_installed=found["cpus_installed"],
        os=found["os"],
        thread_variables=dict(found["thread_variables"]),
        python=found["python"],
        softmax_ce=found["softmax_ce"],
        commit=git.commit(Path(sce.__file__).parent),
        packages=dict(found["packages"]),
        blas=found["blas"],
    )


def blas() -> str | None:
    """Return what computes NumPy's matrix products, in one line."""
    with suppress(Exception):  # not installed, or it does not know the library
        from threadpoolctl import threadpool_info

        for found in threadpool_info():
            if found["user_api"] == "blas" and "numpy" in found["filepath"].lower():
                words = (found["internal_api"], found.get("version"), found.get("architecture"))
                return f"{' '.join(str(word) for word in words if word)}, {found['num_threads']} threads"
    with suppress(Exception):  # NumPy's own words, which have changed before
        built: Any = np.show_config(mode="dicts")
        told = built["Build Dependencies"]["blas"]
        return f"{told['name']} {told['version']}"
    return None
