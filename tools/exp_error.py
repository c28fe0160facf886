"""Measure the largest error of the compiled exp in units in the last place, on every float32 and a sample of float64.

``make exp-error`` tries all 1.12e9 float32 numbers in [-104, -0]; by default every 997th is tried. The figure for
float64 comes from a sample and is a lower bound.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from typing import Any

import numpy as np

_CHUNK = 1 << 20


def float32_error(stride: int = 1, progress: Any = None) -> tuple[float, float]:
    """Return the largest error over every `stride`-th float32 in [-104, -0], against exp in float64.

    Parameters
    ----------
    stride : int
        1: all of them.
    progress : callable, optional
        Called with the share that is done.

    Returns
    -------
    error, argument : float
        In ULP of the rounded result, and where. float64's own error adds less than 1e-8.
    """
    kernels: Any = import_module("softmax_ce._backends.cython._kernels")
    first = int(np.float32(-0.0).view(np.uint32))
    last = int(np.float32(-104.0).view(np.uint32))
    worst, where = 0.0, 0.0
    for start in range(first, last + 1, _CHUNK * stride):
        bits = np.arange(start, min(start + _CHUNK * stride, last + 1), stride, dtype=np.uint32)
        t = bits.view(np.float32)
        got = np.empty_like(t)
        kernels.exp32(t, got)
        error = _ulps(got, np.exp(t.astype(np.float64)), np.float32)
        at = int(error.argmax())
        if error[at] > worst:
            worst, where = float(error[at]), float(t[at])
        if progress is not None:
            progress((start - first) / (last - first))
    return worst, where


def float64_error(samples: int = 1 << 20, seed: int = 0) -> tuple[float, float]:
    """Return the largest error over a sample of float64 in [-746, 0], half of it near 0, against extended precision.

    Parameters
    ----------
    samples, seed : int

    Returns
    -------
    error, argument : float
        A lower bound of the largest error.
    """
    kernels: Any = import_module("softmax_ce._backends.cython._kernels")
    rng = np.random.default_rng(seed)
    t = np.concatenate([-746 * rng.random(samples // 2), -np.exp(rng.uniform(-30, 3, samples // 2))])
    got = np.empty_like(t)
    kernels.exp64(t, got)
    error = _ulps(got, np.exp(t.astype(np.longdouble)), np.float64)
    at = int(error.argmax())
    return float(error[at]), float(t[at])


def _ulps(got: Any, right: Any, real: Any) -> Any:
    return np.abs(got.astype(right.dtype) - right) / np.spacing(right.astype(real)).astype(right.dtype)


def main() -> None:
    """Print both figures for the instruction set in use."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exhaustive", action="store_true", help="every float32 in [-104, -0]: about a minute")
    every = parser.parse_args().exhaustive
    kernels: Any = import_module("softmax_ce._backends.cython._kernels")
    watched = every and sys.stdout.isatty()
    show = (lambda share: print(f"\r{share:4.0%}", end="", flush=True)) if watched else None
    error, where = float32_error(1 if every else 997, show)
    kind = "all of [-104, -0]" if every else "every 997th in [-104, -0], a lower bound"
    print(f"{chr(13) if watched else ''}{kernels.selected()} float32: {error:.4f} ULP at {where!r} ({kind})")
    error, where = float64_error(1 << 22)
    print(f"{kernels.selected()} float64: {error:.4f} ULP at {where!r} (a sample, a lower bound)")


if __name__ == "__main__":
    main()
