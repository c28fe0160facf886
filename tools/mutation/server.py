"""Start, ask and end a worker."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from tools.mutation.tree import Tree, python


@dataclass(frozen=True, slots=True)
class MutantVerdict:
    """The verdict of the tests on a mutant.

    Attributes
    ----------
    outcome : {"killed", "survived", "lost", "unfit"}
    by : str
        The test that noticed.
    how : str
        How it noticed; or why it is said to survive.
    """

    outcome: str
    by: str = ""
    how: str = ""


class Server:
    """A worker process in a tree.

    Parameters
    ----------
    tree : Tree
    kind : {"warm", "cold", "bare"}
    """

    def __init__(self, tree: Tree, kind: str) -> None:
        ours, theirs = socket.socketpair()
        self._log = (tree.root / f"{kind}.log").open("w")
        self._process = subprocess.Popen(
            [python(), "-m", "tools.mutation.worker", str(theirs.fileno()), kind],
            cwd=tree.root, env=tree.environment(), pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        theirs.close()
        self._kind = kind
        self._sound: set[str] = set()
        self._stream = ours.makefile("rw")
        ours.close()
        if self._stream.readline() != "ready\n":
            self._process.wait()
            raise RuntimeError(f"the {kind} worker did not start: see {self._log.name}")

    def ask(
        self, tests: Sequence[tuple[str, float]], module: str = "", path: str = "", within: Sequence[str] = ()
    ) -> MutantVerdict:
        """Run tests, each with its time limit in seconds, on the tree or on a changed function.

        Raises
        ------
        RuntimeError
            The worker cannot run tests at all.
        """
        request = {"tests": tests, "module": module, "path": path, "within": within}
        self._stream.write(json.dumps(request) + "\n")
        self._stream.flush()
        answer = self._stream.readline()
        if not answer:
            raise RuntimeError(f"the {self._kind} worker has ended: see {self._log.name}")
        verdict = MutantVerdict(**json.loads(answer))
        if verdict.outcome == "error":
            raise RuntimeError(f"the {self._kind} worker cannot run the tests: {verdict.how}")
        return verdict

    def is_sound(self, verdict: MutantVerdict, tests: Sequence[tuple[str, float]]) -> bool:
        """Return whether the test that noticed a mutant passes without one. Ask this when the tree has no mutant."""
        if verdict.by not in self._sound:
            own = [pair for pair in tests if pair[0] == verdict.by] or tests[:1]
            if self.ask(own).outcome == "killed":
                return False
            self._sound.add(verdict.by)
        return True

    def close(self) -> None:
        """End the worker."""
        self._stream.close()
        self._process.terminate()
        self._process.wait()
        self._log.close()
