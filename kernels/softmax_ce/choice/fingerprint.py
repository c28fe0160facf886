"""The fingerprint of a machine and build, for which a profile is valid.

Two machines with the same fingerprint run the same code, at speeds so alike that one profile serves both. The operating
system's release is left out on purpose: a kernel update does not make a backend slower.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import machinery, metadata
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np

from softmax_ce import threads
from softmax_ce._version import __version__
from softmax_ce.documents.parts import Limits
from softmax_ce.variables import word

# The environment variables that change which code the backends run. OMP_NUM_THREADS is part of cpus_available.
_SETTINGS = (
    "NPY_DISABLE_CPU_FEATURES",
    "NUMBA_CPU_FEATURES",
    "NUMBA_CPU_NAME",
    "NUMBA_DISABLE_JIT",
    "NUMBA_OPT",
    "SOFTMAX_CE_ISA",
    "SOFTMAX_CE_STREAM_BYTES",
)
_ALLOWANCE = "cpus_available"
# The instruction sets that decide which vector kernels can run, by Linux's names.
_VECTOR_SETS = ("sse4_2", "avx", "f16c", "fma", "avx2", "asimd")
_VECTOR_FAMILIES = ("avx512", "amx", "sve")
# Linux's numbers for a processor: in a virtual machine, two generations often have the same model name.
_IDENTITY = ("cpu family", "model", "stepping", "CPU implementer", "CPU part")


_Text = Annotated[str, Limits(maxLength=1000)]
_Count = Annotated[int, Limits(minimum=1, maximum=1_000_000)]


class Fingerprint(TypedDict):
    """A machine and build, for which a profile is valid.

    Attributes
    ----------
    cpu : str
        The system's name for the processor, and its numbers.
    instruction_sets : list of str
        Its vector instruction sets.
    cpus_installed : int
        The system's count of CPUs.
    cpus_available : int
        The CPUs that the process may use. They do not identify the machine.
    os : str
        The operating system and the architecture, without the release.
    python, numpy : str
        The version.
    numba : str or None
        The version; None if it is not installed.
    softmax_ce : str
        The version.
    kernels : str
        A SHA-256 hash over the backends' files.
    settings : dict
        The environment variables that change which code runs, as far as they are set.
    """

    cpu: _Text
    instruction_sets: Annotated[list[Annotated[str, Limits(maxLength=100)]], Limits(maxItems=1000)]
    cpus_installed: _Count
    cpus_available: _Count
    os: _Text
    python: _Text
    numpy: _Text
    numba: _Text | None
    softmax_ce: _Text
    kernels: _Text
    settings: Annotated[dict[str, Annotated[str, Limits(maxLength=10_000)]], Limits(maxProperties=100)]


@dataclass(frozen=True, slots=True)
class Difference:
    """One field in which two fingerprints differ.

    Attributes
    ----------
    field : str
    stored, here : object
        The two values.
    """

    field: str
    stored: Any
    here: Any

    def __str__(self) -> str:
        return f"{self.field} is {_short(self.here)} here and {_short(self.stored)} in the profile"


def collect() -> Fingerprint:
    """Return the fingerprint of this machine and build, in plain values that JSON can hold.

    No backend is loaded. The call takes milliseconds, most of them for the hash, which is computed once in a process.
    """
    return {
        "cpu": _cpu(),
        "instruction_sets": list(instruction_sets()),
        "cpus_installed": _cpus_installed(),
        "cpus_available": threads.available_cpus(),
        "os": f"{platform.system()} {platform.machine()}",
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "numpy": np.__version__,
        "numba": package_version("numba"),
        "softmax_ce": __version__,
        "kernels": kernels_hash(),
        "settings": {name: value for name in _SETTINGS if (value := _setting(name))},
    }


def differences(stored: Mapping[str, object], here: Mapping[str, object]) -> list[Difference]:
    """Return every field in which two fingerprints differ, except cpus_available.

    The number of CPUs that a process may use does not identify the machine: a worker under ``taskset``, joblib or
    OMP_NUM_THREADS runs the same code at the same speed, on fewer threads.

    Parameters
    ----------
    stored, here : mapping
        Results of :func:`collect`. A field that is missing in one of them counts as None.

    Returns
    -------
    list of Difference
        In the order of `here`, followed by the fields that only `stored` has.
    """
    fields = [field for field in dict.fromkeys((*here, *stored)) if field != _ALLOWANCE]
    pairs = (Difference(field, _value(stored, field), _value(here, field)) for field in fields)
    return [pair for pair in pairs if pair.stored != pair.here]


def _value(fingerprint: Mapping[str, object], field: str) -> Any:
    value = fingerprint.get(field)
    if field == "settings" and isinstance(value, Mapping):  # empty counts as unset; older profiles stored it
        return {name: said for name, said in value.items() if said != ""}
    return value


def _setting(name: str) -> str:
    """Return the value of a variable, in lower case for this project's own, whose case does not matter."""
    return word(name) if name.startswith("SOFTMAX_CE_") else os.environ.get(name, "").strip()


@cache
def kernels_hash() -> str:
    """Return a SHA-256 hash of the backends' files: the compiled library and the Python modules."""
    folder = Path(__file__).parents[1] / "_backends"
    suffixes = (*machinery.EXTENSION_SUFFIXES, *machinery.SOURCE_SUFFIXES)
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.name.endswith(suffixes)):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def package_version(package: str) -> str | None:
    """Return a distribution's version, or None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@cache
def cpu_model() -> str:
    """Return the system's name for the processor."""
    name = _cpuinfo().get("model name") or _cpuinfo().get("Model", "")
    if not name and platform.system() == "Darwin":
        import subprocess  # here: it would add 2 ms to the first call that follows a profile

        asked = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        name = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return name or platform.processor() or platform.machine()


@cache
def instruction_sets() -> tuple[str, ...]:
    """Return the processor's vector instruction sets. If the system does not list them, NumPy's are returned."""
    flags = (_cpuinfo().get("flags") or _cpuinfo().get("Features", "")).split()
    if flags:
        return tuple(flag for flag in flags if flag in _VECTOR_SETS or flag.startswith(_VECTOR_FAMILIES))
    config: Any = np.show_config(mode="dicts")
    found = config.get("SIMD Extensions", {})
    return (*found.get("baseline", ()), *found.get("found", ()))


def _cpus_installed() -> int:
    """Return the system's count of CPUs. os.cpu_count would follow PYTHON_CPU_COUNT."""
    try:
        count = os.sysconf("SC_NPROCESSORS_ONLN")
    except (AttributeError, ValueError, OSError):  # not POSIX
        count = os.cpu_count() or 1
    return max(1, count)


def _cpu() -> str:
    numbers = [f"{key} {_cpuinfo()[key]}" for key in _IDENTITY if key in _cpuinfo()]
    return f"{cpu_model()} ({', '.join(numbers)})" if numbers else cpu_model()


@cache
def _cpuinfo() -> dict[str, str]:
    """Return Linux's description of the first processor, or an empty dictionary on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"
