"""Find instructions beyond SSE2, which every x86-64 CPU has, in functions that are not chosen at run time.

A function belongs to the instruction set in its name or in its source's: `sce_rows_avx2_f32`, and `one_label_short`
from `rows_avx2_f32.c`, are called where the CPU has AVX2. Which functions come from which source is in the library's
table of symbols, which is why wheels keep it.
"""

from __future__ import annotations

import platform
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.wheels.commands import Wrong, run

LEVELS = ("baseline", "avx2", "avx512")


@dataclass(frozen=True, slots=True)
class Function:
    """A range of code, and the instruction set that it may use."""

    start: int
    end: int
    name: str
    source: str

    @property
    def level(self) -> str:
        words = re.split(r"[_.]", f"{self.source}_{self.name}")
        return next((level for level in reversed(LEVELS) if level in words), "baseline")

    def __str__(self) -> str:
        return f"{self.name} of {self.source}" if self.source else self.name


def runs_here() -> bool:
    """Return whether code compiled here is for x86-64, the only target that this module knows."""
    return platform.machine().lower() in ("x86_64", "amd64")


def faults(library: Path) -> Iterator[str]:
    """Yield each function with an instruction above its level, and the first such instruction."""
    functions = symbols(library)
    starts = [function.start for function in functions]
    seen: set[str] = set()
    for address, code, text in _instructions(library):
        needed = level(code, text)
        if needed == "baseline":
            continue
        at = bisect_right(starts, address) - 1
        inside = at >= 0 and address < functions[at].end
        allowed = functions[at].level if inside else "baseline"
        where = str(functions[at]) if inside else f"code of no function at {address:#x}"
        if LEVELS.index(needed) > LEVELS.index(allowed) and where not in seen:
            seen.add(where)
            yield f"{library.name}: {where} may use {allowed} and has {needed}: {text}"


def symbols(library: Path) -> list[Function]:
    """Return the functions by address. Raise Wrong if the symbol table was stripped."""
    functions: list[Function] = []
    source = ""
    for line in run("readelf", "--syms", "--wide", library).splitlines():
        fields = line.split()
        if line.startswith("Symbol table"):
            functions, source = [], ""  # .dynsym comes first, and has no sources
        if len(fields) < 8:
            continue
        _, address, size, kind, binding, _, section, name = fields[:8]
        if kind == "FILE":
            source = name
        elif kind in ("FUNC", "IFUNC") and section != "UND" and int(size, 0) > 0:
            start = int(address, 16)
            # Only local symbols follow the source that they are from.
            functions.append(Function(start, start + int(size, 0), name, source if binding == "LOCAL" else ""))
    if not any(function.source for function in functions):
        raise Wrong(f"{library.name} has no table of symbols: the functions that are chosen at run time are unknown")
    return sorted(functions, key=lambda function: function.start)


_LINE = re.compile(r"\s*([0-9a-f]+):\t((?:[0-9a-f]{2} )+)\s*\t?(.*)")


def _instructions(library: Path) -> Iterator[tuple[int, bytes, str]]:
    # 15 bytes are the longest instruction: each on one line.
    for line in run("objdump", "--disassemble", "--wide", "--insn-width=15", library).splitlines():
        if match := _LINE.fullmatch(line):
            yield int(match[1], 16), bytes.fromhex(match[2]), match[3]


_PREFIXES = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
_REX = range(0x40, 0x50)
_WIDE_MASK = re.compile(r"%k[0-7]")
# Beyond SSE2 and in its opcode maps. Not tzcnt: as `rep bsf` it is in code for every CPU, for operands other than 0.
_LATER = re.compile(
    r"h(add|sub)p[sd]|addsubp[sd]|mov(d|sh|sl)dup|lddqu|fisttp\w*|popcnt\w*|lzcnt\w*|cmpxchg16b|monitorx?|mwaitx?|"
    r"rdrand|rdseed|extrq|insertq|movnts[sd]"
)


def level(code: bytes, text: str) -> str:
    """Return the first of LEVELS that has an instruction, by its encoding or else by its name."""
    at = 0
    while at < len(code) and code[at] in _PREFIXES:
        at += 1
    if at < len(code) and code[at] in _REX:
        at += 1
    rest = code[at:]
    if rest[:1] == b"\x62":  # the EVEX prefix
        return "avx512"
    if rest[:1] in (b"\xc4", b"\xc5"):  # the VEX prefix: AVX, AVX2, FMA, F16C, BMI, and AVX-512's mask registers
        return "avx512" if _WIDE_MASK.search(text) else "avx2"
    if rest[:2] in (b"\x0f\x38", b"\x0f\x3a"):  # SSSE3, SSE4, AES, SHA, MOVBE, ADX
        return "avx2"
    words = text.split()
    name = next((word for word in words if word not in ("rep", "repz", "repnz", "lock", "bnd", "notrack")), "")
    return "avx2" if _LATER.fullmatch(name) else "baseline"
