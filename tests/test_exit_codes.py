"""Exit codes: 1 is a command's own answer, never an error's; and what is printed comes out whatever the terminal is."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from helpers import environment_without
from softmax_ce_bench import cli, conformance
from softmax_ce_bench.gate import run as gating
from softmax_ce_bench.report import difference, record
from softmax_ce_bench.terminal import console as common
from softmax_ce_bench.terminal import streams
from test_show_diff import full_run, timed

POSIX = pytest.mark.skipif(os.name == "nt", reason="POSIX files")
COMMAND = (sys.executable, "-m", "softmax_ce_bench")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Before, and two records after: one is slower, one is not."""
    folder = tmp_path_factory.mktemp("records")
    runs = {"before": timed(1e-3), "slower": timed(1.2e-3, seed=1), "same": timed(1e-3, seed=1)}
    for name, run in runs.items():
        (folder / name).write_text(record.as_text(record.as_dict(run)), encoding="utf-8")
    return folder


def diff(records, after="slower", *, command=COMMAND, **options):
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 300} | options
    return subprocess.run([*command, "diff", records / "before", records / after], check=False, **settings)


def test_the_verdict(records):
    assert [diff(records, after).returncode for after in ("slower", "same", "missing")] == [1, 0, 2]


@POSIX
@pytest.mark.parametrize("after", ["slower", "same"])
def test_standard_output_that_is_full(records, after):
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "wb") as full:
        done = diff(records, after, stdout=full)
    assert done.returncode == 2
    assert done.stderr == b"Error: standard output cannot be written: No space left on device\n"


@POSIX
@pytest.mark.parametrize("closed", [">&-", "<&- >&-", ">&- 2>&-"])
def test_standard_output_that_is_closed(records, closed):
    shell = ("sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND)
    done = diff(records, command=shell)
    assert done.returncode == 2
    assert done.stdout == b""
    if "2>" not in closed:
        assert done.stderr == b"Error: standard output cannot be written: it is closed\n"


@POSIX
@pytest.mark.parametrize(("after", "code"), [("slower", 1), ("same", 0)])
def test_a_reader_that_leaves_is_no_error(records, after, code):
    """As `head` and `true` do: quietly, and the verdict stays what it is."""
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        done = diff(records, after, stdout=theirs)
    finally:
        os.close(theirs)
    assert (done.returncode, done.stderr) == (code, b"")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "utf-8:strict"])
@pytest.mark.parametrize(("after", "code"), [("slower", 1), ("same", 0)])
def test_an_encoding_that_lacks_a_character(records, encoding, after, code):
    done = diff(records, after, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stderr) == (code, b"")
    assert b"after / before" in done.stdout


@POSIX
def test_standard_error_that_is_full_or_closed_changes_no_code(records):
    assert diff(records, stderr=subprocess.DEVNULL).returncode == 1
    assert diff(records, "missing", command=("sh", "-c", 'exec "$@" 2>&-', "sh", *COMMAND)).returncode == 2
    if Path("/dev/full").exists():
        with open("/dev/full", "wb") as full:
            assert diff(records, "missing", stderr=full).returncode == 2


