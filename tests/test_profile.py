"""The profile's file: written whole or not at all, and read with suspicion."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jsonschema
import platformdirs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import profiles
from helpers import run_python
from profiles import CROSSING, cell, grid
from softmax_ce import profile
from softmax_ce.choice.profile import files, where
from softmax_ce.choice.profile.format import FORMAT
from softmax_ce.documents import DocumentError
from softmax_ce.folders import data_folder
from softmax_ce.profile import ProfileError

ORDINARY = profiles.profile(
    grid((1, 64, 4096), (10, 1000), CROSSING), notes={"drift": 0.004, "shared": True, "x": None}
)
SCHEMA = FORMAT.json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "profile.json"


def _record() -> Any:
    return json.loads(json.dumps(profile.as_dict(ORDINARY)))


def _refusal(path: Path) -> str:
    """What load says of the file."""
    with pytest.raises(ProfileError) as caught:
        profile.load(path)
    text = str(caught.value)
    assert text.startswith(f"profile {path}: ")
    assert len(text) < 1000
    return text.removeprefix(f"profile {path}: ")


# ---- there and back


def test_what_is_saved_is_loaded(path: Path) -> None:
    assert profile.save(ORDINARY, path) == path
    assert profile.load(path) == ORDINARY
    assert profile.load(str(path)) == ORDINARY


def test_a_saved_profile_is_as_the_schema_says(path: Path) -> None:
    profile.save(ORDINARY, path)
    VALIDATOR.validate(json.loads(path.read_text()))


def _bounds(rule: dict[str, Any], value: Any, here: tuple[Any, ...] = ()) -> Iterator[Any]:
    """Each bound that the schema states: where, the last value that is allowed, the first that is not, what is said."""
    if "$ref" in rule:
        rule = SCHEMA["$defs"][rule["$ref"].rpartition("/")[2]]
    number: Callable[[Any], Any] = int if "integer" in rule.get("type", ()) else float
    step = 1 if number is int else 0.0

    def sized(keyword: str, make: Callable[[int], Any], unit: str) -> Iterator[Any]:
        for end, beyond, words in (("min", -1, "at least"), ("max", 1, "at most")):
            if (size := rule.get(end + keyword)) is not None:
                said = f"has {size + beyond} {unit}; must have {words} {size}"
                yield pytest.param(here, make(size), make(size + beyond), said, id=f"{here} {end}{keyword}")

    for keyword, beyond, words in (("minimum", -math.inf, "at least"), ("maximum", math.inf, "at most")):
        if keyword in rule:
            last = number(rule[keyword])
            first = last + math.copysign(step, beyond) if step else math.nextafter(last, beyond)
            yield pytest.param(here, last, number(first), f"{words} {rule[keyword]}", id=f"{here} {keyword}")
    if "exclusiveMinimum" in rule:
        bound = float(rule["exclusiveMinimum"])
        said = f"must be above {rule['exclusiveMinimum']}"
        yield pytest.param(here, math.nextafter(bound, math.inf), bound, said, id=f"{here} exclusiveMinimum")
    yield from sized("Length", lambda size: "x" * size, "characters")
    if "items" in rule:
        item = value[0] if value else "x"
        yield from sized("Items", lambda size: [item] * size, "entries")
        yield from _bounds(rule["items"], item, (*here, 0))
    for key, own in rule.get("properties", {}).items():
        yield from _bounds(own, value[key], (*here, key))
    if other := rule.get("additionalProperties"):
        yield from sized("Properties", lambda size: {f"key {index}": "x" for index in range(size)}, "fields")
        yield from _bounds(other, "x", (*here, "key"))


@pytest.mark.parametrize(("place", "last", "first", "said"), list(_bounds(SCHEMA, _record())))
def test_every_bound_of_the_schema_is_kept_to_the_last_value(
    place: tuple[Any, ...], last: Any, first: Any, said: str
) -> None:
    record = _record()
    holder: Any = record
    for key in place[:-1]:
        holder = holder[key]
    if holder == []:
        holder.append(None)
    holder[place[-1]] = last
    FORMAT.read(record)
    few = place != ("cells",)  # with thousands, jsonschema takes seconds
    assert not few or VALIDATOR.is_valid(record)
    holder[place[-1]] = first
    with pytest.raises(DocumentError) as caught:
        FORMAT.read(record)
    assert said in str(caught.value)
    assert not few or not VALIDATOR.is_valid(record)


def test_a_number_without_a_bound_is_finite() -> None:
    for value in (sys.float_info.max, -sys.float_info.max):
        record = _record()
        record["notes"] = {"x": value}
        FORMAT.read(record)
        record["notes"] = {"x": 2 * value}
        with pytest.raises(DocumentError, match=r"^notes\['x'\] is -?inf; must be at least -1.79.* and at most 1.79"):
            FORMAT.read(record)


def test_an_empty_text_may_stand_where_the_schema_asks_for_no_length() -> None:
    FORMAT.read({**_record(), "date": "", "command": "", "notes": {"x": ""}})


# What takes a value's place: another type, or a number out of range. Not 1.0 for 1, which the reader alone refuses.
_OTHERS = st.sampled_from(
    [
        None,
        True,
        False,
        0,
        1,
        2,
        -1,
        10**30,
        0.5,
        -0.5,
        1e300,
        "",
        "x",
        "float32",
        "fused",
        "y" * 101,
        [],
        {},
        [1],
        {"a": 1},
    ]
)


def _places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(place for key, item in items for place in _places(item, (*here, key)))]


_PLACES = _places(_record())


@settings(max_examples=500)
@given(st.sampled_from(_PLACES), st.sampled_from(["replace", "remove", "add"]), _OTHERS)
def test_the_reader_and_jsonschema_agree(place: tuple[Any, ...], action: str, other: Any) -> None:
    record = {"": _record()}
    holder: Any = record
    for key in (steps := ("", *place))[:-1]:
        holder = holder[key]
    if action == "replace" or (action == "add" and not isinstance(holder[steps[-1]], dict | list)):
        holder[steps[-1]] = other
    elif action == "remove":
        del holder[steps[-1]]
    elif isinstance(holder[steps[-1]], dict):
        holder[steps[-1]]["another"] = other
    else:
        holder[steps[-1]].append(other)
    if "" not in record:
        return
    try:
        FORMAT.read(record[""])
    except DocumentError:
        assert not VALIDATOR.is_valid(record[""])
    else:
        assert VALIDATOR.is_valid(record[""])


@pytest.mark.parametrize(
    "wrong",
    [
        replace(ORDINARY, cells=()),
        replace(ORDINARY, objective="luck"),
        replace(ORDINARY, notes={"x": float("nan")}),
        replace(ORDINARY, notes={"x": object()}),  # type: ignore[dict-item]
        replace(ORDINARY, fingerprint={}),  # type: ignore[typeddict-item]
        replace(ORDINARY, order=("numpy",)),
        replace(ORDINARY, cells=(cell(1, 10, {"numpy": float("inf")}),)),
        replace(ORDINARY, cells=(cell(0, 10, {"numpy": 1.0}),)),
        replace(ORDINARY, cells=grid(range(1, 66), (10,), CROSSING)),
    ],
)
def test_what_could_not_be_read_is_not_written(wrong: profile.Profile, path: Path) -> None:
    profile.save(ORDINARY, path)
    with pytest.raises(ProfileError):
        profile.save(wrong, path)
    assert profile.load(path) == ORDINARY
    assert os.listdir(path.parent) == [path.name]


def test_as_many_sizes_as_are_allowed_are_written(path: Path) -> None:
    for cells in (grid(range(1, 65), (10,), CROSSING), grid((1,), range(1, 65), CROSSING)):
        most = replace(ORDINARY, cells=cells)
        profile.save(most, path)
        assert profile.load(path) == most
    for rows, classes in ((range(1, 66), (10,)), ((1,), range(1, 66))):
        with pytest.raises(ProfileError, match=r"^65 different (row|class) counts for one .*; at most 64 are allowed$"):
            profile.save(replace(ORDINARY, cells=grid(rows, classes, CROSSING)), path)
    two_dtypes = [replace(one, dtype=name, rows=one.rows + more) for one in most.cells[:40]
                  for name, more in (("float32", 0), ("float64", 100))]  # fmt: skip
    profile.save(replace(ORDINARY, cells=tuple(two_dtypes)), path)


def test_what_is_not_said_of_a_measurement_was_not_measured() -> None:
    bare = profile.Measured(backend="numpy")
    assert {getattr(bare, name) for name in bare.__dataclass_fields__} == {"numpy", None}
    cell = {"rows": 1, "classes": 2, "dtype": "float32", "operation": "fused", "threads": None, "winner": "numpy"}
    timed = replace(bare, seconds=1e-3)
    one = profile.Cell(**cell, measured=(timed,))  # type: ignore[arg-type]
    whole = profile.Profile(fingerprint=ORDINARY.fingerprint, cells=(one,), order=("numpy",))
    written = profile.as_dict(whole)
    assert written.pop("cells") == [cell | {"measured": [asdict(timed)], "tied": [], "rounds": 0}]
    assert written == {
        "schema": "softmax-ce/profile", "version": 1, "date": "", "command": "", "fingerprint": ORDINARY.fingerprint,
        "objective": "time", "tie": 0.03, "max_error": None, "order": ["numpy"], "notes": {},
    }  # fmt: skip


def test_a_saved_profile_can_be_read_by_people_and_compared_line_by_line(path: Path) -> None:
    profile.save(ORDINARY, path)
    text = path.read_text()
    assert text.endswith("}\n")
    assert '\n "objective": "time",\n' in text
    assert max(map(len, text.splitlines())) < 120


def test_too_large_is_not_written(path: Path) -> None:
    cells = [
        replace(cell(1, 10, {"numpy": 1.0}, rejected={}), rows=n % 50 + 1, classes=n // 50 + 1) for n in range(3000)
    ]
    long = [replace(one, measured=(*one.measured, *(_rejected(f"b{k}") for k in range(2)))) for one in cells]
    huge = profiles.profile(long)
    with pytest.raises(ProfileError, match="MiB"):
        profile.save(huge, path)
    assert not path.exists()


def test_a_profile_may_be_as_large_as_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = profile.save(ORDINARY, path).stat().st_size
    monkeypatch.setattr(files, "MOST_BYTES", size)
    profile.save(ORDINARY, path)
    assert profile.load(path) == ORDINARY
    monkeypatch.setattr(files, "MOST_BYTES", size - 1)
    assert "larger than" in _refusal(path)
    with pytest.raises(ProfileError, match=f"^a profile of {size} bytes is larger than"):
        profile.save(ORDINARY, path)


def _rejected(name: str) -> profile.Measured:
    return profile.Measured(backend=name, rejected="r" * 1900)


# ---- files that nobody should trust


def _changed(**changes: Any) -> bytes:
    return json.dumps({**_record(), **changes}).encode()


def _in_cell(**changes: Any) -> bytes:
    record = _record()
    record["cells"][2].update(changes)
    return json.dumps(record).encode()


def _in_measured(**changes: Any) -> bytes:
    record = _record()
    record["cells"][2]["measured"][1].update(changes)
    return json.dumps(record).encode()


WHOLE = json.dumps(_record()).encode()

HOSTILE = {
    "empty": (b"", "is empty"),
    "cut short": (WHOLE[:-100], "not JSON"),
    "cut in a string": (WHOLE[: WHOLE.index(b"softmax-ce pick") + 3], "not JSON"),
    "two": (WHOLE + WHOLE, "not JSON"),
    "zeros": (bytes(4096), "not JSON"),
    "not UTF-8": (WHOLE.replace(b"pick", b"p\xff\xfeck"), "not UTF-8: byte 0xff"),
    "UTF-16": (WHOLE.decode().encode("utf-16"), "not UTF-8"),
    "a pickle": (pickle.dumps(print), "not UTF-8"),
    "Python": (b"__import__('os').abort()", "not JSON"),
    "NaN": (WHOLE.replace(b'"tie": 0.03', b'"tie": NaN'), "NaN"),
    "infinity": (WHOLE.replace(b'"tie": 0.03', b'"tie": -Infinity'), "Infinity"),
    "infinite by size": (WHOLE.replace(b'"drift": 0.004', b'"drift": 1e999'), r"notes\['drift'\] is inf"),
    "many digits": (WHOLE.replace(b'"tie": 0.03', b'"tie": ' + b"9" * 100_000), "not JSON"),
    "deep lists": (b"[" * 4_000_000, "nested deeper than 32"),
    "deep objects": (b'{"a":' * 1_000_000, "nested deeper than 32"),
    "deep, balanced": (b"[" * 50_000 + b"]" * 50_000, "nested deeper than 32"),
    "deep, behind brackets in strings": (b'["]",' * 200_000, "nested deeper than 32"),
    "nested as deep as is allowed": (b"[" * 32 + b"]" * 32, "must be an object"),
    "nested one deeper": (b"[" * 33 + b"]" * 33, "nested deeper than 32"),
    "letters near to brackets": (b"zZyYxX|~" * 100, "not JSON"),
    "a string that is all quotes": (b'"\\' * 2_000_000, "not JSON"),
    "quotes without end": (b'"' + b'\\"' * 2_000_000 + b"\\", "not JSON"),
    "larger than allowed": (WHOLE + b" " * (8 << 20), "larger than 8 MiB"),
    "a million cells": (b'{"cells":[' + b"{}," * 1_000_000 + b"{}]}", "lacks 'schema'"),
    "a list": (b"[]", "must be an object"),
    "a number": (b"1", "must be an object"),
    "a field twice": (WHOLE.replace(b'"tie"', b'"tie": 0.1, "tie"', 1), "occurs twice"),
    "another schema": (_changed(schema="softmax-ce/compare"), "'softmax-ce/compare'; must be 'softmax-ce/profile'"),
    "another version": (_changed(version=3, cells=None), "is 3; this release reads 1 and 2: a later release wrote it"),
    "version true": (_changed(version=True), "version is true"),
    "no cells": (_changed(cells=[]), "cells has 0 entries; must have at least 1"),
    "cells of numbers": (_changed(cells=[1]), r"cells\[0\] is 1; must be an object"),
    "an unknown field": (_changed(extra=1), "unknown field 'extra'"),
    "a long unknown field": (_changed(**{"x" * 100_000: 1}), "unknown field 'xxx"),
    "a long value": (_changed(objective="x" * 100_000), "objective is 'xxx"),
    "zero rows": (_in_cell(rows=0), r"cells\[2\].rows is 0; must be at least 1"),
    "negative classes": (_in_cell(classes=-1), r"cells\[2\].classes is -1"),
    "huge rows": (_in_cell(rows=10**4000), r"cells\[2\].rows is 1000"),
    "rows in text": (_in_cell(rows="12"), r"cells\[2\].rows is '12'; must be a whole number"),
    "rows as a float": (_in_cell(rows=2.0), r"rows is 2.0"),
    "rows true": (_in_cell(rows=True), r"rows is true"),
    "an unknown dtype": (_in_cell(dtype="complex64"), "dtype is 'complex64'"),
    "a winner nobody measured": (_in_cell(winner="numba"), "winner 'numba' was not measured"),
    "a rejected winner": (_in_measured(rejected="wrong"), "winner 'cython' was rejected"),
    "a winner without a time": (_in_measured(seconds=None), "no figure for the objective, time"),
    "no time at all": (_in_measured(seconds=0), "seconds is 0; must be above 0"),
    "a negative time": (_in_measured(seconds=-1e-3), "seconds is -0.001; must be above 0"),
    "a name that is not in order": (_in_cell(tied=["cuda"]), "'cuda', which is not in order"),
    "an empty name": (_in_cell(winner=""), "winner has 0 characters"),
    "a cell twice": (_changed(cells=_record()["cells"] * 2), "occurs 2 times"),
    "a backend twice in a cell": (_in_cell(measured=_record()["cells"][2]["measured"] * 2), "2 times"),
    "a backend twice in order": (_changed(order=["numpy", "numpy", "cython"]), "order names 'numpy' 2 times"),
}  # fmt: skip


# cells[2] is 64 x 10, which numpy wins; the entries above that are of the winner change cython's, so make it win.
for _name in ("a rejected winner", "a winner without a time"):
    _edited = json.loads(HOSTILE[_name][0])
    _edited["cells"][2]["winner"] = "cython"
    HOSTILE[_name] = (json.dumps(_edited).encode(), HOSTILE[_name][1])


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_with_a_reason(name: str, path: Path) -> None:
    content, reason = HOSTILE[name]
    path.write_bytes(content)
    assert re.search(reason, _refusal(path)), _refusal(path)


def _folder(path: Path) -> None:
    path.mkdir()


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


UNREADABLE = {
    "missing": (lambda path: None, "it cannot be read: No such file"),
    "a folder": (_folder, "it is a folder, not a file"),
    "a pipe": (lambda path: os.mkfifo(path), "it is a pipe, socket or device, not a file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "it is a pipe, socket or device, not a file"),
    "a symbolic link to itself": (_loop, "it cannot be read: Too many levels of symbolic links"),
    "a dangling link": (_dangling, "it cannot be read: No such file"),
}


@pytest.mark.skipif(os.name == "nt", reason="the names of errors, pipes and links are POSIX's")
@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_file_is_refused_with_a_reason(name: str, path: Path) -> None:
    make, reason = UNREADABLE[name]
    make(path)
    assert _refusal(path).startswith(reason)


def test_a_path_that_cannot_be() -> None:
    with pytest.raises(ProfileError, match="cannot be read: "):
        profile.load("profile\0.json")
    with pytest.raises(ProfileError, match="cannot be read: File name too long"):
        profile.load("x" * 5000)


def test_a_file_without_permission(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile.save(ORDINARY, path)
    path.chmod(0)
    if os.access(path, os.R_OK):  # the superuser may read everything: have the system say no all the same

        def refuse(*_: Any) -> int:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(os, "open", refuse)
    assert _refusal(path) == "it cannot be read: Permission denied"


def test_a_file_that_grows_while_it_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(WHOLE + b" " * (8 << 20))
    monkeypatch.setattr(files, "_check_kind", lambda *_: None)  # it was small when it was looked at
    assert _refusal(path) == "it is larger than 8 MiB"


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_bytes_are_refused_or_still_a_profile(path: Path, data: st.DataObject) -> None:
    """Bytes changed, removed or inserted anywhere: a ProfileError or a profile, nothing else."""
    content = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        length = data.draw(st.sampled_from([0, 1, 1, 10, 1000]))
        content[at : at + length] = data.draw(
            st.binary(max_size=3) | st.sampled_from([b'"', b"{", b"]", b"-", b"9" * 20])
        )
    path.write_bytes(content)
    try:
        found = profile.load(path)
    except ProfileError:
        return
    assert profile.as_dict(found)["version"] == 1


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*SCHEMA["properties"], "x"]), inner),
    max_leaves=20,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_JSON)
def test_any_json_is_refused(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))
    with pytest.raises(ProfileError):
        profile.load(path)


# ---- writing


KILLED = """
import os, random, signal, sys, time
sys.path.insert(0, {tests!r})
import profiles
from pathlib import Path
from softmax_ce import profile
path = Path({path!r})
cells = profiles.grid((1, 8, 64), (10, 1000), profiles.CROSSING)
one, two = (
    profiles.profile(cells, notes={{f"note {{k}}": letter * size for k in range(100)}})
    for letter, size in (("x", 9000), ("y", 10000))
)
contents = []
for each in (one, two):
    profile.save(each, path)
    contents.append(path.read_bytes())
