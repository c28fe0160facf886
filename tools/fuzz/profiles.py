"""Damaged profiles: they are read, or refused with the documented error, and production goes on either way."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

import softmax_ce as sce
from softmax_ce import profile
from softmax_ce.profile import ProfileError, ProfileWarning
from tools.fuzz import mutations

_LOGITS = np.linspace(-2, 3, 15).reshape(3, 5)
_LABELS = np.array([0, 2, 4])
_SHAPES = ((1, 1), (1, 5), (7, 33), (1000, 3), (64, 10**6), (2**40, 2**40))


def cases() -> st.SearchStrategy[Any]:
    """Return the strategy for cases: the damage, whether strict mode is on, and whether there are several machines."""
    return st.fixed_dictionaries({"damage": mutations.recipes(), "strict": st.booleans(), "fleet": st.booleans()})


def check(case: dict[str, Any]) -> None:
    """Load and follow one damaged profile."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "profile.json")
        path.write_bytes(mutations.damaged(_whole(case["fleet"]), case["damage"]))
        reads = _check_loading(path)
        _check_following(path, case["strict"], reads)


def _check_loading(path: Path) -> bool:
    """Return whether it can be read. A profile that is read can be written and read again."""
    try:
        fleet = profile.load_fleet(path)
        assert profile.load_fleet(profile.save(fleet, path.with_name("fleet.json"))) == fleet
    except ProfileError as error:
        _check_message(str(error), path)
    try:
        found = profile.load(path)
    except ProfileError as error:
        _check_message(str(error), path)
        return False
    again = path.with_name("again.json")
    profile.save(found, again)
    assert profile.load(again) == found, "a value that was read changes when it is written and read again"
    selector = profile.Selector(found, 2)
    for dtype, operation in (("float32", "fused"), ("float64", "forward"), ("bfloat16", "backward")):
        key = selector.key(dtype, dtype.replace("bfloat16", "float32"), operation, None)
        if key is not None:
            for rows, classes in _SHAPES:
                chosen = selector.grid(key).around(rows, classes).choice
                assert chosen is None or chosen in found.order, f"{chosen!r} is chosen"
    return True


def _check_message(message: str, path: Path) -> None:
    assert message.startswith(f"profile {path}: "), f"the message does not name the file: {message}"
    assert message.isprintable(), f"the message is not one line of text: {message!r}"
    assert len(message) < 2000, f"the message has {len(message)} characters"


def _check_following(path: Path, strict: bool, reads: bool) -> None:
    """Check a call without a backend: it is right whatever the profile is, and only strict mode may refuse it."""
    right = sce.cross_entropy_with_grad(_LOGITS, _LABELS, backend="numpy")
    with _environment(path, strict), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            loss, grad = sce.cross_entropy_with_grad(_LOGITS, _LABELS)
            explanation = str(sce.explain(_LOGITS, _LABELS))
        except ProfileError:
            assert strict, "a call failed because of its profile, without strict mode"
            return
    assert reads or not strict, "a profile that cannot be read was passed over in strict mode"
    assert reads or told, "a profile that cannot be read was passed over in silence"
    for warning in told:
        assert warning.category is ProfileWarning, f"another warning: {warning.message}"
    np.testing.assert_allclose(loss, right[0], rtol=1e-12)
    np.testing.assert_allclose(grad, right[1], rtol=1e-12, atol=1e-15)
    assert explanation


@contextmanager
def _environment(path: Path, strict: bool) -> Iterator[None]:
    """Set the variables that name a profile. What was read of them is forgotten before and after."""
    names = "SOFTMAX_CE_PROFILE", "SOFTMAX_CE_PROFILE_STRICT", "SOFTMAX_CE_BACKEND"
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ["SOFTMAX_CE_PROFILE"] = str(path)
    os.environ["SOFTMAX_CE_PROFILE_STRICT"] = "1" if strict else "0"
    profile.reload()
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        profile.reload()


@cache
def _whole(fleet: bool) -> dict[str, Any]:
    """Return a small valid profile of this machine with every kind of cell, or a fleet that has it."""
    import profiles as made  # of the tests: profiles by formula

    cells = (
        *made.grid((1, 100), (10, 1000), made.CROSSING, dtype="float32"),
        *made.grid((8,), (5, 50), made.CROSSING, dtype="float64", operation="forward", threads=2),
        made.cell(3, 7, {"numpy": 1e-5, "naive": 1e-6}, dtype="bfloat16", rejected={"naive": "not stable"}),
    )
    ours = made.profile(cells, notes={"rounds": 30, "quiet": True, "why": None})
    if not fleet:
        return profile.as_dict(ours)
    other = made.profile(cells[:2], fingerprint={**ours.fingerprint, "cpu": "another", "settings": {"NUMBA_OPT": "1"}})
    return profile.as_dict(profile.Fleet(sections=(other, ours)))
