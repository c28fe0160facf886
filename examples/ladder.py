"""The ladder: softmax cross-entropy with its gradient, from naive to fused, in five versions.

    python examples/ladder.py                       # 1024 rows of 1000 classes, float32, one thread
    python examples/ladder.py --rows 64 --classes 32000

Each version computes the mean loss and its gradient, is checked against float64, and is then timed. The versions take
turns round by round, so that all see the same machine. Ratios are paired within the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import softmax_ce as sce

Version = Callable[[Any, Any, Any], float]  # logits, labels, gradient to write -> mean loss


def naive(logits: Any, labels: Any, grad: Any) -> float:
    """1. The textbook formula. Overflows once a logit exceeds 88."""
    rows = np.arange(len(logits))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    onehot = np.zeros_like(logits)
    onehot[rows, labels] = 1
    grad[:] = (p - onehot) / len(logits)
    return float(-(onehot * np.log(p)).sum(axis=1).mean())


def shifted(logits: Any, labels: Any, grad: Any) -> float:
    """2. The row maximum is subtracted, so nothing overflows."""
    rows = np.arange(len(logits))
    d = logits - logits.max(axis=1, keepdims=True)
    e = np.exp(d)
    s = e.sum(axis=1, keepdims=True)
    p = e / s
    p[rows, labels] -= 1
    grad[:] = p / len(logits)
    return float((np.log(s[:, 0]) - d[rows, labels]).mean())


def in_place(logits: Any, labels: Any, grad: Any) -> float:
    """3. The same steps in the gradient's own memory."""
    return _sum_in_place(logits, labels, grad, len(logits)) / len(logits)


def _sum_in_place(logits: Any, labels: Any, grad: Any, n: int) -> float:
    """Return the sum of some rows' losses; write the gradient of a mean over n."""
    rows = np.arange(len(logits))
    np.subtract(logits, logits.max(axis=1, keepdims=True), out=grad)
    at_label = grad[rows, labels]
    np.exp(grad, out=grad)
    s = grad.sum(axis=1, keepdims=True)
    grad *= 1 / (s * n)
    grad[rows, labels] -= 1 / n
    return float((np.log(s[:, 0]) - at_label).sum())


def blocked(logits: Any, labels: Any, grad: Any) -> float:
    """4. The same, a block of rows at a time: it stays in the cache."""
    n = len(logits)
    block = max(1, (1 << 18) // logits.shape[1])  # 1 MiB of logits, and of gradient
    blocks = [slice(start, start + block) for start in range(0, n, block)]
    return sum(_sum_in_place(logits[rows], labels[rows], grad[rows], n) for rows in blocks) / n


def fused(logits: Any, labels: Any, grad: Any) -> float:
    """5. The compiled kernel: one read of the logits, one write of the gradient."""
    loss, _ = sce.cross_entropy_with_grad(logits, labels, grad_out=grad, threads=1)
    return float(loss)


VERSIONS: tuple[Version, ...] = (naive, shifted, in_place, blocked, fused)


def inputs(rows: int, classes: int) -> tuple[Any, Any]:
    """Return float32 logits that even the naive version can take, and labels."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=(rows, classes)) * 5).astype(np.float32), rng.integers(0, classes, rows)


def error(version: Version, logits: Any, labels: Any) -> float:
    """Return the worst error of the gradient, relative to its largest entry, against the kernel in float64."""
    grad = np.empty_like(logits)
    loss = version(logits, labels, grad)
    true_loss, true = sce.cross_entropy_with_grad(logits.astype(np.float64), labels, backend="numpy")
    assert abs(loss / true_loss - 1) < 1e-5
    return float(np.abs(grad - true).max() / np.abs(true).max())


def measure(logits: Any, labels: Any, rounds: int) -> list[list[float]]:
    """Return the seconds of each version in each round. The order is reversed from round to round."""
    grad = np.empty_like(logits)
    for version in VERSIONS:
        version(logits, labels, grad)  # pages and caches are warm afterwards
    seconds: list[list[float]] = [[] for _ in VERSIONS]
    for k in range(rounds):
        for i in range(len(VERSIONS))[:: 1 if k % 2 else -1]:
            start = time.perf_counter()
            VERSIONS[i](logits, labels, grad)
            seconds[i].append(time.perf_counter() - start)
    return seconds


def main(arguments: list[str] | None = None) -> None:
    """Check, measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=51)
    options = parser.parse_args(arguments)
    logits, labels = inputs(options.rows, options.classes)
    errors = [error(version, logits, labels) for version in VERSIONS]
    seconds = measure(logits, labels, options.rounds)
    print(f"{options.rows} x {options.classes} float32, one thread, medians of {options.rounds} rounds")
    print("version        time   over 1   over the one before   error")
    for i, version in enumerate(VERSIONS):
        first, before = (_paired(seconds[k], seconds[i]) for k in (0, max(i - 1, 0)))
        milliseconds = statistics.median(seconds[i]) * 1e3
        print(f"{i + 1} {version.__name__:8} {milliseconds:6.2f} ms {first:6.2f}x {before:18.2f}x   {errors[i]:.0e}")


def _paired(slow: list[float], fast: list[float]) -> float:
    """The median of the ratios within the rounds."""
    return statistics.median(one / other for one, other in zip(slow, fast, strict=True))


if __name__ == "__main__":
    main()
