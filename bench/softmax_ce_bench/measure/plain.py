"""Results as plain values that JSON can hold."""

from __future__ import annotations

import dataclasses
import math
from typing import Any


def plain(value: Any) -> Any:
    """Return dataclasses as dicts and tuples as lists, at any depth. Floats that are not finite become None."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in _ordered(type(value))}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def _ordered(kind: Any) -> list[dataclasses.Field[Any]]:
    """Return the fields with those that identify a record first."""
    fields = dataclasses.fields(kind)
    return sorted(fields, key=lambda field: field.name not in ("schema", "version"))
