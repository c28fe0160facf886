"""Imports go one way, from the commands down to the package that is measured; and a class name means one class."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import import_graph

ROOT = Path(__file__).resolve().parents[1]
BENCH = "softmax_ce_bench"
# From the top down: a part may import what stands in later rows, and of its own row itself alone.
LAYERS = (
    ("tools", "__main__"),
    ("cli",),
    ("terminal",),
    ("report",),
    ("pick",),
    ("compare", "gate"),
    ("conformance",),
    ("truth",),
    ("measure",),
    ("peers", "ceilings"),
    ("inputs",),
)
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
# What a process imports beside another build of softmax_ce, or where NumPy alone is installed.
NUMPY_ALONE = ("measure.operations", "measure.timing", "measure.stats", "measure.process")

# Public classes that share a name, and why they may.
SHARED_NAMES = {
    "Accuracy": "asv stores results under the name of the benchmark's class",
    "Outputs": "what a kernel writes; a backend imports the contract alone, and Numba compiles a tuple of its own",
}

MODULES = {**import_graph.sources(ROOT / "bench", BENCH), **import_graph.sources(ROOT, "tools")}


def imports(name: str) -> set[str]:
    """The modules that one imports when it runs, anywhere in it; names from elsewhere as they stand."""
    return import_graph.imports(MODULES[name], MODULES, for_types=False)


def part(name: str) -> str:
    """The part of the house that a module is in."""
    package, _, inner = name.partition(".")
    return "tools" if package == "tools" else inner.partition(".")[0]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_one_way(name: str) -> None:
    if name == BENCH:
        assert imports(name) == set()
        return
    own = part(name)
    for other in imports(name):
        if other.partition(".")[0] not in (BENCH, "tools"):
            continue
        theirs = part(other)
        assert own == theirs or RANK[own] < RANK[theirs], f"{name} imports {other}"
        assert theirs != "cli" or own in ("cli", "__main__"), f"{name} imports the command line: {other}"


def test_every_part_has_its_place() -> None:
    assert {part(name) for name in MODULES} - {""} == set(RANK)


def test_no_two_modules_import_each_other() -> None:
    assert import_graph.cycle({name: imports(name) for name in MODULES}) == []


@pytest.mark.parametrize("name", NUMPY_ALONE)
def test_what_is_loaded_beside_another_build_needs_numpy_alone(name: str) -> None:
    allowed = {"numpy", *(f"{BENCH}.{other}" for other in NUMPY_ALONE)}
    for other in imports(f"{BENCH}.{name}"):
        top = other.partition(".")[0]
        assert top in sys.stdlib_module_names or top == "numpy" or other in allowed, f"{name} imports {other}"


def test_a_class_name_means_one_class() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for top in ("kernels", "bench", "tools"):
        for path in sorted((ROOT / top).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    found[node.name].append(path.relative_to(ROOT).as_posix())
    shared = {name: files for name, files in found.items() if len(files) > 1}
    assert shared.keys() == SHARED_NAMES.keys(), {name: shared[name] for name in shared.keys() - SHARED_NAMES.keys()}
