"""The verdicts so far, saved so that an interrupted run can be continued, and the tables of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tools.mutation.server import MutantVerdict
from tools.mutation.testmap import digest, test_files
from tools.mutation.tree import BUILD, ROOT

REQUIRED_PYTHON, REQUIRED_COMPILED = 0.95, 1.0


class Results:
    """Saved verdicts, one JSON object per line. A verdict is valid while the files that it depends on are unchanged.

    A kill rests on the mutated source and the file of the test that noticed; a survival on the mutated source and
    every test.

    Parameters
    ----------
    path : Path
    fresh : bool
        Forget what is there.
    """

    def __init__(self, path: Path = BUILD / "verdicts.jsonl", fresh: bool = False) -> None:
        self._path = path
        if fresh:
            path.unlink(missing_ok=True)
        self._tests = digest(*(ROOT / name for name in test_files()))
        self._found: dict[str, dict[str, str]] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                entry = json.loads(line)
                self._found[entry["key"]] = entry

    def get(self, key: str, source: Path) -> MutantVerdict | None:
        """Return a saved verdict that is still valid, or None."""
        entry = self._found.get(key)
        if entry is None:
            return None
        verdict = MutantVerdict(entry["outcome"], entry["by"], entry["how"])
        return verdict if entry["stamp"] == self._stamp(verdict, source) else None

    def put(self, key: str, source: Path, verdict: MutantVerdict) -> None:
        entry = {"key": key, **asdict(verdict), "stamp": self._stamp(verdict, source)}
        self._found[key] = entry
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def _stamp(self, verdict: MutantVerdict, source: Path) -> str:
        test = ROOT / verdict.by.partition("::")[0]
        witness = digest(test) if verdict.outcome == "killed" and test.is_file() else self._tests
        return f"{digest(source)}-{witness}"


@dataclass(slots=True)
class Count:
    """The verdicts on the mutants of one or more sources."""

    killed: int = 0
    survived: list[str] = field(default_factory=list)
    equivalent: int = 0
    untried: int = 0

    @property
    def judged(self) -> int:
        return self.killed + len(self.survived)

    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval of the killed share by Clopper and Pearson, for a random sample."""
        from scipy.stats import binomtest

        if not self.judged:
            return 0.0, 1.0
        found = binomtest(self.killed, self.judged).proportion_ci(0.95, method="exact")
        return float(found.low), float(found.high)

    def __iadd__(self, other: Count) -> Count:
        self.killed += other.killed
        self.survived += other.survived
        self.equivalent += other.equivalent
        self.untried += other.untried
        return self


def table(counts: Iterable[tuple[str, Count]]) -> str:
    """Return a Markdown table of judged, killed and remaining mutants, with the interval if not all were tried."""
    lines = ["| sources | judged | killed | share | equivalent | not tried |", "| --- | --: | --: | --- | --: | --: |"]
    for name, count in counts:
        if not count.judged:
            share = ""
        elif count.untried:
            share = f"{count.killed / count.judged:.1%} (95 %: {' to '.join(f'{end:.1%}' for end in count.interval())})"
        else:
            share = f"{count.killed / count.judged:.1%}"
        lines.append(f"| {name} | {count.judged} | {count.killed} | {share} | {count.equivalent} | {count.untried} |")
    return "\n".join(lines)
