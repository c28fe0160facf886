"""Random problems with random options, for tests that compare two ways to compute the same loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class RandomProblem:
    """Logits, targets and options of a loss; `hard` says of which kind the targets are."""

    logits: Any
    targets: Any
    options: dict[str, Any]
    hard: bool

    def columns(self, first: int, stop: int) -> tuple[Any, Any, dict[str, Any]]:
        """Return what a shard of the classes is given."""
        options = dict(self.options)
        if np.ndim(options.get("where", 0)) == 2:
            options["where"] = options["where"][:, first:stop]
        targets = self.targets if self.hard else self.targets[:, first:stop]
        return self.logits[:, first:stop], targets, options


def random_problem(seed: int, dtype: Any, most_classes: int = 60) -> RandomProblem:
    """Return a problem of up to 20 rows, in which every option occurs, and -inf and NaN now and then."""
    random = np.random.default_rng(seed)
    n_rows, n_classes = int(random.integers(1, 20)), int(random.integers(1, most_classes))
    logits = (random.standard_normal((n_rows, n_classes)) * random.choice([0.1, 3, 30])).astype(dtype)
    options: dict[str, Any] = {}
    hard = bool(random.random() < 0.6)
    if hard:
        targets: Any = random.integers(0, n_classes, n_rows)
    else:
        targets = random.random((n_rows, n_classes)).astype(dtype)
        targets /= targets.sum(1, keepdims=True)

    def sometimes(share: float = 0.4) -> bool:
        return bool(random.random() < share)

    if sometimes():
        options["weight"] = random.random(n_classes)
    if sometimes():
        options["sample_weight"] = random.random(n_rows) * (random.random(n_rows) < 0.8)
    for name, value in (("label_smoothing", 0.1), ("z_loss", 0.01), ("logit_scale", 0.7), ("softcap", 10.0)):
        if sometimes():
            options[name] = value
    if sometimes():
        options["where"] = random.random(n_classes if sometimes(0.5) else (n_rows, n_classes)) < 0.8
    if hard and sometimes():
        targets[random.random(n_rows) < 0.3] = -100
    if sometimes(0.2):
        logits[random.random(logits.shape) < 0.1] = -np.inf
    if sometimes(0.1):
        logits[random.integers(n_rows), random.integers(n_classes)] = np.nan
    options["reduction"] = str(random.choice(["mean", "sum", "none"]))
    return RandomProblem(logits, targets, options, hard)


def assert_close(value: Any, expected: Any, dtype: Any, factor: float = 50.0) -> None:
    """Assert that two results differ by a few units in the last place: of the largest one, or of the terms of a sum.

    In these problems, the terms whose difference a gradient is are less than 1.
    """
    expected = np.asarray(expected)
    unit = float(np.finfo(dtype).eps) * factor
    largest = float(np.abs(expected[np.isfinite(expected)]).max(initial=0.1))
    np.testing.assert_allclose(np.asarray(value), expected, rtol=unit, atol=unit * largest)
