"""Train a small language model in PyTorch twice: with PyTorch's loss, and with softmax_ce's in less time.

    python examples/language_model.py

The text is Python's standard library. A token is a word, a symbol or a run of spaces; the 16 384 most frequent ones are
the vocabulary. The model predicts the next token from the eight before it, with one hidden layer.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from softmax_ce.torch import cross_entropy

VOCABULARY, CONTEXT, WIDTH = 16_384, 8, 64
PARTS = ("logits", "loss", "backward", "update")


def read_tokens(characters: int) -> torch.Tensor:
    """Return the text as numbers of the vocabulary. Rare tokens share the number 0."""
    sources = sorted(Path(os.__file__).parent.glob("*.py"), key=lambda path: path.name)
    text = "".join(path.read_text(encoding="utf-8", errors="replace") for path in sources)[:characters]
    tokens = re.findall(r"\w+|[ \n]+|[^\w \n]", text)
    frequent = (token for token, _ in Counter(tokens).most_common(VOCABULARY - 1))
    number = {token: i for i, token in enumerate(frequent, 1)}
    return torch.tensor([number.get(token, 0) for token in tokens])


def train(
    loss_function: Callable[..., Any], tokens: torch.Tensor, steps: int, rows: int
) -> tuple[list[float], dict[str, float]]:
    """Train from a fixed start. Return the losses, and the median time of each part of a step in milliseconds."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Embedding(VOCABULARY, WIDTH), torch.nn.Flatten(), torch.nn.Linear(CONTEXT * WIDTH, WIDTH),
        torch.nn.Tanh(), torch.nn.Linear(WIDTH, VOCABULARY),
    )  # fmt: skip
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    losses, times = [], torch.empty(steps, len(PARTS))
    for step in range(steps):
        places = torch.randint(len(tokens) - CONTEXT, (rows, 1))
        windows = tokens[places + torch.arange(CONTEXT + 1)]
        clock = [time.perf_counter()]
        logits = model(windows[:, :-1])
        clock.append(time.perf_counter())
        loss = loss_function(logits, windows[:, -1])
        clock.append(time.perf_counter())
        optimiser.zero_grad()
        loss.backward()
        clock.append(time.perf_counter())
        optimiser.step()
        clock.append(time.perf_counter())
        losses.append(loss.item())
        times[step] = torch.tensor([after - before for before, after in pairwise(clock)])
    middle = (1e3 * times).median(dim=0).values
    return losses, dict(zip(PARTS, middle.tolist(), strict=True))


def main(arguments: Sequence[str] | None = None) -> tuple[list[float], list[float]]:
    """Print curves and profiles, and return both curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rows", type=int, default=1024, help="tokens that a step predicts")
    parser.add_argument("--characters", type=int, default=4_000_000, help="the length of the text")
    given = parser.parse_args(arguments)
    tokens = read_tokens(given.characters)
    print(f"{len(tokens)} tokens, a vocabulary of {VOCABULARY}, {torch.get_num_threads()} threads")
    before, theirs = train(functional.cross_entropy, tokens, given.steps, given.rows)
    after, ours = train(cross_entropy, tokens, given.steps, given.rows)

    print("\nstep   PyTorch   softmax_ce")
    for step in range(0, given.steps, max(1, given.steps // 6)):
        print(f"{step:4}   {before[step]:.5f}   {after[step]:.5f}")
    print("\nms a step   PyTorch   softmax_ce")
    for part in PARTS:
        print(f"{part:9}   {theirs[part]:7.2f}   {ours[part]:10.2f}")
    rates = [given.rows / sum(times.values()) * 1e3 for times in (theirs, ours)]
    print(f"tokens/s    {rates[0]:7.0f}   {rates[1]:10.0f}   {rates[1] / rates[0]:.2f}x")
    return before, after


if __name__ == "__main__":
    main()
