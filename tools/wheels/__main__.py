"""Build and check wheels: ``python -m tools.wheels build FOLDER PYTHON ...`` or ``... check WHEEL ...``."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tools.wheels import build, contents, install, linking, machine_code
from tools.wheels.commands import Wrong


def main() -> int:
    """Return 0, or 1 if something is wrong, in which case the fault is printed and nothing is written."""
    parser = argparse.ArgumentParser(prog="python -m tools.wheels")
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build", help="build an sdist and a wheel for each Python, and check and run them")
    building.add_argument("folder", type=Path)
    building.add_argument("pythons", nargs="+", metavar="PYTHON")
    checking = commands.add_parser("check", help="check wheels that were built elsewhere")
    checking.add_argument("wheels", nargs="+", type=Path, metavar="WHEEL")
    asked = parser.parse_args()
    try:
        if asked.command == "build":
            _build(asked.folder, asked.pythons)
        else:
            _check(asked.wheels)
    except Wrong as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _build(folder: Path, pythons: list[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        source = build.sdist(work / "sdist")
        _none(contents.sdist_faults(source, contents.checked_in()))
        _say(source, "what git tracks, and nothing else")
        sources = contents.sdist_files(source)
        print("Installing it where there is no compiler:")
        print(install.sdist_without_compiler(source, install.Environment(work / "fallback", pythons[0])), end="")
        made = [source]
        for python in pythons:
            own = work / f"for-{len(made)}"
            start = time.monotonic()
            wheel = build.wheel(source, install.Environment(own / "build", python), own)
            seconds = time.monotonic() - start
            _none(_wheel_faults(wheel, sources))
            _say(wheel, f"from the sdist in {seconds:.0f} s")
            print("Installing it where there is no compiler:")
            print(install.wheel_without_compiler(wheel, install.Environment(own / "install", python)), end="")
            made.append(wheel)
        folder.mkdir(parents=True, exist_ok=True)
        for path in made:
            (folder / path.name).write_bytes(path.read_bytes())
    print(f"{len(made)} files are in {folder}.")


def _check(wheels: list[Path]) -> None:
    sources = contents.checked_in()
    if sources is None:
        raise Wrong("the contents of a wheel can be checked only in a checkout, and this is none")
    for wheel in wheels:
        _none(_wheel_faults(wheel, sources))
        _say(wheel, "as it should be")


def _wheel_faults(wheel: Path, sources: Iterable[str]) -> Iterator[str]:
    yield from contents.wheel_faults(wheel, sources)
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(".so"):
                yield from library_faults(Path(archive.extract(name, scratch)))


def library_faults(library: Path) -> Iterator[str]:
    """Yield what is wrong with an ELF file, including its machine code on x86-64."""
    head = library.read_bytes()[:20]
    if head.startswith(b"\x7fELF"):
        yield from linking.faults(library)
        if head[18:] == b"\x3e\x00":  # the machine: x86-64
            yield from machine_code.faults(library)


def _none(faults: Iterable[str]) -> None:
    if found := list(faults):
        raise Wrong("\n".join(found))


def _say(path: Path, what: str) -> None:
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB, {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
