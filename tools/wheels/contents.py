"""The files, tags and metadata of the sdist and the wheels. Whatever is not expected is a fault too."""

from __future__ import annotations

import re
import subprocess
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from email import message_from_bytes
from email.message import Message
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import parse_sdist_filename, parse_wheel_filename
from packaging.version import Version

from tools.wheels.commands import ROOT, Wrong

PACKAGES = {"softmax_ce": "kernels/softmax_ce", "softmax_ce_bench": "bench/softmax_ce_bench"}
EXTENSIONS = ("softmax_ce/_backends/cython/_kernels", "softmax_ce_bench/ceilings/_loops")
SOURCES_OF_EXTENSIONS = {".c", ".h", ".pyx", ".pxd", ".pxi"}
# What the build adds to the checked-in files.
MADE_IN_SDIST = {"PKG-INFO", "setup.cfg"}
MADE_IN_WHEEL = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}


def sdist_files(path: Path) -> set[str]:
    """Return the files of the sdist, relative to its folder."""
    with tarfile.open(path) as archive:
        names = [PurePosixPath(member.name) for member in archive.getmembers() if not member.isdir()]
    return {str(name.relative_to(path.name.removesuffix(".tar.gz"))) for name in names}


def checked_in() -> set[str] | None:
    """Return the files that git tracks, or None if this is no checkout, as in an unpacked sdist."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    done = subprocess.run(command, capture_output=True, text=True)
    return set(filter(None, done.stdout.split("\0"))) if done.returncode == 0 else None


def sdist_faults(path: Path, tracked: set[str] | None) -> Iterator[str]:
    """Yield a wrong name, and each file that is missing or superfluous."""
    if parse_sdist_filename(path.name) != ("softmax-ce", _version()):
        yield f"{path.name} is not softmax-ce {_version()}"
    files = {name for name in sdist_files(path) if not _made(name)}
    if tracked is not None:
        yield from (f"{path.name} lacks {name}" for name in sorted(tracked - files))
        yield from (f"{path.name} has {name}, which git does not track" for name in sorted(files - tracked))


def _made(name: str) -> bool:
    return name in MADE_IN_SDIST or bool(re.match(r"[^/]+\.egg-info/|kernels/[^/]+\.egg-info/", name))


def wheel_faults(path: Path, sources: Iterable[str]) -> Iterator[str]:
    """Yield wrong tags and metadata, and each file that is missing or superfluous, given the sdist's files."""
    name, version, _, tags = parse_wheel_filename(path.name)
    if (name, version) != ("softmax-ce", _version()):
        yield f"{path.name} is not softmax-ce {_version()}"
    for tag in tags:
        if not re.fullmatch(r"cp3\d+", tag.interpreter) or tag.abi != tag.interpreter:
            yield f"{path.name}: tag {tag} is not one version of CPython"
        if not re.match(r"manylinux_|manylinux\d|musllinux_|macosx_", tag.platform):
            yield f"{path.name}: {tag.platform} names no platform that others have: not repaired?"
    with zipfile.ZipFile(path) as archive:
        files = {file for file in archive.namelist() if not file.endswith("/")}
        folder = f"{path.name.split('-')[0]}-{version}.dist-info"
        metadata = {file: message_from_bytes(archive.read(f"{folder}/{file}")) for file in ("METADATA", "WHEEL")}
        scripts = archive.read(f"{folder}/entry_points.txt").decode()
    abi = {tag.interpreter.removeprefix("cp") for tag in tags}
    yield from _file_faults(path.name, files, set(sources), folder, abi)
    yield from (f"{path.name}: {fault}" for fault in _metadata_faults(metadata["METADATA"]))
    if metadata["WHEEL"]["Root-Is-Purelib"] != "false":
        yield f"{path.name} says that it holds no library"
    if "softmax-ce = softmax_ce_bench.__main__:main" not in scripts:
        yield f"{path.name} does not install the command softmax-ce"


def _file_faults(wheel: str, files: set[str], sources: set[str], folder: str, abi: set[str]) -> Iterator[str]:
    expected = {f"{folder}/{name}" for name in MADE_IN_WHEEL}
    for package, root in PACKAGES.items():
        own = (name.removeprefix(f"{root}/") for name in sources if name.startswith(f"{root}/"))
        expected |= {f"{package}/{name}" for name in own if PurePosixPath(name).suffix not in SOURCES_OF_EXTENSIONS}
    for extension in EXTENSIONS:
        built = {name for name in files if re.match(rf"{extension}\.cpython-({'|'.join(abi)})-[\w-]+\.so$", name)}
        if len(built) != 1:
            yield f"{wheel} has {len(built)} libraries instead of one for {extension}"
        expected |= built
    yield from (f"{wheel} lacks {name}" for name in sorted(expected - files))
    yield from (f"{wheel} has {name}, which does not belong there" for name in sorted(files - expected))


def _metadata_faults(metadata: Message) -> Iterator[str]:
    needed = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    always = [str(requirement) for requirement in needed if "extra ==" not in str(requirement.marker or "")]
    if [Requirement(text).name for text in always] != ["numpy"]:
        yield f"it needs {', '.join(always) or 'nothing'}, but only NumPy is promised"
    if metadata["License-Expression"] != "BSD-3-Clause":
        yield f"its licence is {metadata['License-Expression']}"
    if not str(metadata["Requires-Python"]).startswith(">=3.11"):
        yield f"it is for Python {metadata['Requires-Python']}"
    if metadata["Description-Content-Type"] != "text/markdown":
        yield "README.md is not its description"


def _version() -> Version:
    text = (ROOT / "kernels" / "softmax_ce" / "_version.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if found is None:
        raise Wrong("kernels/softmax_ce/_version.py names no version")
    return Version(found[1])
