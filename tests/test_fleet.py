"""One profile for several machines: merged, followed by each of them, and shown."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner

import profiles
import softmax_ce as sce
from profiles import cell
from softmax_ce import profile
from softmax_ce.choice import fingerprint
from softmax_ce.choice.profile.format import FLEET
from softmax_ce.profile import Fleet, Profile, ProfileError, ProfileWarning
from softmax_ce_bench import cli, conformance
from softmax_ce_bench.report import fleet as report

MS = 1e-3
HERE = "here"
X, Y = np.zeros((4, 10), np.float32), np.zeros(4, int)


def machine(cpu: str, seconds: dict[str, float] | None = None, date: str = "2026-01-02", **fields: Any) -> Profile:
    """A profile with two cells, of this machine or of one that differs in its processor."""
    facts = fingerprint.collect()
    if cpu != HERE:
        facts["cpu"] = cpu
    seconds = seconds or {"numpy": 2 * MS, "cython": MS}
    cells = [cell(4, 10, seconds), cell(64, 1000, {name: 10 * time for name, time in seconds.items()})]
    return profiles.profile(cells, **{"fingerprint": facts, "date": date, **fields})


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[Any], Path]]:
    """Have calls follow a file with these sections, or with these plain values."""

    def put(content: Any) -> Path:
        path = tmp_path / "fleet.json"
        if isinstance(content, Fleet):
            profile.save(content, path)
        else:
            path.write_text(json.dumps(content), encoding="utf-8")
        monkeypatch.setenv("SOFTMAX_CE_PROFILE", str(path))
        profile.reload()
        return path

    monkeypatch.delenv("SOFTMAX_CE_PROFILE_STRICT", raising=False)
    monkeypatch.delenv("SOFTMAX_CE_BACKEND", raising=False)
    yield put
    monkeypatch.undo()
    profile.reload()


def command(*words: Any) -> Any:
    return CliRunner().invoke(cli.main, ["profile", *map(str, words)])


SLOW_CYTHON = {"numpy": MS, "cython": 2 * MS}
THREE = Fleet(sections=(machine("Alpha"), machine(HERE, SLOW_CYTHON), machine("Beta")))


# The file


def test_a_fleet_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = profile.save(THREE, tmp_path / "fleet.json")
    assert profile.load_fleet(path) == THREE
    record = json.loads(path.read_text())
    assert (record["schema"], record["version"], len(record["sections"])) == ("softmax-ce/profile", 2, 3)
    jsonschema.Draft202012Validator(FLEET.json_schema()).validate(record)
    assert profile.load(path) == THREE.sections[1]


def test_a_fleet_of_one_machine_is_the_file_of_that_machine(tmp_path: Path) -> None:
    one = machine("Alpha")
    profile.save(Fleet(sections=(one,)), tmp_path / "fleet.json")
    profile.save(one, tmp_path / "one.json")
    assert (tmp_path / "fleet.json").read_bytes() == (tmp_path / "one.json").read_bytes()
    assert profile.load_fleet(tmp_path / "one.json") == Fleet(sections=(one,))
    assert profile.load(tmp_path / "one.json") == one  # whatever machine it is of
    record = json.loads((tmp_path / "one.json").read_text())
    assert FLEET.read(record) == Fleet(sections=(one,))


def damaged(change: Callable[[Any], Any]) -> Any:
    record = json.loads(json.dumps(profile.as_dict(THREE)))
    change(record)
    return record


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.update(sections=[]), "sections has 0 entries; must have at least 1"),
        (lambda r: r.update(sections={}), "sections is {}; must be a list"),
        (lambda r: r.update(more=1), "it has an unknown field 'more'; its fields are 'sections'"),
        (lambda r: r.update(version=3), "its version is 3; this release reads 1 and 2: a later release wrote it"),
        (lambda r: r["sections"][2].pop("date"), "sections[2] lacks 'date'"),
        (lambda r: r["sections"][0]["cells"][1].update(rows=0), "sections[0].cells[1].rows is 0; must be at least 1"),
        (lambda r: r["sections"][0]["cells"][1].update(winner="x"), "sections[0].cells[1]: its winner 'x' was not"),
        (lambda r: r["sections"].append(r["sections"][0]), "sections[0] and sections[3] are for the same machine"),
        (lambda r: r["sections"][0]["cells"].append(r["sections"][0]["cells"][0]), "in sections[0], the cell 4 x 10"),
    ],
)
def test_a_section_that_is_wrong_is_named(change: Callable[[Any], Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "fleet.json"
    path.write_text(json.dumps(damaged(change)))
    with pytest.raises(ProfileError) as caught:
        profile.load_fleet(path)
    assert str(caught.value).startswith(f"profile {path}: {said}")


# Merging


def test_merging_keeps_one_section_for_each_machine_and_the_newer_of_two() -> None:
    old, new, other = machine(HERE), machine(HERE, SLOW_CYTHON, "2026-02-01T10:00:00+00:00"), machine("Alpha")
    for order in ((old, other, new), (new, other, old)):
        fleet, replaced = profile.merge(order)
        assert fleet == Fleet(sections=(new, other))
        assert replaced == (old,)
    assert profile.merge([old, old]) == (Fleet(sections=(old,)), ())


def test_another_number_of_available_cpus_is_the_same_machine() -> None:
    facts = fingerprint.collect()
    facts["cpus_available"] += 1
    fleet, replaced = profile.merge([machine(HERE, date="2025-01-01"), machine(HERE, fingerprint=facts)])
    assert [each.fingerprint["cpus_available"] for each in fleet.sections] == [facts["cpus_available"]]
    assert len(replaced) == 1


@pytest.mark.parametrize("dates", [("2026-01-02", "2026-01-02"), ("", "2026-01-02"), ("2026-01-02", "yesterday")])
def test_two_sections_of_one_machine_need_dates(dates: tuple[str, str], tmp_path: Path) -> None:
    one, other = (machine(HERE, {"numpy": k * MS, "cython": MS}, date) for k, date in enumerate(dates, 2))
    with pytest.raises(ProfileError, match="do not say which is newer; leave one of them out"):
        profile.merge([one, other])
    profile.save(one, tmp_path / "a.json")
    profile.save(other, tmp_path / "b.json")
    result = command("merge", tmp_path / "a.json", tmp_path / "b.json", "-o", tmp_path / "fleet.json")
    assert result.exit_code == 2
    assert not (tmp_path / "fleet.json").exists()


def test_the_command_merges_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    for name, each in (("a", machine("Alpha")), ("b", machine(HERE)), ("c", machine("Alpha", date="2026-03-04"))):
        profile.save(each, tmp_path / f"{name}.json")
    fleet = tmp_path / "fleet.json"
    first = command("merge", tmp_path / "a.json", tmp_path / "b.json", "-o", fleet)
    assert first.exit_code == 0, first.output
    assert "Left out" not in first.output
    result = command("merge", fleet, tmp_path / "c.json", "-o", fleet)
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "Left out: Alpha, " in said
    assert "measured 2026-01-02; a newer one is for the same machine and build" in said
    assert [each.date for each in profile.load_fleet(fleet).sections] == ["2026-03-04", "2026-01-02"]
    assert command("merge", fleet).exit_code == 2
    missing = command("merge", fleet, tmp_path / "none.json", "-o", fleet)
    assert missing.exit_code == 2
    assert "none.json: it cannot be read" in " ".join(missing.output.split())
    printed = command("merge", fleet, "-o", "-")
    assert json.loads(printed.stdout) == json.loads(fleet.read_text())


# Production


def test_each_machine_follows_its_own_section(followed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    followed(THREE)
    facts = fingerprint.collect()
    for cpu, backend in (("Alpha", "cython"), (facts["cpu"], "numpy"), ("Beta", "cython")):
        monkeypatch.setattr(fingerprint, "_cpu", lambda cpu=cpu: cpu)
        profile.reload()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = sce.explain(X, Y)
        assert (found.source, found.backend) == ("profile", backend)


def test_a_machine_without_a_section_warns_once_and_says_how_to_add_it(followed: Any) -> None:
    path = followed(Fleet(sections=(machine("Alpha"), machine("Beta"))))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            sce.cross_entropy(X, Y)
    assert [warning.category for warning in caught] == [ProfileWarning]
    said = str(caught[0].message)
    assert f"profile {path}: none of its 2 sections is for this machine and build. The nearest is sections[0]" in said
    assert "cpu is " in said
    assert f"To add one: softmax-ce pick --append --output {path}" in said
    assert "Calls run on " in said
    np.testing.assert_allclose(sce.cross_entropy(X, Y), np.log(10), rtol=1e-6)


def test_strict_mode_refuses_a_fleet_without_this_machine(followed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    followed(Fleet(sections=(machine("Alpha"), machine("Beta"))))
    monkeypatch.setenv("SOFTMAX_CE_PROFILE_STRICT", "1")
    profile.reload()
    with pytest.raises(ProfileError, match="none of its 2 sections"):
        sce.cross_entropy(X, Y)


def test_production_checks_the_section_that_it_follows(followed: Any) -> None:
    followed(damaged(lambda r: r["sections"][0].update(cells=3)))
    assert sce.explain(X, Y).source == "profile"
    for change, said in (
        (lambda r: r["sections"][1].update(tie=-1), "in sections[1], tie is -1; must be at least 0"),
        (lambda r: r["sections"].append(r["sections"][1]), "sections[1] and sections[3] are for the same machine"),
        (lambda r: r.update(sections=[1, None]), "none of its 2 sections is for this machine and build. To add"),
        (lambda r: r.pop("sections"), "it lacks 'sections'"),
    ):
        followed(damaged(change))
        with pytest.warns(ProfileWarning, match=said.replace("[", r"\[")):
            sce.cross_entropy(X, Y)


# The commands


def test_a_fleet_is_shown_by_machine_and_shape(tmp_path: Path) -> None:
    path = profile.save(THREE, tmp_path / "fleet.json")
    result = command("show", path)
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert "rows x classes section 1 section 2 section 3" in lines
    assert "4 x 10 cython numpy cython" in lines
    assert "64 x 1000 cython numpy cython" in lines
    said = " ".join(lines)
    assert "(this" in said
    assert "each machine's own section: 0.0%; worst none" in said
    # 2 / 1 on one machine of three: the cube root of 2. numpy: on two of them.
    assert "cython on every machine: 26.0%; worst 100.0% at fused 4 x 10 float32, section 2" in said
    assert "numpy on every machine: 58.7%; worst 100.0% at fused 4 x 10 float32, section 1" in said
    assert "The single backend that costs least over the fleet: cython" in said


def test_every_machine_counts_alike_and_a_backend_must_be_eligible_everywhere() -> None:
    many = replace(
        machine("Alpha"), cells=tuple(cell(rows, 10, {"numpy": MS, "cython": 3 * MS}) for rows in range(1, 9))
    )
    few = replace(machine("Beta"), cells=(cell(1, 10, {"numpy": 4 * MS, "cython": MS}),))
    followed, *alone = report.costs([many, few])
    assert (followed.name, followed.mean, followed.worst) == ("profile", 0.0, 0.0)
    assert [cost.name for cost in alone] == ["cython", "numpy"]
    assert [cost.mean for cost in alone] == pytest.approx([3**0.5 - 1, 1.0])
    assert (alone[1].section, alone[1].where) == (2, few.cells[0])
    refused = replace(few, cells=(cell(1, 10, {"numpy": 4 * MS, "cython": MS}, rejected={"numpy": "wrong"}),))
    assert [cost.name for cost in report.costs([many, refused])[1:]] == ["cython"]


def test_one_section_is_shown_as_a_profile_is(tmp_path: Path) -> None:
    path = profile.save(THREE, tmp_path / "fleet.json")
    alone = profile.save(THREE.sections[1], tmp_path / "alone.json")
    shown = command("show", path, "--section", 2).output
    assert shown.replace("fleet.json", "alone.json") == command("show", alone).output
    assert command("show", alone, "--section", 1).output == command("show", alone).output
    for number in (0, 4):
        result = command("show", path, "--section", number)
        assert result.exit_code == 2
        assert f"has sections 1 to 3, not {number}" in " ".join(result.output.split())


def test_explain_takes_the_section_of_this_machine(tmp_path: Path) -> None:
    path = profile.save(THREE, tmp_path / "fleet.json")
    result = command("explain", "4x10", path)
    assert result.exit_code == 0, result.output
    assert "numpy for 4 x 10" in " ".join(result.output.split())
    profile.save(Fleet(sections=(machine("Alpha"), machine("Beta"))), path)
    result = command("explain", "4x10", path)
    assert result.exit_code == 2
    assert "softmax-ce pick --append --output" in " ".join(result.output.split())


def test_pick_appends_a_section_and_keeps_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance.harness, "CHECKS", conformance.CHECKS[:3])  # what it writes is the same
    path = tmp_path / "fleet.json"
    profile.save(machine("Alpha"), path)
    asked: tuple[str, ...] = (
        "pick",
        "--shapes",
        "4x10",
        "--op",
        "forward",
        "--time-budget",
        "0.2s",
        "--threads",
        "1",
        "--allow",
        "numpy",
    )
    asked = (*asked, "--force", "--append", "--output")
    for _ in range(2):  # the second time, its own section is replaced
        result = CliRunner().invoke(cli.main, [*asked, str(path)])
        assert result.exit_code == 0, result.output
        one, other = profile.load_fleet(path).sections
        assert one == machine("Alpha")
        assert not fingerprint.differences(other.fingerprint, fingerprint.collect())
    assert profile.load(path) == other


def test_what_cannot_be_appended_to_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "fleet.json"
    path.write_text("{")
    for output, said in ((path, "it is not JSON"), ("-", "--append adds to a file")):
        result = CliRunner().invoke(cli.main, ["pick", "--append", "--output", str(output)])
        assert result.exit_code == 2
        assert said in " ".join(result.output.split())
    assert path.read_text() == "{"
