"""The group of all commands, which handles errors that no command expects."""

from __future__ import annotations

import sys
import traceback
from typing import Any

import click

from softmax_ce_bench.report.printable import text

INTERRUPTED = 130  # what a shell reports for Ctrl-C
ERROR = 2


class CommandGroup(click.Group):
    """Exits with 2 after an error. Click and Python exit with 1, which `diff` and `gate` use for "slower"."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            vars(error)["message"] = text(error.message)  # it may name a file, and a terminal obeys control characters
            raise
        except (click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            sys.exit(INTERRUPTED)
        except Exception:
            click.echo(text(traceback.format_exc()), err=True, nl=False)
            sys.exit(ERROR)