@pytest.mark.parametrize("name", ["numpy", "click", "rich", "softmax_ce"])
@pytest.mark.parametrize(
    "content",
    [
        "import no_such_module",
        "raise ImportError('planted')",
        "raise RuntimeError('planted')",
        "1 +",
        "raise SystemExit(1)",
    ],
)
def test_a_broken_dependency(records, tmp_path, name, content):
    (tmp_path / f"{name}.py").write_text(content)
    path = os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))
    done = diff(records, "same", env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 2


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("planted"), OSError("planted"), BrokenPipeError(errno.EPIPE, "planted"), RecursionError(),
        UnicodeEncodeError("ascii", "µ", 0, 1, "planted"), MemoryError(), AssertionError("planted"), StopIteration(),
        EOFError("planted"), ImportError("planted"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
@pytest.mark.parametrize("command", ["diff", "gate"])
def test_an_error_that_nobody_expects(records, monkeypatch, command, error):
    def fail(*_arguments, **_options):
        raise error

    monkeypatch.setattr(difference, "table", fail)
    monkeypatch.setattr(gating, "run", fail)
    arguments = [str(records / "before"), str(records / "slower")] if command == "diff" else ["HEAD"]
    monkeypatch.chdir(Path(__file__).parent)
    monkeypatch.setattr(sys.modules["softmax_ce_bench.cli.gate"], "_request", lambda *_, **__: None)
    result = CliRunner().invoke(cli.main, [command, *arguments])
    assert result.exit_code == 2
    assert type(error).__name__ in result.stderr


@pytest.mark.parametrize("command", ["diff", "gate"])
def test_ctrl_c(records, monkeypatch, command):
    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(record, "load", interrupt)
    monkeypatch.setattr(sys.modules["softmax_ce_bench.cli.gate"], "_request", interrupt)
    result = CliRunner().invoke(cli.main, [command, "a", "b"])
    assert result.exit_code == cli.INTERRUPTED
    assert "Interrupted" in result.stderr


@POSIX
@pytest.mark.parametrize("arguments", [("info",), ("info", "--json"), ("--help",), ("--version",), ("diff", "--help")])
def test_everything_that_prints_says_that_it_could_not(arguments):
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, timeout=300, check=False)
    assert done.returncode == 2
    assert done.stderr == b"Error: standard output cannot be written: No space left on device\n"


# Streams


class Slow(io.RawIOBase):
    """Takes three bytes at a time, and no more than so many in all."""

    def __init__(self, room=1000):
        self.room, self.taken = room, b""

    def writable(self):
        return True

    def write(self, data):
        data = bytes(data)[:3]
        if len(self.taken) + len(data) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.taken += data
        return len(data)


def test_a_stream_writes_on_until_it_fails_and_is_silent_then():
    slow = Slow(10)
    raw = streams._Raw(slow)
    text = io.TextIOWrapper(io.BufferedWriter(raw), "utf-8")
    text.write("abcdefghijklmnop")
    text.flush()
    assert slow.taken == b"abcdefghi"
    assert raw.error is not None
    assert raw.error.errno == errno.ENOSPC
    slow.room = 1000
    text.write("more")
    text.flush()
    assert slow.taken == b"abcdefghi"


@POSIX
def test_a_stream_that_does_not_wait_is_waited_for():
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    done = subprocess.Popen([sys.executable, "-c", "import sys; print(len(sys.stdin.read()))"], stdin=ours,
                            stdout=subprocess.PIPE)  # fmt: skip
    os.close(ours)
    with open(theirs, "wb", buffering=0) as inner:
        buffered = io.BufferedWriter(streams._Raw(inner))
        buffered.write(b"x" * 1_000_000)
        buffered.flush()
    assert done.communicate(timeout=300)[0].strip() == b"1000000"


def test_streams_come_back(capsys):
    before = sys.stdout, sys.stderr
    with streams.guarded() as output:
        print("µ", file=sys.stderr)
        print("said")
    assert (sys.stdout, sys.stderr) == before
    assert output.error is None
    assert capsys.readouterr() == ("said\n", "µ\n")


# The width


@pytest.mark.parametrize(
    ("columns", "width"),
    [
        ("0", 80), ("00", 80), ("1", 40), ("39", 40), ("40", 40), ("79", 79), ("100000", 10_000), ("", 100),
        ("-5", 100), ("eighty", 100), ("²", 100), ("٨٠", 100), ("1e2", 100), ("9" * 5000, 100), (" 80", 100),
        (None, 100),
    ],
)  # fmt: skip
def test_columns(columns, width, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.delenv("COLUMNS", raising=False)
    for name in ("COLUMNS", "LINES"):
        if columns is not None:
            monkeypatch.setenv(name, columns)
    assert common.console().width == width
    assert common.console(stderr=False).height > 0


@pytest.mark.parametrize("columns", ["0", "1", "-1", "²"])
def test_every_table_is_there_however_wide(columns, records, tmp_path, monkeypatch):
    monkeypatch.setattr(conformance.harness, "CHECKS", conformance.CHECKS[:3])  # the table is the same for all of them
    path = tmp_path / "run.json"
    path.write_text(record.as_text(record.as_dict(full_run())), encoding="utf-8")
    environment = {**environment_without("COLUMNS"), "COLUMNS": columns}
    for arguments, said in (
        (["info"], "backend"),
        (["show", str(path)], "numpy"),
        (["diff", str(records / "before"), str(records / "slower")], "slower"),
        (["check", "numpy", "--dtype", "float32", "--threads", "1"], "All checks passed."),
    ):
        result = CliRunner(env=environment).invoke(cli.main, arguments)
        assert result.exit_code in (0, 1), result.output
        assert said in result.stdout


def test_a_contaminated_run_is_not_called_slower(records, tmp_path):
    spoilt = replace(timed(1.2e-3, seed=1), contaminated=True)
    (tmp_path / "after").write_text(record.as_text(record.as_dict(spoilt)), encoding="utf-8")
    result = CliRunner().invoke(cli.main, ["diff", str(records / "before"), str(tmp_path / "after")])
    assert result.exit_code == 3


# What is printed


ODD = "a\u00a0\u200d\x1b[31m\x9b\x07\t\u202e"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((ODD,), "No such command"),
        ((f"--{ODD}",), "No such option"),
        (("compare", f"--{ODD}"), "No such option"),
        (("compare", "--shapes", ODD), "is not ROWSxCLASSES"),
        (("compare", "--backend", ODD), "unknown backend"),
        (("compare", "--peers", ODD), "unknown peer"),
        (("compare", "--logits", f"{ODD}.npy", "--targets", "y.npy"), "no such file"),
        (("compare", "--weight", ODD), "is neither 'drawn' nor an .npy file"),
        (("compare", "--json", f"{ODD}/a.json"), "there is no folder"),
        (("compare", "--json", ODD, "--html", ODD), "names the same file"),
        (("check", ODD), "unknown backend"),
        (("show", ODD), "cannot be read: No such file"),
        (("diff", ODD, ODD), "cannot be read: No such file"),
        (("pick", "--check", ODD), "softmax-ce profile check"),
        (("profile", ODD), "No such command"),
        (("profile", "check", ODD), "cannot be read"),
        (("profile", "explain", "1x2", ODD), "cannot be read"),
        (("profile", "show", ODD), "cannot be read"),
        (("pick", "--output", f"{ODD}/p.json"), "there is no folder"),
        (("gate", ODD), "is not a revision"),
        (("gate", "--base-wheel", ODD), "does not exist"),
    ],
)
def test_no_error_tells_a_terminal_what_to_do(arguments, said, monkeypatch):
    monkeypatch.chdir(Path(__file__).parent)
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.output.split())
    assert all(character.isprintable() or character == "\n" for character in result.output)


def test_no_fact_does_either(monkeypatch):
    monkeypatch.setenv("MKL_NUM_THREADS", ODD)
    monkeypatch.setenv("SOFTMAX_CE_PROFILE", f"/nowhere/{ODD}")
    result = CliRunner().invoke(cli.main, ["info"])
    assert result.exit_code == 0, result.output
    assert "MKL_NUM_THREADS=a" in result.stdout
    assert all(character.isprintable() or character == "\n" for character in result.output)
