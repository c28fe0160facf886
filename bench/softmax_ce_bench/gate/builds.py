"""Build and install revisions in folders of their own. The current installation is not touched.

Both builds are made in the same way, with the same flags and dependencies, in paths of the same length: where a path
stands in memory, its length shifts what comes behind it.
"""

from __future__ import annotations

import compileall
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from softmax_ce_bench.gate.session import BuildError
from softmax_ce_bench.measure import git
from softmax_ce_bench.measure.process import interrupts_held_off

BUILD_SECONDS = 900.0
WORKING_TREE = "working tree"
_ISOLATED_UNLESS = ("Cython", "setuptools", "numpy")  # what the build needs, installed here
_PACKAGE = "softmax_ce/"


@dataclass(frozen=True, slots=True)
class BuildSource:
    """What to build: a revision of a repository, its working tree, or an existing wheel.

    Attributes
    ----------
    text : str
        As it was asked for.
    commit : str
        The revision's full hash, with "+" behind it for a working tree that differs; of a wheel, its file name.
    repository : Path or None
    wheel : Path or None
    """

    text: str
    commit: str
    repository: Path | None = None
    wheel: Path | None = None


def revision(repository: Path, name: str) -> BuildSource:
    """Return a revision by any name that git knows.

    Raises
    ------
    BuildError
    """
    try:
        commit = git.ask(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    except subprocess.CalledProcessError:
        raise BuildError(f"{name!r} is not a revision of {repository}: a branch, tag or commit, such as main") from None
    return BuildSource(name, commit, repository)


def working_tree(repository: Path) -> BuildSource:
    """Return the files of the working tree that git does not ignore."""
    commit = git.ask(repository, "rev-parse", "HEAD")
    changed = bool(git.ask(repository, "status", "--porcelain"))
    return BuildSource(WORKING_TREE, commit + "+" * changed, repository)


def from_wheel(path: Path) -> BuildSource:
    """Return an existing wheel as a source.

    Raises
    ------
    BuildError
        It is not one of softmax-ce.
    """
    try:
        with zipfile.ZipFile(path) as wheel:
            if f"{_PACKAGE}__init__.py" in wheel.namelist():
                return BuildSource(str(path), path.name, wheel=path.resolve())
    except (OSError, zipfile.BadZipFile) as error:
        raise BuildError(f"{path}: not a wheel that can be read: {error}") from None
    raise BuildError(f"{path}: a wheel, but not of softmax-ce")


def repository(folder: Path) -> Path:
    """Return the repository of this project that contains a folder.

    Raises
    ------
    BuildError
    """
    try:
        root = Path(git.ask(folder, "rev-parse", "--show-toplevel"))
    except FileNotFoundError:
        raise BuildError("git is not installed; --base-wheel and --head-wheel need none") from None
    except subprocess.CalledProcessError:
        raise BuildError(
            f"{folder} is in no git repository: run this in a checkout, or give --base-wheel and --head-wheel"
        ) from None
    if not (root / "kernels" / "softmax_ce").is_dir():
        raise BuildError(f"{root} is not a checkout of softmax-ce: there is no kernels/softmax_ce")
    return root


@dataclass(frozen=True, slots=True)
class Edit:
    """A change to the source of a build, for builds that are slower on purpose.

    Attributes
    ----------
    file, old, new : str
        `old` stands in the file exactly once; an empty one appends.
    """

    file: str
    old: str
    new: str


def make(sources: Sequence[tuple[BuildSource, Path]], edits: Sequence[Sequence[Edit]] = ()) -> None:
    """Build and install sources in parallel, each into its own new folder, which then holds ``softmax_ce``.

    Parameters
    ----------
    sources : sequence of (BuildSource, Path)
    edits : sequence of sequence of Edit
        The edit of each source, or None.

    Raises
    ------
    BuildError
        One of them does not build; its message ends with what the build said.
    """
    with tempfile.TemporaryDirectory(prefix="softmax-ce-build-", ignore_cleanup_errors=True) as name:
        jobs: list[tuple[BuildSource, Path, subprocess.Popen[bytes] | None, Path]] = []
        try:
            for k, (source, site) in enumerate(sources):
                folder = Path(name) / str(k)
                process = None
                if source.wheel is None:
                    (folder / "wheel").mkdir(parents=True)
                    export(source, folder / "tree")
                    for edit in edits[k] if edits else ():
                        apply(edit, folder / "tree")
                    process = _start(folder)
                jobs.append((source, site, process, folder))
            for source, site, process, folder in jobs:
                _install(_wheel(source, process, folder), site)
        finally:
            for _, _, process, _ in jobs:
                if process is not None and process.poll() is None:
                    _end(process)


def apply(edit: Edit, tree: Path) -> None:
    """Apply an edit to a folder.

    Raises
    ------
    BuildError
        The text to replace does not occur exactly once.
    """
    path = tree / edit.file
    text = path.read_text(encoding="utf-8")
    if edit.old and text.count(edit.old) != 1:
        raise BuildError(f"{edit.file}: {edit.old!r} occurs {text.count(edit.old)} times, not once")
    path.write_text(text.replace(edit.old, edit.new) if edit.old else text + edit.new, encoding="utf-8")


def export(source: BuildSource, folder: Path) -> None:
    """Copy the files of a source."""
    assert source.repository is not None
    folder.mkdir(parents=True)
    if source.text == WORKING_TREE:
        listed = git.ask(source.repository, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        for file in filter(None, listed.split("\0")):
            if (source.repository / file).is_file():  # else it is deleted, and the deletion not committed
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source.repository / file, folder / file)
        return
    command = ["git", "-C", str(source.repository), "archive", "--format=tar", source.commit]
    with tempfile.TemporaryFile() as packed:
        subprocess.run(command, stdout=packed, check=True)
        packed.seek(0)
        with tarfile.open(fileobj=packed) as archive:
            archive.extractall(folder, filter="data")


def _start(folder: Path) -> subprocess.Popen[bytes]:
    """Start to build a wheel from folder/tree."""
    try:
        for name in _ISOLATED_UNLESS:
            version(name)
        isolation = ["--no-build-isolation"]
    except PackageNotFoundError:
        isolation = []
    # An absolute path: pip would look a bare word up in its index.
    command = [
        sys.executable, "-m", "pip", "wheel", "--no-deps", *isolation, "--disable-pip-version-check",
        "--wheel-dir", str(folder / "wheel"), str((folder / "tree").resolve()),
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SOFTMAX_CE_")}
    with (folder / "log").open("wb") as log, interrupts_held_off():
        return subprocess.Popen(
            command, env=environment | {"SOFTMAX_CE_REQUIRE_ALL": "1"}, cwd=folder, stdin=subprocess.DEVNULL,
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def _wheel(source: BuildSource, process: subprocess.Popen[bytes] | None, folder: Path) -> Path:
    if process is None:
        assert source.wheel is not None
        return source.wheel
    try:
        code = process.wait(BUILD_SECONDS)
    except subprocess.TimeoutExpired:
        raise BuildError(f"{source.text}: not built within {BUILD_SECONDS / 60:.0f} minutes") from None
    if code != 0:
        said = (folder / "log").read_text(encoding="utf-8", errors="replace")
        raise BuildError(f"{source.text} does not build: {_telling_line(said)}")
    (wheel,) = (folder / "wheel").glob("*.whl")
    return wheel


def _install(wheel: Path, site: Path) -> None:
    """Unpack softmax_ce from the wheel, and nothing else: the harness is that of the current installation."""
    site.mkdir(parents=True)
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(site, [name for name in packed.namelist() if name.startswith(_PACKAGE)])
    compileall.compile_dir(site, quiet=2)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a build and everything that it has started, compilers included."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)  # it leads a group of its own
    else:
        process.kill()
    process.wait()


def _telling_line(said: str) -> str:
    """Return the first complaint of the compiler or of Python, or else the last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r": (fatal )?error: |^[\w.]*Error: ", line)]
    return (telling or lines[-1:] or ["it said nothing"])[0][:300]
