"""What an annotation stands for: how a value is read, and its JSON Schema."""

from __future__ import annotations

import inspect
import json
import math
import re
import reprlib
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

Read = Callable[[Any], Any]
Schema = dict[str, Any]

INFINITE = "infinite"  # modules that may not import this one write the word

_WHOLE, _NUMBER = "a whole number", "a number"
_LARGEST = sys.float_info.max  # JSON's 1e999 is read as infinity


class Limits:
    """Keywords of JSON Schema for an annotation, such as ``Annotated[int, Limits(minimum=1)]``.

    The reader knows minimum, maximum, exclusiveMinimum, exclusiveMaximum, enum, minLength, maxLength, minItems,
    maxItems and maxProperties.
    """

    __slots__ = ("keywords",)

    def __init__(self, **keywords: Any) -> None:
        self.keywords = keywords


class Invalid(Exception):
    """A value that is not as its part says. Its place is added as the exception passes up."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.where = ""

    def __str__(self) -> str:
        return f"{self.where.removeprefix('.') or 'it'} {self.reason}"


class Part:
    """What an annotation stands for.

    Attributes
    ----------
    words : str
        What it may hold, for messages.
    by_type : dict
        From the type of a plain value to the function that checks such a value and converts it.
    schema : callable
        Returns the JSON Schema. Objects are added to the definitions that it is given.
    """

    __slots__ = ("by_type", "schema", "words")  # plain, and made fast: a first call waits for it

    def __init__(self, words: str, by_type: dict[type, Read], schema: Callable[[dict[str, Schema]], Schema]) -> None:
        self.words, self.by_type, self.schema = words, by_type, schema


def part(kind: Any, limits: Mapping[str, Any] = types.MappingProxyType({})) -> Part:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        found: dict[str, Any] = {}
        for each in arguments[1:]:
            found |= {INFINITE: True} if each == INFINITE else each.keywords
        return part(arguments[0], found)
    if origin in (types.UnionType, typing.Union):
        return _union([part(each) for each in arguments])
    if origin in (tuple, list):
        return _array(origin, part(arguments[0]), limits)
    if origin is dict:
        return _mapping(part(arguments[0]), part(arguments[1]), limits)
    if kind in (int, float):
        return _number(kind, dict(limits))
    if kind is str:
        return _text(limits)
    if kind in (bool, type(None)):
        words, name = ("true or false", "boolean") if kind is bool else ("null", "null")
        return Part(words, {kind: lambda value: value}, lambda _: {"type": name})
    return _object(kind)


def reader(of: Part) -> Read:
    by_type, words = of.by_type, of.words

    def read(value: Any) -> Any:
        # By the exact type: JSON has no others, and a bool, though an int in Python, is not a number.
        convert = by_type.get(type(value))
        if convert is None:
            raise Invalid(f"is {shown(value)}; must be {words}")
        return convert(value)

    return read


def _number(kind: type, limits: dict[str, Any]) -> Part:
    infinite = limits.pop(INFINITE, False)
    least, most = limits.get("minimum", -_LARGEST), limits.get("maximum", _LARGEST)
    above, below = limits.get("exclusiveMinimum", -math.inf), limits.get("exclusiveMaximum", math.inf)
    low = f"above {above}" if "exclusiveMinimum" in limits else f"at least {least}"
    high = f"below {below}" if "exclusiveMaximum" in limits else f"at most {most}"

    def convert(value: Any) -> Any:
        if least <= value <= most and above < value < below:
            return value
        raise Invalid(f"is {shown(value)}; must be {low} and {high}")

    words, name = (_WHOLE, "integer") if kind is int else (_NUMBER, "number")
    by_type: dict[type, Read] = {int: convert if kind is int else lambda value: float(convert(value)), kind: convert}
    if not infinite:
        return Part(words, by_type, lambda _: {"type": name, **limits})
    schema = {"type": [name, "null"], **limits, "description": "null: infinite."}
    return Part(f"{words} or null", {**by_type, type(None): lambda _: math.inf}, lambda _: dict(schema))


def _text(limits: Mapping[str, Any]) -> Part:
    allowed = limits.get("enum")
    words = "text" if allowed is None else listed(allowed)

    def convert(value: str) -> str:
        if allowed is not None and value not in allowed:
            raise Invalid(f"is {shown(value)}; must be {words}")
        _check_size(len(value), limits, "Length", "characters")
        return value

    return Part(words, {str: convert}, lambda _: {"type": "string", **limits})


def _array(kind: type, item: Part, limits: Mapping[str, Any]) -> Part:
    read = reader(item)

    def convert(value: list[Any]) -> Any:
        _check_size(len(value), limits, "Items", "entries")
        found: list[Any] = []
        try:
            for each in value:
                found.append(read(each))
        except Invalid as error:
            error.where = f"[{len(found)}]{error.where}"
            raise
        return kind(found)

    return Part("a list", {list: convert}, lambda defs: {"type": "array", "items": item.schema(defs), **limits})


def _mapping(key: Part, item: Part, limits: Mapping[str, Any]) -> Part:
    read_key, read = reader(key), reader(item)

    def convert(value: dict[Any, Any]) -> dict[str, Any]:
        _check_size(len(value), limits, "Properties", "fields")
        for each in value:
            try:
                read_key(each)
            except Invalid as error:
                raise Invalid(f"has a key that {error.reason}") from None
        found: dict[str, Any] = {}
        for each, inner in value.items():
            try:
                found[each] = read(inner)
            except Invalid as error:
                error.where = f"[{shown(each)}]{error.where}"
                raise
        return found

    def schema(defs: dict[str, Schema]) -> Schema:
        names = key.schema(defs)
        own = {"type": "object", "additionalProperties": item.schema(defs), **limits}
        return own if names == {"type": "string"} else {**own, "propertyNames": names}

    return Part("an object", {dict: convert}, schema)


def _union(parts: Sequence[Part]) -> Part:
    by_type: dict[type, Read] = {}
    for each in parts:
        by_type |= each.by_type

    def schema(defs: dict[str, Schema]) -> Schema:
        options = [each.schema(defs) for each in parts]
        if any(type(option.get("type")) is not str or "enum" in option for option in options):
            return {"anyOf": options}
        names = [option["type"] for option in options]
        merged = {key: value for option in options for key, value in option.items()}
        return {**merged, "type": [name for name in names if name != "integer" or "number" not in names]}

    words = [each.words for each in parts]
    words = [word for word in words if word != _WHOLE or _NUMBER not in words]
    return Part(" or ".join(words), by_type, schema)


def _object(kind: Any) -> Part:
    parts = {name: part(hint) for name, hint in typing.get_type_hints(kind, include_extras=True).items()}
    fields = [(name, each.by_type, each.words) for name, each in parts.items()]
    fault: Callable[[Any], str | None] | None = getattr(kind, "fault", None)

    def convert(value: dict[str, Any]) -> Any:
        if value.keys() != parts.keys():
            raise Invalid(_difference(value, [*parts]))
        found: dict[str, Any] = {}
        try:
            for name, by_type, words in fields:  # as reader does, without a call: files have many fields
                given = value[name]
                converter = by_type.get(type(given))
                if converter is None:
                    raise Invalid(f"is {shown(given)}; must be {words}")
                found[name] = converter(given)
        except Invalid as error:
            error.where = f".{name}{error.where}"
            raise
        made = kind(**found)
        if fault is not None and (wrong := fault(made)) is not None:
            raise Invalid(wrong)
        return made

    def schema(defs: dict[str, Schema]) -> Schema:
        name = definition_name(kind)
        if name not in defs:
            defs[name] = {}  # before the objects in it
            defs[name] |= _object_schema(kind, {field: each.schema(defs) for field, each in parts.items()})
        return {"$ref": f"#/$defs/{name}"}

    return Part("an object", {dict: convert}, schema)


def _difference(value: Mapping[str, Any], names: Sequence[str]) -> str:
    missing = [name for name in names if name not in value]
    if missing:
        return f"lacks {missing[0]!r}"
    unknown = next(key for key in value if key not in names)
    return f"has an unknown field {shown(unknown)}; its fields are {listed(names, 'and')}"


def _check_size(size: int, limits: Mapping[str, Any], what: str, unit: str) -> None:
    least, most = limits.get(f"min{what}", 0), limits.get(f"max{what}", math.inf)
    if not least <= size <= most:
        bound = f"at least {least}" if size < least else f"at most {most}"
        raise Invalid(f"has {size} {unit}; must have {bound}")


def definition_name(kind: type) -> str:
    """Return the name of a class as the name of a definition: with underscores."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


