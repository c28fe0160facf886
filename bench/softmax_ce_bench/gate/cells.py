"""What the gate measures: one operation of one backend on one workload, on one thread."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from softmax_ce_bench.inputs.workloads import Shape
from softmax_ce_bench.measure.operations import LOSSES

OPERATIONS = LOSSES  # measured unasked
CONTROL = "control"

# In the caches, so that what is timed is the code and not the memory; a call takes the compiled backends some 50 us,
# but for the first.
_TINY = Shape("tiny", 1, 10, "one prediction: the cost of a call")
_BOOSTING = Shape("boosting", 8192, 10, "many rows, few classes: rows across the lanes of a vector")
_VISION = Shape("vision", 256, 1000, "rows whose exponentials are kept")
_LANGUAGE = Shape("language", 20, 32_000, "rows cut into chunks")
WORKLOADS = (
    (_TINY, "float32"), (_BOOSTING, "float32"), (_VISION, "float32"), (_VISION, "float64"), (_LANGUAGE, "float32"),
)  # fmt: skip
# With an operation of its own: on one thread of BLAS, the products take nine tenths of the call.
_HEAD = Shape("head", 64, 1000, "the last layer of a model with its loss")
EXTRA = ((_HEAD, "float32", "linear"),)


@dataclass(frozen=True, slots=True)
class GateCell:
    """A combination that is timed in both builds.

    Attributes
    ----------
    backend, operation : str
    workload : str
        Its name, for people.
    rows, classes : int
    dtype : str
    """

    backend: str
    operation: str
    workload: str
    rows: int
    classes: int
    dtype: str

    @property
    def text(self) -> str:
        """Return the name of the cell."""
        return f"{self.backend} {self.operation} {self.workload_text}"

    @property
    def workload_text(self) -> str:
        """Return the name of the workload."""
        size = f"{self.rows}x{self.classes}"
        return " ".join((*((self.workload,) * (self.workload != size)), size, self.dtype))


def of(
    backends: Iterable[str], workloads: Iterable[tuple[Shape, str]] = WORKLOADS, operations: Iterable[str] = OPERATIONS
) -> list[GateCell]:
    """Return all cells of the given backends, workloads and operations."""
    operations = tuple(operations)
    return each_of(backends, [(*workload, operation) for workload in workloads for operation in operations])


def each_of(backends: Iterable[str], found: Iterable[tuple[Shape, str, str]]) -> list[GateCell]:
    """Return a cell of each backend for each workload, dtype and operation."""
    wanted = tuple(found)
    return [
        GateCell(backend, operation, shape.name, shape.rows, shape.classes, dtype)
        for backend in backends
        for shape, dtype, operation in wanted
    ]
