"""The mutants of the C and Cython sources, which are written by hand in ``compiled.toml``."""

from __future__ import annotations

import re
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.mutation import code
from tools.mutation.extension import Extension
from tools.mutation.results import Count, Results
from tools.mutation.server import MutantVerdict, Server
from tools.mutation.testmap import TestMap, record
from tools.mutation.tree import PACKAGE, ROOT, Tree

FOLDER = PACKAGE / "_backends" / "cython"
_EFFORT = 60.0  # seconds of tests for one mutant, as recorded, beyond its first ones
_GRACE = 30.0
# What knows the compiled backend: by these words in a test's name.
_ABOUT = re.compile("cython|avx|baseline|streamed|cached|test_exp_error|test_cross|test_threads|test_metamorphic")


@dataclass(frozen=True, slots=True)
class HandMadeMutant:
    """One row of the table.

    Attributes
    ----------
    file : str
        The source, below the Cython backend's folder.
    text, new : str
        Code that stands there exactly once, and what replaces it. Comments and layout do not count.
    fault : str
        The fault that the change stands for.
    isa, real : str
        Which of a header's users is built with it: instruction set (empty: the best that runs here) and type.
    first : tuple of str
        Parts of the names of the tests to begin with.
    """

    file: str
    text: str
    new: str
    fault: str
    isa: str = ""
    real: str = "f32"
    first: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.file}: {self.text} => {self.new}"


def read() -> list[HandMadeMutant]:
    """Return the table."""
    entries = tomllib.loads(Path(__file__).with_name("compiled.toml").read_text(encoding="utf-8"))["mutant"]
    return [HandMadeMutant(**{**entry, "first": tuple(entry.get("first", ()))}) for entry in entries]


def mutated(entry: HandMadeMutant, folder: Path = ROOT / FOLDER) -> str:
    """Return the source with the fault.

    Raises
    ------
    ValueError
        Its text is not found exactly once: the source has changed, and the table must follow.
    """
    source = (folder / entry.file).read_text(encoding="utf-8")
    found = code.places(entry.text, source, entry.file)
    if len(found) != 1:
        raise ValueError(f"compiled.toml: {entry.file} has this {len(found)} times, not once: {entry.text!r}")
    ((start, stop),) = found
    return source[:start] + entry.new.strip() + source[stop:]


def run(*, seconds: float, only: str, results: Results, say: Callable[[str], None]) -> Count:
    """Judge every entry whose file has `only` in its name. No entry is started after the time is up."""
    entries = [entry for entry in read() if only in entry.file]
    changed = {entry: mutated(entry) for entry in entries}  # all of them, before anything is built
    count, todo = Count(), []
    for entry in entries:
        verdict = results.get(entry.key, ROOT / FOLDER / entry.file)
        if verdict is None:
            todo.append(entry)
        else:
            _add(count, entry, verdict)
    say(f"{len(entries)} mutants of the C and Cython sources, {len(entries) - len(todo)} judged before")
    if not todo or seconds <= 0:
        count.untried = len(todo)
        return count
    end = time.monotonic() + seconds
    tests = TestMap(record(say))
    tree = Tree("tree-compiled")
    extension = Extension(tree)
    server = Server(tree, "cold")
    try:
        for entry in todo:
            if time.monotonic() > end:
                count.untried += 1
                continue
            verdict = _judge(entry, changed[entry], tree, extension, server, tests)
            if verdict is None:
                say(f"not tried, this CPU cannot run it: {entry.file}: {entry.fault}")
                continue
            results.put(entry.key, ROOT / FOLDER / entry.file, verdict)
            _add(count, entry, verdict)
            say(f"{verdict.outcome}: {entry.file}: {entry.fault} [{verdict.by}: {verdict.how}]")
    finally:
        server.close()
    return count


def _add(count: Count, entry: HandMadeMutant, verdict: MutantVerdict) -> None:
    if verdict.outcome == "killed":
        count.killed += 1
    else:
        count.survived.append(f"{entry.file}: {entry.fault}: {entry.text!r} -> {entry.new!r} ({verdict.how})")


def _judge(
    entry: HandMadeMutant, text: str, tree: Tree, extension: Extension, server: Server, tests: TestMap
) -> MutantVerdict | None:
    isa = entry.isa or extension.isas[0]
    if isa not in extension.isas or not (units := extension.units(entry.file, isa, entry.real)):
        return None
    with tree.changed(tree.root / FOLDER / entry.file, text.encode()):
        try:
            library = extension.build(units).read_bytes()
        except RuntimeError as error:
            raise RuntimeError(f"compiled.toml: {entry.file}: {entry.fault}: it does not compile: {error}") from error
    passed = 0
    for chosen in _tiers(entry, tests):
        while True:
            with tree.changed(extension.library, library):
                verdict = server.ask(chosen)
            if verdict.outcome != "killed":
                passed += len(chosen)
                break
            if server.is_sound(verdict, chosen):
                return verdict
            chosen = [pair for pair in chosen if pair[0] != verdict.by]
    return MutantVerdict("survived", how=f"{passed} tests passed")


def _tiers(entry: HandMadeMutant, tests: TestMap) -> list[list[tuple[str, float]]]:
    """Return the tests that the entry names, then the conformance suite on this backend, then all tests about it."""
    ranked = sorted(tests.seconds, key=tests.seconds.__getitem__)
    tiers = [
        [test for test in ranked if any(part in test for part in entry.first)],
        [test for test in ranked if test.startswith("tests/test_conformance.py::test_conformance[cython")],
        [test for test in ranked if _ABOUT.search(test)],
    ]
    seen: set[str] = set()
    chosen = []
    for tier in tiers:
        new = [test for test in tier if test not in seen]
        seen.update(new)
        if new:
            chosen.append([(test, _GRACE + 10 * tests.seconds[test]) for test in new])
    return chosen
