"""Builds that are slower on purpose: a known share of injected work, and changes that someone might really commit."""

from __future__ import annotations

from dataclasses import dataclass

from softmax_ce_bench.gate.builds import Edit

_KERNELS = "kernels/softmax_ce/_backends"
SHARE = "SOFTMAX_CE_EXTRA_WORK"  # the share of the rows that an injected build computes twice

# Work, not sleep: the first rows of a call once more. The remainder is carried, so that a share of one row counts too.
_IN_PYTHON = f"""

import os as _os

_once, _owed, _share = hard, 0.0, float(_os.environ["{SHARE}"])
plain = None  # small calls are computed by this kernel, too


def hard(*arguments):
    global _owed
    _once(*arguments)
    start, stop = arguments[-2:]
    _owed += _share * (stop - start)
    if _owed >= 1:
        extra = int(_owed)
        _owed -= extra
        _once(*arguments[:-2], start, start + extra)
"""
_IN_C = f"""    rows(call, start, stop);
    static double share = -1, owed = 0;
    if (share < 0)
        share = atof(getenv("{SHARE}"));
    owed += share * (double)(stop - start);
    const ptrdiff_t extra = (ptrdiff_t)owed;
    owed -= (double)extra;
    if (extra > 0)
        rows(call, start, start + extra);
"""
WORK = (
    Edit(f"{_KERNELS}/shifted.py", "", _IN_PYTHON),
    Edit(f"{_KERNELS}/numba_jit/__init__.py", "", _IN_PYTHON),
    Edit(f"{_KERNELS}/cython/rows_dispatch.c", "    rows(call, start, stop);\n", _IN_C),
)
BROKEN = (
    Edit(f"{_KERNELS}/cython/rows_dispatch.c", "    rows(call, start, stop);\n", "    rows(call, start, stop)\n"),
)


@dataclass(frozen=True, slots=True)
class BuildMutant:
    """A change to one backend, or to code that all share.

    Attributes
    ----------
    name : str
    backend : str
        Empty: every one.
    edit : Edit
    workloads : tuple of str
        Those that it slows down, by name; not the tiny one, where the kernel is a small part.
    operations : tuple of str
    dtypes : tuple of str
    """

    name: str
    backend: str
    edit: Edit
    workloads: tuple[str, ...] = ("boosting", "vision", "language")
    operations: tuple[str, ...] = ("forward", "backward", "fused")
    dtypes: tuple[str, ...] = ("float32", "float64")

    def concerns(self, cell: str) -> bool:
        """Return whether the mutant slows down a cell, given by its text."""
        backend, operation, workload, _, dtype = cell.split()
        return (
            self.backend in (backend, "")
            and workload in self.workloads
            and operation in self.operations
            and dtype in self.dtypes
        )


# Two builds, in each of which every backend has one: what is slow in one backend says nothing of another.
REALISTIC = (
    (
        BuildMutant(
            "float64 upcast of the exponentials", "numpy",
            Edit(f"{_KERNELS}/shifted.py", "    np.exp(flat, flat)\n",
                 "    flat[:] = np.exp(flat.astype(np.float64))\n"),
            dtypes=("float32",),
        ),
        BuildMutant(
            "exponentials computed a second time", "numba",
            Edit(f"{_KERNELS}/numba_jit/kernels.py", "classes * logits.itemsize <= keep_bytes", "classes <= 0"),
            workloads=("vision",), operations=("backward", "fused"),
        ),
        BuildMutant(
            "-O3 lost (-O1)", "cython", Edit("setup.py", 'FLAGS = ["-O3",', 'FLAGS = ["-O1",'),
        ),
        BuildMutant(
            "the short cut for plain calls lost", "",
            Edit("kernels/softmax_ce/evaluation.py",
                 "    if chosen is not None:\n        most = pool.serial_below(chosen.info.serial_elements)\n        i",
                 "    if False:\n        most = pool.serial_below(chosen.info.serial_elements)\n        i"),
            workloads=("tiny",),
        ),
    ),
    (
        BuildMutant(
            "an extra temporary, the logits copied", "numpy",
            Edit(f"{_KERNELS}/shifted.py", "    first, one, gain = frame\n",
                 "    first, one, gain = frame\n    x = x.copy()\n"),
        ),
        BuildMutant(
            "vectors of half the width", "numba",
            Edit(f"{_KERNELS}/numba_jit/vectors.py", "Vector(dtype, LINE_BYTES * 8 // dtype.bitwidth)",
                 "Vector(dtype, LINE_BYTES * 4 // dtype.bitwidth)"),
        ),
        BuildMutant(
            "exponentials computed a second time", "cython",
            Edit(f"{_KERNELS}/cython/rows_dispatch.c", "(by_chunk || bytes <= call->keep);", "by_chunk;"),
            workloads=("vision",), operations=("backward", "fused"),
        ),
    ),
)  # fmt: skip
