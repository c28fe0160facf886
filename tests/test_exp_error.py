"""The compiled exp is as accurate as its backend declares: on every instruction set, over a stride of all float32.

``make exp-error`` walks all of them.
"""

from __future__ import annotations

import pytest

import softmax_ce as sce
from conftest import available
from helpers import run_python

_CODE = """
from tools.exp_error import float32_error, float64_error
print(*float32_error(stride=499), *float64_error(samples=1 << 18))
"""


@pytest.mark.parametrize("isa", ["avx512", "avx2", "baseline"])
def test_exp_is_within_what_is_declared(isa: str) -> None:
    backend = sce.get_backend(available("cython"))
    if isa not in backend.details:
        pytest.skip(f"this CPU cannot run {isa}")
    single, _, double, _ = map(float, run_python(_CODE, SOFTMAX_CE_ISA=isa).split())
    assert 0.5 <= single <= backend.info.accuracy["float32"].exp_ulp <= 1.0
    assert 0.5 <= double <= backend.info.accuracy["float64"].exp_ulp
