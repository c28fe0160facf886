"""``python -m tools.cross TARGET [options of replay]``: build, export the vectors, replay them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tools.cross import build, vectors


def main() -> int:
    """Return the exit code of the replay program, or 2 if a target is unknown or its tools are missing."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in build.TARGETS:
        print(f"usage: python -m tools.cross {{{','.join(build.TARGETS)}}} [ISA ...] [--samples N]", file=sys.stderr)
        return 2
    try:
        command = build.build(build.TARGETS[name])
    except build.MissingTool as error:
        print(f"cannot replay: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vectors.bin")
        vectors.write(path)
        return subprocess.run([*command, str(path), *sys.argv[2:]]).returncode


if __name__ == "__main__":
    sys.exit(main())
