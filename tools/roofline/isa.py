"""The instruction set of a run, and how all candidates are limited to a lower one.

Every library chooses its kernels when it is loaded, so that the variables must be there before: the command starts
itself anew with them, and its workers inherit them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from softmax_ce.choice import fingerprint

AVX2, AVX512 = "avx2", "avx512"
_NEEDED = {AVX512: ("avx512f", "avx512bw", "avx512dq", "avx512vl"), AVX2: ("avx2", "fma"), "neon": ("asimd",)}
_OURS = "SOFTMAX_CE_ISA"


def supported() -> tuple[str, ...]:
    """Return the instruction sets that this machine can run, the best first, by the names of goals and columns."""
    flags = fingerprint.instruction_sets()
    return (*(name for name, needed in _NEEDED.items() if set(needed) <= set(flags)), "baseline")


def in_use(environment: Mapping[str, str] = os.environ) -> str:
    """Return the instruction set that our kernels use in this process."""
    return environment.get(_OURS) or supported()[0]


def variables(isa: str, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment variables that limit our backends and the peers to an instruction set.

    Parameters
    ----------
    isa : {"avx2", "avx512"}
        AVX-512 restricts no other library: it is the best that there is.
    environment : mapping
        The variables that are set already. XLA's other flags are kept.

    Returns
    -------
    dict
    """
    if isa == AVX512:
        return {_OURS: isa}
    flags = [flag for flag in environment.get("XLA_FLAGS", "").split() if not flag.startswith("--xla_cpu_max_isa")]
    held = {
        _OURS: AVX2,
        "ATEN_CPU_CAPABILITY": "avx2",
        "XLA_FLAGS": " ".join((*flags, "--xla_cpu_max_isa=AVX2")),
        "NPY_DISABLE_CPU_FEATURES": _beyond_avx2_in_numpy(),
    }
    return held | _of_numba()


def missing(isa: str, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the entries of :func:`variables` that are not set yet; none if this process is limited already."""
    wanted = variables(isa, environment)
    return {name: value for name, value in wanted.items() if environment.get(name, "") != value}


def _beyond_avx2_in_numpy() -> str:
    """Return NumPy's names of the features beyond AVX2 that it would use here; it warns about unknown ones."""
    core: Any = import_module("numpy._core._multiarray_umath")
    beyond = [name for name in core.__cpu_dispatch__ if name == "X86_V4" or name.startswith("AVX512")]
    asked = os.environ.get("NPY_DISABLE_CPU_FEATURES", "").split()  # off already in a process that is held
    return " ".join(name for name in beyond if core.__cpu_features__.get(name) or name in asked)


def _of_numba() -> dict[str, str]:
    """Return LLVM's features of this processor with AVX-512 and AVX10 off, or nothing without Numba."""
    try:
        binding = import_module("llvmlite.binding")
    except ImportError:
        return {}
    found: Mapping[str, bool] = binding.get_host_cpu_features()
    off = ("avx512", "avx10", "amx", "evex512")
    features = (f"{'+' if has and not name.startswith(off) else '-'}{name}" for name, has in sorted(found.items()))
    # The processor keeps its name, by which code is scheduled.
    return {"NUMBA_CPU_NAME": binding.get_host_cpu_name(), "NUMBA_CPU_FEATURES": ",".join(features)}
