"""Imports inside softmax_ce go one way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import softmax_ce

PACKAGE = Path(softmax_ce.__file__).parent


def _modules() -> dict[str, ast.Module]:
    trees = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        trees[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


def _imports(name: str, trees: dict[str, ast.Module]) -> set[str]:
    """The package's modules that this one names in an import statement, also inside a function."""
    found = set()
    for node in ast.walk(trees[name]):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                found.add(module if module in trees else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & trees.keys() - {name}


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    trees = _modules()
    return {name: _imports(name, trees) for name in trees}


def test_no_two_modules_import_each_other(imports: dict[str, set[str]]) -> None:
    """Not directly, and not through others: what is left after removing the leaves, again and again, is a cycle."""
    assert len(imports) > 30
    rest = dict(imports)
    while leaves := [name for name, needed in rest.items() if not needed & rest.keys()]:
        for name in leaves:
            del rest[name]
    assert not rest


# Each layer may import itself and the ones after it.
LAYERS = (
    ("softmax_ce", "softmax_ce.profile", "softmax_ce.choice.explanation"),
    ("softmax_ce.functional", "softmax_ce.normalize"),
    ("softmax_ce.choice",),
    ("softmax_ce.registry",),
    ("softmax_ce._backends",),
)


def _layer(name: str) -> int | None:
    """The position of the longest entry of LAYERS that is this module or a package around it."""
    matches = [
        (len(entry), position)
        for position, layer in enumerate(LAYERS)
        for entry in layer
        if name == entry or (entry != "softmax_ce" and name.startswith(entry + "."))
    ]
    return max(matches)[1] if matches else None


def test_layers_import_downwards(imports: dict[str, set[str]]) -> None:
    upwards = [
        (name, needed)
        for name, all_needed in imports.items()
        for needed in all_needed
        if (here := _layer(name)) is not None and (there := _layer(needed)) is not None and there < here
    ]
    assert upwards == []


def test_a_backend_imports_no_other_backend(imports: dict[str, set[str]]) -> None:
    prefix = "softmax_ce._backends."
    backends = {name.removeprefix(prefix).partition(".")[0] for name in imports if name.startswith(prefix)}
    own = {name for name in backends if not name.startswith("_")}
    assert len(own) >= 4
    crossing = [
        (name, needed)
        for name, all_needed in imports.items()
        for needed in all_needed
        if name.startswith(prefix) and needed.startswith(prefix)
        and (other := needed.removeprefix(prefix).partition(".")[0]) in own
        and other != name.removeprefix(prefix).partition(".")[0]
    ]  # fmt: skip
    assert crossing == []
