"""The results that asv has stored for one machine: a series of values for each cell, in the order of the commits."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from asv.benchmarks import Benchmarks
from asv.config import Config
from asv.repo import get_repo
from asv.results import Results, iter_results_for_machine
from asv.util import UserError, load_json

from softmax_ce_bench.measure import git


class HistoryError(Exception):
    """There is nothing to read. The message says what would be right."""


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit that was measured.

    Attributes
    ----------
    hash : str
    subject : str
        First line of its message.
    measured : datetime
        When the first of its benchmarks was begun.
    """

    hash: str
    subject: str
    measured: datetime


@dataclass(frozen=True, slots=True)
class Series:
    """One cell over the commits.

    Attributes
    ----------
    benchmark : str
        asv's name, such as "kernels.InCache.time_call".
    params : mapping of str to str
        Parameter -> value, without the quotes that asv keeps.
    unit : str
    values, low, high : tuple of float or None
        Medians and their 99 % interval where asv has one, one a commit. None: skipped, failed or not measured.
    """

    benchmark: str
    params: Mapping[str, str]
    unit: str
    values: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class History:
    """All series of one machine and one environment.

    Attributes
    ----------
    machine : mapping of str to str
        As asv describes it: cpu, os, ram ...
    environment : mapping of str to str
        Python and the packages that the configuration pins -> version.
    commits : tuple of Commit
        Oldest first.
    series : tuple of Series
    """

    machine: Mapping[str, str]
    environment: Mapping[str, str]
    commits: tuple[Commit, ...]
    series: tuple[Series, ...]

    def find(self, benchmark: str, **params: str) -> Series:
        """Return the only series of a benchmark whose name ends with a text, with given parameters.

        Raises
        ------
        HistoryError
            There is none, or more than one.
        """
        found = [
            each
            for each in self.series
            if each.benchmark.endswith(benchmark) and params.items() <= dict(each.params).items()
        ]
        if len(found) != 1:
            asked = ", ".join([benchmark, *(f"{name}={value}" for name, value in params.items())])
            raise HistoryError(f"{len(found)} series instead of one for {asked}")
        return found[0]


def read(config_file: Path, machine: str) -> History:
    """Return the results below the results folder of asv's configuration.

    Parameters
    ----------
    config_file : Path
        asv.conf.json; its folder is the checkout that commits are looked up in.
    machine : str
        The name that ``asv run --machine`` was given.

    Returns
    -------
    History
        The results of the environment with the most commits, if there are several. Commits that are in no branch any
        more are left out.

    Raises
    ------
    HistoryError
    """
    config = Config.load(str(config_file))
    root = config_file.resolve().parent
    for name in ("results_dir", "env_dir", "repo", "benchmark_dir"):
        setattr(config, name, str(root / getattr(config, name)))
    try:
        benchmarks = Benchmarks.load(config)
    except UserError as error:
        raise HistoryError(f"nothing is stored in {config.results_dir}; `make asv` measures") from error
    known = sorted(path.parent.name for path in Path(config.results_dir).glob("*/machine.json"))
    if machine not in known:
        raise HistoryError(f"nothing is stored for a machine {machine!r}; there are results for {', '.join(known)}")
    stored = list(iter_results_for_machine(config.results_dir, machine))
    order = get_repo(config).get_revisions([each.commit_hash for each in stored])
    stored = [each for each in stored if each.commit_hash in order]
    if not stored:
        raise HistoryError(f"no commit of this checkout has results of the machine {machine!r}; `make asv` measures")
    (most, _count), *_ = Counter(each.env_name for each in stored).most_common()
    stored = sorted((each for each in stored if each.env_name == most), key=lambda each: order[each.commit_hash])
    commits = tuple(_commit(each, root) for each in stored)
    series = tuple(itertools.chain.from_iterable(_series(each, stored) for each in benchmarks.values()))
    described = load_json(str(Path(config.results_dir) / machine / "machine.json"))
    facts = {name: value for name, value in described.items() if name != "version"}
    packages = {name: stored[-1].params[name] for name in ("python", *config.matrix.get("req", {}))}
    return History(facts, packages, commits, series)


def _commit(stored: Results, root: Path) -> Commit:
    subject = git.ask(root, "log", "-1", "--format=%s", stored.commit_hash)
    begun = [stamp for stamp in stored.started_at.values() if stamp is not None]
    return Commit(stored.commit_hash, subject, datetime.fromtimestamp(min(begun) / 1000, UTC))


def _series(benchmark: Mapping[str, Any], stored: Sequence[Results]) -> list[Series]:
    """Return a series for each cell of a benchmark."""
    name, params = benchmark["name"], benchmark["params"]
    columns = [_values(each, name, params, benchmark["version"]) for each in stored]
    made = []
    for k, values in enumerate(itertools.product(*params)):
        cell = {label: value.strip("'") for label, value in zip(benchmark["param_names"], values, strict=True)}
        points = [column[k] for column in columns]
        middle, low, high = (tuple(end) for end in zip(*points, strict=True))
        made.append(Series(name, cell, benchmark["unit"], middle, low, high))
    return made


_Point = tuple[float | None, float | None, float | None]


def _values(stored: Results, name: str, params: Sequence[Any], version: str) -> list[_Point]:
    """Return the value, the low end and the high end for each cell of one benchmark at one commit."""
    cells = 1
    for values in params:
        cells *= len(values)
    if name not in stored.get_all_result_keys() or stored.benchmark_version.get(name) != version:
        return [(None, None, None)] * cells  # measured by other code than today's: not comparable
    found = stored.get_result_value(name, params)
    stats = stored.get_result_stats(name, params) or [None] * cells
    return [_point(value, stat) for value, stat in zip(found, stats, strict=True)]


def _point(value: float | None, stat: Mapping[str, Any] | None) -> _Point:
    if value is None or value != value:  # failed, or skipped
        return None, None, None
    if stat is None or stat.get("ci_99_a") is None:
        return value, None, None
    return value, stat["ci_99_a"], stat["ci_99_b"]
