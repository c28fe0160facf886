"""One list drives the tests: the registry. A missing backend is a skip with its reason, or a failure where asked."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

import softmax_ce as sce
from softmax_ce import profile, threads
from softmax_ce_bench import ceilings

# Continuous integration sets this: a backend that is silently missing must fail there.
REQUIRE_ALL = os.environ.get("SOFTMAX_CE_REQUIRE_ALL", "") not in ("", "0")

hypothesis.settings.register_profile("untimed", deadline=None)  # a slow machine fails no test
hypothesis.settings.load_profile("untimed")
_MOST_WORKERS = 8  # each collects all tests, and takes half a gigabyte
_WORST: dict[tuple[str, str], tuple[float, str]] = defaultdict(lambda: (0.0, ""))


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, which `make test` uses
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """`-n auto`: a process for each CPU that may be used, by affinity and quota; where that is one, this process."""
    cpus = threads.available_cpus()
    return min(cpus, _MOST_WORKERS) if cpus > 1 else 0


def pytest_configure(config: pytest.Config) -> None:
    # The tests' automatic choice is not that of whoever runs them, nor is the width of what the commands print.
    for name in ("SOFTMAX_CE_BACKEND", "SOFTMAX_CE_PROFILE", "SOFTMAX_CE_PROFILE_STRICT", "COLUMNS", "LINES"):
        os.environ.pop(name, None)
    # Whoever starts jobs in the background may have them ignore Ctrl-C; processes that the tests start inherit that.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Below what is no folder, nobody can leave a profile behind: neither an older run nor a mutant.
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
    """The name of each backend in turn."""
    return available(request.param)


def available(name: str) -> str:
    """The name, or a skip that says why there is no such backend here."""
    info = next(info for info in sce.backends() if info.name == name)
    if not info.available:
        pytest.skip(f"backend {name} is not available: {info.why_unavailable}")
    return name


@pytest.fixture
def forget() -> Iterator[None]:
    """Variables and profile are read anew in this test, and after it."""
    profile.reload()
    yield
    profile.reload()


@pytest.fixture
def record_worst(record_property: Any) -> Any:
    """Call with (backend, dtype, error over bound, check): the largest are printed at the end."""

    def record(backend: str, dtype: str, worst: float, check: str) -> None:
        record_property("worst error over bound", (backend, dtype, float(worst), check))

    return record


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Gather what tests recorded, also those that ran in another process."""
    for name, value in report.user_properties if report.when == "call" else ():
        if name == "worst error over bound":
            backend, dtype, worst, check = value
            _WORST[backend, dtype] = max(_WORST[backend, dtype], (worst, check))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not _WORST:
        return
    terminalreporter.section("worst error over bound")
    for (backend, dtype), (worst, check) in sorted(_WORST.items()):
        terminalreporter.write_line(f"{backend:>12}  {dtype:<8}  {worst:.3f}  in {check}")
