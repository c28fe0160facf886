"""The style and the script of the pages that hold pictures and tables."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from markupsafe import Markup

HERE = Path(__file__).parent


def style_and_script() -> dict[str, object]:
    """Return what a template needs to hold both, so that the page loads nothing."""
    script = (HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return {"script": Markup(script), "script_hash": f"sha256-{digest}", "css": css()}


def css() -> Markup:
    """Return the style."""
    return Markup((HERE / "page.css").read_text(encoding="utf-8"))
