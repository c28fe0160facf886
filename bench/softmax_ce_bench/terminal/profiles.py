"""The argument PROFILE of the commands that read a profile."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from softmax_ce import profile
from softmax_ce.choice.profile import where
from softmax_ce_bench.terminal.console import Refused

PROFILE: dict[str, Any] = {"metavar": "[PROFILE]", "required": False, "type": click.Path(path_type=Path)}


def stored_profile(file: Path | None) -> tuple[profile.Profile, Path]:
    """Read a profile.

    Parameters
    ----------
    file : Path or None
        None: the file that calls follow.

    Returns
    -------
    Profile, and its path

    Raises
    ------
    Refused
        It is not there, or cannot be read.
    """
    path = file or where.file_asked_for() or where.default_path()
    if path is None:
        raise Refused("this user has no home folder to look for a profile in: name the file")
    if file is None and not os.path.lexists(path):
        raise Refused(f"there is no profile at {path}: softmax-ce pick writes one")
    try:
        return profile.load(path), path
    except profile.ProfileError as error:
        raise Refused(str(error)) from None
