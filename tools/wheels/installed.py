"""Check an installation with the Python that it was installed for: ``python -I installed.py``.

With NumPy alone beside it: every backend but Numba is there, computes what the formula says on every instruction set of
this CPU, and imports nothing of others but NumPy. --no-extension: the same for an install that was made without a
compiler, which says that there was none. --conformance: the correctness suite on every backend, which needs mpmath.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np

import softmax_ce as sce

sys.path.append(str(Path(__file__).parents[2] / "tests" / "faults"))  # -I leaves it out, and the checkout with it
import scenario

SHAPES = ((1, 1), (33, 7), (300, 10), (20, 100), (5, 3001), (2, 9001))
NO_COMPILER = "no C compiler: {} not found"  # as setup.py says it


def right_numbers(name: str) -> None:
    """Compare the loss and gradient of one backend with the formula in float64, on one and two threads."""
    for dtype, tolerance in (("float16", 2e-3), ("float32", 1e-5), ("float64", 1e-12)):
        for rows, classes in SHAPES:
            for threads in (1, 2):
                x, y = scenario.problem(rows, classes, dtype)
                result = sce.cross_entropy_with_grad(x, y, reduction="none", backend=name, threads=threads)
                scenario.agree(result, scenario.truth(x, y), tolerance)


def installed_here() -> None:
    """Check that the package comes from this environment, and that a call imports no library except NumPy."""
    packages = Path(sysconfig.get_path("platlib")).resolve()
    assert Path(sce.__file__).resolve().is_relative_to(packages), f"{sce.__file__} is not in {packages}"
    output = subprocess.run(
        [sys.executable, "-I", "-c", _IMPORTED], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    assert set(output.split()) == {"numpy", "softmax_ce"}, f"a call imports {output}"


# What an environment imports by itself at the start, such as setuptools' hooks, does not count.
_IMPORTED = """
import sys
before = set(sys.modules)
import softmax_ce
softmax_ce.cross_entropy([[1.0, 2.0]], [0])
new = {name for name, module in sys.modules.items() if name not in before and hasattr(module, "__file__")}
print(*{name.partition(".")[0] for name in new} - sys.stdlib_module_names)
"""


def backends(no_extension: bool) -> list[str]:
    """Return the names of the available backends, which must be all that can be available."""
    missing = {info.name: info.why_unavailable for info in sce.backends() if not info.available}
    print(*(f"  {name} is not here: {why}" for name, why in missing.items()), sep="\n")
    numba = missing.pop("numba", None)
    assert numba is None or "No module named 'numba'" in numba, numba
    if no_extension:
        why = missing.pop("cython", None)
        assert why is not None, "the Cython backend is available without a compiler"
        assert NO_COMPILER.format(os.environ["CC"]) in why, why
    assert not missing, missing
    return [info.name for info in sce.backends() if info.available]


def instruction_sets() -> None:
    """Check the Cython backend on each instruction set of this CPU, each in its own process."""
    from softmax_ce._backends.cython import _kernels

    for isa in _kernels.supported():
        command = [sys.executable, "-I", __file__, "--one", isa]
        assert subprocess.run(command, env={**os.environ, "SOFTMAX_CE_ISA": isa}).returncode == 0, isa


def copy_loops() -> None:
    """Check that the loops of the measuring half move bytes."""
    from softmax_ce_bench import ceilings

    assert ceilings.why_unavailable is None, ceilings.why_unavailable
    source, target = np.arange(1000, dtype=np.float32).reshape(10, 100), np.zeros((10, 100), np.float32)
    for what in ("copy", "stream"):
        target[:] = 0
        ceilings.call(what, source, target, threads=1)()
        np.testing.assert_array_equal(target, source)


def conformance(names: list[str]) -> None:
    """Run the suite of ``softmax-ce check``."""
    from softmax_ce_bench.conformance import run_checks

    for name in names:
        results = run_checks(name, ("float32", "float64", "float16"), (1, 2))
        for result in results:
            assert result.passed, f"{name}: {result}"
        print(f"  {name}: {len(results)} checks of the correctness suite passed")


def main() -> None:
    """Run what the options ask for. An AssertionError says what is wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--no-extension", action="store_true")
    parser.add_argument("--conformance", action="store_true")
    parser.add_argument("--one", metavar="ISA")
    asked = parser.parse_args()
    assert __debug__, "the checks are assertions: run Python without -O"
    if asked.one:
        details = sce.get_backend("cython").details
        assert details is not None
        assert details.startswith(f"instruction set {asked.one} "), details
        right_numbers("cython")
        return
    names = backends(asked.no_extension)
    for name in names:
        right_numbers(name)
    installed_here()
    if not asked.no_extension:
        instruction_sets()
        copy_loops()
        print(f"  cython: {sce.get_backend('cython').details}, right on each")
    if asked.conformance:
        conformance(names)


if __name__ == "__main__":
    main()
