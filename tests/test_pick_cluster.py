"""`softmax-ce pick --dask`: one worker of each kind picks, and one profile has a section for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import profiles
from softmax_ce import profile
from softmax_ce_bench import cli
from softmax_ce_bench.pick import cluster

CELLS = profiles.grid((1, 100), (10,), profiles.CROSSING)
OPTIONS = ("--shapes", "4x10", "--op", "forward", "--time-budget", "2s", "--threads", "1", "--allow", "numpy")


def test_what_concerns_this_process_alone_is_not_handed_on() -> None:
    words = ["--dask", "tcp://a:1", "--shapes", "4x10", "--output=x.json", "--append", "--force", "--op", "fused"]
    assert cluster.for_workers(words) == ["--shapes", "4x10", "--op", "fused"]


def test_workers_of_one_kind_count_once() -> None:
    one, other = ({**profiles.profile(CELLS).fingerprint, "cpu": name} for name in ("A", "B"))
    found = {"tcp://1": one, "tcp://2": other, "tcp://3": {**one, "cpus_available": 1}}
    assert cluster._kinds(found) == [["tcp://1", "tcp://3"], ["tcp://2"]]


def test_a_machine_s_old_section_gives_way() -> None:
    ours = profiles.profile(CELLS)
    elsewhere = replace(ours, fingerprint={**ours.fingerprint, "cpu": "another"})
    picked = [cluster.Picked("tcp://1", 1, False, ours)]
    assert cluster.without([ours, elsewhere], picked) == [elsewhere]


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://x"])
def test_no_cluster_is_one_line(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    result = CliRunner().invoke(cli.main, ["pick", *OPTIONS, "--dask", address, "--output", "-"])
    assert result.exit_code == 2
    assert f"no Dask scheduler answers at {address}" in " ".join(result.output.split())


@pytest.fixture
def two_kinds() -> Iterator[str]:
    """The address of a cluster whose three workers use two instruction sets."""
    distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
    kinds = ("baseline", "baseline", "numpy-has-none")
    workers = {
        str(k): {
            "cls": distributed.Nanny,
            "options": {"nthreads": 1, "env": {"SOFTMAX_CE_ISA": kind} if kind == "baseline" else {}},
        }
        for k, kind in enumerate(kinds)
    }
    scheduler: dict[str, Any] = {"cls": distributed.Scheduler, "options": {"dashboard_address": None, "port": 0}}
    with distributed.SpecCluster(workers=workers, scheduler=scheduler) as started:
        yield started.scheduler_address


@pytest.mark.slow
def test_one_worker_of_each_kind_picks(two_kinds: str, tmp_path: Path) -> None:
    path = tmp_path / "fleet.json"
    for _ in range(2):  # the second time, the sections are replaced
        result = CliRunner().invoke(
            cli.main, ["pick", *OPTIONS, "--dask", two_kinds, "--force", "--append", "--output", str(path)]
        )
        assert result.exit_code == 0, result.output
        assert "picks for 2 workers of its kind" in " ".join(result.output.split())
        sections = profile.load_fleet(path).sections
        assert len(sections) == 2
        assert {section.cells[0].rows for section in sections} == {4}
    assert len({str(section.fingerprint["settings"]) for section in sections}) == 2
