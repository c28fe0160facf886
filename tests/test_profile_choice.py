"""The choice between measured cells, against answers worked out by hand."""

from __future__ import annotations

import math
from bisect import bisect_right

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import profiles
from profiles import CROSSING, cell, grid
from softmax_ce.choice.profile.grid import STEPS, _axis, _linear
from softmax_ce.profile import Cell, Grid, Measured, Selector


def _grid(*cells: Cell, without: tuple[str, ...] = (), **fields: object) -> Grid:
    return Grid(profiles.profile(cells, **fields), cells, frozenset(without))


def _choice(table: Grid, rows: int, classes: int) -> str | None:
    return table.choices[bisect_right(table.row_edges, rows)][bisect_right(table.class_edges, classes)]


def test_halfway_between_two_cells_the_cost_is_the_geometric_mean() -> None:
    """1 s at 1 row and 64 s at 64 rows: 8 s at 8 rows. 4 s and 16 s: 8 s there too."""
    table = _grid(cell(1, 10, {"numpy": 1, "cython": 4}), cell(64, 10, {"numpy": 64, "cython": 16}))
    found = table.around(8, 10)
    assert (found.rows, found.classes) == (pytest.approx(8, rel=0.1), 10)
    exact = {"numpy": found.rows, "cython": 4 * found.rows ** (1 / 3)}
    assert found.costs == pytest.approx(exact)
    assert [(one.rows, round(weight, 12)) for one, weight in found.cells] == [
        (1, round(1 - math.log(found.rows) / math.log(64), 12)),
        (64, round(math.log(found.rows) / math.log(64), 12)),
    ]
    # Equal at 8 rows, so that a quarter of a doubling on either side the faster one is ahead by more than a tie.
    assert [_choice(table, rows, 10) for rows in (1, 3, 6, 11, 20, 64)] == ["numpy"] * 3 + ["cython"] * 3


def test_four_cells_are_interpolated_bilinearly() -> None:
    """The cost r * c of one element each, on a grid of corners: exact everywhere between them."""
    corners = [cell(r, c, {"numpy": 1e-9 * r * c, "cython": 1e-7 * (r * c) ** 0.5}) for r in (4, 256) for c in (2, 512)]
    table = _grid(*corners)
    for rows, classes in ((16, 16), (100, 7), (5, 300)):
        found = table.around(rows, classes)
        assert len(found.cells) == 4
        assert sum(weight for _, weight in found.cells) == pytest.approx(1)
        elements = found.rows * found.classes
        assert found.costs == pytest.approx({"numpy": 1e-9 * elements, "cython": 1e-7 * elements**0.5})


@pytest.mark.parametrize(
    ("asked", "measured", "followed"),
    [
        ("forward", ("forward", "backward", "fused"), "forward"),
        ("forward", ("backward", "fused"), "fused"),
        ("forward", ("backward",), "backward"),
        ("backward", ("forward", "fused"), "fused"),
        ("backward", ("forward",), "forward"),
        ("fused", ("forward", "backward"), "backward"),
        ("fused", ("forward",), "forward"),
    ],
)
def test_an_operation_that_was_not_measured_follows_one_that_was(
    asked: str, measured: tuple[str, ...], followed: str
) -> None:
    cells = [cell(1, 10, {"numpy": 1.0}, operation=operation) for operation in measured]
    selector = Selector(profiles.profile(cells), cpus=2)
    assert selector.key("float32", "float32", asked, None) == ("float32", followed, None)


@pytest.mark.parametrize("counts", [[2, 8], [8, 2]])
def test_of_two_numbers_of_threads_equally_near_the_smaller_one_counts(counts: list[int]) -> None:
    cells = [cell(1, 10, {"numpy": 1.0}, threads=count) for count in counts]
    selector = Selector(profiles.profile(cells), cpus=16)
    for asked, nearest in ((4, 2), (5, 8), (3, 2), (1, 2), (None, 8), (100, 8), (8, 8)):
        assert selector.key("float32", "float32", "fused", asked) == ("float32", "fused", nearest)


def test_beyond_the_edge_the_nearest_cells_decide() -> None:
    table = _grid(*grid((8, 64), (10, 1000), CROSSING))
    for rows, classes, nearest in ((1, 1, (8, 10)), (10**9, 10**9, (64, 1000)), (1, 5000, (8, 1000)), (0, 1, (8, 10))):
        found = table.around(rows, classes)
        assert [(one.rows, one.classes) for one, _ in found.cells] == [nearest]
        assert (found.rows, found.classes) == nearest
        assert _choice(table, rows, classes) == found.cells[0][0].winner


