"""The compiled backend, built object by object as setup.py describes it, so that a mutant recompiles only what it
changes.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import softmax_ce
from tools.mutation.testmap import digest
from tools.mutation.tree import BUILD, Tree

_INCLUDE = re.compile(r'^\s*(?:#?include|cdef extern from) "(\w+\.(?:h|pxi))"', re.MULTILINE)
_VARIANT = re.compile(r"rows_(\w+)_(f32|f64)\.c")


class Extension:
    """The objects of the unchanged sources, and libraries in which some of them are replaced.

    Parameters
    ----------
    tree : Tree
        The tree that contains the sources.

    Attributes
    ----------
    library : Path
        The tree's own, which tests import.
    isas : tuple of str
        The instruction sets that run here, best first.
    """

    def __init__(self, tree: Tree) -> None:
        self._root = tree.root
        self._folder = tree.package / "_backends" / "cython"
        details = softmax_ce.get_backend("cython").details
        self.isas = tuple(re.findall(r"\w+", details.partition("can run here:")[2]))
        self._extension = _as_configured(tree.root)
        self.library = self._folder / f"_kernels{sysconfig.get_config_var('EXT_SUFFIX')}"
        self._names = sorted({Path(source).name for source in self._extension.sources})
        sources = sorted(path for path in self._folder.iterdir() if path.suffix in (".c", ".h", ".pyx", ".pxi"))
        self._objects = BUILD / "objects" / digest(*sources, tree.root / "setup.py")
        self._compile_what_is_missing()

    def units(self, file: str, isa: str, real: str) -> list[Path]:
        """Return the sources to recompile if `file` has changed. If there is one for each instruction set, return this
        one.
        """
        own = [name for name in self._names if file in self._parts(name)]
        variants = {name: found.groups() for name in own if (found := _VARIANT.fullmatch(name))}
        return [self._folder / name for name in own if variants.get(name, (isa, real)) == (isa, real)]

    def build(self, units: list[Path]) -> Path:
        """Return a library of the given sources as they are now in the tree, and the kept objects of the others.

        Raises
        ------
        RuntimeError
            With the compiler's words.
        """
        work = _emptied(self._root / "build" / "mutant")
        fresh = {made.name: made for made in self._compile(units, work)}
        objects = [fresh.get(path.name, path) for path in sorted(self._objects.glob("*.o"))]
        library = work / self.library.name
        _run(
            [
                *_variable("LDSHARED"),
                *map(str, objects),
                "-o",
                str(library),
                *(f"-l{n}" for n in self._extension.libraries),
            ]
        )
        return library

    def _parts(self, name: str) -> set[str]:
        """Return a source and all headers that it includes, directly or not."""
        found: set[str] = set()
        todo = [name]
        while todo:
            part = todo.pop()
            if part not in found and (self._folder / part).exists():
                found.add(part)
                todo += _INCLUDE.findall((self._folder / part).read_text(encoding="utf-8"))
        return found

    def _compile_what_is_missing(self) -> None:
        self._objects.mkdir(parents=True, exist_ok=True)
        missing = [self._folder / name for name in self._names if not (self._objects / f"{Path(name).stem}.o").exists()]
        for made in self._compile(missing, _emptied(self._root / "build" / "whole")):
            made.rename(self._objects / made.name)

    def _compile(self, units: list[Path], work: Path) -> list[Path]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(lambda unit: self._compile_one(unit, work), units))

    def _compile_one(self, unit: Path, work: Path) -> Path:
        extension = self._extension
        made = work / f"{unit.stem}.o"
        if unit.suffix == ".pyx":
            unit = self._translate(unit, work)
        includes = [str(self._folder), *extension.include_dirs, sysconfig.get_paths()["include"]]
        _run([
            *_variable("CC"), *_variable("CFLAGS"), *_variable("CCSHARED"), *(f"-I{path}" for path in includes),
            *(f"-D{name}={value}" for name, value in extension.define_macros), *extension.extra_compile_args,
            "-c", str(unit), "-o", str(made),
        ])  # fmt: skip
        return made

    def _translate(self, unit: Path, work: Path) -> Path:
        """Return Cython's C code of a source. It runs in a new process, since cythonize() remembers folders that no
        longer exist.
        """
        made = work / f"{unit.stem}.c"
        directives = (f"-X{name}={value}" for name, value in self._extension.cython_directives.items())
        _run([sys.executable, "-m", "cython", *directives, str(unit), "-o", str(made)])
        return made


def _as_configured(root: Path) -> Any:
    """Return the extension as setup.py describes it."""
    import setuptools  # noqa: F401  (without it, Python 3.12 has no distutils)

    from distutils.core import run_setup  # isort: skip

    with contextlib.chdir(root):
        modules: Any = run_setup("setup.py", stop_after="init").ext_modules
    return next(module for module in modules if module.name.endswith("cython._kernels"))


def _variable(name: str) -> list[str]:
    return shlex.split(sysconfig.get_config_var(name) or "")


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)}\n{done.stderr.strip()}")
