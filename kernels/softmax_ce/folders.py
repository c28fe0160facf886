"""Where a user's programs keep files, as platformdirs has it.

Linux and others: the XDG Base Directory Specification, by which a relative path counts as unset. macOS: the same
variables if set, else folders of ~/Library (Apple, File System Programming Guide). Windows: the local application data
(Microsoft, FOLDERID_LocalAppData).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def data_folder(platform: str, environment: Mapping[str, str]) -> Path | None:
    """What is to be kept; None for a user without a home."""
    return _folder(platform, environment, "XDG_DATA_HOME", (".local", "share"), ("Library", "Application Support"))


def cache_folder(platform: str, environment: Mapping[str, str]) -> Path | None:
    """What can be made again; None for a user without a home."""
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
    """The user's home, from the user database where HOME is empty or relative; None where there is none."""
    try:
        home = Path.home()
        if os.environ.get("HOME", "/").startswith("/") or os.name == "nt":
            return home if home.is_absolute() else None
        import pwd  # not on Windows

        home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    except (RuntimeError, KeyError, OSError):
        return None
    return home if home.is_absolute() else None
