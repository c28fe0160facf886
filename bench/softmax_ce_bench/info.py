"""What one pastes into a bug report: versions, processor, threads, backends and why one is missing."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import softmax_ce as sce
from softmax_ce import auto, threads

SCHEMA = "softmax-ce/info"
SCHEMA_VERSION = 1

_PACKAGES = ("numpy", "numba", "llvmlite", "cython", "scipy", "scikit-learn")
_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
)
# Instruction sets that decide which vector kernel can run, by the names Linux gives them.
_VECTOR_SETS = ("sse4_2", "avx", "f16c", "fma", "avx2", "asimd")
_VECTOR_FAMILIES = ("avx512", "amx", "sve")


def collect() -> dict[str, Any]:
    """The facts, in plain values that JSON can hold.

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
        "packages": {name: _version(name) for name in _PACKAGES},
        "cpu": cpu_model(),
        "instruction_sets": instruction_sets(),
        "cpus_available": threads.available_cpus(),
        "cpus_installed": os.cpu_count(),
        "thread_variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "default_backend": auto.default_name(),
        "profile": None,  # what a choice measured on this machine would be; nothing stores one yet
        "backends": backends(),
    }


def backends() -> list[dict[str, Any]]:
    """Every known backend's facts; why one is missing, and how to get it."""
    return [_backend(info) for info in sce.backends()]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


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


@lru_cache(maxsize=1)
def cpu_model() -> str:
    """The processor's name, as the system calls it."""
    name = _cpuinfo().get("model name") or _cpuinfo().get("Model", "")
    if not name and platform.system() == "Darwin":
        asked = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        name = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return name or platform.processor() or platform.machine()


@lru_cache(maxsize=1)
def instruction_sets() -> tuple[str, ...]:
    """The processor's vector instruction sets; where the system does not list them, what NumPy found."""
    flags = (_cpuinfo().get("flags") or _cpuinfo().get("Features", "")).split()
    if flags:
        return tuple(flag for flag in flags if flag in _VECTOR_SETS or flag.startswith(_VECTOR_FAMILIES))
    config: Any = np.show_config(mode="dicts")
    found = config.get("SIMD Extensions", {})
    return (*found.get("baseline", ()), *found.get("found", ()))


@lru_cache(maxsize=1)
def _cpuinfo() -> dict[str, str]:
    """Linux's description of the first processor; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
