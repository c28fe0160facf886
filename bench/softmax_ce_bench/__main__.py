"""The ``softmax-ce`` command, also ``python -m softmax_ce_bench``."""

from __future__ import annotations

import sys

# What the extra brings. A missing one is answered with the command that installs them all, not with a traceback.
_EXTRA = {"click", "jinja2", "matplotlib", "mpmath", "rich", "sklearn", "threadpoolctl"}


def main() -> None:
    """Run the command line."""
    try:
        from softmax_ce_bench import cli

        cli.main(prog_name="softmax-ce")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        print(f"softmax-ce needs {missing}, which is not installed: pip install 'softmax-ce[bench]'", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
