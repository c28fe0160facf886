"""Outputs: nothing that is there is destroyed, nothing that was measured is lost, and what went wrong is said."""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from softmax_ce.choice.profile import files
from softmax_ce_bench import cli
from softmax_ce_bench import compare as comparing
from softmax_ce_bench.gate import builds
from softmax_ce_bench.gate import run as gating
from softmax_ce_bench.report import comparison, markdown, record
from test_compare import printed
from test_gate_run import Times, gated
from test_show_diff import full_run

POSIX = pytest.mark.skipif(os.name == "nt", reason="POSIX files")
RECORD = record.as_text(record.as_dict(full_run()))
OPTIONS = ("--json", "--markdown", "--html")
BEGINNING = {"--json": '{\n "schema": "softmax-ce/compare"', "--markdown": "# softmax-ce comparison", "--html": "<!"}
ENDING = {"--json": "}", "--markdown": "last place.", "--html": "</html>"}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The working folder is an empty one."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("COLUMNS", raising=False)
    return folder


@pytest.fixture
def compare(monkeypatch):
    """Runs the command with a run that was measured elsewhere."""

    def measured(plan, listener):
        run = full_run()
        listener.started(run)
        for cell in run.cells:
            listener.measured(run, cell)
        return run

    monkeypatch.setattr(comparing, "run", measured)

    def invoke(*options):
        asked = ("--shapes", "4x3", "--backend", "numpy", "--peers", "none")
        return CliRunner().invoke(cli.main, ["compare", *asked, *map(str, options)])

    return invoke


