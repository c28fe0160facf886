"""Libraries that bring an OpenMP runtime of their own: loaded before us and after, called between and beside."""

from __future__ import annotations

import importlib.util

import pytest

from child import survive

# Each runs OpenMP threads: `import`, then `work()` gives a number that is known.
SCIKIT_LEARN = """
import numpy as np
from sklearn._loss import HalfMultinomialLoss
def work():
    loss = HalfMultinomialLoss(n_classes=3)
    zeros = np.zeros((3000, 3))
    return float(loss.loss(np.zeros(3000), zeros, n_threads=2).sum()), 3000 * np.log(3)
"""
TORCH = """
import torch
torch.set_num_threads(2)
def work():
    x = torch.zeros(2_000_000)
    return float(torch.exp(x).sum()), 2_000_000.0
"""


@pytest.mark.parametrize("order", ["first", "after"])
@pytest.mark.parametrize(("package", "load"), [("sklearn", SCIKIT_LEARN), ("torch", TORCH)], ids=["sklearn", "torch"])
def test_beside_a_library_with_openmp(package: str, load: str, order: str) -> None:
    """Right before, after and beside its parallel work, and in a forked child."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    ours = """
import os, threading, scenario, softmax_ce as sce
names = [info.name for info in sce.backends() if info.available]
def ours():
    for name in names: scenario.check(name)
ours()
"""
    survive(
        (load + ours if order == "first" else ours + load)
        + """
def theirs():
    got, right = work()
    assert abs(got - right) < 1e-6 * right, (got, right)
theirs()
ours()
failed = []
def call(what):
    try:
        for _ in range(5): what()
    except BaseException as error:
        failed.append(error)
threads = [threading.Thread(target=call, args=(what,)) for what in (ours, theirs, ours)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not failed, failed
if hasattr(os, "fork"):
    child = os.fork()
    if child == 0:
        ours()  # theirs may hang here: that is the fault that an OpenMP pool of ours would share
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
""",
        timeout=300,
    )
