"""Where a run is made, and with what."""

from __future__ import annotations

from pathlib import Path

import softmax_ce as sce
from softmax_ce_bench.compare.result import Machine
from softmax_ce_bench.measure import git, info


def collect() -> Machine:
    """This machine, as it is recorded."""
    facts = info.collect()
    return Machine(
        cpu=facts["cpu"],
        instruction_sets=tuple(facts["instruction_sets"]),
        cpus_available=facts["cpus_available"],
        cpus_installed=facts["cpus_installed"],
        os=facts["os"],
        thread_variables=dict(facts["thread_variables"]),
        python=facts["python"],
        softmax_ce=facts["softmax_ce"],
        commit=git.commit(Path(sce.__file__).parent),
        packages=dict(facts["packages"]),
    )
