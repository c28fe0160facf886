"""Cases that failed, each in a file of its own, until they no longer do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(".fuzz")


def keep(folder: Path, name: str, case: Any, found: str) -> Path:
    """Write down a case of which a property does not hold."""
    folder.mkdir(exist_ok=True, parents=True)
    mark = hashlib.sha256(json.dumps(case).encode()).hexdigest()[:12]
    path = folder / f"{name}-{mark}.json"
    path.write_text(json.dumps({"property": name, "case": case, "found": found}, indent=1) + "\n", encoding="utf-8")
    return path


def read(folder: Path) -> Iterator[tuple[Path, str, Any]]:
    """Each file, with the property's name and the case."""
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        yield path, record["property"], record["case"]