assert min(map(len, contents)) > 900_000
begun = time.perf_counter()
for _ in range(5):
    profile.save(one, path)
took = (time.perf_counter() - begun) / 5
random.seed(20261121)
seen, left, most = [0, 0], 0, 5000  # by far more than it takes, however fast and however busy the machine is
while sum(seen) < 200 or (min(*seen, left) < 5 and sum(seen) < most):
    child = os.fork()
    if child == 0:
        while True:
            profile.save(two, path)
            profile.save(one, path)
    time.sleep(random.uniform(0, 3 * took))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    seen[contents.index(path.read_bytes())] += 1
    parts = list(path.parent.glob(".*.part"))
    left += len(parts)
    for part in parts:
        part.unlink()
    assert os.listdir(path.parent) == [path.name]
print(*seen, left)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_writer_leaves_the_old_profile_or_the_new_one(path: Path) -> None:
    """200 writers, or more, killed at random moments of writing one of two profiles, then the other."""
    found = run_python(KILLED.format(tests=str(Path(__file__).parent), path=str(path)))
    one, two, interrupted = map(int, found.split())
    assert one + two >= 200
    assert min(one, two) >= 5, "the kills did not come while it wrote"
    assert interrupted >= 5, "no writer was killed between its temporary file and the rename"


def test_a_write_that_fails_leaves_what_was_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile.save(ORDINARY, path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        profile.save(replace(ORDINARY, command="another"), path)
    monkeypatch.undo()
    assert profile.load(path) == ORDINARY
    assert os.listdir(path.parent) == [path.name]


def test_what_is_written_is_on_disk_before_it_takes_the_old_one_s_place(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole text, then the rename, then the folder that names it."""
    path.write_text("the old one")
    synced: list[tuple[bool, int, str]] = []

    def sync(handle: int) -> None:
        found = os.fstat(handle)
        synced.append((stat.S_ISDIR(found.st_mode), found.st_size, path.read_text()))

    monkeypatch.setattr(os, "fsync", sync)
    files.write_text(path, "x" * 1001)  # less than a buffer holds back
    assert synced[0] == (False, 1001, "the old one")
    if os.name != "nt":
        assert [(is_folder, text) for is_folder, _, text in synced[1:]] == [(True, "x" * 1001)]


def test_a_refusal_to_write_is_told_as_the_system_tells_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        profile.save(ORDINARY, path)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system does not list open files")
def test_no_file_stays_open(path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        profile.save(ORDINARY, path)
        profile.load(path)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_what_was_a_file_when_it_was_looked_at_is_looked_at_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary = path.with_name("ordinary")
    ordinary.touch()
    found = os.stat(ordinary)
    os.mkfifo(path)
    with monkeypatch.context() as patched:  # no longer than that: who reports a failure looks at files too
        patched.setattr(os, "stat", lambda _: found)
        refusal = _refusal(path)
    assert refusal == "it is a pipe, socket or device, not a file"


def test_without_the_folder_nothing_is_written(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        profile.save(ORDINARY, path.parent / "none" / "profile.json")
    assert os.listdir(path.parent) == []


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions and links")
def test_permissions_and_links(path: Path) -> None:
    for mask, mode in ((0, 0o666), (0o027, 0o640)):
        old = os.umask(mask)
        try:
            profile.save(ORDINARY, path)
        finally:
            os.umask(old)
        assert stat.S_IMODE(path.stat().st_mode) == mode
    link = path.with_name("link.json")
    link.symlink_to(path)
    profile.save(replace(ORDINARY, command="through the link"), link)
    assert link.is_symlink()
    assert profile.load(path).command == "through the link"


def _refused(*_: Any) -> int:
    raise PermissionError(13, "Permission denied")


@pytest.mark.skipif(os.name == "nt", reason="POSIX files")
def test_what_is_no_file_is_not_replaced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe and a device are written to, a folder and a pipe without a reader are errors; whatever links to them."""
    link = path.with_name("link.json")
    os.mkfifo(path)
    link.symlink_to(path)
    for name in (path, link):
        with pytest.raises(OSError, match="it is a pipe that nobody reads from"):
            profile.save(ORDINARY, name)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        profile.save(ORDINARY, name)
        assert json.loads(os.read(reader, 1 << 16)) == profile.as_dict(ORDINARY)
        os.close(reader)
    assert path.is_fifo()
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", _refused)
        with pytest.raises(PermissionError):
            profile.save(ORDINARY, path)
    before = len(os.listdir("/dev/fd"))
    profile.save(ORDINARY, Path("/dev/null"))
    assert len(os.listdir("/dev/fd")) == before
    assert Path("/dev/null").is_char_device()
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        profile.save(ORDINARY, path.parent)
    assert sorted(os.listdir(path.parent)) == sorted([path.name, link.name])


# ---- where


@pytest.mark.parametrize("given", [None, "/data/mine", "relative/path", ""])
def test_the_data_folder_is_that_of_platformdirs(given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if given is None:
        monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_DATA_HOME", given)
    found = where.default_path()
    assert found is not None
    assert found == Path(platformdirs.user_data_dir("softmax_ce", appauthor=False)) / "profile.json"


def test_the_data_folder_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    from platformdirs.macos import MacOS

    home = Path.home()
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert data_folder("darwin", {}) == home / "Library" / "Application Support" == Path(MacOS().user_data_dir)
    assert data_folder("win32", {"LOCALAPPDATA": "/c/Local"}) == Path("/c/Local")
    assert data_folder("win32", {"XDG_DATA_HOME": "/data"}) == home / "AppData" / "Local"
    assert data_folder("linux", {"XDG_DATA_HOME": "/data"}) == Path("/data")
    assert data_folder("freebsd14", {"XDG_DATA_HOME": "data"}) == home / ".local" / "share"

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert data_folder("linux", {}) is None


def test_saving_without_a_path_makes_the_user_s_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "new" / "data"))
    if sys.platform == "win32":
        monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "new" / "data"))
    written = profile.save(ORDINARY)
    assert written == tmp_path / "new" / "data" / "softmax_ce" / "profile.json" == profile.default_path()
    assert profile.load(written) == ORDINARY
    if os.name != "nt":
        assert stat.S_IMODE(written.parent.stat().st_mode) == 0o700
    assert profile.save(replace(ORDINARY, command="again")) == written
    assert profile.load(written).command == "again"
    monkeypatch.setattr(where, "default_path", lambda: None)
    with pytest.raises(ProfileError, match="no home folder"):
        profile.save(ORDINARY)
