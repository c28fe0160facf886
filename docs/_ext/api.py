"""The API's page: every public name of softmax_ce, by group, with a page of its own for each.

The names are read from `__all__`, so that a new function is documented without an edit here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

# Group -> what its names begin with; the first group that fits takes a name, the last one takes the rest.
GROUPS = {
    "Losses and gradients": ("cross_entropy", "kl_divergence", "linear_cross_entropy"),
    "Softmax and its logarithms": ("softmax", "log_softmax", "logsumexp"),
    "Backends": ("backends", "get_backend", "Backend", "explain"),
    "More": ("",),
}
# Public modules below softmax_ce, where they exist, with the sentence that introduces them.
MODULES = {
    "profile": "Profiles: read, written and followed. :doc:`/reference/profile` explains the file.",
    "torch": "For PyTorch. :doc:`/how-to/pytorch` shows its use.",
    "shards": "Classes in shards. :doc:`/how-to/several-machines` shows their use.",
    "dask": "The losses on Dask arrays. :doc:`/how-to/several-machines` shows their use.",
    "xgboost": "An objective and a metric for XGBoost. :doc:`/how-to/xgboost` shows their use.",
    "lightgbm": "An objective and a metric for LightGBM. :doc:`/how-to/lightgbm` shows their use.",
    "sklearn": "A loss for scikit-learn. :doc:`/how-to/scikit-learn` shows its use.",
}
HEAD = """\
.. _api:

API
===

.. currentmodule:: softmax_ce

.. code-block:: python

   import softmax_ce as sce

Every function takes anything that ``numpy.asarray`` takes. :doc:`/reference/contract` says what comes out at the
edges: infinities, NaN, empty input, bad labels.
"""


def page(package: Path) -> str:
    """Return the page, in reStructuredText."""
    parts = [HEAD]
    names = [name for name in public_names(package / "__init__.py") if not name.startswith("__")]
    for title, starts in GROUPS.items():
        own = [name for name in names if name.startswith(starts)]
        names = [name for name in names if name not in own]
        if own:
            parts.append(_section(title, "", own))
    for module, sentence in MODULES.items():
        path = next(
            (path for path in (package / f"{module}.py", package / module / "__init__.py") if path.exists()), None
        )
        if path is not None:
            own = [f"{module}.{name}" for name in public_names(path)]
            parts.append(_section(f"softmax_ce.{module}", sentence, own))
    return "\n".join(parts)


def public_names(path: Path) -> list[str]:
    """Return the names in a module's `__all__`; without one, its public functions and classes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(to, "id", None) == "__all__" for to in node.targets):
            return list(ast.literal_eval(node.value))
    return [name for name in _defined(tree) if not name.startswith("_")]


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name


def _section(title: str, sentence: str, names: list[str]) -> str:
    lines = [title, "-" * len(title), "", *([sentence, ""] if sentence else [])]
    lines += [".. autosummary::", "   :toctree:", "   :nosignatures:", "", *(f"   {name}" for name in names), ""]
    return "\n".join(lines)
