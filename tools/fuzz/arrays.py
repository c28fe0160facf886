"""Damaged .npy files as class weights or as your own logits and targets: they are read, or refused in one line."""

from __future__ import annotations

import io
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import click
import numpy as np
from hypothesis import strategies as st

from softmax_ce_bench.inputs import workloads
from softmax_ce_bench.terminal.options import Weight
from tools.fuzz import mutations

_HEADERS = (
    "{'descr': '<f8', 'fortran_order': False, 'shape': (4,), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }",
    "{'descr': '<i8', 'fortran_order': True, 'shape': (2,), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (2,), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999,), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (-3,), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (2.0,), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999999999999999,), }",
    "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (2,), }",
    "{'descr': '<f8', 'fortran_order': False}",
    "{'descr': 7, 'fortran_order': 'x', 'shape': 3}",
    "(" * 300,
    "{",
    "1 +",
    "'''",
    "{[]: 1}",
)


def cases() -> st.SearchStrategy[Any]:
    """Return the strategy for cases: the contents of a file, and the damage to it."""
    content = st.one_of(
        st.sampled_from(("vector", "matrix", "labels", "integers", "objects", "archive", "nothing")),
        st.sampled_from(_HEADERS),
    )
    return st.fixed_dictionaries(
        {
            "content": content,
            "version": st.sampled_from((1, 1, 2, 3, 9)),
            "damage": mutations.recipes(),
            "as": st.sampled_from(("weight", "logits", "targets")),
        }
    )


def check(case: dict[str, Any]) -> None:
    """Check one file, in one of the places that read a user's arrays."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "array.npy")
        path.write_bytes(mutations.damaged_bytes(_file(case["content"], case["version"]), case["damage"]["bytes"]))
        other = Path(folder, "other.npy")
        if case["as"] == "weight":
            _check_weight(path)
        else:
            other.write_bytes(_file("labels" if case["as"] == "logits" else "matrix", 1))
            _check_workload(*((path, other) if case["as"] == "logits" else (other, path)))


def _check_weight(path: Path) -> None:
    try:
        weight = Weight().convert(str(path), None, None)
    except click.BadParameter as error:
        assert str(path) in error.message, f"the message does not name the file: {error.message}"
        return
    assert weight.ndim == 1, f"class weights of shape {weight.shape}"
    assert np.isfinite(weight).all(), f"class weights {weight}"


def _check_workload(logits: Path, targets: Path) -> None:
    try:
        made = workloads.from_files(logits, targets)
    except workloads.WorkloadError as error:
        message = str(error)
        assert str(logits) in message or str(targets) in message, f"the message does not name the file: {message}"
        assert "\n" not in message, f"the message is more than one line: {message!r}"
        return
    assert made.logits.ndim == 2, f"logits of shape {made.logits.shape}"
    assert made.targets.shape in (made.logits.shape, made.logits.shape[:1]), f"targets of shape {made.targets.shape}"


@cache
def _file(content: str, version: int) -> bytes:
    """Return an .npy file, or something that resembles one."""
    file = io.BytesIO()
    if content == "nothing":
        return b""
    if content == "archive":
        np.savez(file, a=np.ones(3))
        return file.getvalue()
    if content in _HEADERS:
        header = content.encode() + b"\n"
        length = len(header).to_bytes(2 if version == 1 else 4, "little")
        return b"\x93NUMPY" + bytes([version, 0]) + length + header + bytes(64)
    arrays = {
        "vector": np.linspace(0, 2, 4),
        "matrix": np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4),
        "labels": np.array([0, 3]),
        "integers": np.arange(4),
        "objects": np.array([None, 1], object),
    }
    array: Any = arrays[content]
    np.save(file, array, allow_pickle=True)
    return file.getvalue()
