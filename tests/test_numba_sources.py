"""The sources of the Numba backend: short functions, each of which names its counterpart in the C sources."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

BACKENDS = Path(__file__).parents[1] / "kernels" / "softmax_ce" / "_backends"
COMPILERS = {"_inlined", "_function", "_merged", "intrinsic", "njit"}  # decorators whose functions are compiled
KERNELS = {"hard_rows", "soft_rows", "total_over", "exp", "log1p", "move"}  # compiled, but not by a decorator
TWIN = re.compile(r"C: (?:within )?(\w+)(?: and (\w+))? in (\w+\.\w+)")
NONE = re.compile(r"C: none, \w")


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for path in sorted((BACKENDS / "numba_jit").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                yield path.name, node


def is_compiled(function: ast.FunctionDef) -> bool:
    names = (node.func if isinstance(node, ast.Call) else node for node in function.decorator_list)
    if any(isinstance(name, ast.Name) and name.id in COMPILERS for name in names):
        return True
    return function.name in KERNELS and ast.get_docstring(function) is not None


def fault_of(docstring: str) -> str | None:
    """What is wrong with the last paragraph, which names the function of a C source; None if nothing is."""
    named = docstring.rpartition("\n\n")[2]
    if NONE.match(named):
        return None
    found = TWIN.match(named)
    if not found:
        return "names no function in C"
    first, second, file = found.groups()
    path = BACKENDS / "cython" / file
    if not path.exists():
        return f"there is no {file}"
    source = path.read_text(encoding="utf-8")
    missing = [name for name in (first, second) if name and not defines(source, name)]
    return f"{file} does not define {missing}" if missing else None


def defines(source: str, name: str) -> bool:
    """Whether a C or Cython source defines a function, a macro or a type of this name."""
    return bool(
        re.search(rf"^(?!\s|#)[^;{{=]*\b{name}\(", source, re.M)  # a definition begins in the first column
        or re.search(rf"^#define {name}\b|^\}} {name};|^#define \w+_OF\({name}\b", source, re.M)
    )


def test_no_function_is_longer_than_forty_lines() -> None:
    lengths = {f"{file}: {node.name}": (node.end_lineno or 0) - node.lineno + 1 for file, node in functions()}
    assert len(lengths) > 100
    assert {name: length for name, length in lengths.items() if length > 40} == {}


def test_each_compiled_function_names_its_counterpart() -> None:
    compiled = [(file, node) for file, node in functions() if is_compiled(node)]
    assert len(compiled) > 90
    faults = {
        f"{file}: {node.name}": fault
        for file, node in compiled
        if (fault := fault_of(ast.get_docstring(node) or "")) is not None
    }
    assert faults == {}


@pytest.mark.parametrize(
    ("docstring", "fault"),
    [
        ("Return it.\n\nC: sum_row in rows_pipeline.h", None),
        ("Return it.\n\nC: within load_columns and store_columns in lanes_memory.h", None),
        ("Return it.\n\nC: none, since", None),
        ("Return it.\n\nC: none", "names no function in C"),
        ("Return it. C: sum_row in rows_pipeline.h", "names no function in C"),
        ("Return it.\n\nC: sum_row in rows.c", "there is no rows.c"),
        ("Return it.\n\nC: sum_roe in rows_kernel.h", "rows_kernel.h does not define ['sum_roe']"),
        ("Return it.\n\nC: flush_line in rows_pipeline.h", "rows_pipeline.h does not define ['flush_line']"),  # a call
    ],
)
def test_a_wrong_counterpart_is_found(docstring: str, fault: str | None) -> None:
    assert fault_of(docstring) == fault