def test_a_grid_with_a_missing_corner() -> None:
    """4096 x 32000 was too large to measure: its class count goes on at the cost per element that it has at 64."""
    cells = [
        cell(64, 1000, {"numpy": 2e-3, "cython": 1e-3}),
        cell(4096, 1000, {"numpy": 2e-3, "cython": 1e-3}),
        cell(64, 32_000, {"numpy": 1e-3, "cython": 3e-3}),
    ]
    table = _grid(*cells)
    found = table.around(4096, 32_000)
    assert found.costs == pytest.approx({"numpy": 64e-3, "cython": 192e-3})
    assert [(one.rows, one.classes) for one, _ in found.cells] == [(64, 32_000)]
    assert _choice(table, 4096, 32_000) == "numpy"
    # Halfway in log classes both neighbours count: sqrt(2 * 1) against sqrt(1 * 3) per element: numpy.
    assert _choice(table, 64, 5657) == "numpy"


def test_a_scatter_of_cells() -> None:
    """One row count for each class count: the neighbouring class counts decide, whatever the rows."""
    table = _grid(
        cell(4096, 10, {"numpy": 1.0, "cython": 2.0}),
        cell(1024, 1000, {"numpy": 1.0, "cython": 1.5}),
        cell(64, 32_000, {"numpy": 3.0, "cython": 1.0}),
    )
    for rows in (1, 64, 100_000):
        assert [_choice(table, rows, c) for c in (2, 10, 100, 1000, 30_000, 10**6)] == ["numpy"] * 4 + ["cython"] * 2


@given(
    st.dictionaries(
        st.tuples(st.integers(1, 2**40), st.integers(1, 2**20)),
        st.tuples(*[st.floats(1e-7, 10) | st.just(1e-3)] * 3, st.integers(0, 2)),
        min_size=1,
        max_size=12,
    )
)
def test_at_a_measured_cell_the_choice_is_its_winner(measured: dict[tuple[int, int], tuple[float, ...]]) -> None:
    """Whatever the winner won by: a tie was settled when it was measured."""
    names = ("numpy", "cython", "numba")
    cells = [
        cell(rows, classes, dict(zip(names, times, strict=False)), winner=names[int(times[3])])
        for (rows, classes), times in measured.items()
    ]
    table = _grid(*cells)
    for one in cells:
        found = table.around(one.rows, one.classes)
        assert _choice(table, one.rows, one.classes) == found.choice == one.winner
        assert found.cells == ((one, 1.0),)
        assert found.costs == pytest.approx({name: one.of(name).seconds for name in names})  # type: ignore[union-attr]


@given(
    st.lists(st.integers(1, 2**20), min_size=1, max_size=6, unique=True),
    st.lists(st.integers(1, 2**20), min_size=1, max_size=6, unique=True),
    st.integers(0, 2**21),
    st.integers(1, 2**21),
)
def test_on_a_full_grid_the_choice_is_the_cheapest(rows: list[int], classes: list[int], n: int, c: int) -> None:
    """Between the cells the interpolated costs decide: the choice is never beyond a tie of the lowest one."""
    table = _grid(*grid(rows, classes, CROSSING))
    found = table.around(n, c)
    assert found.choice is not None
    unanimous = len({one.winner for one, _ in found.cells}) == 1
    assert unanimous or found.costs[found.choice] <= min(found.costs.values()) * 1.03 * (1 + 1e-9)
    assert not unanimous or found.choice == found.cells[0][0].winner
    assert sum(weight for _, weight in found.cells) == pytest.approx(1)


def test_the_regret_between_cells_is_small() -> None:
    """A backend of 10 us + 1 ns an element, and one of 100 us + 0.1 ns; a grid with a factor of four between sizes."""
    table = _grid(*grid([4**k for k in range(9)], [4**k for k in range(9)], CROSSING))
    worst = 0.0
    for rows in range(1, 60_000, 977):
        for classes in (3, 10, 33, 100, 777, 1000, 5000, 32_000):
            costs = {name: cost(rows, classes) for name, cost in CROSSING.items()}
            worst = max(worst, costs[str(_choice(table, rows, classes))] / min(costs.values()) - 1)
    assert 0 < worst < 0.2


def test_ties_go_to_the_simpler_between_cells_that_disagree() -> None:
    """0.7 % apart halfway: within 3 % numpy comes first in the order; where no tie is allowed, cython is faster."""
    cells = (cell(1, 10, {"cython": 1.0, "numpy": 1.01}), cell(64, 10, {"cython": 1.2, "numpy": 1.205}, winner="numpy"))
    table = _grid(*cells)
    assert [_choice(table, rows, 10) for rows in (1, 8, 64)] == ["cython", "numpy", "numpy"]
    assert _choice(_grid(*cells, tie=0.0), 8, 10) == "cython"


def test_where_the_cells_agree_their_winner_runs() -> None:
    """Their ties were settled by intervals that the file's medians do not show: numpy won though 5 % behind."""
    table = _grid(*(cell(rows, 10, {"cython": 1.0, "numpy": 1.05}, winner="numpy") for rows in (1, 64)))
    assert [_choice(table, rows, 10) for rows in (1, 8, 64, 1000)] == ["numpy"] * 4


