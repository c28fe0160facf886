"""Search or replay one case: ``python -m tools.fuzz.worker FOLDER PROPERTY SEED SECONDS [CASE]``.

It may die; what it was doing is in FOLDER then.
"""

from __future__ import annotations

import faulthandler
import json
import sys
import traceback
import warnings
from pathlib import Path

from tools.fuzz import properties, state
from tools.fuzz.explore import Failure, NotApplicable, Outcome, explore


def main(arguments: list[str]) -> int:
    """Return 0 if the search came to its end, whatever it found."""
    faulthandler.enable()
    warnings.simplefilter("error")  # a call gives none that the input does not ask for
    folder, name, seed, seconds = Path(arguments[0]), arguments[1], int(arguments[2]), float(arguments[3])
    chosen = properties.named(name)
    progress = state.Progress(folder)
    if len(arguments) > 4:
        outcome = _replay(chosen, json.loads(arguments[4]), progress)
    else:
        outcome = explore(chosen, seed, seconds=seconds, before=progress.begin)
    state.write_outcome(folder, outcome)
    return 0


def _replay(chosen: properties.Property, case: object, progress: state.Progress) -> Outcome:
    progress.begin(case)
    try:
        chosen.check(case)
    except NotApplicable:
        pass
    except Exception:
        return Outcome(1, Failure(case, traceback.format_exc()))
    return Outcome(1, None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
