"""Imports go one way: from the commands down to the package that is measured, and never back."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

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


def _modules() -> dict[str, Path]:
    """Every module of the benchmark suite and of the tools, by its dotted name."""
    found = {}
    for folder, package in ((ROOT / "bench", BENCH), (ROOT, "tools")):
        for path in (folder / package).rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def imports(name: str) -> set[str]:
    """The modules that one imports when it runs, anywhere in it; names from elsewhere as they stand."""
    found = set()
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    ifs = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
    for_types = {id(node) for each in ifs if ast.unparse(each.test) == "TYPE_CHECKING" for node in ast.walk(each)}
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: a relative import"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return found


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
    graph = {name: {other for other in imports(name) if other in MODULES and other != name} for name in MODULES}
    left = dict(graph)
    while left:
        leaves = {name for name, others in left.items() if not others & left.keys()}
        assert leaves, f"these import each other: {sorted(left)}"
        left = {name: others for name, others in left.items() if name not in leaves}


@pytest.mark.parametrize("name", NUMPY_ALONE)
def test_what_is_loaded_beside_another_build_needs_numpy_alone(name: str) -> None:
    allowed = {"numpy", *(f"{BENCH}.{other}" for other in NUMPY_ALONE)}
    for other in imports(f"{BENCH}.{name}"):
        top = other.partition(".")[0]
        assert top in sys.stdlib_module_names or top == "numpy" or other in allowed, f"{name} imports {other}"


def test_the_package_imports_nothing_of_the_suite() -> None:
    for path in (ROOT / "kernels").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.partition(".")[0] in (BENCH, "tools") for name in names), f"{path} imports {names}"
