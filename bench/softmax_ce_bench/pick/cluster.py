"""Pick on the workers of a Dask cluster: on one worker of each kind, since machines of one kind choose alike.

A kind is a fingerprint: CPU, instruction sets, versions and settings. Each worker runs ``softmax-ce pick`` in a process
of its own, so that whatever else the worker does has no part in it but the load on its machine.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softmax_ce import profile
from softmax_ce.choice import fingerprint
from softmax_ce.choice.profile.fleet import place_of
from softmax_ce.profile import Profile

_LONGEST = 3600.0  # seconds that one worker may take


class ClusterError(ValueError):
    """The cluster cannot pick; the message says why."""


@dataclass(frozen=True, slots=True)
class Picked:
    """What one worker picked for its kind.

    Attributes
    ----------
    worker : str
        The address of the worker.
    alike : int
        How many workers are of its kind, itself included.
    contaminated : bool
        Whether its machine was too busy for the result to be trusted.
    profile : Profile
    """

    worker: str
    alike: int
    contaminated: bool
    profile: Profile


def pick_on_workers(address: str, words: Sequence[str], tell: Callable[[str], None]) -> list[Picked]:
    """Run ``softmax-ce pick`` on one worker of each kind.

    Parameters
    ----------
    address : str
        The address of the scheduler.
    words : sequence of str
        The options of the command on the workers, without an output.
    tell : callable
        Called with a line about each step.

    Returns
    -------
    list of Picked

    Raises
    ------
    ClusterError
        Dask is not installed, no scheduler answers, there is no worker, or a worker failed.
    """
    try:
        import distributed
    except ImportError:
        raise ClusterError("--dask needs Dask: pip install 'softmax-ce[dask]'") from None
    try:
        client = distributed.Client(address, timeout="20s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterError(f"no Dask scheduler answers at {address}: {error}") from None
    with client:
        kinds = _kinds(client.run(fingerprint.collect))
        if not kinds:
            raise ClusterError(f"the cluster at {address} has no workers")
        futures = {}
        for workers in kinds:
            tell(f"{workers[0]} picks for {len(workers)} worker{'s' if len(workers) > 1 else ''} of its kind")
            futures[workers[0]] = client.submit(
                run_here, list(words), workers=[workers[0]], allow_other_workers=False, pure=False, retries=1
            )
        try:
            return [_picked(workers, futures[workers[0]], tell) for workers in kinds]
        finally:
            client.cancel(list(futures.values()))  # those that are left after an error or Ctrl-C


def _kinds(fingerprints: dict[str, Any]) -> list[list[str]]:
    """Return the addresses of the workers, grouped by kind."""
    kinds: list[tuple[Any, list[str]]] = []
    for worker, found in fingerprints.items():
        for of, workers in kinds:
            if not fingerprint.differences(of, found):
                workers.append(worker)
                break
        else:
            kinds.append((found, [worker]))
    return [workers for _, workers in kinds]


def run_here(words: list[str]) -> tuple[int, str, str]:
    """Run the command in a process of its own and return its exit code and its two outputs. On a worker."""
    command = [sys.executable, "-m", "softmax_ce_bench", "pick", *words, "--output", "-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST)
    return done.returncode, done.stdout, done.stderr


def _picked(workers: list[str], future: Any, tell: Callable[[str], None]) -> Picked:
    code, out, err = future.result()
    if code not in (0, 3) or not out.strip():
        said = err.strip().splitlines()
        raise ClusterError(f"worker {workers[0]} failed: {said[-1] if said else f'exit code {code}'}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "profile.json")
        path.write_text(out, encoding="utf-8")
        (found,) = profile.load_fleet(path).sections
    tell(f"{workers[0]} has picked" + (", but its machine was busy" if code == 3 else ""))
    return Picked(workers[0], len(workers), code == 3, found)


def without(sections: Sequence[Profile], picked: Sequence[Picked]) -> list[Profile]:
    """Return the sections that are not for a machine that has just picked."""
    new = [each.profile for each in picked]
    return [section for section in sections if place_of(section.fingerprint, new) is None]


def for_workers(words: Sequence[str]) -> list[str]:
    """Return the words of a command line without what concerns this process alone."""
    kept, rest = [], iter(words)
    for word in rest:
        if word in ("--dask", "--output"):
            next(rest, None)
        elif word not in ("--append", "--dry-run", "--force") and not word.startswith(("--dask=", "--output=")):
            kept.append(word)
    return kept
