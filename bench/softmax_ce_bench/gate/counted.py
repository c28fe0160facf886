"""The process that holds one build and tells callgrind which calls to count. See :mod:`instructions`.

``python .../gate/counted.py FOLDER`` with the build's folder first on the path, and on standard input a
JSON list with an entry ``[backend, operation, workload, calls]`` for each cell. Callgrind writes a file for each cell
with the instructions of so many calls, and another one with those of twice as many. Without valgrind the same calls
are made, and nothing is counted.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import json
import mmap
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))  # behind the build
from softmax_ce_bench.gate.worker import Service

# Valgrind looks for these instructions, which together change nothing: its documented interface for programs, as the
# macro VALGRIND_DO_CLIENT_REQUEST_EXPR of valgrind.h has it for x86-64. Around them, int function(uint64_t words[6]).
_REQUEST = bytes.fromhex(
    "4889f8"  # mov  %rdi, %rax    the request and its arguments
    "31d2"  # xor  %edx, %edx      the answer, unless valgrind gives one
    "48c1c703 48c1c70d 48c1c73d 48c1c733"  # rol $3, $13, $61, $51, %rdi
    "4887db"  # xchg %rbx, %rbx
    "89d0"  # mov  %edx, %eax
    "c3"  # ret
)
_CALLGRIND = (ord("C") << 24) | (ord("T") << 16)
_TOGGLE_COLLECT, _DUMP_STATS_AT, _START_INSTRUMENTATION = (_CALLGRIND + k for k in (2, 3, 4))  # of callgrind.h


class Callgrind:
    """Requests that a program can make of callgrind when it runs under it."""

    def __init__(self) -> None:
        self._code = mmap.mmap(-1, len(_REQUEST), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._code.write(_REQUEST)
        self._words = (ctypes.c_uint64 * 6)()
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._code))
        self._function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(address)

    def start(self) -> None:
        """Start to simulate. Everything before runs faster."""
        self._ask(_START_INSTRUMENTATION)

    def count(self, run: Callable[[], object], calls: int, name: str) -> None:
        """Make some calls and write their instructions to a file. A few instructions of this loop are included."""
        some = itertools.repeat(None, calls)
        self._ask(_TOGGLE_COLLECT)
        for _ in some:
            run()
        self._ask(_TOGGLE_COLLECT)
        text = ctypes.create_string_buffer(name.encode())
        self._ask(_DUMP_STATS_AT, ctypes.addressof(text))

    def _ask(self, request: int, argument: int = 0) -> None:
        self._words[0], self._words[1] = request, argument
        self._function(self._words)


class CountingService(Service):
    """A service whose calls are counted."""

    def count(self, callgrind: Callgrind, key: int, calls: int) -> None:
        """Count the instructions of some calls under the name "key calls"."""
        callgrind.count(self._calls[key], calls, f"{key} {calls}")


def main() -> None:
    """Make all calls."""
    service = CountingService(Path(sys.argv[1]))
    plan = json.load(sys.stdin)
    for key, (backend, operation, workload, _) in enumerate(plan):
        service.prepare(key, backend, operation, workload)
    callgrind = Callgrind()
    gc.collect()
    gc.disable()
    callgrind.start()
    for key, (*_, calls) in enumerate(plan):
        for many in (calls, 2 * calls):
            service.count(callgrind, key, many)


if __name__ == "__main__":
    main()
