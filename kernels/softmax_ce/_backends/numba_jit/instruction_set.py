"""The instruction set for which Numba compiles, and the width of its registers.

A few lines are compiled to find out (5 ms), because only LLVM knows what a processor's name implies, and NUMBA_CPU_NAME
may name another processor.
"""

# mypy: allow-untyped-calls, disable-error-code="import-untyped, unused-ignore"

from __future__ import annotations

import functools
from typing import Any

import llvmlite.binding as llvm
from numba.core.registry import cpu_target

_PROBE = """
target triple = "{triple}"
declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)
define void @probe(<16 x i32>* %p) {{
    %x = load <16 x i32>, <16 x i32>* %p
    %sum = add <16 x i32> %x, %x
    %y = bitcast <16 x i32> %sum to <16 x float>
    %z = call <16 x float> @llvm.fma.v16f32(<16 x float> %y, <16 x float> %y, <16 x float> %y)
    %bits = bitcast <16 x float> %z to <16 x i32>
    store <16 x i32> %bits, <16 x i32>* %p
    ret void
}}
"""

_REGISTER_BYTES = {"avx512": 64, "avx2": 32}


def _assembly(target_machine: Any) -> str:
    module = llvm.parse_assembly(_PROBE.format(triple=target_machine.triple))
    return str(target_machine.emit_assembly(module))


@functools.cache
def instruction_set() -> str:
    """Return "avx512", "avx2" (with FMA), or "baseline" for any other, as softmax_ce.tuning names them."""
    assembly = _assembly(cpu_target.target_context.codegen()._tm)
    if "vfmadd" in assembly and "zmm" in assembly:
        return "avx512"
    return "avx2" if "vfmadd" in assembly and "vpadd" in assembly and "ymm" in assembly else "baseline"


def register_bytes() -> int:
    """Return the number of bytes of a vector register."""
    return _REGISTER_BYTES.get(instruction_set(), 16)
