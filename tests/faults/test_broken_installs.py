"""An extension that is gone, cut short or another Python's; a Numba that is missing, broken or too old.

The import works, `backends()` says why, and automatic choice goes on with what there is.
"""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

import softmax_ce as sce
from child import ending, python, survive
from conftest import available

REPORT = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
import scenario, softmax_ce as sce
assert sce.__file__.startswith({root!r}), sce.__file__
scenario.check()
scenario.check("numpy")
from softmax_ce.choice import auto
print(auto.default_name())
print(next(info.why_unavailable for info in sce.backends() if info.name == {name!r}))
try:
    sce.get_backend({name!r})
except ImportError as error:
    print(error)
"""


def copy_of_the_package(root: Path) -> Path:
    """The installed files, the extension among them; gives the extension."""
    available("cython")
    source = Path(sce.__file__).parent
    shutil.copytree(source, root / "softmax_ce", ignore=shutil.ignore_patterns("__pycache__", "build_error.txt"))
    spec = find_spec("softmax_ce._backends.cython._kernels")
    assert spec is not None
    assert spec.origin is not None
    built = Path(spec.origin)
    return root / "softmax_ce" / "_backends" / "cython" / built.name


def report(root: Path, name: str) -> list[str]:
    """The default, why `name` is not available, and what asking for it says."""
    return survive(REPORT.format(root=str(root), name=name), PYTHONPATH=str(root)).splitlines()


def cut(size: int) -> Callable[[Path], None]:
    def damage(extension: Path) -> None:
        extension.write_bytes(extension.read_bytes()[:size])

    return damage


def rename(extension: Path) -> None:
    extension.rename(extension.with_name("_kernels.cpython-39-x86_64-linux-gnu.so"))


def text(extension: Path) -> None:
    extension.write_text("not a library\n" * 100)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (Path.unlink, "the extension is missing: no _kernels in"),
        (rename, "the extension was built for another Python: _kernels.cpython-39-x86_64-linux-gnu.so"),
        (cut(0), "file too short"),
        (cut(64), "the extension is truncated"),
        (cut(20_000), "the extension is truncated"),
        (cut(200_000), "the extension is truncated"),
        (text, "invalid ELF header"),
    ],
    ids=["deleted", "another Python's", "empty", "one header", "20 kB", "200 kB", "overwritten"],
)
@pytest.mark.skipif(sys.platform != "linux", reason="the loader's messages are Linux's")
def test_a_damaged_extension_is_a_reason(damage: Callable[[Path], None], reason: str, tmp_path: Path) -> None:
    damage(copy_of_the_package(tmp_path))
    default, why, asked = report(tmp_path, "cython")
    assert default == "numpy"
    assert reason in why
    assert reason in asked
    assert "install a C compiler" in asked


@pytest.mark.skipif(sys.platform != "linux", reason="the loader's behaviour is Linux's")
def test_the_fault_is_real(tmp_path: Path) -> None:
    """Without a look at the headers, the loader dies of such a file."""
    extension = copy_of_the_package(tmp_path)
    cut(200_000)(extension)
    done = python(f"import ctypes; ctypes.CDLL({str(extension)!r})")
    assert done.returncode == -signal.SIGBUS or "AddressSanitizer" in done.stderr, ending(done)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("raise ModuleNotFoundError(\"No module named 'numba'\")", "No module named 'numba'"),
        ("raise SystemError('initialization of _internal failed')", "SystemError: initialization of _internal failed"),
        ("from numba import njit", "cannot import name 'njit'"),
        ("def broken(:", "SyntaxError"),
        ("raise ImportError('Numba needs NumPy 1.26 or less')", "Numba needs NumPy 1.26 or less"),  # as 0.59 says it
    ],
    ids=["missing", "broken", "half-installed", "not Python", "too old"],
)
def test_a_numba_that_cannot_be_used_is_a_reason(module: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text(module + "\n")
    code = """
import scenario, softmax_ce as sce
scenario.check()
for info in sce.backends():
    if info.name == "numba":
        print(info.why_unavailable)
try:
    scenario.check("numba")
except ImportError as error:
    print(error)
"""
    why, asked = survive(code, PYTHONPATH=str(tmp_path)).splitlines()
    assert reason in why
    assert reason in asked
    assert "pip install 'softmax-ce[numba]'" in asked
