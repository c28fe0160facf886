"""Which tests run which lines, recorded once, and which tests to run for a mutant."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import queue
import re
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from pathlib import Path

from tools.mutation.operators import Mutant
from tools.mutation.tree import BUILD, PACKAGE, ROOT, Tree, python

# They draw, time, or start whole tools: what they would notice, others notice sooner.
_LEFT_OUT = {
    f"tests/test_{name}.py" for name in (
        "asv", "ceilings", "cold_start", "compare", "html", "linear_operation", "mutation", "operations", "peers",
        "roofline", "show_diff", "timing", "training_step", "wrong_backends",
    )
}  # fmt: skip
# What tells apart tests of one kind: backend, dtype, a number.
_VARIANT = re.compile(r"(?<=[\[-])(?:naive|numpy|numba|cython|b?float\d+|\d+)(?=[-\]])")
_INSPECTING = "tests/test_conventions.py"  # looks at classes and functions without running them
_CONFORMANCE = Path("bench", "softmax_ce_bench", "conformance")
_AT_IMPORT = ""  # the context of what runs outside of every test


def test_files() -> list[str]:
    """Return every test file of the suite whose tests are run, as pytest names it."""
    files = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "tests").rglob("test_*.py"))]
    documents = ["README.md", *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md")))]
    return [name for name in (*files, *documents) if name not in _LEFT_OUT]


def digest(*paths: Path) -> str:
    """Return a hash over files and the Python files of folders, including their names."""
    found = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            found.update(file.name.encode() + b"\0" + file.read_bytes())
    return found.hexdigest()[:16]


def record(say: Callable[[str], None]) -> list[Path]:
    """Return the files that hold the lines of every test file's tests. Those that are out of date are recorded anew."""
    kept = {file: BUILD / "record" / f"{digest(ROOT / PACKAGE, *_sources(ROOT / file))}.json" for file in test_files()}
    missing = [file for file, path in kept.items() if not path.exists()]
    trees: queue.SimpleQueue[Tree] = queue.SimpleQueue()
    jobs = min(os.cpu_count() or 1, len(missing))
    for k in range(jobs):
        trees.put(Tree(f"recording-{os.getpid()}-{k}"))

    def take(file: str) -> None:
        tree = trees.get()
        try:
            _record(file, tree).replace(kept[file])
            say(f"recorded which lines {file} runs")
        finally:
            trees.put(tree)

    try:
        if missing:
            with ThreadPoolExecutor(jobs) as pool:
                list(pool.map(take, missing))
    finally:
        for _ in range(jobs):
            shutil.rmtree(trees.get().root)
    return list(kept.values())


def _sources(file: Path) -> list[Path]:
    """Return a test file, and the conformance suite if its tests come from there."""
    asks_conformance = _CONFORMANCE.name.encode() in file.read_bytes()
    return [file, ROOT / _CONFORMANCE] if asks_conformance else [file]


