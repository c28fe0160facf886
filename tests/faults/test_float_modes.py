"""FTZ and DAZ, set before us or beside us: right but for what was flushed, and the mode is never ours to change."""

from __future__ import annotations

import platform

import pytest

from child import python, survive

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or platform.system() == "Windows",
    reason="the mode is set by x86-64 machine code",
)


def test_neither_import_nor_call_changes_the_mode() -> None:
    """In the caller's thread and in the pool's; the rounding direction neither."""
    survive("""
import modes
before = modes.mode()
import scenario, softmax_ce as sce
assert modes.mode() == before
names = [info.name for info in sce.backends() if info.available]
assert modes.mode() == before
from softmax_ce import threads
for bits in (0, modes.FLUSH, modes.UPWARD):
    modes.set_mode(bits)
    for name in names:
        scenario.check(name)
        scenario.check(name, dtype="float64")
        assert modes.mode() == 0x1F80 | bits, (name, bits)
modes.set_mode(0)
seen = []
threads.run(lambda start, stop: seen.append(modes.mode()), 64, 1 << 22, 4)
assert set(seen) == {before}, seen
""")


# Rows where something is subnormal: a probability, a logit, a gradient. One row's class is the label in turn.
FLUSHED = """
import modes
{before}
import numpy as np, softmax_ce as sce
assert modes.mode() == 0x1F80 | ({first})
def problem(dtype):
    low = 104 if dtype == np.float32 else 745
    rng = np.random.default_rng(0)
    rows = [[0, -low * f] + [-np.inf] * 30 for f in (0.1, 0.5, 0.83, 0.9, 0.95, 0.99)]
    rows += list(-low * rng.random((40, 32))) + list(rng.standard_normal((40, 32)))
    rows += list(np.finfo(dtype).tiny * rng.random((8, 32)))
    x = np.array(rows, dtype)
    return np.repeat(x, 40, axis=0), np.arange(len(x) * 40) % 2
for name in [info.name for info in sce.backends() if info.available and info.stable]:
    for dtype in (np.float32, np.float64):
        x, y = problem(dtype)
        tiny, eps = np.finfo(dtype).tiny, np.finfo(dtype).eps
        results = []
        for bits in ({first}, {then}):
            modes.set_mode(bits)
            flushes = dtype(tiny) * dtype(0.5) == 0
            assert flushes == (bits == modes.FLUSH)
            results.append(sce.cross_entropy_with_grad(x, y, reduction="none", backend=name, threads=4))
            assert modes.mode() == 0x1F80 | bits
        modes.set_mode(0)
        for a, b in zip(*results):
            off = np.abs(a.astype(np.float64) - b)
            bound = 8 * eps * np.abs(b.astype(np.float64)) + 33 * float(tiny)
            assert (off[np.isfinite(b)] <= bound[np.isfinite(b)]).all(), (name, dtype, off.max())
            assert np.array_equal(np.isfinite(a), np.isfinite(b)), name
        ordinary = 46 * 40, 86 * 40  # nothing subnormal here but what a sum does not notice
        a, b = (r[0][slice(*ordinary)] for r in results)
        assert np.array_equal(a, b), name
"""


@pytest.mark.parametrize(
    ("before", "first", "then"),
    [("", "0", "modes.FLUSH"), ("modes.set_mode(modes.FLUSH)", "modes.FLUSH", "0")],
    ids=["set by another library", "set before the import"],
)
def test_flushed_results_are_within_the_smallest_normal_number(before: str, first: str, then: str) -> None:
    """Loss and gradient differ from those without flushing by 8 ULP and C times the smallest normal number at most."""
    survive(FLUSHED.format(before=before, first=first, then=then))


def test_the_fault_is_real() -> None:
    """A library that leaves FTZ on is seen."""
    done = python("import modes; modes.set_mode(modes.FLUSH); assert modes.mode() == 0x1F80, 'changed'")
    assert "changed" in done.stderr
