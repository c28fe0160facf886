"""Imports inside softmax_ce go one way."""

from __future__ import annotations

from pathlib import Path

import pytest

import import_graph
import softmax_ce

SOURCES = import_graph.sources(Path(softmax_ce.__file__).parents[1], "softmax_ce")


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """For each module, the ones of the package that it names in an import, for types too."""
    return {
        name: import_graph.imports(tree, SOURCES, for_types=True) & SOURCES.keys() - {name}
        for name, tree in SOURCES.items()
    }


def test_no_two_modules_import_each_other(imports: dict[str, set[str]]) -> None:
    assert len(imports) > 30
    assert import_graph.cycle(imports) == []


def test_the_package_imports_nothing_of_the_suite() -> None:
    for name, tree in SOURCES.items():
        others = {other.partition(".")[0] for other in import_graph.imports(tree, SOURCES, for_types=True)}
        assert not others & {"softmax_ce_bench", "tools"}, f"{name} imports {others}"


# Each layer may import itself and the ones after it.
LAYERS = (
    ("softmax_ce", "softmax_ce.profile", "softmax_ce.choice.explanation"),
    ("softmax_ce.linear",),
    ("softmax_ce.shards", "softmax_ce.kl"),
    ("softmax_ce.kl_evaluation",),
    ("softmax_ce.keywords",),
    ("softmax_ce.functional",),
    ("softmax_ce.evaluation", "softmax_ce.normalize"),
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