def _record(file: str, tree: Tree) -> Path:
    folder = Path(tempfile.mkdtemp(dir=tree.root))  # its own: what an earlier file's tests started may still write
    with (folder / "log").open("w") as log:
        subprocess.run(
            [python(), "-m", "pytest", "-q", "-p", "tools.mutation.recorder", "-p", "no:cacheprovider", file],
            cwd=tree.root, env=tree.environment(MUTATION_RECORD=str(folder)),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    if not (folder / "record.json").exists():
        raise RuntimeError(f"no lines recorded for {file}: see {folder / 'log'}")
    (BUILD / "record").mkdir(parents=True, exist_ok=True)
    return folder / "record.json"


class TestMap:
    """The tests by line.

    Parameters
    ----------
    records : iterable of Path
        The files that :func:`record` returns.

    Attributes
    ----------
    seconds : dict
        Each test that passes -> how long it takes.
    """

    __test__ = False  # pytest, it is not one

    def __init__(self, records: Iterable[Path]) -> None:
        self.seconds: dict[str, float] = {}
        self._lines: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        for path in records:
            found = json.loads(path.read_text())
            self.seconds |= found["seconds"]
            for test, files in found["lines"].items():
                for file, lines in files.items():
                    for line in lines:
                        self._lines[file][line].add(test)

    def runs_at_import(self, mutant: Mutant) -> bool:
        """Return whether the mutated code has run before the first test, so that replacing it is too late."""
        lines = self._lines[mutant.file]
        heads = [line for name, line, _ in self._functions.get(mutant.file, ()) if name in mutant.within[1:]]
        return any(_AT_IMPORT in lines[line] for line in (*range(mutant.line, mutant.last_line + 1), *heads))

    def of(self, mutant: Mutant) -> list[str]:
        """Return the tests that run the mutated code, or outside functions those of functions that use it."""
        inspecting = {test for test in self.seconds if test.startswith(_INSPECTING)}
        for owner in _classes(mutant):  # what a class gives its fields shows where one is made, and runs no line of it
            inspecting |= {test for test in self.seconds if owner in _text(test.partition("::")[0])}
        if mutant.in_body:
            found = self._at(mutant.file, mutant.line, mutant.last_line)
            return self.ranked(found | inspecting if self.runs_at_import(mutant) else found)
        found = set()
        for name in self._given_names(mutant):
            for file, users in self._users.items():
                for first, last in users.get(name, ()):
                    found |= self._at(file, first, last)
        return self.ranked(inspecting | (found or self._at(mutant.file, 1, 1 << 30)))

    def _at(self, file: str, first: int, last: int) -> set[str]:
        lines = self._lines[file]
        return set().union(*(lines[line] for line in list(lines) if first <= line <= last)) - {_AT_IMPORT}

    def ranked(self, tests: Iterable[str]) -> list[str]:
        """Return quick tests first, and one test of each kind before the second of any."""
        seen: dict[str, int] = defaultdict(int)
        ranked = []
        for test in sorted(
            (test for test in tests if test in self.seconds), key=lambda test: (self.seconds[test], test)
        ):
            kind = _VARIANT.sub("", test)
            ranked.append((seen[kind], test))
            seen[kind] += 1
        return [test for _, test in sorted(ranked, key=lambda pair: pair[0])]

    def _given_names(self, mutant: Mutant) -> set[str]:
        """Return the names that a statement outside functions defines."""
        for node in ast.walk(_parsed(mutant.file)):
            if not isinstance(node, ast.stmt) or not node.lineno <= mutant.line <= (node.end_lineno or 0):
                continue
            match node:
                case ast.FunctionDef(name=name) if node.lineno <= mutant.line <= node.body[0].lineno:
                    return {name}
                case ast.ClassDef(name=name) if mutant.line < node.body[0].lineno:
                    return {name}
                case ast.Assign(targets=targets):
                    return {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
                case ast.AnnAssign(target=ast.Name(id=name)):
                    return {name}
        return set()

    @cached_property
    def _functions(self) -> dict[str, list[tuple[str, int, int]]]:
        """Return the functions of each file: name, first and last line."""
        return {
            path.relative_to(ROOT / PACKAGE).as_posix(): [
                (node.name, node.lineno, node.end_lineno or node.lineno)
                for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.FunctionDef)
            ]
            for path in (ROOT / PACKAGE).rglob("*.py")
        }  # fmt: skip

    @cached_property
    def _users(self) -> dict[str, dict[str, list[tuple[int, int]]]]:
        """Return, for each file, the functions that mention a name or have it."""
        found: dict[str, dict[str, list[tuple[int, int]]]] = {}
        for path in (ROOT / PACKAGE).rglob("*.py"):
            own: dict[str, list[tuple[int, int]]] = defaultdict(list)
            found[path.relative_to(ROOT / PACKAGE).as_posix()] = own
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, ast.FunctionDef):
                    where = node.body[0].lineno, node.end_lineno or node.lineno
                    own[node.name].append(where)
                    for part in ast.walk(node):
                        if isinstance(part, ast.Name):
                            own[part.id].append(where)
                        elif isinstance(part, ast.Attribute | ast.keyword):
                            own[str(part.attr if isinstance(part, ast.Attribute) else part.arg)].append(where)
        return found


def _classes(mutant: Mutant) -> list[str]:
    """Return the class whose body contains a mutant outside its functions."""
    classes = [node for node in ast.walk(_parsed(mutant.file)) if isinstance(node, ast.ClassDef)]
    around = [node.name for node in classes if node.lineno <= mutant.line <= (node.end_lineno or 0)]
    return [] if mutant.in_body else around


@cache
def _text(test_file: str) -> str:
    return (ROOT / test_file).read_text(encoding="utf-8")


@cache
def _parsed(file: str) -> ast.Module:
    return ast.parse((ROOT / PACKAGE / file).read_bytes())
