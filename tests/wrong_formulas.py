"""Wrong formulas for what the shell computes, whatever the backend. Each replaces the right one for a test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from softmax_ce import correct, divergence, fold, hessian, transform


def mask_after_the_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The maximum is that of all classes, so that a large logit that is left out costs the others their digits."""
    load = transform.Transformed.load

    def wrong(self: Any, start: int, stop: int, *given: Any) -> Any:
        top = np.array(self.rows.load(start, stop)).max(axis=1, keepdims=True)
        block = load(self, start, stop, *given)
        with np.errstate(all="ignore"):
            block -= top
            block += top
        return block

    monkeypatch.setattr(transform.Transformed, "load", wrong)


def cap_without_its_slope(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient is that of the capped logits: 1 - tanh**2 is forgotten."""
    right = transform._cap

    def wrong(y: Any, softcap: Any, slope: Any) -> None:
        right(y, softcap, slope)
        if slope is not None:
            slope[...] = 1

    monkeypatch.setattr(transform, "_cap", wrong)


def cap_with_a_slope_that_cancels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slope of the cap is 1 - tanh**2, as it stands in textbooks."""
    right = transform._cap

    def wrong(y: Any, softcap: Any, slope: Any) -> None:
        right(y, softcap, slope)
        if slope is not None:
            slope[...] = 1 - (y / softcap) ** 2

    monkeypatch.setattr(transform, "_cap", wrong)


def smoothing_over_all_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What smoothing adds goes to classes that are left out too, and is less for the others."""
    right = fold._tables

    def wrong(problem: Any, *given: Any) -> Any:
        kept, problem.transform = problem.transform, None
        scale, base, spread = right(problem, *given)
        problem.transform = kept
        if base is not None and kept is not None and kept.classes is not None:
            base = np.where(kept.classes, base, 0).astype(base.dtype)  # else each loss would be infinite
        return scale, base, spread

    monkeypatch.setattr(fold, "_tables", wrong)


def scale_without_its_square(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hessian is multiplied by logit_scale once, as the gradient is."""
    right = hessian.compose

    def wrong(backend: Any, x: Any, total: Any, z_loss: float, gain: Any, *given: Any) -> None:
        right(backend, x, total, z_loss, np.sign(gain) * np.sqrt(np.abs(gain)), *given)

    monkeypatch.setattr(hessian, "compose", wrong)


def last_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of equal logits, the last is taken for the maximum."""

    def wrong(
        logits: Any, start: int, labels: Any, ignore_index: int, row_max: Any, log_sum: Any, out: Any
    ) -> None:  # fmt: skip
        rows = logits.reshape(-1, logits.shape[-1])[start : start + len(labels)]
        out[...] = rows.shape[1] - 1 - rows[:, ::-1].argmax(axis=1) == labels

    monkeypatch.setattr(correct, "mark", wrong)


def divergence_of_float32_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    """t (log t - log p) of float32 probabilities: nothing is left of a small divergence."""

    def wrong(self: Any, x: Any, z: Any) -> tuple[Any, Any]:
        x, z = (part.astype(np.float32) / np.float32(self._temperature) for part in (x, z))
        p, t = (np.exp(part - part.max(axis=1, keepdims=True)) for part in (x, z))
        p, t = p / p.sum(axis=1, keepdims=True), t / t.sum(axis=1, keepdims=True)
        terms = np.where(t > 0, t * (np.log(t) - np.log(p)), 0)
        return terms.sum(axis=1), (p - t).astype(float)

    monkeypatch.setattr(divergence.Blocks, "evaluate", wrong)


def divergence_of_cross_entropies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The difference of two cross-entropies, however small it is."""
    monkeypatch.setattr(divergence, "_SMALL", -np.inf)


# What must notice each; more checks may.
NOTICED_BY = [
    (mask_after_the_maximum, "classes_left_out"),
    (cap_without_its_slope, "scaled_and_capped_logits"),
    (cap_with_a_slope_that_cancels, "extreme_logits_under_a_cap"),
    (smoothing_over_all_classes, "classes_left_out"),
    (scale_without_its_square, "scaled_and_capped_logits"),
    (last_maximum, "correct_is_the_first_maximum"),
    (divergence_of_float32_probabilities, "divergences_large_and_small"),
    (divergence_of_cross_entropies, "divergences_large_and_small"),
]
