"""The results of the calls in typed_calls.py are what their types say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import typed_calls


def _kind(result: Any) -> str:
    if isinstance(result, tuple):
        return " ".join(_kind(part) for part in result)
    if isinstance(result, np.ndarray):
        return "array"
    return "scalar" if isinstance(result, np.floating) else type(result).__name__


@pytest.mark.parametrize(
    "calls",
    [
        typed_calls.losses,
        typed_calls.gradients,
        typed_calls.hessians,
        typed_calls.divergences,
        typed_calls.normalizers,
    ],
)
def test_results_are_what_their_types_say(calls: Callable[[], list[tuple[object, str]]]) -> None:
    results = calls()
    assert len(results) >= 4
    for result, kind in results:
        assert _kind(result) == kind


def test_the_registry_is_what_its_types_say() -> None:
    typed_calls.backends()
