"""Beyond its buffers a call takes a few blocks of memory, however large the batch."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import softmax_ce as sce

ROWS, CLASSES = 1 << 21, 2
MOST = 7 << 19  # bytes; the losses alone take 8 MiB, float32 logits 16 MiB
LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "float32": lambda x: x,
    "float16": lambda x: x.astype(np.float16),
    "float32, classes first": np.asfortranarray,
}


def peak(call: Callable[[], object]) -> int:
    """What a second call takes at most: what the first one loads is not counted."""
    call()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft labels"])
def test_a_call_into_buffers_takes_no_more_memory_for_more_rows(layout: str, soft: bool, backend: str) -> None:
    x = LAYOUTS[layout](np.arange(ROWS * CLASSES, dtype=np.float32).reshape(ROWS, CLASSES) % 7)
    targets: Any = np.full((ROWS, CLASSES), 0.5, np.float32) if soft else np.zeros(ROWS, np.int64)
    room = {"out": np.empty(ROWS, np.float32), "grad_out": np.empty_like(x)}

    def call() -> None:
        sce.cross_entropy_with_grad(x, targets, reduction="none", backend=backend, threads=1, **room)

    assert peak(call) < MOST


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("function", [sce.softmax, sce.log_softmax], ids=lambda function: function.__name__)
def test_normalising_takes_no_more_memory_for_more_elements(function: Any, layout: str, backend: str) -> None:
    rows, classes = 1 << 14, 256
    x = LAYOUTS[layout](np.arange(rows * classes, dtype=np.float32).reshape(rows, classes) % 7)
    out = np.empty_like(x)
    assert peak(lambda: function(x, out=out, backend=backend, threads=1)) < MOST
