"""Templates. An undefined name is an error, and only HTML is escaped."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template


def load(path: Path) -> Template:
    """Return the template of a file. A name such as ``page.html.jinja`` makes it escape every string."""
    environment = Environment(
        loader=FileSystemLoader(path.parent), autoescape=path.name.endswith(".html.jinja"), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(path.name)
