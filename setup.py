"""The compiled backend, and nothing else: everything about the distribution is in pyproject.toml.

A machine that cannot compile still gets an install. What went wrong is written to build_error.txt in
the backend's package, where its __init__ finds the reason to give. SOFTMAX_CE_REQUIRE_ALL=1 (as in
continuous integration) makes it an error instead.
"""

import os
import shutil
from glob import glob
from pathlib import Path
from subprocess import CalledProcessError

import numpy
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import PlatformError

ROWS = "kernels/softmax_ce/_backends/cython"

# Never -ffast-math, which breaks -inf masks and links a start-up file that flushes subnormals in the whole
# process; never -march=native, since pragmas in the C files choose the instruction sets. Multiplications and additions
# are fused where the sources say so: left to the compiler, two copies of one expression may round differently, and the
# bits of a row would depend on how rows are cut into ranges (seen with gcc 12 on aarch64).
FLAGS = ["-O3", "-std=c11", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]

EXTENSION = Extension(
    "softmax_ce._backends.cython._kernels",
    sources=[f"{ROWS}/_kernels.pyx", *sorted(glob(f"{ROWS}/rows_*.c"))],
    depends=sorted(glob(f"{ROWS}/*.h") + glob(f"{ROWS}/*.pxd")),
    include_dirs=[ROWS, numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
    libraries=[] if os.name == "nt" else ["m"],
    extra_compile_args=FLAGS,
)


class BuildOrExplain(build_ext):
    """Build the extension, or leave the reason why not."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.cython_c_in_temp = True  # no generated C in the source tree

    def run(self) -> None:
        libraries = self._destinations()
        reason = None
        try:
            super().run()
        except Exception as error:
            if os.environ.get("SOFTMAX_CE_REQUIRE_ALL", "0") not in ("", "0"):
                raise
            reason = explain(error)
            self.warn(f"{EXTENSION.name} is left out: {reason}")
        for library in libraries:
            note = library.with_name("build_error.txt")
            if reason is None:
                note.unlink(missing_ok=True)
            else:
                library.unlink(missing_ok=True)  # an older build must not stand in for the one that failed
                note.parent.mkdir(parents=True, exist_ok=True)
                note.write_text(f"{reason}\n", encoding="utf-8")

    def build_extension(self, ext: Extension) -> None:
        # The failures that people meet, in words; anything else is caught in run().
        if self.compiler.compiler_type == "msvc":
            raise PlatformError("needs gcc or clang")  # the C files use their vector extensions
        command = getattr(self.compiler, "compiler_so", None)
        if command and shutil.which(command[0]) is None:
            raise PlatformError(f"no C compiler: {command[0]} not found")
        if not any(Path(folder, "Python.h").exists() for folder in self.include_dirs):
            raise PlatformError("Python.h not found: install Python's development headers (python3-dev)")
        super().build_extension(ext)

    def _destinations(self) -> list[Path]:
        """Where the library goes: into the build tree; in an editable install, beside its source too."""
        in_source, in_build = self._get_inplace_equivalent(self.get_finalized_command("build_py"), EXTENSION)
        return [Path(in_build), Path(in_source)] if self.inplace else [Path(in_build)]


def explain(error: Exception) -> str:
    """One line for build_error.txt."""
    if isinstance(error, PlatformError):
        return str(error)
    cause = error if isinstance(error, CalledProcessError) else error.__context__
    if isinstance(cause, CalledProcessError):  # its own text is the whole command line
        return f"{cause.cmd[0]} failed with exit code {cause.returncode} (pip install -v shows its messages)"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


setup(ext_modules=[EXTENSION], cmdclass={"build_ext": BuildOrExplain})
