"""Read, write and describe files of JSON by the dataclasses that they hold.

A dataclass is the only description of an object in a file. Its annotations say what each field may be: ``bool``,
``int``, ``float``, ``str``, ``None``, a union of these, ``tuple[X, ...]``, ``list[X]``, ``dict[str, X]``, another
dataclass or a TypedDict. ``Annotated[X, Limits(...)]`` adds keywords of JSON Schema. ``Annotated[float, INFINITE]``
may be infinite, which is null in the file. The docstring says what the fields mean.

In a file, every field is required, an unknown one is an error, and numbers are finite. 1.0 is not an integer, although
JSON Schema says that it is. A class may have a method ``fault``, which returns what is wrong with its fields together.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Generic, TypeVar

from softmax_ce.documents.parts import (
    INFINITE,
    Invalid,
    Limits,
    Part,
    Schema,
    definition_name,
    listed,
    part,
    reader,
    shown,
)

__all__ = ["INFINITE", "DocumentError", "Format", "Limits", "as_text", "plain", "shown"]

T = TypeVar("T")


class DocumentError(ValueError):
    """Raised if a document is not as its format says. The message says what was found and what would be right."""


class Format(Generic[T]):
    """A kind of file.

    Parameters
    ----------
    kind : type
        The dataclass that a file holds.
    schema : str
        The value of the field "schema", by which a file is known.
    version : int
        The value of the field "version". A change that an older reader would misread gets a new number.
    title : str
        The title of the JSON Schema.
    older : mapping, optional
        From an older version that is still read to a function that returns the plain values of the next version. The
        values that it is given are unchecked, and it must not change them.
    """

    def __init__(
        self, kind: type[T], schema: str, version: int, title: str,
        older: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = types.MappingProxyType({}),
    ) -> None:  # fmt: skip
        self.kind, self.schema, self.version, self.title, self.older = kind, schema, version, title, older

    @cached_property
    def _part(self) -> Part:
        return part(self.kind)

    def read(self, value: Any) -> T:
        """Return the document that plain values describe.

        Raises
        ------
        DocumentError
            The values are not as the format says.
        """
        if type(value) is not dict:
            raise DocumentError(f"it is {shown(value)}; must be an object")
        for key in ("schema", "version"):
            if key not in value:
                raise DocumentError(f"it lacks {key!r}")
        if value["schema"] != self.schema:
            raise DocumentError(f"its schema is {shown(value['schema'])}; must be {self.schema!r}")
        self._check_version(value["version"])
        for version in range(value["version"], self.version):
            value = self.older[version](value)
        try:
            document: T = reader(self._part)({key: value[key] for key in value if key not in ("schema", "version")})
        except Invalid as error:
            raise DocumentError(str(error)) from None
        return document

    def plain(self, document: T, *, keep_infinite: bool = False) -> dict[str, Any]:
        """Return a document as :func:`plain` does, with the two fields by which its kind is known."""
        return {"schema": self.schema, "version": self.version, **plain(document, keep_infinite=keep_infinite)}

    def json_schema(self) -> Schema:
        """Return the JSON Schema of the file, with the descriptions that the docstrings give."""
        definitions: dict[str, Schema] = {}
        self._part.schema(definitions)
        whole = definitions.pop(definition_name(self.kind))
        known = {
            "schema": {"const": self.schema, "description": "The kind of file."},
            "version": {"const": self.version, "description": "The version of its format."},
        }
        return plain(
            {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "$id": f"urn:{self.schema.replace('/', ':')}:{self.version}",
                "title": self.title,
                **whole,
                "required": [*known, *whole["required"]],
                "properties": known | whole["properties"],
                "$defs": definitions,
            }
        )

    def _check_version(self, found: Any) -> None:
        versions = [*sorted(self.older), self.version]
        if type(found) is int and found in versions:
            return
        advice = ""
        if type(found) is int:
            advice = ": measure again" if found < versions[0] else ": a later release wrote it"
        raise DocumentError(f"its version is {shown(found)}; this release reads {listed(versions, 'and')}{advice}")


def plain(value: Any, *, keep_infinite: bool = False) -> Any:
    """Return dataclasses as dicts and tuples as lists, however deep, with values that JSON can hold.

    Parameters
    ----------
    value : any
    keep_infinite : bool
        Keep floats that are not finite, for a reader that refuses them. They become None by default.
    """
    if dataclasses.is_dataclass(value):
        return {
            field.name: plain(getattr(value, field.name), keep_infinite=keep_infinite)
            for field in dataclasses.fields(value)
        }
    if isinstance(value, (tuple, list)):
        return [plain(item, keep_infinite=keep_infinite) for item in value]
    if isinstance(value, dict):
        return {key: plain(item, keep_infinite=keep_infinite) for key, item in value.items()}
    if isinstance(value, float):
        return float(value) if keep_infinite or math.isfinite(value) else None
    if isinstance(value, str):
        return str.__str__(value)  # of an enumeration's member too
    return int(value) if isinstance(value, int) and type(value) is not bool else value


def as_text(record: Any) -> str:
    """Return plain values as JSON, one field a line.

    A byte of a file's name that is not UTF-8 is half of a surrogate pair in Python, which UTF-8 cannot hold. It becomes
    an escape sequence that is read back as it was.
    """
    text = json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False)
    return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"
