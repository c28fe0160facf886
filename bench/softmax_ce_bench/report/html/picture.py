"""What a drawing function passes to the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True, slots=True)
class Picture:
    """One figure.

    Attributes
    ----------
    key : str
        Its id in the page.
    title : str
    caption : str
        A text that says what the picture shows and how to read it.
    svg : Markup
    """

    key: str
    title: str
    caption: str
    svg: Markup


@dataclass(frozen=True, slots=True)
class PictureGroup:
    """Pictures that belong together, or the reason why there are none.

    Attributes
    ----------
    key, title : str
    pictures : sequence of Picture
    missing : str
        Which option would measure what is not there; empty when nothing is missing.
    """

    key: str
    title: str
    pictures: Sequence[Picture]
    missing: str = ""
