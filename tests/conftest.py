"""Fixtures and options of the test suite. The registry lists the backends that are tested.

A missing backend is skipped with its reason, or fails the run if SOFTMAX_CE_REQUIRE_ALL is set.
"""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, cast

import hypothesis
import pytest

import softmax_ce as sce
from softmax_ce import profile, threads
from softmax_ce_bench import ceilings

# Continuous integration sets this, so that a missing backend fails there and is not silently skipped.
REQUIRE_ALL = os.environ.get("SOFTMAX_CE_REQUIRE_ALL", "") not in ("", "0")

hypothesis.settings.register_profile("untimed", deadline=None)  # a slow machine fails no test
hypothesis.settings.load_profile("untimed")
_MOST_WORKERS = 8  # each collects every test, and takes half a gigabyte
_WORST: dict[tuple[str, str], tuple[float, str]] = defaultdict(lambda: (0.0, ""))


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, which `make test` uses
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return the number of processes for `-n auto`: one for each CPU that may be used, or 0 if that is a single one."""
    cpus = threads.available_cpus()
    return min(cpus, _MOST_WORKERS) if cpus > 1 else 0


def pytest_configure(config: pytest.Config) -> None:
    # Neither the automatic choice nor the width of printed output may depend on the settings of whoever runs the tests.
    for name in ("SOFTMAX_CE_BACKEND", "SOFTMAX_CE_PROFILE", "SOFTMAX_CE_PROFILE_STRICT", "COLUMNS", "LINES"):
        os.environ.pop(name, None)
    # Some shells make background jobs ignore Ctrl-C, and the processes that the tests start would inherit that.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # This path cannot exist, so neither an older run nor a mutant can leave a profile there.
    os.environ["XDG_DATA_HOME"] = os.path.join(os.path.abspath(os.devnull), "softmax-ce-tests-have-no-profile")
    missing = [info for info in sce.backends() if not info.available]
    if REQUIRE_ALL and missing:
        reasons = "; ".join(f"{info.name}: {info.why_unavailable}" for info in missing)
        raise pytest.UsageError(f"SOFTMAX_CE_REQUIRE_ALL is set and backends are missing: {reasons}")
    if REQUIRE_ALL and ceilings.why_unavailable is not None:
        raise pytest.UsageError(
            f"SOFTMAX_CE_REQUIRE_ALL is set and the copy loops are missing: {ceilings.why_unavailable}"
        )


@pytest.fixture(params=[info.name for info in sce.backends()])
def backend(request: pytest.FixtureRequest) -> str:
    """Return the name of each backend in turn."""
    return available(request.param)


def available(name: str) -> str:
    """Return the name of a backend, or skip the test with the reason why the backend is not available."""
    info = next(info for info in sce.backends() if info.name == name)
    if not info.available:
        pytest.skip(f"backend {name} is not available: {info.why_unavailable}")
    return name


@pytest.fixture
def forget() -> Iterator[None]:
    """Have the variables and the profile read again in this test and after it."""
    profile.reload()
    yield
    profile.reload()


@pytest.fixture
def record_worst(record_property: Any) -> Any:
    """Return a function of (backend, dtype, error over bound, check). The largest errors are printed at the end."""

    def record(backend: str, dtype: str, worst: float, check: str) -> None:
        record_property("worst error over bound", (backend, dtype, float(worst), check))

    return record


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collect what the tests recorded, including those in other processes."""
    for name, value in report.user_properties if report.when == "call" else ():
        if name == "worst error over bound":
            backend, dtype, worst, check = cast(tuple[str, str, float, str], value)
            _WORST[backend, dtype] = max(_WORST[backend, dtype], (worst, check))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not _WORST:
        return
    terminalreporter.section("worst error over bound")
    for (backend, dtype), (worst, check) in sorted(_WORST.items()):
        terminalreporter.write_line(f"{backend:>12}  {dtype:<8}  {worst:.3f}  in {check}")
