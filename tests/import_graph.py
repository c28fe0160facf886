"""Which modules import which, read from their sources."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

Sources = Mapping[str, ast.Module]  # a module's dotted name -> its source


def sources(folder: Path, package: str) -> dict[str, ast.Module]:
    """Return every module of a package that lies in this folder."""
    found = {}
    for path in sorted((folder / package).rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(tree: ast.Module, known: Sources, *, for_types: bool) -> set[str]:
    """Return what a module imports, also inside its functions: modules that are known, and other names as they stand.

    What is imported for types alone, under ``if TYPE_CHECKING``, is left out unless `for_types`.
    """
    ifs = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    left_out = set() if for_types else {id(node) for each in ifs for node in ast.walk(each)}
    found = set()
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: a relative import"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else node.module)
    return found


def cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return the modules that import each other, directly or not: those left when leaves are taken away repeatedly."""
    left = {name: others - {name} for name, others in graph.items()}
    while leaves := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in leaves}
    return sorted(left)
