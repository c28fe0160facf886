"""A pytest plugin that records which test runs which line, in this process and in its children.

``python -m pytest -p tools.mutation.recorder``, with a folder in MUTATION_RECORD that gets the result as
``record.json``. The lines are coverage.py's, each test a context of its own. Processes that a test starts find
``sitecustomize.py`` in that folder, and their lines are the test's.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import coverage
import pytest

from tools.mutation import caches

_FOLDER = Path(os.environ["MUTATION_RECORD"])
_TEST = "MUTATION_TEST"

_CONFIG = """\
[run]
parallel = true
data_file = {folder}/lines
source_pkgs = softmax_ce
context = ${{MUTATION_TEST}}
disable_warnings = no-data-collected, module-not-measured, module-not-imported
"""
_STARTUP = "import coverage\ncoverage.process_startup()\n"


def _settings() -> Path:
    _FOLDER.mkdir(parents=True, exist_ok=True)
    path = _FOLDER / "coverage.ini"
    path.write_text(_CONFIG.format(folder=_FOLDER))
    (_FOLDER / "sitecustomize.py").write_text(_STARTUP)
    return path


_SETTINGS = _settings()
os.environ[_TEST] = ""
_MEASURED = coverage.Coverage(data_file=None, config_file=str(_SETTINGS))  # in memory: it is written at each switch
_MEASURED.start()
os.environ["COVERAGE_PROCESS_START"] = str(_SETTINGS)
os.environ["PYTHONPATH"] = os.pathsep.join([str(_FOLDER), os.environ["PYTHONPATH"]])

_seconds: dict[str, float] = defaultdict(float)
_failed: set[str] = set()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Any:
    caches.forget()
    _MEASURED.switch_context(item.nodeid)
    os.environ[_TEST] = item.nodeid
    try:
        return (yield)
    finally:
        _MEASURED.switch_context("")
        os.environ[_TEST] = ""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _seconds[report.nodeid] += report.duration
    if report.outcome != "passed":
        _failed.add(report.nodeid)  # one that is skipped tells nothing, either


def pytest_sessionfinish() -> None:
    _MEASURED.stop()
    data = _MEASURED.get_data()
    for path in _FOLDER.glob("lines.*"):
        part = coverage.CoverageData(str(path))
        with contextlib.suppress(coverage.CoverageException):  # of a process that was ended while it wrote
            part.read()
            data.update(part)
    lines: dict[str, dict[str, list[int]]] = defaultdict(dict)  # test -> file -> lines
    for measured in data.measured_files():
        file = measured.rpartition("/softmax_ce/")[2]  # also of a copy that a test has made
        of_test: dict[str, list[int]] = defaultdict(list)
        for line, contexts in data.contexts_by_lineno(measured).items():
            for context in contexts:
                of_test[context].append(line)
        for test, own in of_test.items():
            lines[test][file] = sorted({*own, *lines[test].get(file, ())})
    record = {"seconds": {t: s for t, s in _seconds.items() if t not in _failed}, "lines": lines}
    (_FOLDER / "record.json").write_text(json.dumps(record))
