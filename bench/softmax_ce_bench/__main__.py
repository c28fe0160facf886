"""The ``softmax-ce`` command, also ``python -m softmax_ce_bench``."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

from softmax_ce_bench.terminal import streams

# What the extra brings. A missing one is answered with the command that installs them all, not with a traceback.
_EXTRA = {"click", "jinja2", "matplotlib", "mpmath", "rich", "sklearn", "threadpoolctl"}
_ERROR, _INTERRUPTED = 2, 130


def main() -> None:
    """Run the command line. Only a command itself exits with code 1; errors exit with 2."""
    with streams.guarded() as output:
        code = _run()
        sys.stdout.flush()
        if output.error is not None and not streams.is_gone(output.error):
            reason = output.error.strerror or output.error
            print(f"Error: standard output cannot be written: {reason}", file=sys.stderr)
            code = _ERROR
    sys.exit(code)


def _run() -> int:
    command: Callable[..., object] | None = None
    try:
        from softmax_ce_bench import cli

        command = cli.main
        command(prog_name="softmax-ce")
        return 0
    except SystemExit as ended:
        if command is None:  # something that was imported had ended this process
            return _ERROR
        return ended.code if isinstance(ended.code, int) else _ERROR if ended.code else 0
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            traceback.print_exc()
        else:
            print(
                f"softmax-ce needs {missing}, which is not installed: pip install 'softmax-ce[bench]'", file=sys.stderr
            )
        return _ERROR
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception:
        traceback.print_exc()
        return _ERROR


if __name__ == "__main__":
    main()
