"""Profiles: a measured choice of backends, kept in a file that production follows.

``softmax-ce pick`` measures and writes one; a call without ``backend=`` follows it. docs/profile.md has the rules.
Environment variables and the file are read once, at the first call that needs them; :func:`reload` reads them again.
"""

from softmax_ce.profile.errors import ProfileError, ProfileWarning
from softmax_ce.profile.format import Cell, Measured, Profile, as_dict, load, save
from softmax_ce.profile.grid import Around, Grid
from softmax_ce.profile.selector import Selector
from softmax_ce.profile.where import default_path

__all__ = [
    "Around",
    "Cell",
    "Grid",
    "Measured",
    "Profile",
    "ProfileError",
    "ProfileWarning",
    "Selector",
    "as_dict",
    "default_path",
    "load",
    "reload",
    "save",
]


def reload() -> None:
    """Forget what was read: the next automatic choice reads the environment variables and the profile again."""
    from softmax_ce import auto  # which imports this package when there is a profile to read

    auto.reload()
