"""Where a profile is looked for, and the environment variables that say so."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

BACKEND_VARIABLE = "SOFTMAX_CE_BACKEND"
PROFILE_VARIABLE = "SOFTMAX_CE_PROFILE"
STRICT_VARIABLE = "SOFTMAX_CE_PROFILE_STRICT"

_FOLDER = "softmax_ce"
_FILE = "profile.json"


def backend_asked_for() -> str | None:
    """What SOFTMAX_CE_BACKEND says; None when unset or empty."""
    return os.environ.get(BACKEND_VARIABLE) or None


def file_asked_for() -> Path | None:
    """What SOFTMAX_CE_PROFILE says; None when unset or empty."""
    asked = os.environ.get(PROFILE_VARIABLE)
    return Path(asked) if asked else None


def is_strict() -> bool:
    """Whether SOFTMAX_CE_PROFILE_STRICT is set, and not to 0."""
    return os.environ.get(STRICT_VARIABLE, "") not in ("", "0")


def default_path() -> Path | None:
    """The profile in the user's data folder; None for a user without a home."""
    folder = data_folder(sys.platform, os.environ)
    return None if folder is None else folder / _FOLDER / _FILE


def data_folder(platform: str, environment: Mapping[str, str]) -> Path | None:
    """Where a user's programs keep data, as platformdirs has it.

    Linux and others: the XDG Base Directory Specification, by which a relative path counts as unset. macOS: the
    same variable if set, else ~/Library/Application Support (Apple, File System Programming Guide). Windows: the local
    application data (Microsoft, FOLDERID_LocalAppData).
    """
    if platform == "win32":
        local = environment.get("LOCALAPPDATA")
        return Path(local) if local else _home("AppData", "Local")
    given = environment.get("XDG_DATA_HOME", "")
    if os.path.isabs(given):
        return Path(given)
    return _home("Library", "Application Support") if platform == "darwin" else _home(".local", "share")


def _home(*parts: str) -> Path | None:
    try:
        return Path.home().joinpath(*parts)
    except RuntimeError:
        return None
