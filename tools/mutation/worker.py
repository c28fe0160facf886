"""The process that runs tests on mutants. It forks for each mutant, so that imports and collection are done once.

``python -m tools.mutation.worker FD {warm|cold|bare}`` reads requests as lines of JSON from the socket FD and answers
each with one line. A warm worker has imported the package and collected every test: a child changes one function's code
object and runs the tests. A cold worker has imported the libraries that the project uses, and nothing of the project: a
child imports everything anew, the mutant with it. A bare worker is a cold one that has imported nothing but pytest.

A request: ``tests``, a list of [name, seconds it may take]; of a warm worker ``module``, ``path`` and ``within`` too:
the file that has the mutant by now, and the function. The answer: ``outcome`` (survived, killed, lost, unfit, error),
``by``, a test, and ``how`` it noticed: a test that takes too long kills, and so does one that ends its process. "lost":
a test is not there. "unfit": this function's code cannot be replaced while it is alive.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import inspect
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from tools.mutation import caches
from tools.mutation.operators import compiled

# No plugin of pytest among them: it must be the first to import those, to rewrite their asserts.
_LIBRARIES = (
    "click", "jinja2", "jsonschema", "matplotlib", "ml_dtypes", "mpmath", "numba", "numpy.testing",
    "platformdirs", "rich.table", "scipy.special", "scipy.stats", "sklearn.metrics", "threadpoolctl",
)  # fmt: skip
_QUIET = ["-q", "-x", "--no-header", "--no-summary", "-p", "no:cacheprovider"]

COLLECTION = "collection"

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

Request = dict[str, Any]
Tell = Callable[[str], None]


class Unfit(Exception):
    """The code of the function cannot be replaced."""


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    if sys.argv[2] == "warm":
        code = pytest.main(_QUIET, plugins=[_Warm(connection)])
        sys.exit(code)
    for name in _LIBRARIES if sys.argv[2] == "cold" else ():
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # a test that needs it is skipped, and so never asked for
    _serve(connection, _run_cold)


class _Warm:
    """A pytest plugin that waits for requests instead of running the tests."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        import softmax_ce

        for info in softmax_ce.backends():
            if info.available:
                softmax_ce.get_backend(info.name).warmup()
        items = {item.nodeid: item for item in session.items}

        def run(request: Request, tell: Tell) -> None:
            if request["module"]:
                replace_code(request["module"], Path(request["path"]), request["within"])
            _run_items([items.get(name) for name, _ in request["tests"]], tell)

        _serve(self._connection, run)
        return True


class _Cold:
    """A pytest plugin that runs the tests of one request, in its order."""

    def __init__(self, request: Request, tell: Tell) -> None:
        self._request, self._tell = request, tell

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        _run_items([items.get(name) for name, _ in self._request["tests"]], self._tell)
        return True


def _run_cold(request: Request, tell: Tell) -> None:
    files = sorted({name.partition("::")[0] for name, _ in request["tests"]})
    tell(COLLECTION)
    code = pytest.main([*_QUIET, *files], plugins=[_Cold(request, tell)])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        tell(f"!{COLLECTION}")  # the tests cannot even be imported


def _run_items(items: list[pytest.Item | None], tell: Tell) -> None:
    """Run tests until one fails. Report each test that starts, and a failure with a `!`."""
    known = [item for item in items if item is not None]
    for item, following in zip(known, [*known[1:], None], strict=True):
        tell(item.nodeid)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if item.session.testsfailed:
            tell(f"!{item.nodeid}")
            return
    if len(known) < len(items):
        tell("?")


def replace_code(module: str, path: Path, within: list[str]) -> None:
    """Replace the code of the live function around a mutant, and of the functions nested in it, by that of the changed
    file.

    Raises
    ------
    Unfit
        It is not found alive, or has other closure variables.
    """
    found: Any = sys.modules.get(module)
    code = compiled(path.read_bytes(), str(path))
    for name in within:
        code = next((c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == name), None)
        found = vars(found).get(name) if hasattr(found, "__dict__") else None
        if isinstance(found, staticmethod | classmethod):
            found = found.__func__
        elif isinstance(found, property):
            found = found.fget
        elif found is not None and not isinstance(found, type):
            found = inspect.unwrap(found)
        if code is None or found is None:
            raise Unfit(name)
        if inspect.isfunction(found):
            break
    if not inspect.isfunction(found) or found.__code__.co_freevars != code.co_freevars:
        raise Unfit(within[-1])
    found.__code__ = code
    caches.forget()


def _serve(connection: socket.socket, run: Callable[[Request, Tell], None]) -> None:
    """Answer requests until the other side has gone."""
    _adopt_orphans()
    with connection.makefile("rw") as stream:
        stream.write("ready\n")
        stream.flush()
        for line in stream:
            stream.write(json.dumps(_in_child(json.loads(line), run)) + "\n")
            stream.flush()


def _in_child(request: Request, run: Callable[[Request, Tell], None]) -> dict[str, str]:
    told, telling = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()  # so that the processes that a test starts end with it
            os.close(told)
            silence = os.open(os.devnull, os.O_RDWR)
            for stream in range(3):
                os.dup2(silence, stream)
            run(request, lambda text: _write(telling, text))
            _write(telling, ".")
        except Unfit:
            _write(telling, "/")
        except BaseException as error:
            _write(telling, f"#{type(error).__name__}: {error}".replace("\n", " "))
        finally:
            os._exit(0)
    os.close(telling)
    try:
        return _watch(told, dict(request["tests"]))
    finally:
        os.close(told)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        _end_orphans()


def _adopt_orphans() -> None:
    """On Linux, become the parent of the processes that a child leaves, since a test may start them in their own
    session.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_orphans() -> None:
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while children.exists() and (left := children.read_text().split()):
        for pid in map(int, left):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _write(handle: int, text: str) -> None:
    os.write(handle, text.encode() + b"\n")


def _watch(told: int, limits: dict[str, float]) -> dict[str, str]:
    """Follow a child until it reports its end, ends without a report, or a test exceeds its limit."""
    current, rest = COLLECTION, b""
    end = time.monotonic() + 60
    while True:
        ready, _, _ = select.select([told], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            return {"outcome": "killed", "by": current, "how": "it took too long"}
        data = os.read(told, 1 << 16)
        if not data:
            return {"outcome": "killed", "by": current, "how": "the process ended"}
        *lines, rest = (rest + data).split(b"\n")
        for line in map(bytes.decode, lines):
            if line.startswith("!"):
                return {"outcome": "killed", "by": line[1:], "how": "it failed"}
            if line.startswith("#"):
                return {"outcome": "error", "how": line[1:]}
            if line in (".", "?", "/"):
                return {"outcome": {".": "survived", "?": "lost", "/": "unfit"}[line]}
            current = line
            end = time.monotonic() + limits.get(line, 60.0)


if __name__ == "__main__":
    main()
