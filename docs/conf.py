"""Sphinx's configuration: `make docs` builds the site into build/docs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "docs" / "_ext"), str(ROOT / "kernels"), str(ROOT / "bench")]

import softmax_ce  # noqa: E402

project = "softmax-ce"
author = "softmax-ce contributors"
copyright = "softmax-ce contributors"
version = release = softmax_ce.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_click",
    "generated_pages",  # docs/_ext, as the next two
    "inline_drawings",
    "tidy_blocks",
]
exclude_patterns = ["_ext", "_templates"]
templates_path = ["_templates"]
highlight_language = "text"  # of blocks that name none: formulas
nitpicky = True
# Docstrings also name what is not public, and so has no page.
nitpick_ignore_regex = [(r"py:\w+", r"[A-Z]\w*|softmax_ce\.(?!profile\b)[a-z_]+(\.\w+)+")]
# Types in docstrings are written for people ("array_like, shape (..., C, ...)"), and signatures show names alone.
autodoc_typehints = "none"
autodoc_mock_imports = ["dask", "lightgbm", "torch", "xgboost"]  # the API's pages need only their names
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
autosummary_generate = True
myst_heading_anchors = 4

html_theme = "pydata_sphinx_theme"
html_title = "softmax-ce"
html_context = {"default_mode": "auto"}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options: dict[str, Any] = {
    "logo": {"text": "softmax-ce"},
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars: dict[str, list[str]] = {"index": []}
