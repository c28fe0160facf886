"""What the package knows about caches: sizes as Linux reports them, and the thresholds that follow."""

from __future__ import annotations

from pathlib import Path

import pytest

from softmax_ce import tuning
from softmax_ce.tuning import Caches

KIB, MIB = 1 << 10, 1 << 20


def describe(folder: Path, *caches: tuple[str, str, str]) -> Path:
    """Write what Linux reports: (level, type, size) of each cache."""
    for k, facts in enumerate(caches):
        (folder / f"index{k}").mkdir()
        for name, text in zip(("level", "type", "size"), facts, strict=True):
            (folder / f"index{k}" / name).write_text(f"{text}\n")
    return folder


def test_the_sizes_of_the_data_caches_are_read(tmp_path: Path) -> None:
    describe(
        tmp_path, ("1", "Data", "48K"), ("1", "Instruction", "64K"), ("2", "Unified", "1024K"), ("3", "Unified", "32M"),
        ("4", "Unified", "1G"), ("5", "Unified", "garbage"), ("none", "Unified", "32M"),
    )  # fmt: skip
    assert tuning.reported_caches(tmp_path) == {1: 48 * KIB, 2: MIB, 3: 32 * MIB, 4: 1024 * MIB}
    assert tuning.machine_caches(tmp_path) == Caches(MIB, 1024 * MIB)
    assert tuning.reported_caches(tmp_path / "nothing") == {}


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        ((), tuning.USUAL_CACHES),
        ((("1", "Data", "32K"),), tuning.USUAL_CACHES),
        ((("2", "Unified", "2048K"),), Caches(2 * MIB, 2 * MIB)),
        ((("2", "Unified", "64K"), ("3", "Unified", "4096M")), Caches(64 * KIB, 4096 * MIB)),
        ((("2", "Unified", "63K"), ("3", "Unified", "16M")), Caches(512 * KIB, 16 * MIB)),
        ((("2", "Unified", "65M"), ("3", "Unified", "64M")), Caches(512 * KIB, 64 * MIB)),
        ((("2", "Unified", "64M"), ("3", "Unified", "4097M")), Caches(64 * MIB, 64 * MIB)),
        ((("2", "Unified", "1M"), ("3", "Unified", "512K")), Caches(MIB, 8 * MIB)),
    ],
)
def test_missing_and_impossible_sizes_have_the_usual_value(
    reported: tuple[tuple[str, str, str], ...], expected: Caches, tmp_path: Path
) -> None:
    assert tuning.machine_caches(describe(tmp_path, *reported)) == expected


def test_thresholds_follow_from_the_caches() -> None:
    caches = Caches(MIB, 32 * MIB)
    assert tuning.for_isa("avx512", caches) == tuning.Tuning(8 * KIB, 2 * MIB, 32 * MIB, 500_000)
    assert tuning.for_isa("avx2", caches) == tuning.Tuning(4 * MIB, 16 * MIB, 32 * MIB, 250_000)
    assert tuning.for_isa("unknown", caches) == tuning.for_isa("baseline", caches) == tuning.for_isa("avx2", caches)
    assert tuning.for_isa("avx2") == tuning.for_isa("avx2", tuning.machine_caches())
