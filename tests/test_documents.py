"""Files of JSON that dataclasses describe: read, written, and their JSON Schemas."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softmax_ce.documents import INFINITE, DocumentError, Format, Limits, as_text, plain
from softmax_ce_bench.report import record
from tools import schemas


class Place(TypedDict):
    """A place on a map.

    Attributes
    ----------
    name : str
        What it is called.
    north : float
        Degrees, as :func:`math.degrees` and ``atan2`` give them.
    """

    name: Annotated[str, Limits(maxLength=5)]
    north: Annotated[float, Limits(minimum=-90, maximum=90)]


@dataclass(frozen=True)
class Interval:
    """Two ends.

    Attributes
    ----------
    low, high : float
        An end.
    """

    low: float
    high: Annotated[float, Limits(exclusiveMinimum=0), INFINITE]

    def fault(self) -> str | None:
        return None if self.low <= self.high else "ends before it begins"


@dataclass(frozen=True)
class TwoWords:
    """Everything that an annotation may say. It has
    two lines.

    Not a number is None.

    Attributes
    ----------
    count : int
        At least None.
    colour : {"red", "blue"}
        One of two.
    flag : bool
    spans : dict
        By name.
    places : list of Place
        Some.
    pair : Interval or None
        If any.
    notes : dict
        Anything.
    share : float
        Of one.

    Notes
    -----
    count : not a field's text.
    """

    count: Annotated[int, Limits(minimum=1, maximum=9)]
    colour: Annotated[str, Limits(enum=("red", "blue"))]
    flag: bool
    spans: dict[Annotated[str, Limits(enum=("a", "b"))], Interval]
    places: Annotated[list[Place], Limits(minItems=1)]
    pair: Interval | None
    notes: Annotated[dict[str, str | float | int | bool | None], Limits(maxProperties=2)]
    share: Annotated[float, Limits(exclusiveMinimum=0, exclusiveMaximum=1)] = 0.5
    odd: tuple[Annotated[int, Limits(minimum=0)], ...] = field(default=())


def _from_1(value: dict[str, Any]) -> dict[str, Any]:
    found = {**value, "version": 2, "count": value.get("number", 1)}
    found.pop("number", None)
    return found


TOY = Format(
    TwoWords, "test/toy", 3, "A toy", older={1: _from_1, 2: lambda value: value | {"version": 3, "flag": True}}
)
WHOLE = TwoWords(
    3, "red", False, {"a": Interval(-1.0, math.inf)}, [Place(name="here", north=1.5)], Interval(0.0, 2.0), {"x": 1}
)


def changed(**changes: Any) -> dict[str, Any]:
    return TOY.plain(WHOLE) | changes


# Reading


def test_what_is_written_is_read() -> None:
    written = json.loads(as_text(TOY.plain(WHOLE)))
    assert written["spans"] == {"a": {"low": -1.0, "high": None}}
    assert list(written)[:3] == ["schema", "version", "count"]
    assert TOY.read(written) == WHOLE
    assert TOY.plain(WHOLE, keep_infinite=True)["spans"]["a"]["high"] == math.inf


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "it is []; must be an object"),
        ({}, "it lacks 'schema'"),
        ({"schema": "test/toy"}, "it lacks 'version'"),
        (changed(schema=1), "its schema is 1; must be 'test/toy'"),
        (changed(version=4), "its version is 4; this release reads 1, 2 and 3: a later release wrote it"),
        (changed(version=0), "its version is 0; this release reads 1, 2 and 3: measure again"),
        (changed(version=3.0), "its version is 3.0; this release reads 1, 2 and 3"),
        (changed(more=1), "it has an unknown field 'more'; its fields are 'count', 'colour', 'flag', 'spans', "
                          "'places', 'pair', 'notes', 'share' and 'odd'"),
        ({key: value for key, value in changed().items() if key != "flag"}, "it lacks 'flag'"),
        (changed(count="3"), "count is '3'; must be a whole number"),
        (changed(count=True), "count is true; must be a whole number"),
        (changed(count=3.0), "count is 3.0; must be a whole number"),
        (changed(count=10), "count is 10; must be at least 1 and at most 9"),
        (changed(colour="green"), "colour is 'green'; must be 'red' or 'blue'"),
        (changed(colour=None), "colour is null; must be 'red' or 'blue'"),
        (changed(flag=0), "flag is 0; must be true or false"),
        (changed(spans={"c": {}}), "spans has a key that is 'c'; must be 'a' or 'b'"),
        (changed(spans={"a": {"low": 0}}), "spans['a'] lacks 'high'"),
        (changed(spans={"a": {"low": 2, "high": 1}}), "spans['a'] ends before it begins"),
        (changed(spans={"a": {"low": 2, "high": "x"}}), "spans['a'].high is 'x'; must be a number or null"),
        (changed(spans={"a": {"low": 1e999, "high": None}}), "spans['a'].low is inf; must be at least -1.79"),
        (changed(places=[]), "places has 0 entries; must have at least 1"),
        (changed(places=[{"name": "here", "north": 1}, 2]), "places[1] is 2; must be an object"),
        (changed(places=[{"name": "nowhere", "north": 1}]), "places[0].name has 7 characters; must have at most 5"),
        (changed(pair=1), "pair is 1; must be an object or null"),
        (changed(notes={"x": []}), "notes['x'] is []; must be text or a number or true or false or null"),
        (changed(notes={1: 2}), "notes has a key that is 1; must be text"),
        (changed(notes=dict.fromkeys("abc")), "notes has 3 fields; must have at most 2"),
        (changed(share=1), "share is 1; must be above 0 and below 1"),
        (changed(odd=[0, -1]), "odd[1] is -1; must be at least 0 and at most 1.79"),
        (changed(odd="x" * 1000), "odd is 'xxxxxxxxxxxx...xxxxxxxxxxxxx'; must be a list"),
    ],
)  # fmt: skip
def test_an_error_says_where_what_and_what_would_be_right(value: Any, said: str) -> None:
    with pytest.raises(DocumentError, match="^" + re.escape(said)) as caught:
        TOY.read(value)
    assert str(caught.value).startswith(said)


def test_numbers_become_those_of_the_annotation() -> None:
    found = TOY.read(changed(share=0.5, notes={"x": 1, "y": 1.0}, pair={"low": 1, "high": 2}))
    assert [type(value) for value in found.notes.values()] == [int, float]
    assert found.pair is not None
    assert [type(end) for end in (found.pair.low, found.pair.high)] == [float, float]


def test_older_versions_are_brought_up_to_date_step_by_step() -> None:
    old = changed(version=1, number=7)
    del old["count"]
    before = copy.deepcopy(old)
    assert TOY.read(old) == dataclasses.replace(WHOLE, count=7, flag=True)
    assert TOY.read(changed(version=2)).flag is True
    assert old == before


def test_plain_values_are_those_of_json() -> None:
    import enum

    import numpy as np

    class Word(enum.StrEnum):
        A = "a"

    class Number(enum.IntEnum):
        ONE = 1

    found = plain({"x": (Word.A, Number.ONE, True, None, np.float64(0.5), math.nan)})
    assert found == {"x": ["a", 1, True, None, 0.5, None]}
    assert [type(value) for value in found["x"]] == [str, int, bool, type(None), float, type(None)]


# The schema


def test_a_schema_is_made_of_annotations_and_docstrings() -> None:
    found = TOY.json_schema()
    assert found["title"] == "A toy"
    assert found["$id"] == "urn:test:toy:3"
    assert found["description"] == "Everything that an annotation may say. It has two lines. Not a number is null."
    properties = found["properties"]
    assert properties["version"]["const"] == 3
    assert found["required"] == [*properties]
    assert properties["count"] == {"type": "integer", "minimum": 1, "maximum": 9, "description": "At least null."}
    assert properties["flag"] == {"type": "boolean"}
    assert properties["pair"] == {
        "anyOf": [{"$ref": "#/$defs/interval"}, {"type": "null"}], "description": "If any."
    }  # fmt: skip
    assert properties["notes"]["additionalProperties"] == {"type": ["string", "number", "boolean", "null"]}
    assert found["$defs"]["interval"]["properties"] == {
        "low": {"type": "number", "description": "An end."},
        "high": {"type": ["number", "null"], "exclusiveMinimum": 0, "description": "An end. null: infinite."},
    }
    assert found["$defs"]["place"]["properties"]["north"]["description"] == (
        "Degrees, as `math.degrees` and `atan2` give them."
    )


def every_object(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    yield from schema["$defs"].values()


@pytest.mark.parametrize("path", schemas.FORMATS, ids=lambda path: path.name)
def test_the_committed_schemas_are_those_of_the_dataclasses(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == schemas.text(schemas.FORMATS[path]), "run: python -m tools.schemas"


def dataclasses_in(kind: Any) -> set[type]:
    """A dataclass or TypedDict with all that it holds, however deep."""
    if dataclasses.is_dataclass(kind) or typing.is_typeddict(kind):
        inner = (dataclasses_in(hint) for hint in typing.get_type_hints(kind).values())
        return {kind}.union(*inner)
    return set().union(*(dataclasses_in(each) for each in typing.get_args(kind)))


@pytest.mark.parametrize("each", schemas.FORMATS.values(), ids=lambda each: each.schema)
def test_every_field_of_a_format_is_required_and_described(each: Format[Any]) -> None:
    schema = each.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    found = [*every_object(schema)]
    described = [tuple(part["properties"]) for part in found]
    kinds = dataclasses_in(each.kind)
    assert len(described) == len(kinds)
    for kind in kinds - {each.kind}:
        assert tuple(typing.get_type_hints(kind)) in described
    for part in found:
        assert part["additionalProperties"] is False
        assert part["required"] == [*part["properties"]]
        assert part["description"]
        for name, rule in part["properties"].items():
            assert rule.get("description"), name


# What takes the place of a value: of another type, or out of range. Not 1.0 for 1, which the reader alone refuses.
OTHERS: tuple[Any, ...] = (None, True, 0, 1, -1, 10**30, 0.5, -0.5, "", "x", "fused", "red", [], {}, [1], {"a": 1})


def places_of(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield here
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places_of(item, (*here, key))


def a_record() -> Any:
    from test_show_diff import full_run

    return json.loads(record.as_text(record.as_dict(full_run())))


EXAMPLES: dict[str, tuple[Any, Any]] = {
    "a record": (record.FORMAT, a_record()),
    "a toy": (TOY, json.loads(as_text(TOY.plain(WHOLE)))),
}
PLACES = {
    name: [place for place in places_of(value) if place not in ((), ("version",))]
    for name, (_, value) in EXAMPLES.items()
}
VALIDATORS = {name: jsonschema.Draft202012Validator(each.json_schema()) for name, (each, _) in EXAMPLES.items()}


@pytest.mark.parametrize("name", EXAMPLES)
@settings(max_examples=200)
@given(data=st.data())
def test_the_reader_and_jsonschema_agree(name: str, data: st.DataObject) -> None:
    """They differ in one thing: what the fields must be together, which a schema cannot say."""
    form, whole = EXAMPLES[name]
    damaged = copy.deepcopy(whole)
    *above, last = data.draw(st.sampled_from(PLACES[name]))
    holder = damaged
    for key in above:
        holder = holder[key]
    action = data.draw(st.sampled_from(("set", "remove", "add")))
    if action == "set":
        holder[last] = data.draw(st.sampled_from(OTHERS))
    elif action == "remove":
        del holder[last]
    elif isinstance(holder, dict):
        holder["another"] = data.draw(st.sampled_from(OTHERS))
    else:
        holder.insert(last, data.draw(st.sampled_from(OTHERS)))
    said = ""
    try:
        form.read(damaged)
    except DocumentError as error:
        said = str(error)
    if "is no interval of positive numbers" not in said and "ends before" not in said:
        assert VALIDATORS[name].is_valid(damaged) == (said == ""), said


def test_records_that_are_committed_are_read() -> None:
    root = Path(__file__).parents[1]
    found = [*root.glob("docs/measurements/machines/*.json")]
    assert found
    for path in found:
        run = record.load(path)
        stored = json.loads(path.read_text(encoding="utf-8"))
        while stored["version"] in record.FORMAT.older:
            stored = record.FORMAT.older[stored["version"]](stored)
        assert record.as_dict(run) == stored
        VALIDATORS["a record"].validate(record.as_dict(run))
