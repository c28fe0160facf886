"""The folders in which a user's programs keep files, as in platformdirs.

Linux and others follow the XDG Base Directory Specification, in which a relative path counts as unset. macOS uses the
XDG variables if they are set, else folders in ~/Library (Apple, File System Programming Guide). Windows uses the local
application data (Microsoft, FOLDERID_LocalAppData).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def data_folder(platform: str, environment: Mapping[str, str]) -> Path | None:
    """Return the folder for data to be kept, or None for a user without a home."""
    return _folder(platform, environment, "XDG_DATA_HOME", (".local", "share"), ("Library", "Application Support"))


def cache_folder(platform: str, environment: Mapping[str, str]) -> Path | None:
    """Return the folder for data that can be made again, or None for a user without a home."""
    return _folder(platform, environment, "XDG_CACHE_HOME", (".cache",), ("Library", "Caches"))


def _folder(
    platform: str, environment: Mapping[str, str], variable: str, below_home: tuple[str, ...], on_mac: tuple[str, ...]
) -> Path | None:
    if platform == "win32":
        variable, below_home = "LOCALAPPDATA", ("AppData", "Local")
    given = environment.get(variable, "")
    if os.path.isabs(given):
        return Path(given)
    home = _home()
    if home is None:
        return None
    return home.joinpath(*(on_mac if platform == "darwin" else below_home))


def _home() -> Path | None:
    """Return the user's home, or None. If HOME is empty or relative, it comes from the user database."""
    try:
        home = Path.home()
        if os.environ.get("HOME", "/").startswith("/") or os.name == "nt":
            return home if home.is_absolute() else None
        import pwd  # not on Windows

        home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    except (RuntimeError, KeyError, OSError):
        return None
    return home if home.is_absolute() else None
