"""Code blocks without the blank line at their end, which doctest asks for and readers need not see."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx


def tidy(_app: Sphinx, doctree: nodes.document) -> None:
    """Take the blank lines from the end of every code block."""
    for block in doctree.findall(nodes.literal_block):
        if block.rawsource == block.astext():  # else it is highlighted already
            block.rawsource = block.rawsource.rstrip()
            block[:] = [nodes.Text(block.rawsource)]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("doctree-read", tidy)
    return {"parallel_read_safe": True}
