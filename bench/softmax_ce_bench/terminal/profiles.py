"""The argument PROFILE of the commands that read a profile."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from softmax_ce import profile
from softmax_ce.choice.profile import where
from softmax_ce_bench.terminal.console import Refused

PROFILE: dict[str, Any] = {"metavar": "[PROFILE]", "required": False, "type": click.Path(path_type=Path)}


T = TypeVar("T")


def stored_profile(file: Path | None) -> tuple[profile.Profile, Path]:
    """Read a profile; of one for several machines, the section of this machine.

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
    return _stored(file, profile.load)


def stored_fleet(file: Path | None) -> tuple[profile.Fleet, Path]:
    """Read a profile with the sections of all machines, as :func:`stored_profile` reads one."""
    return _stored(file, profile.load_fleet)


def _stored(file: Path | None, load: Callable[[Path], T]) -> tuple[T, Path]:
    path = file or where.file_asked_for() or where.default_path()
    if path is None:
        raise Refused("this user has no home folder to look for a profile in: name the file")
    if file is None and not os.path.lexists(path):
        raise Refused(f"there is no profile at {path}: softmax-ce pick writes one")
    try:
        return load(path), path
    except profile.ProfileError as error:
        raise Refused(str(error)) from None
