"""A page for a JSON schema: one table for each kind of object, in the order of the schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def page(path: Path) -> str:
    """Return the page, in Markdown."""
    schema = json.loads(path.read_text(encoding="utf-8"))
    where = path.parts[path.parts.index("softmax_ce" if "softmax_ce" in path.parts else "softmax_ce_bench") :]
    lines = [
        f"# {schema['title'].split(':')[0]}: every field",
        "",
        f"This page is made from the JSON Schema `{'/'.join(where)}`, which is installed beside the code.",
        "",
        schema.get("description", ""),
        "",
        *_table(schema),
    ]
    for name, part in schema.get("$defs", {}).items():
        if part.get("properties"):
            lines += [f"## {name}", "", part.get("description", ""), "", *_table(part)]
    return "\n".join(lines) + "\n"


def _table(part: dict[str, Any]) -> list[str]:
    rows = [f"| `{name}` | {_type(field)} | {_text(field)} |" for name, field in part["properties"].items()]
    return ["| field | type | meaning |", "| --- | --- | --- |", *rows, ""]


def _text(field: dict[str, Any]) -> str:
    text = field.get("description", "") or field.get("items", {}).get("description", "")
    return (text[:1].upper() + text[1:]).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return f"`{field['$ref'].rsplit('/', 1)[-1]}`"
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        return ", ".join(f"`{json.dumps(value)}`" for value in field["enum"])
    if "anyOf" in field or "oneOf" in field:
        return " or ".join(_type(option) for option in field.get("anyOf") or field["oneOf"])
    kinds = field.get("type", "any")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    words = []
    for kind in kinds:
        if kind == "array" and "items" in field:
            words.append(f"array of {_type(field['items'])}")
        elif kind == "object" and isinstance(field.get("additionalProperties"), dict):
            words.append(f"object: name to {_type(field['additionalProperties'])}")
        else:
            words.append(kind)
    return " or ".join(words)
