"""Profiles: measured choices of backends, kept in a file.

``softmax-ce pick`` measures the backends and writes a profile. Calls without ``backend=`` follow it.
The environment variables and the file are read once, at the first call that needs them; :func:`reload` reads them
again. The rules are in docs/reference/profile.md.
"""

from softmax_ce.choice.auto import reload
from softmax_ce.choice.profile.errors import ProfileError, ProfileWarning
from softmax_ce.choice.profile.fleet import merge
from softmax_ce.choice.profile.format import as_dict, load, load_fleet, save
from softmax_ce.choice.profile.grid import Grid, Neighbourhood
from softmax_ce.choice.profile.model import Cell, Fleet, Measured, Profile
from softmax_ce.choice.profile.selector import Selector
from softmax_ce.choice.profile.where import default_path

__all__ = [
    "Cell",
    "Fleet",
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
    "load_fleet",
    "merge",
    "reload",
    "save",
]
