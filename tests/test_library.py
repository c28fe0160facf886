"""The look at the extension's file before it is loaded: how many bytes it lacks."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

from softmax_ce._backends.cython.library import load, missing_bytes

ELF = b"\x7fELF\x02\x01"


def elf(*segments: tuple[int, int], table: int = 64, entry: int = 56) -> bytes:
    """A file's header and program headers, for segments at (offset, length); nothing behind them."""
    head = ELF + bytes(26) + struct.pack("<Q", table) + bytes(14) + struct.pack("<HH", entry, len(segments)) + bytes(6)
    assert len(head) == 64
    headers = [bytes(8) + struct.pack("<4Q", offset, 1, 2, length) for offset, length in segments]
    return head + bytes(table - 64) + b"".join(header.ljust(entry, b"\0") for header in headers)


@pytest.mark.parametrize(
    ("content", "missing"),
    [
        (elf(), 0),
        (elf((0, 120)), 0),
        (elf((0, 121)), 1),
        (elf((100, 120)), 100),
        (elf((0, 500), (400, 400), (0, 10)), 800 - 232),
        (elf((400, 400), (0, 500)), 800 - 176),
        (elf((100, 120), table=72), 92),
        (elf((100, 120), entry=60), 96),
        (elf((0, 10))[:100], 20),  # the table itself
        (elf((0, 300))[:104], 196),  # a header of which all that counts is there
        (elf((0, 300))[:103], 17),
        (elf((0, 10_000))[:63], 0),  # no whole header: the loader says so
        (elf()[:64], 0),
        (b"\x7fELF\x01\x01" + elf((0, 10_000))[6:], 0),  # 32 bits
        (b"MZ" + bytes(200), 0),
        (b"", 0),
    ],
)
def test_missing_bytes(tmp_path: Path, content: bytes, missing: int) -> None:
    path = tmp_path / "library.so"
    path.write_bytes(content)
    assert missing_bytes(path) == missing


def test_an_extension_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why is looked for beside library.py, where the extension belongs."""
    from softmax_ce._backends.cython import library

    monkeypatch.syspath_prepend(tmp_path)
    name, folder = "bare._kernels", tmp_path / "bare"
    folder.mkdir()
    monkeypatch.setattr(library, "__file__", str(folder / "library.py"))
    for file in ("_kernels.other-python.so", "_kernels.other-python.pyd", "_kernels.c", "_other.so"):
        (folder / file).write_text("")
    files = "_kernels.other-python.pyd, _kernels.other-python.so"
    with pytest.raises(ImportError, match=f"was built for another Python: {files}$"):
        load(name)
    (folder / "build_error.txt").write_text(" no C compiler: cc not found\n")
    with pytest.raises(ImportError, match=r"the extension was not built: no C compiler: cc not found$"):
        load(name)
    for file in ("build_error.txt", "_kernels.other-python.so", "_kernels.other-python.pyd"):
        (folder / file).unlink()
    with pytest.raises(ImportError, match=r"the extension is missing: no _kernels in .*bare$"):
        load(name)


def test_what_is_there_and_whole_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "_kernels.py").write_text("answer = 42")
    assert load("whole._kernels").answer == 42
    (tmp_path / "short").mkdir()
    (tmp_path / "short" / "_kernels.py").write_bytes(elf((0, 500)))
    with pytest.raises(ImportError, match=r"is truncated: .*_kernels.py lacks 380 bytes"):
        load("short._kernels")
    assert "short._kernels" not in sys.modules
