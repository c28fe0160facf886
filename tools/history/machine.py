"""``python -m tools.history.machine NAME HOME``: tell asv about this machine before its first run.

``asv machine --yes --machine NAME`` stores the name alone; here the CPU, the memory and the system come along.
"""

from __future__ import annotations

import sys
from pathlib import Path

from asv.machine import Machine, MachineCollection
from asv.util import UserError


def describe(name: str, home: Path) -> Path:
    """Write asv's file about the machine, unless it exists.

    Parameters
    ----------
    name : str
        The name for ``asv run --machine``.
    home : Path
        The value of HOME when asv runs. The folder is made if it does not exist.

    Returns
    -------
    Path
        The file.
    """
    path = home / ".asv-machine.json"
    home.mkdir(parents=True, exist_ok=True)
    try:
        MachineCollection.load(name, _path=str(path))
    except UserError:  # no such machine yet
        MachineCollection.save(name, {**Machine.get_defaults(), "machine": name}, _path=str(path))
    return path


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m tools.history.machine NAME HOME")
    describe(sys.argv[1], Path(sys.argv[2]))
