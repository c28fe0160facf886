"""The places where a profile is looked for, and the environment variables that name them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from softmax_ce.folders import data_folder
from softmax_ce.variables import word

BACKEND_VARIABLE = "SOFTMAX_CE_BACKEND"
PROFILE_VARIABLE = "SOFTMAX_CE_PROFILE"
STRICT_VARIABLE = "SOFTMAX_CE_PROFILE_STRICT"

_FOLDER = "softmax_ce"
_FILE = "profile.json"


def backend_asked_for() -> str | None:
    """Return the value of SOFTMAX_CE_BACKEND in lower case, or None if it is unset or empty."""
    return word(BACKEND_VARIABLE) or None


def file_asked_for() -> Path | None:
    """Return the value of SOFTMAX_CE_PROFILE, or None if it is unset or empty."""
    asked = os.environ.get(PROFILE_VARIABLE, "")  # unchanged: blanks and case are part of a path
    return Path(asked) if asked.strip() else None


def is_strict() -> bool:
    """Return whether SOFTMAX_CE_PROFILE_STRICT is set to anything but 0, false, no or off."""
    return word(STRICT_VARIABLE) not in ("", "0", "false", "no", "off")


def default_path() -> Path | None:
    """Return the path of the profile in the user's data folder, or None for a user without a home."""
    folder = data_folder(sys.platform, os.environ)
    return None if folder is None else folder / _FOLDER / _FILE
