"""``python -m tools.schemas``: write the JSON Schemas of the file formats, which are made from the dataclasses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from softmax_ce.choice.profile import format as profile_format
from softmax_ce.documents import Format
from softmax_ce_bench.report import record

FORMATS: dict[Path, Format[Any]] = {
    Path(profile_format.__file__).with_name("profile.schema.json"): profile_format.FORMAT,
    Path(profile_format.__file__).with_name("fleet.schema.json"): profile_format.FLEET,
    record.SCHEMA_FILE: record.FORMAT,
}


def text(format_of_file: Format[Any]) -> str:
    """Return the text of a format's schema, as it is committed."""
    return json.dumps(format_of_file.json_schema(), indent=1) + "\n"


def main() -> None:
    """Write every schema beside the code that it describes."""
    for path, each in FORMATS.items():
        path.write_text(text(each), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