class Reader(threading.Thread):
    """Has a pipe open from now on, and reads until all writers have closed it."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.handle, self.data = os.open(path, os.O_RDONLY | os.O_NONBLOCK), b""
        self.start()

    def run(self):
        writers = select.poll()
        writers.register(self.handle, select.POLLIN)
        while writers.poll() and (part := os.read(self.handle, 1 << 16)):
            self.data += part
        os.close(self.handle)

    def all(self):
        self.join(300)
        assert not self.is_alive(), "the pipe was never written to, or not closed"
        return self.data.decode()


# What is there


@POSIX
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_is_written_to_and_stays_one(compare, option, linked):
    os.mkfifo("pipe")
    name = "pipe"
    if linked:
        Path("link").symlink_to("pipe")
        name = "link"
    reader = Reader("pipe")
    result = compare(option, name)
    assert result.exit_code == 0, result.stderr
    text = reader.all()
    assert text.startswith(BEGINNING[option])
    assert text.rstrip().endswith(ENDING[option])
    assert stat.S_ISFIFO(os.stat("pipe").st_mode)
    assert Path("link").is_symlink() == linked
    assert {entry.name for entry in Path().iterdir()} <= {"pipe", "link"}


@POSIX
def test_a_device_is_written_to_and_stays_one(compare):
    Path("null").symlink_to("/dev/null")
    before = os.stat("/dev/null")
    result = compare("--json", "/dev/null", "--markdown", "null", "--html", "/dev/null")
    assert result.exit_code == 0, result.stderr
    files.write_text(Path("/dev/null"), "x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert os.stat("/dev/null").st_ino == before.st_ino
    assert Path("null").is_symlink()


@POSIX
def test_a_terminal_is_written_to():
    ours, theirs = os.openpty()
    files.write_text(Path(os.ttyname(theirs)), "a line\n")
    assert os.read(ours, 100) == b"a line\r\n"
    os.close(ours)
    os.close(theirs)


@POSIX
@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="the system has no names for open files")
@pytest.mark.parametrize("form", ["/dev/fd/{}", "/proc/self/fd/{}", "link", "link to a link"])
def test_an_open_file_is_written_to_where_it_stands(compare, form):
    if form.startswith("/proc") and not Path("/proc/self/fd").exists():
        pytest.skip("no /proc")
    with open("file", "w+b") as file:
        file.write(b"before\n")
        file.flush()
        name = form.format(file.fileno())
        if form.startswith("link"):
            name = "link"
            Path("link").symlink_to(f"/dev/fd/{file.fileno()}")
        if form.endswith("to a link"):
            name = "other"
            Path("other").symlink_to("link")
        result = compare("--json", name)
        assert result.exit_code == 0, result.stderr
        file.write(b"after\n")
    assert Path("file").read_text(encoding="utf-8") == f"before\n{RECORD}after\n"


@POSIX
@pytest.mark.parametrize("target", ["there.json", "folder/there.json", "not there yet.json"])
def test_a_link_keeps_pointing(compare, target):
    Path("folder").mkdir()
    if "not" not in target:
        Path(target).write_text("old")
    Path("link").symlink_to(target)
    assert compare("--json", "link").exit_code == 0
    assert os.readlink("link") == target
    assert Path(target).read_text(encoding="utf-8") == RECORD


@POSIX
def test_a_file_with_the_longest_name_is_written(compare):
    for name in ("a" * 255, "µ" * 127):
        assert compare("--json", name).exit_code == 0
        assert Path(name).read_text(encoding="utf-8") == RECORD


@POSIX
def test_a_file_that_is_mounted_by_itself_is_written_to(compare, monkeypatch):
    """As one file of a container may be: it cannot be replaced."""

    def busy(*_):
        raise OSError(errno.EBUSY, "Device or resource busy")

    Path("mounted").write_text("longer than before\n" * 10_000)
    number = os.stat("mounted").st_ino
    monkeypatch.setattr(os, "replace", busy)
    assert compare("--json", "mounted").exit_code == 0
    assert Path("mounted").read_text(encoding="utf-8") == RECORD
    assert os.stat("mounted").st_ino == number
    assert os.listdir() == ["mounted"]


def test_a_pipe_that_does_not_wait_gets_everything():
    if not hasattr(os, "set_blocking"):
        pytest.skip("pipes always wait here")
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    data = bytearray()

    def read():
        while part := os.read(ours, 1000):
            data.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        files._write_all(theirs, b"0123456789" * 100_000)  # more than a pipe holds
    finally:
        os.close(theirs)
        reader.join(300)
        os.close(ours)
    assert bytes(data) == b"0123456789" * 100_000


# Before anything is measured


def _socket(name):
    made = socket.socket(socket.AF_UNIX)
    made.bind(name)
    made.close()


@pytest.fixture
def scene():
    """Files, and what is no file."""
    Path("folder").mkdir()
    Path("there").write_text("there")
    os.link("there", "same")
    Path("link").symlink_to("there")
    Path("to-folder").symlink_to("folder")
    Path("loop").symlink_to("loop")
    Path("dangling").symlink_to("new")
    os.mkfifo("pipe")
    _socket("socket")
    np.save("logits.npy", np.zeros((4, 3), np.float32))
    np.save("labels.npy", np.zeros(4, int))
    np.save("weight.npy", np.ones(3))
    handle = os.open("there", os.O_RDONLY)
    yield handle
    os.close(handle)


OWN = ("--logits", "logits.npy", "--targets", "labels.npy")


@POSIX
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--json", ""), "a file's name cannot be empty; - is standard output"),
        (("--html", ""), "a file's name cannot be empty; - is standard output"),
        (("--json", "."), "--json . cannot be written: it is a folder"),
        (("--json", "folder"), "--json folder cannot be written: it is a folder"),
        (("--json", "to-folder"), "it is a folder"),
        (("--json", "new/"), "new/ names a folder, not a file"),
        (("--json", "nowhere/new"), "there is no folder"),
        (("--json", "there/new"), "there is no folder"),
        (("--json", "loop"), "cannot be written"),
        (("--json", "a" * 256), "File name too long"),
        (("--json", "pipe"), "it is a pipe that nobody reads from"),
        (("--markdown", "socket"), "it is a socket"),
        (("--json", "/dev/fd/987"), "Bad file descriptor"),
        (("--json", "/dev/fd/{handle}"), "it is open for reading only"),
        (("--json", "a", "--html", "a"), "--html a: --json names the same file"),
        (("--json", "a", "--markdown", "./a"), "--markdown ./a: --json names the same file"),
        (("--json", "a", "--markdown", "folder/../a"), "names the same file"),
        (("--json", "folder/a", "--markdown", "to-folder/a"), "names the same file"),
        (("--json", "there", "--markdown", "link"), "names the same file"),
        (("--json", "there", "--markdown", "same"), "names the same file"),
        (("--json", "dangling", "--markdown", "new"), "names the same file"),
        (("--json", "-", "--markdown", "-"), "--markdown -: --json names the same file"),
        (("--json", "-", "--html", "/dev/stdout"), "--html /dev/stdout: --json names the same file"),
        (("--json", "/dev/stdout", "--html", "/dev/fd/1"), "names the same file"),
        ((*OWN, "--json", "logits.npy"), "--json logits.npy: it is an input file"),
        ((*OWN, "--html", "labels.npy"), "it is an input file"),
        ((*OWN, "--weight", "weight.npy", "--markdown", "weight.npy"), "it is an input file"),
    ],
)
def test_an_output_that_cannot_be_is_refused(compare, monkeypatch, scene, options, said):
    monkeypatch.setattr(comparing, "run", lambda *_: pytest.fail("it measured"))
    before = {path.name: path.lstat().st_mtime_ns for path in Path().iterdir()}
    result = compare(*(option.format(handle=scene) for option in options))
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.stderr.split())
    assert {path.name: path.lstat().st_mtime_ns for path in Path().iterdir()} == before
    assert Path("there").read_text() == "there"


def test_the_record_that_is_shown_is_not_overwritten():
    Path("run.json").write_text(RECORD, encoding="utf-8")
    result = CliRunner().invoke(cli.main, ["show", "run.json", "--markdown", "./run.json"])
    assert result.exit_code == 2
    assert "it is an input file" in result.stderr
    assert Path("run.json").read_text(encoding="utf-8") == RECORD


def test_a_folder_that_cannot_be_written_is_refused(compare, monkeypatch):
    """Whatever its permissions say: one file is made there, and removed."""

    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(comparing, "run", lambda *_: pytest.fail("it measured"))
    monkeypatch.setattr(files, "_create", refuse)
    result = compare("--markdown", "out.md")
    assert result.exit_code == 2
    assert "--markdown out.md cannot be written: Read-only file system" in result.stderr


@POSIX
def test_somebody_else_s_file_in_a_common_folder_is_refused(monkeypatch, here):
    Path("theirs").touch()
    here.chmod(0o1777)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 12_345)
    with pytest.raises(PermissionError, match="another user's file"):
        files.check_writable(Path("theirs"))
    files.check_writable(Path("new"))
    monkeypatch.undo()
    files.check_writable(here / "theirs")
    assert os.listdir(here) == ["theirs"]


@POSIX
def test_the_file_that_standard_output_goes_to_is_not_replaced():
    script = "import sys; from softmax_ce_bench.__main__ import main; main()"
    Path("run.json").write_text(RECORD, encoding="utf-8")
    with open("out", "wb") as out:
        done = subprocess.run(
            [sys.executable, "-c", script, "show", "run.json", "--markdown", "out"], stdout=out,
            stderr=subprocess.PIPE, text=True, timeout=300,
        )  # fmt: skip
    assert done.returncode == 2
    assert "--markdown out: standard output goes there" in done.stderr


# Afterwards


@POSIX
@pytest.mark.parametrize("full", OPTIONS)
def test_an_output_that_fails_takes_no_other_along(compare, full):
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    others = [option for option in OPTIONS if option != full]
    result = compare(full, "/dev/full", *(word for option in others for word in (option, f"out{option}")))
    assert result.exit_code == 2
    assert f"Error: {full} /dev/full was not written: No space left on device" in result.stderr
    assert printed(comparison.closing(full_run()), width=cli.WIDTH).strip() in result.stdout
    for option in others:
        assert Path(f"out{option}").read_text(encoding="utf-8").startswith(BEGINNING[option])


@pytest.mark.parametrize(
    "error", [KeyError("planted"), MemoryError(), ValueError("planted"), BrokenPipeError(32, "gone")]
)
def test_an_output_that_cannot_be_made_takes_no_other_along(compare, monkeypatch, error):
    def fail(_run):
        raise error

    monkeypatch.setattr(markdown, "whole", fail)
    result = compare("--json", "a.json", "--markdown", "a.md", "--html", "a.html")
    assert result.exit_code == 2
    assert "Error: --markdown a.md was not written: " in result.stderr
    assert sorted(os.listdir()) == ["a.html", "a.json"]
    assert "What was found" in result.stdout


def test_a_run_that_breaks_keeps_what_was_measured(compare, monkeypatch):
    def broken(plan, listener):
        listener.started(full_run())
        raise MemoryError("planted")

    monkeypatch.setattr(comparing, "run", broken)
    result = compare("--json", "a.json")
    assert result.exit_code == 2
    assert "MemoryError: planted" in result.stderr
    assert Path("a.json").read_text(encoding="utf-8") == RECORD


# Standard output


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", ["-", pytest.param("/dev/stdout", marks=POSIX)])
def test_an_output_goes_to_standard_output_and_the_tables_to_the_other(compare, option, name):
    result = compare(option, name)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(BEGINNING[option])
    assert result.stdout.rstrip().endswith(ENDING[option])
    assert "What was found" in result.stderr
    assert "What was found" not in result.stdout.partition("<body")[0]
    assert "written to" not in result.stderr
    assert os.listdir() == []
    if option == "--json":
        assert result.stdout == RECORD


def test_what_is_shown_goes_to_standard_output_too():
    Path("run.json").write_text(RECORD, encoding="utf-8")
    result = CliRunner().invoke(cli.main, ["show", "run.json", "--markdown", "-"])
    assert (result.exit_code, result.stdout) == (0, markdown.whole(full_run()))
    assert result.stderr == printed(comparison.whole(full_run()), width=cli.WIDTH)


def test_a_file_may_have_that_name_in_its_folder(compare):
    assert compare("--json", "./-").exit_code == 0
    assert Path("-").read_text(encoding="utf-8") == RECORD


def test_the_gate_s_outputs(monkeypatch):
    found = gated(Times(), monkeypatch)
    monkeypatch.setattr(gating, "run", lambda *_: found)
    monkeypatch.setattr(builds, "repository", lambda _: Path())
    monkeypatch.setattr(builds, "revision", lambda *_: None)
    monkeypatch.setattr(builds, "working_tree", lambda _: None)
    result = CliRunner().invoke(cli.main, ["gate", "a", "--json", "-", "--html", "page.html"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["schema"] == "softmax-ce/gate"
    assert "CLEAN" in result.stderr
    assert sorted(os.listdir()) == ["page.html"]
    if Path("/dev/full").exists():
        result = CliRunner().invoke(cli.main, ["gate", "a", "--json", "/dev/full", "--html", "other.html"])
        assert result.exit_code == 2
        assert "CLEAN" in result.stdout
        assert "--json /dev/full was not written: No space left on device" in result.stderr
        assert Path("other.html").exists()
