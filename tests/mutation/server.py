"""The other side of a worker: started, asked, ended."""

from __future__ import annotations

import json
import socket
import subprocess
from dataclasses import dataclass

from mutation.tree import Tree, python


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the tests said of a mutant.

    Attributes
    ----------
    outcome : {"killed", "survived", "lost", "unfit"}
    by : str
        The test that failed, or how else it was noticed.
    """

    outcome: str
    by: str = ""


class Server:
    """A worker process in a tree.

    Parameters
    ----------
    tree : Tree
    kind : {"warm", "cold"}
    """

    def __init__(self, tree: Tree, kind: str) -> None:
        ours, theirs = socket.socketpair()
        self._log = (tree.root / f"{kind}.log").open("w")
        self._process = subprocess.Popen(
            [python(), "-m", "mutation.worker", str(theirs.fileno()), kind],
            cwd=tree.root, env=tree.environment(), pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        theirs.close()
        self._stream = ours.makefile("rw")
        ours.close()
        if self._stream.readline() != "ready\n":
            self._process.wait()
            raise RuntimeError(f"the {kind} worker did not start: see {self._log.name}")

    def ask(self, tests: list[tuple[str, float]], module: str = "", path: str = "", within: list[str] | None = None) -> Verdict:
        """Run tests, each with the seconds that it may take, on what is in the tree, or on a changed function."""
        request = {"tests": tests, "module": module, "path": path, "within": within or []}
        self._stream.write(json.dumps(request) + "\n")
        self._stream.flush()
        answer = self._stream.readline()
        if not answer:
            raise RuntimeError(f"the worker is gone: see {self._log.name}")
        return Verdict(**json.loads(answer))

    def close(self) -> None:
        """End it."""
        self._stream.close()
        self._process.terminate()
        self._process.wait()
        self._log.close()
