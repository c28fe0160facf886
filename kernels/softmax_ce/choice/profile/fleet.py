"""The profiles of several machines, put together in one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from softmax_ce.choice import fingerprint
from softmax_ce.choice.profile.errors import ProfileError
from softmax_ce.choice.profile.model import Fleet, Profile


def merge(profiles: Iterable[Profile]) -> tuple[Fleet, tuple[Profile, ...]]:
    """Put profiles together, one for each machine and build. Of two for the same one, the newer is kept.

    Parameters
    ----------
    profiles : iterable of Profile
        At least one, in the order of the sections.

    Returns
    -------
    fleet : Fleet
        The profiles that were kept.
    replaced : tuple of Profile
        The others: each is older than one for the same machine and build.

    Raises
    ------
    ProfileError
        Two different profiles are for the same machine and build, and their dates do not say which is newer.
    """
    kept: list[Profile] = []
    replaced: list[Profile] = []
    for profile in profiles:
        place = place_of(profile.fingerprint, kept)
        if place is None:
            kept.append(profile)
        elif kept[place] != profile:
            older, newer = _by_date(kept[place], profile)
            kept[place] = newer
            replaced.append(older)
    return Fleet(sections=tuple(kept)), tuple(replaced)


def place_of(of: Mapping[str, object], sections: Iterable[Profile]) -> int | None:
    """Return the position of the section for a machine and build, given by its fingerprint, or None."""
    return next((k for k, each in enumerate(sections) if not fingerprint.differences(each.fingerprint, of)), None)


def _by_date(one: Profile, other: Profile) -> tuple[Profile, Profile]:
    """Return the older and the newer of two profiles."""
    dates = [_date(each.date) for each in (one, other)]
    if dates[0] is None or dates[1] is None or dates[0] == dates[1]:
        raise ProfileError(
            f"two profiles are for {one.fingerprint['cpu']!r} with the same build, and their dates, {one.date!r} and "
            f"{other.date!r}, do not say which is newer; leave one of them out"
        )
    return (one, other) if dates[0] < dates[1] else (other, one)


def _date(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
