"""A new operation is one row of the table: it is then in every command, both suites, the roofline and the reports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from softmax_ce_bench.gate import check, session, worker
from softmax_ce_bench.measure.operations import LOSSES, TABLE, make_target_logits
from softmax_ce_bench.report.record import SCHEMA_FILE

ROOT = Path(__file__).resolve().parents[1]
LAST = '        Operation("logsumexp", "logsumexp", ("lse",), {"out": ROWS}),\n'
# One with targets, one without, and one on a linear layer: public functions under other names, so that there is nothing
# else to add.
ADDED = """\
        Operation("the loss", "cross_entropy", (LOSS,), {"out": LOSS}, takes_targets=True),
        Operation("its logarithm", "log_softmax", ("log_softmax",), {"out": ARRAY}),
        Operation(
            "the layer", "linear_cross_entropy", (LINEAR_LOSS,), {"out": LOSS}, takes_targets=True, takes_layer=True
        ),
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the suite and the tools whose table has two rows more."""
    root = tmp_path_factory.mktemp("extended")
    for folder in ("bench", "tools"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    table = root / "bench" / "softmax_ce_bench" / "measure" / "operations.py"
    source = table.read_text(encoding="utf-8")
    assert source.count(LAST) == 1
    table.write_text(source.replace(LAST, LAST + ADDED), encoding="utf-8")
    return root


def run(extended: Path, code: str, *arguments: str, codes: tuple[int, ...] = (0,)) -> str:
    """What a program prints that imports the copy, and ends with one of these exit codes."""
    paths = (extended / "bench", extended, ROOT / "kernels")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "SOFTMAX_CE_PROFILE": ""}
    words = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(words, env=environment, cwd=extended, capture_output=True, text=True, timeout=300)
    assert done.returncode in codes, done.stdout + done.stderr
    return done.stdout


COMMAND = "import sys; from softmax_ce_bench.__main__ import main; main()"


def test_compare_and_its_reports_have_it(extended: Path, tmp_path: Path) -> None:
    files = {option: str(tmp_path / f"run.{option}") for option in ("json", "html", "markdown")}
    outputs = [word for option, file in files.items() for word in (f"--{option}", file)]
    printed = run(
        extended, COMMAND, "compare", "--op", "the loss,its logarithm,the layer", "--shapes", "40x7", "--backend",
        "numpy", "--peers", "numpy-written", "--time-budget", "2", "--no-cold-start", *outputs,
    )  # fmt: skip
    record = json.loads(Path(files["json"]).read_text(encoding="utf-8"))
    (cell,) = record["cells"]
    numpy = next(entry for entry in cell["entries"] if entry["name"] == "numpy")
    assert numpy["status"] == "ranked"
    assert set(numpy["timings"]) == set(cell["operations"]) == {"the loss", "its logarithm", "the layer"}
    assert numpy["errors"]["operations"]["its logarithm"]["over_bound"] <= 1
    assert 0 < numpy["errors"]["operations"]["the layer"]["over_bound"] <= 1
    assert cell["operations"]["the layer"]["ceiling"] == "product"
    shown = run(extended, COMMAND, "show", files["json"], "--verbose")
    for text in (printed, shown, *(Path(files[option]).read_text(encoding="utf-8") for option in ("html", "markdown"))):
        assert "the loss" in text
        assert "its logarithm" in text
        assert "the layer" in text


def test_pick_takes_it(extended: Path) -> None:
    printed = run(
        extended, COMMAND, "pick", "--op", "the loss", "--shapes", "40x7", "--allow", "numpy", "--time-budget", "2",
        "--dry-run", codes=(0, 3),
    )  # fmt: skip  # 3: the machine was busy
    assert "the loss" in printed


EVERYWHERE = """
import sys
from pathlib import Path
import numpy as np
from softmax_ce_bench.cli.gate import gate
from softmax_ce_bench.gate import cells, worker
from tools.roofline.sessions import Scope, sessions

