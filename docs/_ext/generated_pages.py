"""Pages that are written before each build: the API's, one for each JSON schema, and the comparison of machines.

They are in docs/reference/generated and docs/measurements/generated, which git ignores.
"""

from __future__ import annotations

from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config

import api
import machines
import schemas

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent


def write(_app: Sphinx, _config: Config) -> None:
    """Write every generated page that changed: an unchanged one keeps its date, and Sphinx does not read it again."""
    pages = {DOCS / "reference" / "generated" / "api.rst": api.page(ROOT / "kernels" / "softmax_ce")}
    for path in sorted([*ROOT.glob("kernels/**/*.schema.json"), *ROOT.glob("bench/**/*.schema.json")]):
        name = path.name.removesuffix(".schema.json")
        pages[DOCS / "reference" / "generated" / f"{name}-schema.md"] = schemas.page(path)
    records = sorted((DOCS / "measurements" / "machines").glob("*.json"))
    pages[DOCS / "measurements" / "generated" / "machines.md"] = machines.page(records)
    for path, text in pages.items():
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx: before it looks for sources, and before autosummary reads the API's page."""
    app.connect("config-inited", write)
    return {"parallel_read_safe": True}
