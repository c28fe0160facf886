"""Build the compiled extensions. Everything else about the distribution is in pyproject.toml.

The installation succeeds even on a machine that cannot compile. The reason is then written to build_error.txt, beside
the place of the missing extension, and the package reports it. SOFTMAX_CE_REQUIRE_ALL=1, which continuous integration
sets, turns a failed build into an error.
"""

import os
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from glob import glob
from itertools import chain
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import numpy
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import PlatformError

REQUIRE_ALL = os.environ.get("SOFTMAX_CE_REQUIRE_ALL", "0") not in ("", "0")

ROWS = "kernels/softmax_ce/_backends/cython"
CEILINGS = "bench/softmax_ce_bench/ceilings"

# Never -ffast-math: it breaks -inf masks and links a start-up file that flushes subnormals in the whole process. Never
# -march=native: pragmas in the C files choose the instruction sets. Multiplications and additions are fused only where
# the sources say so. If the compiler chose, two copies of one expression might round differently, and the bits of a row
# would depend on how rows are cut into ranges (seen with gcc 12 on aarch64). -g0 is there because Python's own -g makes
# the library eleven times as large.
FLAGS = ["-O3", "-g0", "-std=c11", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
# These interleave the instructions of independent exponentials: up to 12 % on long rows with gcc 12. Clang does so by
# default, and fails on options that it does not know.
GCC_FLAGS = ["-fschedule-insns", "-fsched-pressure"]

# For tools/sanitize.sh: gcc's sanitizers, by the names that -fsanitize takes, and Cython's own check of every index.
SANITIZERS = os.environ.get("SOFTMAX_CE_SANITIZE", "")
SANITIZE = (
    [f"-fsanitize={SANITIZERS}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g"] if SANITIZERS else []
)
CHECKED = os.environ.get("SOFTMAX_CE_BOUNDSCHECK", "0") not in ("", "0")

EXTENSIONS = [
    Extension(
        "softmax_ce._backends.cython._kernels",
        sources=[f"{ROWS}/_kernels.pyx", *sorted(glob(f"{ROWS}/rows_*.c"))],
        depends=sorted(glob(f"{ROWS}/*.h") + glob(f"{ROWS}/*.px[di]")),
        include_dirs=[ROWS, numpy.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
        libraries=[] if os.name == "nt" else ["m"],
        extra_compile_args=list(FLAGS),
    ),
    Extension(  # read and copy loops, the physical limit with which kernels are compared
        "softmax_ce_bench.ceilings._loops",
        sources=[f"{CEILINGS}/_loops.pyx", *sorted(glob(f"{CEILINGS}/loops*.c"))],
        depends=sorted(glob(f"{CEILINGS}/*.h")),
        include_dirs=[CEILINGS],
        extra_compile_args=list(FLAGS),
    ),
]
for extension in EXTENSIONS:
    extension.extra_compile_args += SANITIZE
    extension.extra_link_args += SANITIZE
    extension.cython_directives = {"boundscheck": CHECKED, "initializedcheck": CHECKED, "wraparound": False}


def compile_side_by_side(compile: Callable[..., list[str]], sources: list[str], **options: Any) -> list[str]:
    """Call the compiler's own method for each source separately, as many at once as there are CPUs."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(chain.from_iterable(pool.map(lambda source: compile([source], **options), sources)))


class BuildOrExplain(build_ext):  # type: ignore[misc] # it has no types
    """Build the extensions, or leave a note that says why one could not be built."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.cython_c_in_temp = True  # no generated C in the source tree

    def run(self) -> None:
        self.reasons: dict[str, str] = {}
        destinations = {ext.name: self._destinations(ext) for ext in self.extensions}
        try:
            super().run()
        except Exception as error:  # it failed before the first extension
            if REQUIRE_ALL:
                raise
            self.reasons = {name: explain(error) for name in destinations}
        for name, libraries in destinations.items():
            if name in self.reasons:
                self.warn(f"{name} is left out: {self.reasons[name]}")
            for library in libraries:
                self._leave_note(library, self.reasons.get(name))

    def build_extensions(self) -> None:
        # The link options of this Python may name its own folders, as those of pyenv and Conda do. A library that needs
        # only the C library has no use for them, and they would put this machine's paths into a wheel.
        own = shlex.split(sysconfig.get_config_var("LDSHARED") or "")
        rpath = [part for part in own if part.startswith("-Wl,-rpath")]
        if rpath:
            self.compiler.set_executable("linker_so", [part for part in self.compiler.linker_so if part not in rpath])
        self.compiler.compile = partial(compile_side_by_side, self.compiler.compile)
        if self._accepts(GCC_FLAGS):
            for ext in self.extensions:
                ext.extra_compile_args = GCC_FLAGS + ext.extra_compile_args
        super().build_extensions()

    def _accepts(self, flags: list[str]) -> bool:
        """Return whether the compiler knows these options."""
        command = getattr(self.compiler, "compiler_so", None)
        if not command or shutil.which(command[0]) is None:
            return False  # _build reports it
        trial = [*command, *flags, "-fsyntax-only", "-x", "c", "-"]
        return subprocess.run(trial, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0

    def build_extension(self, ext: Extension) -> None:
        try:
            self._build(ext)
        except Exception as error:
            if REQUIRE_ALL:
                raise
            self.reasons[ext.name] = explain(error)
            ext.optional = True  # setuptools must not expect the library

    def _build(self, ext: Extension) -> None:
        # The common failures have messages of their own; explain() describes any other.
        if self.compiler.compiler_type == "msvc":
            raise PlatformError("needs gcc or clang")  # the C files use their vector extensions
        command = getattr(self.compiler, "compiler_so", None)
        if command and shutil.which(command[0]) is None:
            raise PlatformError(f"no C compiler: {command[0]} not found")
        if not any(Path(folder, "Python.h").exists() for folder in self.include_dirs):
            raise PlatformError("Python.h not found: install Python's development headers (python3-dev)")
        super().build_extension(ext)

    @staticmethod
    def _leave_note(library: Path, reason: str | None) -> None:
        note = library.with_name("build_error.txt")
        if reason is None:
            note.unlink(missing_ok=True)
        else:
            library.unlink(missing_ok=True)  # an older build must not stand in for the one that failed
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(f"{reason}\n", encoding="utf-8")

    def _destinations(self, ext: Extension) -> list[Path]:
        """Return where the library goes: into the build tree, and in an editable install also beside its source."""
        in_source, in_build = self._get_inplace_equivalent(self.get_finalized_command("build_py"), ext)
        return [Path(in_build), Path(in_source)] if self.inplace else [Path(in_build)]


def explain(error: Exception) -> str:
    """Return a line for build_error.txt."""
    if isinstance(error, PlatformError):
        return str(error)
    cause = error if isinstance(error, CalledProcessError) else error.__context__
    if isinstance(cause, CalledProcessError):  # its own text is the whole command line
        return f"{cause.cmd[0]} failed with exit code {cause.returncode} (pip install -v shows its messages)"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


setup(ext_modules=EXTENSIONS, cmdclass={"build_ext": BuildOrExplain})