folder = Path(sys.argv[1])
new = {"the loss", "its logarithm"}
assert "the loss" in {cell.operation for cell in cells.of(["numpy"])}
x, y = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32), np.zeros(4, np.int64)
np.savez(folder / "0.npz", logits=x, labels=y)
service = worker.Service(folder)
for k, operation in enumerate(sorted(new | {"hessian", "kl", "linear", "the layer"})):
    service.prepare(k, "numpy", operation, 0)
    assert service.visit(k, 1, 1) > 0
    found = service.result("numpy", operation, 0)
    assert set(found) == set(worker.operations.TABLE[operation].computes)

found = {c.what for s in sessions(Scope(("numpy",), "numpy", (), 2, 10**8, 10**7, False)) for c in s.candidates}
assert new <= found, found

sys.path.insert(0, "bench")
import test_speed
marks = {mark.args[0]: mark.args[1] for mark in test_speed.test_speed.pytestmark}
new.add("the layer")
assert new <= set(marks["operation"])
try:
    import asv_runner
except ImportError:
    sys.exit()
from suite import calls, inputs, kernels
assert new <= set(kernels.InCache.params[0]) and new <= set(calls.Calls.params[0])
assert inputs.prepared("the loss", "numpy", "float32", (4, 3))().shape == (4,)
"""


def test_gate_roofline_and_both_suites_have_it(extended: Path, tmp_path: Path) -> None:
    run(extended, EVERYWHERE, str(tmp_path))


@pytest.mark.parametrize(("operation", "name"), [("hessian", "Hessian"), ("kl", "result"), ("linear", "result")])
def test_the_gate_judges_hessian_divergence_and_layer(operation: str, name: str, tmp_path: Path) -> None:
    recipe = ("small", 40, 7, "float32")
    made = session.workload(recipe)
    np.savez(tmp_path / "0.npz", logits=made.logits, labels=made.targets)
    found = worker.Service(tmp_path).result("numpy", operation, 0)
    reference = check.Reference(cast(session.BuildTimer, SimpleNamespace(recipe=lambda workload: recipe)))
    assert reference._complaint(0, found) is None
    last = TABLE[operation].computes[-1]
    complaint = reference._complaint(0, found | {last: found[last] * np.float32(1.001)}) or ""
    assert complaint.startswith(f"its {name}'s worst error is ")


def test_bytes_options_and_target_logits_follow_from_the_row() -> None:
    moved = {name: [row.arrays_moved(soft=soft) for soft in (False, True)] for name, row in TABLE.items()}
    assert moved == {
        "forward": [1, 2], "backward": [2, 3], "fused": [2, 3], "softmax": [2, 2], "log_softmax": [2, 2],
        "logsumexp": [1, 1], "hessian": [3, 4], "kl": [3, 3], "linear_forward": [0, 1], "linear": [0, 1],
    }  # fmt: skip
    options = {"backend": "numpy", "reduction": "none", "z_loss": 1.0}
    given = {name: set(row.given(options)) for name, row in TABLE.items()}
    assert given["hessian"] == given["fused"] == set(options)
    assert given["kl"] == {"backend", "reduction"}
    assert given["softmax"] == {"backend"}
    assert LOSSES == ("forward", "backward", "fused")  # what a profile has cells for
    logits = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float16)
    logits[0, 1] = -np.inf
    second = make_target_logits(logits)
    assert (second.dtype, second.shape) == (logits.dtype, logits.shape)
    assert (np.isneginf(second) == np.isneginf(logits)).all()
    assert (second == make_target_logits(logits.copy())).all()
    assert 0.3 < np.std((second[1:] - logits[1:]).astype(float)) < 2


def test_the_schema_of_records_names_every_operation() -> None:
    """The one list beside the table: it is part of a format that others read."""
    lists = []

    def look(value: object) -> None:
        if isinstance(value, dict):
            if "fused" in (value.get("enum") or ()):
                lists.append(value["enum"])
            for inner in value.values():
                look(inner)
        elif isinstance(value, list):
            for inner in value:
                look(inner)

    look(json.loads(SCHEMA_FILE.read_text(encoding="utf-8")))
    assert len(lists) == 4
    assert all(each == list(TABLE) for each in lists)
