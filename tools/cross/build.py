"""Compile the kernels and the replay program for a target with the flags of setup.py, and run them."""

from __future__ import annotations

import ast
import hashlib
import os
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KERNELS = ROOT / "kernels" / "softmax_ce" / "_backends" / "cython"
BUILD = ROOT / "build" / "replay"


class MissingTool(Exception):
    """A tool of a target is not installed. The message says which and how to get it."""


@dataclass(frozen=True, slots=True)
class Target:
    """A machine to compile for.

    Attributes
    ----------
    name : str
    compiler : tuple of str
    runners : tuple of str
        Programs of which one must be there to run the result; empty: it runs by itself.
    how_to_get : str
    kernels : str
        The kernels to compile, a glob.
    model : bool
        Also the model of an instruction set, which takes most of the time.
    define : tuple of str
        Flags after those of setup.py.
    link : tuple of str
        Static where an emulator would else need the target's libraries.
    """

    name: str
    compiler: tuple[str, ...]
    runners: tuple[str, ...]
    how_to_get: str
    kernels: str = "rows_*.c"
    model: bool = True
    define: tuple[str, ...] = ()
    link: tuple[str, ...] = ()

    def tools(self) -> list[str]:
        """Return the runner's command, [] if there is none. Raise MissingTool if something is not installed."""
        found = [runner for runner in self.runners if shutil.which(runner)]
        missing = [] if shutil.which(self.compiler[0]) else [self.compiler[0]]
        if self.runners and not found:
            missing.append(self.runners[0])
        if missing:
            raise MissingTool(f"{self.name} needs {' and '.join(missing)}: {self.how_to_get}")
        return found[:1]


_CC = tuple(shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"))
_GET_CC = "install a C compiler, or name one in the environment variable CC"
TARGETS = {
    target.name: target
    for target in (
        Target("host", _CC, (), _GET_CC),
        # Every instruction set, whose bits are the same however little is optimised.
        Target("quick", _CC, (), _GET_CC, define=("-O1",)),
        # The quickest to compile: what every machine has.
        Target(
            "baseline", _CC, (), _GET_CC, "rows_[bds]*.c", False, ("-DSCE_BASELINE_ONLY", "-DSCE_WITHOUT_MODEL", "-O1")
        ),
        Target(
            "aarch64",
            ("aarch64-linux-gnu-gcc",),
            ("qemu-aarch64", "qemu-aarch64-static"),
            "on Debian, apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user",
            link=("-static",),
        ),
    )
}


def flags() -> list[str]:
    """Return FLAGS of setup.py, which is read and not imported, since importing it starts a build."""
    for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "FLAGS":
            return list(ast.literal_eval(node.value))
    raise LookupError("setup.py has no FLAGS")


def build(target: Target) -> list[str]:
    """Return the command that runs the replay program. It is compiled unless it is up to date.

    Raises
    ------
    MissingTool
    RuntimeError
        A compiler's messages.
    """
    runner = target.tools()
    own_sources = [path for path in sorted(HERE.glob("*.c")) if target.model or not path.name.startswith("model_")]
    sources = [*sorted(KERNELS.glob(target.kernels)), *own_sources]
    headers = [*sorted(KERNELS.glob("*.h")), *sorted(HERE.glob("*.h"))]
    compile_ = [*target.compiler, *flags(), *target.define, f"-I{KERNELS}"]

    def own(source: Path) -> tuple[str, ...]:
        # The model takes more than a minute with -O3, and nobody waits for it.
        return ("-O1",) if source.parent == HERE else ()

    version = _run([*target.compiler, "--version"])
    content = repr((compile_, target.link, version)).encode() + b"".join(p.read_bytes() for p in sources + headers)
    program = BUILD / f"{target.name}-{hashlib.sha256(content).hexdigest()[:16]}" / "replay"
    with _alone(target):
        if not program.exists():
            for old in BUILD.glob(f"{target.name}-*"):
                shutil.rmtree(old, ignore_errors=True)
            program.parent.mkdir()
            objects = [program.parent / f"{source.stem}.o" for source in sources]
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                jobs = zip(sources, objects, strict=True)
                list(pool.map(lambda job: _run([*compile_, *own(job[0]), "-c", str(job[0]), "-o", str(job[1])]), jobs))
            made = program.with_suffix(".part")
            _run([*target.compiler, *target.link, *map(str, objects), "-lm", "-o", str(made)])
            made.replace(program)
    return [*runner, str(program)]


@contextmanager
def _alone(target: Target) -> Iterator[None]:
    """Wait while another process compiles for this target, as tests run in several processes."""
    BUILD.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (BUILD / f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)} failed:\n{done.stderr}")
    return done.stdout
