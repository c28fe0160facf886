"""Drawings that follow the site's light and dark theme.

An SVG file that is shown as an image cannot see the theme that a reader chose. Those whose text refers to the theme's
variables (`--pst-color`) are therefore put into the page itself. On GitHub, which shows the file, they follow the
system's preference.
"""

from __future__ import annotations

import html
import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx


def inline(app: Sphinx, doctree: nodes.document) -> None:
    """Replace the images of such drawings by the drawings."""
    if app.builder.format != "html":
        return
    for image in list(doctree.findall(nodes.image)):
        path = Path(app.srcdir, image["uri"])
        if path.suffix != ".svg" or not path.is_file():
            continue
        svg = path.read_text(encoding="utf-8")
        if "--pst-color" not in svg:
            continue
        svg = re.sub(r"^<\?xml[^>]*>\s*", "", svg)
        label = html.escape(image.get("alt", ""), quote=True)
        svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
        image.replace_self(nodes.raw("", f'<div class="drawing">{svg}</div>', format="html"))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx: once the images have been collected, so that each page is built again with its drawing."""
    app.connect("doctree-read", inline, priority=900)
    return {"parallel_read_safe": True}
