"""Gradient accumulation: a batch that does not fit in memory, computed in micro-batches.

    python examples/accumulation.py

The mean over a micro-batch divides by its own number of counted rows. Micro-batches rarely count equally many rows,
since padding is ignored, so the mean of their means is not the mean of the batch. `denominator` replaces the number
of each by that of the whole batch. The losses and gradients then add up to those of one large call.
"""

from __future__ import annotations

import numpy as np

import softmax_ce as sce

ROWS, CLASSES, MICRO, PADDING = 512, 1000, 64, -100


def main() -> tuple[float, float]:
    """Print both results, and return the relative differences of the loss and of the gradient."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(ROWS, CLASSES)) * 3
    labels = rng.integers(0, CLASSES, ROWS)
    labels[rng.random(ROWS) < np.linspace(0, 0.8, ROWS)] = PADDING  # later sequences are shorter

    counted = int((labels != PADDING).sum())
    loss, naive, grad = 0.0, 0.0, np.empty_like(logits)
    for start in range(0, ROWS, MICRO):
        rows = slice(start, start + MICRO)
        part, _ = sce.cross_entropy_with_grad(logits[rows], labels[rows], denominator=counted, grad_out=grad[rows])
        loss += float(part)
        naive += float(sce.cross_entropy(logits[rows], labels[rows])) * MICRO / ROWS

    whole, whole_grad = sce.cross_entropy_with_grad(logits, labels)
    print(f"one call:             {whole:.12f}")
    print(f"with denominator:     {loss:.12f}")
    print(f"mean of their means:  {naive:.12f}   (wrong)")
    return abs(loss / float(whole) - 1), float(np.abs(grad - whole_grad).max() / np.abs(whole_grad).max())


if __name__ == "__main__":
    main()
