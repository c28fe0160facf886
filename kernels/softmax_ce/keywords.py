"""Options that reach a function as keywords, to be passed on: their names are checked, and the others have defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softmax_ce.functional import cross_entropy_with_grad
from softmax_ce.options import Options

_WITH_DEFAULTS: Any = cross_entropy_with_grad


def given(kind: Any, options: Mapping[str, Any]) -> Options:
    """Return the options of one call, unchecked. `kind` is the TypedDict of those that the function has.

    Raises
    ------
    TypeError
        An option that the function does not have.
    """
    check_known(kind, options)
    return with_defaults(options)


def with_defaults(options: Mapping[str, Any]) -> Options:
    """Return the options of one call, unchecked, with the losses' defaults for those that are missing."""
    defaults = _WITH_DEFAULTS.__kwdefaults__
    return Options(**{name: options.get(name, defaults[name]) for name in Options._fields})


def check_known(kind: Any, options: Mapping[str, Any]) -> None:
    """Raise a TypeError if there is an option that is not one of a TypedDict's."""
    known = kind.__optional_keys__
    unknown = sorted(options.keys() - known)
    if unknown:
        raise TypeError(f"{unknown[0]} is no option here; the options are {', '.join(sorted(known))}")
