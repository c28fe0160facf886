"""Profiles: a measured choice of backends, kept in a file that production follows.

``softmax-ce pick`` measures and writes one; a call without ``backend=`` follows it.
docs/reference/profile.md has the rules.
Environment variables and the file are read once, at the first call that needs them; :func:`reload` reads them again.
"""

from softmax_ce.choice.auto import reload
from softmax_ce.choice.profile.errors import ProfileError, ProfileWarning
from softmax_ce.choice.profile.format import Cell, Measured, Profile, as_dict, load, save
from softmax_ce.choice.profile.grid import Grid, Neighbourhood
from softmax_ce.choice.profile.selector import Selector
from softmax_ce.choice.profile.where import default_path

__all__ = [
    "Cell",
    "Grid",
    "Measured",
    "Neighbourhood",
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
