"""`softmax_ce.torch.vocab_parallel_cross_entropy` on several processes against one, with gloo over loopback."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import softmax_ce as sce
from problems import assert_close

pytest.importorskip("torch", reason="PyTorch is not installed")

PROGRAM = """
    import json, sys
    import numpy as np
    import torch
    from torch import distributed
    from softmax_ce.torch import vocab_parallel_cross_entropy

    rank, world, store, stored = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], np.load(sys.argv[4])
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    columns = np.array_split(np.arange(stored["x"].shape[-1]), world)[rank]
    results = {}
    for name, options in json.loads(sys.argv[5]).items():
        x = torch.from_numpy(stored["x"][..., columns].copy()).requires_grad_()
        y = torch.from_numpy(stored["y"] if not name.startswith("soft") else stored["soft"][..., columns].copy())
        if "weight" in options:
            options["weight"] = stored["weight"]
        loss = vocab_parallel_cross_entropy(x, y, **options)
        loss.backward(torch.from_numpy(stored["upstream"]) if loss.dim() else None)
        results[name + "_loss"], results[name + "_grad"] = loss.detach().numpy(), x.grad.numpy()
    bad = torch.from_numpy(stored["y"]).clone()
    if rank == world - 1:
        bad[0, 0] = 10_000
    try:
        vocab_parallel_cross_entropy(torch.from_numpy(stored["x"][..., columns].copy()), bad)
    except Exception as error:
        results["error"] = str(error)
    try:
        vocab_parallel_cross_entropy(x, torch.from_numpy(stored["y"]), backend="cython" if rank else "numpy")
    except ValueError as error:
        results["backends"] = str(error)
    np.savez(f"{store}.{rank}.npz", **results)
    distributed.destroy_process_group()
"""
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "mean": {"reduction": "mean", "label_smoothing": 0.1, "z_loss": 0.01, "weight": True},
    "capped": {"reduction": "sum", "softcap": 3.0, "logit_scale": 0.5},
    "soft": {"reduction": "mean", "label_smoothing": 0.2},
}


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_processes_agree_with_one(world: int, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((3, 5, 42)).astype(np.float32)
    soft = random.random(x.shape).astype(np.float32)
    soft /= soft.sum(-1, keepdims=True)
    y = random.integers(0, 42, (3, 5))
    y[1, 2] = -100
    arrays: dict[str, Any] = {
        "x": x,
        "y": y,
        "soft": soft,
        "weight": random.random(42),
        "upstream": random.random((3, 5)),
    }
    np.savez(tmp_path / "arrays.npz", **{**arrays, "upstream": arrays["upstream"].astype(np.float32)})
    store = str(tmp_path / "store")
    program = [sys.executable, "-c", textwrap.dedent(PROGRAM)]
    rest = [str(world), store, str(tmp_path / "arrays.npz"), json.dumps(CASES)]
    processes = [subprocess.Popen([*program, str(rank), *rest]) for rank in range(world)]
    assert [process.wait(120) for process in processes] == [0] * world
    found = [np.load(f"{store}.{rank}.npz") for rank in range(world)]
    for name, options in CASES.items():
        given: dict[str, Any] = {"reduction": "none", **options}
        if "weight" in options:
            given["weight"] = arrays["weight"]
        if given["reduction"] == "none":
            given["grad_output"] = arrays["upstream"].astype(np.float32)
        loss, grad = sce.cross_entropy_with_grad(x, soft if name == "soft" else y, **given)
        for each in found:
            np.testing.assert_array_equal(each[name + "_loss"], found[0][name + "_loss"])
        assert_close(found[0][name + "_loss"], loss, "float32")
        assert_close(np.concatenate([each[name + "_grad"] for each in found], axis=-1), grad, "float32")
    assert "target 10000 at position (0, 0)" in str(found[-1]["error"])
    assert f"the arguments of rank {world - 1} were refused" in str(found[0]["error"])
    for each in found:
        assert f"different backends (numpy{', cython' * (world - 1)}); pass the same backend=" in str(each["backends"])
