"""``softmax-ce compare --torch``: a training step before and after."""

from __future__ import annotations

from importlib.util import find_spec

import click
from click.core import ParameterSource

from softmax_ce_bench.compare import training_step
from softmax_ce_bench.compare.request import SECONDS, Source
from softmax_ce_bench.measure.process import ProcessError
from softmax_ce_bench.report import training
from softmax_ce_bench.terminal.bar import Bar, progress
from softmax_ce_bench.terminal.console import Refused, console, interruptible

TAKEN = ("sets", "shapes", "logits", "targets", "dtypes", "threads", "ignore_index", "soft", "time_budget", "torch")


def check(context: click.Context) -> None:
    """Check that PyTorch is installed, and that no option is given that a training step does not take.

    Raises
    ------
    Refused
    """
    if find_spec("torch") is None:
        raise Refused("--torch needs PyTorch, which is not installed: pip install torch")
    for parameter in context.command.params:
        name = parameter.name or ""
        if name not in TAKEN and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise Refused(f"{parameter.opts[0]} does not go with --torch, which compares two functions in PyTorch")


def show(sources: tuple[Source, ...], threads: tuple[int, ...] | None, seconds: float | None) -> None:
    """Measure the steps and print their table."""
    chosen = training_step.measurable(sources)
    shown_on = console()
    steps: list[training_step.TrainingStep] = []
    with interruptible("Nothing is shown of a step that is not complete."):
        try:
            with progress(shown_on) as shown:
                bar = Bar(shown)
                budget = SECONDS if seconds is None else seconds

                def draw(text: str, done: float) -> None:
                    bar.draw(f"{text}: a training step", done, budget * (1 - done))

                steps.extend(training_step.measure(chosen, threads or (None,), budget, draw))
        except ProcessError as error:
            raise Refused(str(error)) from None
        finally:
            if steps:
                shown_on.print(training.table(steps), crop=False)
