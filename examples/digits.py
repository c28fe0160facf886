"""Softmax regression on handwritten digits, fitted by gradient descent.

    python examples/digits.py

A linear model gives one logit to each of ten digits. Each step computes the loss and its gradient with respect to the
logits in one call, and the chain rule turns that into the gradient with respect to the weights.
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

import softmax_ce as sce

STEPS, LEARNING_RATE, DECAY = 300, 0.5, 1e-3


def main() -> tuple[float, float]:
    """Fit, and return the final loss and the share of held-out digits that are recognised."""
    images, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images, digits = images[order] / 16.0, digits[order]
    X = np.column_stack([images, np.ones(len(images))])  # the last column is the bias
    (X_fit, X_held), (y_fit, y_held) = np.split(X, [1400]), np.split(digits, [1400])

    weights = np.zeros((X.shape[1], 10))
    logits, grad = np.empty((2, len(X_fit), 10))  # reused in every step
    for step in range(STEPS + 1):
        np.matmul(X_fit, weights, out=logits)
        loss, _ = sce.cross_entropy_with_grad(logits, y_fit, grad_out=grad)
        weights -= LEARNING_RATE * (X_fit.T @ grad + DECAY * weights)
        if step % 100 == 0:
            print(f"step {step:3}: loss {loss:.4f}")

    right = float(np.mean((X_held @ weights).argmax(axis=1) == y_held))
    print(f"{right:.1%} of {len(y_held)} held-out digits recognised")
    return float(loss), right


if __name__ == "__main__":
    main()