def test_a_backend_rejected_at_one_cell_does_not_run_near_it() -> None:
    cells = (
        cell(1, 10, {"numpy": 2.0, "cython": 1.0}),
        cell(64, 10, {"numpy": 2.0, "cython": 1.0}, rejected={"cython": "wrong"}),
        cell(4096, 10, {"numpy": 2.0, "cython": 1.0}),
    )
    table = _grid(*cells)
    assert [_choice(table, rows, 10) for rows in (1, 8, 64, 500, 4096)] == [
        "cython",
        "numpy",
        "numpy",
        "numpy",
        "cython",
    ]
    assert table.around(8, 10).costs.keys() == {"numpy"}
    assert table.around(1, 10).costs.keys() == {"numpy", "cython"}


def test_with_nobody_left_there_is_no_choice() -> None:
    one = cell(1, 10, {"numpy": 2.0, "cython": 1.0})
    assert _choice(_grid(one, without=("cython",)), 1, 10) == "numpy"
    table = _grid(one, without=("cython", "numpy"))
    assert (_choice(table, 1, 10), table.around(1, 10).choice) == (None, None)


def test_other_objectives() -> None:
    """By memory a backend that needs none at all wins; by cold start the size of the work is nothing."""
    both = {
        "numpy": Measured(backend="numpy", seconds=3.0, memory=0, cold_start=0.2),
        "cython": Measured(backend="cython", seconds=1.0, memory=4096, cold_start=0.1),
    }
    shape = {"dtype": "float32", "operation": "fused", "threads": None, "measured": tuple(both.values())}
    least = [Cell(rows=rows, classes=10, winner="numpy", **shape) for rows in (1, 64)]  # type: ignore[arg-type]
    quick = [Cell(rows=rows, classes=10, winner="cython", **shape) for rows in (1, 64)]  # type: ignore[arg-type]
    by_memory, by_start = _grid(*least, objective="memory"), _grid(*quick, objective="coldstart")
    assert by_memory.around(8, 10).costs == pytest.approx({"numpy": 0, "cython": 4096})
    assert by_start.around(8, 10).costs == pytest.approx({"numpy": 0.2, "cython": 0.1})
    assert (_choice(by_memory, 8, 10), _choice(by_start, 8, 10)) == ("numpy", "cython")


@given(st.sets(st.integers(1, 2**48), min_size=1, max_size=64), st.integers(0, 2**49))
@example({8, 9}, 8)
def test_the_table_s_entries(sizes: set[int], size: int) -> None:
    """Each measured size stands for itself; between them, for what is at most half a step away; beyond, the ends."""
    edges, stands_for = _axis(sizes)
    assert edges == sorted(set(edges))
    assert len(stands_for) == len(edges) + 1 <= 2 * 64 + 48 * STEPS + 2
    for known in sizes:
        assert stands_for[bisect_right(edges, known)] == known
    at = stands_for[bisect_right(edges, size)]
    if min(sizes) <= size <= max(sizes):
        assert (at in sizes) == (size in sizes)
        assert 2 ** (-0.75 / STEPS) <= at / size <= 2 ** (0.75 / STEPS) or abs(at - size) <= 1
    else:
        assert at == (min(sizes) if size < min(sizes) else max(sizes))


def test_what_stands_in_for_what() -> None:
    cells = [
        *grid((1,), (10,), CROSSING, operation="fused", threads=1),
        *grid((1,), (10,), CROSSING, operation="fused", threads=4),
        *grid((1,), (10,), CROSSING, operation="forward", threads=None),
        *grid((1,), (10,), CROSSING, operation="fused", threads=2, dtype="float16"),
    ]
    key = Selector(profiles.profile(cells), cpus=8).key
    assert key("float32", "float32", "fused", 4) == ("float32", "fused", 4)
    assert key("float32", "float32", "fused", 2) == ("float32", "fused", 1), "as far from 1 as from 4: the smaller"
    assert key("float32", "float32", "fused", 3) == ("float32", "fused", 4)
    assert key("float32", "float32", "fused", None) == ("float32", "fused", 4), "automatic is 8 here"
    assert key("float32", "float32", "backward", 1) == ("float32", "fused", 1)
    assert key("float32", "float32", "forward", 1) == ("float32", "forward", None)
    assert key("float16", "float32", "backward", None) == ("float16", "fused", 2)
    assert key("bfloat16", "float32", "forward", None) == ("float32", "forward", None)
    assert key("float64", "float64", "fused", 1) is None, "float32 never stands for float64"
    assert key("int64", "float64", "fused", 1) is None


def test_interpolation_is_constant_beyond_the_ends_and_asks_only_for_what_has_weight() -> None:
    points, sizes = np.array([0.0, 1.0, 1.5, 2.0, 9.0]), np.array([1.0, 2.0])
    np.testing.assert_array_equal(_linear(points, sizes, np.array([3.0, 5.0])), [3, 3, 4, 5, 5])
    np.testing.assert_array_equal(_linear(points, sizes, np.array([np.nan, 5.0])), [np.nan, np.nan, np.nan, 5, 5])
