"""``softmax-ce compare --torch``: a training step with PyTorch's function and with ours, side by side."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any

import pytest
from click.testing import CliRunner

import clocks
from softmax_ce_bench import cli
from softmax_ce_bench.cli import training as command
from softmax_ce_bench.compare import request as planning
from softmax_ce_bench.compare import training_step
from softmax_ce_bench.compare.training_step import AFTER, BEFORE, StepService, TrainingStep
from softmax_ce_bench.measure.process import ProcessError

torch = pytest.importorskip("torch")
from torch.nn import functional  # noqa: E402


@pytest.fixture(autouse=True)
def _same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> clocks.TickingClock:
    return clocks.quiet_machine(monkeypatch)


def slow(clock: clocks.TickingClock, ticks: int, factor: float = 1.0) -> Callable[..., Any]:
    """PyTorch's function, which takes so many ticks more on the clock, times a factor."""

    def function(*arguments: Any, **options: Any) -> Any:
        clock.now += ticks * clocks.TICK
        return factor * functional.cross_entropy(*arguments, **options)

    return function


def source(dtype: str = "float32", soft: bool = False) -> planning.Source:
    (made,) = planning.of_shapes(((40, 9),), (dtype,), soft=soft)
    return made


class InProcess:
    """Stands in for the fresh process."""

    def __init__(self, service: StepService) -> None:
        self._service = service

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def ask(self, question: str, *arguments: Any) -> Any:
        return getattr(self._service, question)(*arguments)


def measured(clock: clocks.TickingClock, after: Callable[..., Any], *sources: planning.Source) -> list[TrainingStep]:
    functions = {BEFORE: slow(clock, 5), AFTER: after}
    seen: list[tuple[str, float]] = []
    found = list(
        training_step.measure(
            sources, (1, 2), 600.0, lambda *step: seen.append(step),
            lambda threads: InProcess(StepService(threads, functions, clock)),
        )
    )  # fmt: skip
    assert [text for text, _ in seen] == [each.text for each in sources] * 2
    assert [done for _, done in seen] == [k / len(seen) for k in range(len(seen))]
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_a_step_is_timed_with_either_function(clock: clocks.TickingClock, dtype: str) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    steps = measured(clock, slow(clock, 1), source(dtype), source(dtype, soft=True))
    assert [step.threads for step in steps] == [1, 1, 2, 2]
    for step in steps:
        assert step.complaint is None
        assert step.rounds == clocks.ROUNDS
        assert step.before.median == pytest.approx(6 * clocks.TICK)  # and the tick of the second look
        assert step.after.median == pytest.approx(2 * clocks.TICK)
        assert step.speedup.median == pytest.approx(3)
        assert step.drift == 0


def test_classes_on_axis_1(clock: clocks.TickingClock) -> None:
    (small,) = [each for each in planning.built_in("segmentation", ("float32",)) if each.shape.classes == 21]
    shape = replace(small.shape, rows=240, inner=(10, 12))
    steps = measured(clock, slow(clock, 1), replace(small, shape=shape))
    assert all(step.complaint is None for step in steps)


def test_our_own_function_is_right_too(clock: clocks.TickingClock) -> None:
    (made,) = planning.of_shapes(((300, 1000),), ("float32",))  # so large that the kernels compute it
    step = StepService(1, None, clock).measure(made.text, made.maker(), -100, 600.0)
    assert (step.complaint, step.text) == (None, "300x1000 float32")


def test_a_wrong_result_is_no_speed_up(clock: clocks.TickingClock, monkeypatch: pytest.MonkeyPatch) -> None:
    functions = {BEFORE: slow(clock, 5), AFTER: slow(clock, 1, 1.01)}
    monkeypatch.setattr(training_step, "_child", lambda threads: InProcess(StepService(threads, functions, clock)))
    done = CliRunner().invoke(cli.main, ["compare", "--torch", "--shapes", "40x9", "--threads", "1"])
    assert done.exit_code == 0, done.output
    assert "wrong" in done.output
    assert "softmax_ce.torch.cross_entropy: its loss is" in done.output
    assert "3.00x" not in done.output


def test_the_table_shows_times_and_the_ratio(clock: clocks.TickingClock, monkeypatch: pytest.MonkeyPatch) -> None:
    functions = {BEFORE: slow(clock, 5), AFTER: slow(clock, 1)}
    monkeypatch.setattr(training_step, "_child", lambda threads: InProcess(StepService(threads, functions, clock)))
    done = CliRunner().invoke(cli.main, ["compare", "--torch", "--shapes", "40x9,20x5", "--threads", "1"])
    assert done.exit_code == 0, done.output
    for text in ("40x9 float32", "20x5 float32", "3.00x (3.00-3.00)", "F.cross_entropy", "600"):
        assert text in done.output, done.output


def test_what_does_not_go_together_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(cli.main, ["compare", "--torch", "--op", "fused"])
    assert (done.exit_code, "--op does not go with --torch" in done.output) == (2, True)
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    done = CliRunner().invoke(cli.main, ["compare", "--torch"])
    assert done.exit_code == 2
    assert "--torch needs PyTorch, which is not installed: pip install torch" in done.output
    monkeypatch.setattr(command, "find_spec", importlib.util.find_spec)

    def fails(threads: int) -> Any:
        raise ProcessError("PyTorch ended")

    monkeypatch.setattr(training_step, "_child", fails)
    done = CliRunner().invoke(cli.main, ["compare", "--torch", "--shapes", "4x3"])
    assert (done.exit_code, "PyTorch ended" in done.output) == (2, True)


def test_the_digits_are_left_out() -> None:
    sources = tuple(planning.built_in("quick", ("float32",)))
    assert [each.shape.name for each in training_step.measurable(sources)] == ["boosting", "vision", "vocabulary"]
