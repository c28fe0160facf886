"""Cases that failed, kept in a file each until they pass."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(".fuzz")


def keep(folder: Path, name: str, case: Any, found: str) -> Path:
    """Save a case that a property does not hold for."""
    folder.mkdir(exist_ok=True, parents=True)
    mark = hashlib.sha256(json.dumps(case).encode()).hexdigest()[:12]
    path = folder / f"{name}-{mark}.json"
    path.write_text(json.dumps({"property": name, "case": case, "found": found}, indent=1) + "\n", encoding="utf-8")
    return path


def read(folder: Path) -> Iterator[tuple[Path, str, Any]]:
    """Yield each file with the name of its property and the case."""
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        yield path, record["property"], record["case"]