def _object_schema(kind: type, properties: dict[str, Schema]) -> Schema:
    summary, texts = _described(kind)
    for name, schema in properties.items():
        text = f"{texts.get(name, '')} {schema.pop('description', '')}".strip()
        if text:
            schema["description"] = text
    return {
        "description": summary,
        "type": "object",
        "required": [*properties],
        "additionalProperties": False,
        "properties": properties,
    }


def _described(kind: type) -> tuple[str, dict[str, str]]:
    """Return the text of a class's docstring, and that of each of its attributes."""
    text = re.sub(r"(?::\w+:)?(`+)~?([^`]*)\1", r"`\2`", inspect.cleandoc(kind.__doc__ or ""))
    text = re.sub(r"\bNone\b", "null", text)
    head, _, rest = text.partition("\nAttributes\n----------\n")
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in re.split(r"\n\w+\n-+\n", rest)[0].splitlines():
        if line[:1].strip():
            names = line.partition(" : ")[0].split(", ")
        for name in names if line.startswith(" ") else ():
            texts[name] = f"{texts.get(name, '')} {line.strip()}".strip()
    return " ".join(head.split()), texts


def shown(value: Any) -> str:
    """Return a value for a message: on one line, shortened, and as JSON spells it."""
    return json.dumps(value) if value is None or type(value) is bool else reprlib.repr(value)


def listed(values: Iterable[Any], last: str = "or") -> str:
    """Return values for a message: "1, 2 or 3"."""
    *most, final = map(shown, values)
    return f"{', '.join(most)} {last} {final}" if most else final
