"""Templates: what is not there is an error, and only HTML is escaped."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template


def load(path: Path) -> Template:
    """Return the template in a file, named after what it makes: ``page.html.jinja`` escapes every string."""
    environment = Environment(
        loader=FileSystemLoader(path.parent), autoescape=path.name.endswith(".html.jinja"), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(path.name)
