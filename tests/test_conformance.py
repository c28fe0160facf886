"""The conformance suite over the registry x dtype x threads."""

from __future__ import annotations

from typing import Any

import pytest

import softmax_ce as sce
from conftest import available
from softmax_ce_bench.conformance import Check, Subject, select
from softmax_ce_bench.conformance.harness import Unsupported


def _parameters() -> list[Any]:
    found = []
    for info in sce.backends():
        for check, subject in select(info.name if info.available else None):
            subject = Subject(info.name, subject.dtype_name, subject.threads)
            name = f"{info.name}-{check.name}-{subject.dtype_name}-{subject.threads}"
            found.append((check.name, subject.dtype_name, pytest.param(check, subject, id=name)))
    found.sort(key=lambda each: each[:2])  # one reference serves every backend and number of threads
    return [parameter for *_, parameter in found]


@pytest.mark.parametrize(("check", "subject"), _parameters())
def test_conformance(check: Check, subject: Subject, record_worst: Any) -> None:
    available(subject.backend)
    try:
        worst = check.run(subject)
    except Unsupported as reason:
        pytest.skip(str(reason))
    if worst:
        record_worst(subject.backend, subject.dtype_name, worst, check.name)
