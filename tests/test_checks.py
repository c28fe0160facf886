"""What the checks let through, to the last value; which arrays are staged; what the options are folded to."""

from __future__ import annotations

import math
import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import softmax_ce as sce
from softmax_ce import checks, fold, weights
from softmax_ce.dtypes import compute_dtype
from softmax_ce.reduction import mean
from softmax_ce.staging import Rows
from softmax_ce.tuning import STAGED_ELEMENTS

INT64 = np.iinfo(np.int64)
BLOCK = STAGED_ELEMENTS


@pytest.mark.parametrize(
    ("low", "high", "above", "allowed", "refused", "said"),
    [
        (0.0, 1.0, False, [0.0, -0.0, 1.0, 1, 0.5], [-5e-324, math.nextafter(1, 2), math.nan, math.inf], "in [0, 1]"),
        (0.0, 1.0, True, [5e-324, 1.0, 0.5], [0.0, -1.0, math.nextafter(1, 2), math.nan], "in [0, 1]"),
        (2.0, math.inf, False, [2.0, 1e308], [math.nextafter(2, 0), math.inf, math.nan], "finite and at least 2"),
        (0.0, math.inf, True, [5e-324, 1e308], [0.0, -math.inf, math.inf, math.nan], "finite and above 0"),
    ],
)
def test_a_number_is_checked_to_the_ends_of_its_interval(
    low: float, high: float, above: bool, allowed: list[float], refused: list[float], said: str
) -> None:
    for value in allowed:
        found = checks.check_number("it", value, low, high, above=above)
        assert (found, type(found)) == (value, float)
    for value in refused:
        with pytest.raises(ValueError, match=f"^{re.escape(f'it must be {said}, got {value!r}')}$"):
            checks.check_number("it", value, low, high, above=above)


def test_an_ignore_index_is_any_int64() -> None:
    for index in (INT64.min, -1, 0, INT64.max):
        assert checks.check_ignore_index(index) == index
    for index in (INT64.min - 1, INT64.max + 1, 2**64 - 1, -(2**64)):
        with pytest.raises(ValueError, match=f"^ignore_index must fit in int64, got {index}$"):
            checks.check_ignore_index(index)


def test_a_number_of_threads_is_any_from_one_on() -> None:
    assert checks.check_threads(None) is None
    for count in (1, 2, np.int8(3), 1 << 40):
        assert checks.check_threads(count) == count
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=f"^threads must be None or at least 1, got {wrong}$"):
            checks.check_threads(wrong)
    with pytest.raises(TypeError, match=r"^threads must be None or a positive integer, got 1\.0$"):
        checks.check_threads(1.0)


def test_a_choice_is_one_of_the_words() -> None:
    checks.check_choice("it", "sum", ("mean", "sum"))
    for wrong in ("s", "", None, 1, ["sum"]):
        with pytest.raises(ValueError, match=r"^it=.* is not known; allowed: 'mean', 'sum'$"):
            checks.check_choice("it", wrong, ("mean", "sum"))


@pytest.mark.parametrize("ignore_index", [-100, 0, 2])
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
@pytest.mark.parametrize("shape", [(), (1,), (2,), (BLOCK + 2,), (3, 4), (0,)])
def test_whether_a_label_is_ignored_is_told(shape: tuple[int, ...], dtype: Any, ignore_index: int) -> None:
    """By one label, by several, by the last of several blocks."""
    labels = np.ones(shape, dtype)
    problem = checks.check_logits(np.zeros((*shape, 3)), -1)
    checks.check_targets(problem, labels, ignore_index)
    before = problem.any_ignored
    assert before is False
    if labels.size and (dtype != np.uint8 or ignore_index >= 0):
        for position in (0, -1):
            labels[...] = 1
            labels.reshape(-1)[position] = ignore_index
            checks.check_targets(problem, labels, ignore_index)
            assert problem.any_ignored is True
            np.testing.assert_array_equal(problem.labels, labels.reshape(-1))
            assert problem.labels.dtype == np.int64


@pytest.mark.parametrize("bad", [3, -1, 200])
@pytest.mark.parametrize("dtype", [np.int64, np.int16])
@pytest.mark.parametrize(
    ("shape", "place", "said"),
    [
        ((), (), "()"),
        ((1,), (0,), "0"),
        ((1, 1), (0, 0), "(0, 0)"),
        ((2,), (1,), "1"),
        ((5,), (4,), "4"),
        ((2, 3), (1, 2), "(1, 2)"),
        ((BLOCK + 2,), (BLOCK,), str(BLOCK)),
        ((BLOCK + 2,), (BLOCK - 1,), str(BLOCK - 1)),
    ],
)
def test_the_first_label_out_of_range_is_named(
    shape: tuple[int, ...], place: tuple[int, ...], said: str, dtype: Any, bad: int
) -> None:
    labels = np.zeros(shape, dtype)
    labels[place] = bad
    if shape == (BLOCK + 2,):
        labels[-1] = 77  # a later one
    message = f"target {bad} at position {said} is outside [0, 3) and is not ignore_index (-100)"
    for given in (labels, labels.copy(order="F")):
        problem = checks.check_logits(np.zeros((*shape, 3)), -1)
        with pytest.raises(IndexError) as caught:
            checks.check_targets(problem, given, -100)
        assert str(caught.value) == message


def test_labels_of_any_layout_are_taken_in_the_rows_order() -> None:
    whole = np.arange(24).reshape(4, 6)
    layouts = {
        "in place": whole,
        "by columns": np.asfortranarray(whole),
        "by columns, narrow": np.asfortranarray(whole.astype(np.int8)),
        "every second": np.repeat(whole, 2, axis=1)[:, ::2],
        "backwards": whole[::-1, ::-1].copy()[::-1, ::-1],
        "big-endian": whole.astype(">i8"),
        "unaligned": np.frombuffer(b"x" + whole.tobytes(), np.int64, offset=1).reshape(4, 6),
    }
    for name, labels in layouts.items():
        problem = checks.check_logits(np.zeros((4, 6, 24), np.float32), -1)
        checks.check_targets(problem, labels, -100)
        np.testing.assert_array_equal(problem.labels, np.arange(24), err_msg=name)
        flags = problem.labels.flags
        assert (problem.labels.dtype, flags.c_contiguous, flags.aligned) == (np.dtype(np.int64), True, True), name
        assert np.may_share_memory(problem.labels, labels) == (name == "in place")


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64, np.int8, np.uint64, np.bool_])
def test_soft_labels_are_real_numbers_of_the_logits_shape(dtype: Any) -> None:
    targets = np.zeros((2, 3), dtype)
    problem = checks.check_logits(np.zeros((2, 3)), -1)
    checks.check_targets(problem, targets, -1)
    assert problem.targets is targets
    assert problem.labels is None
    with pytest.raises(ValueError, match=r"^ignore_index=0 needs hard labels"):
        checks.check_targets(problem, targets, 0)
    for wrong in (np.complex64, object, "M8[s]"):
        with pytest.raises(TypeError, match=r"^soft labels must have a real dtype, got "):
            checks.check_targets(problem, np.zeros((2, 3), wrong), -1)
    for shape in ((2,), (2, 2), (3, 2), (2, 3, 1)):
        with pytest.raises((TypeError, ValueError), match=r"^targets of shape .* hard labels .* soft labels "):
            checks.check_targets(problem, np.zeros(shape, np.float32), -1)


@pytest.mark.parametrize("given", ["logits", "targets", "weight", "sample_weight", "grad_output"])
@pytest.mark.parametrize("output", ["out", "grad_out", "lse_out"])
def test_an_output_that_overlaps_an_input_in_part_is_told_by_both_names(output: str, given: str) -> None:
    room = np.zeros(40)
    inputs: dict[str, Any] = {"logits": np.zeros((4, 5)), "targets": np.zeros((4, 5)), "reduction": "none"}
    inputs[given] = room[: 20 if given in ("logits", "targets") else 5 if given == "weight" else 4]
    shape: tuple[int, ...] = (4,)
    if given in ("logits", "targets"):
        inputs[given] = inputs[given].reshape(4, 5)
    if output == "grad_out":
        shape = (4, 5)
    inputs[output] = room[3 : 3 + math.prod(shape)].reshape(shape)
    with pytest.raises(ValueError, match=f"^{output} overlaps {given} in part; only the very same memory is allowed$"):
        sce.cross_entropy_with_grad(**inputs)
    assert not room.any()


@pytest.mark.parametrize("normalise", [sce.softmax, sce.log_softmax, sce.logsumexp])
def test_an_output_that_overlaps_x_in_part(normalise: Any) -> None:
    room = np.zeros(40)
    out = room[3:7] if normalise is sce.logsumexp else room[3:23].reshape(4, 5)
    with pytest.raises(ValueError, match=r"^out overlaps x in part"):
        normalise(room[:20].reshape(4, 5), out=out)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_bad_weight_is_named(bad: float) -> None:
    with pytest.raises(ValueError, match=rf"^weight must be finite; entry 3 is {bad}$"):
        checks.check_weight("weight", [0.0, -0.5, 2.0, bad, math.nan], (5,))


def test_weights_are_copied_and_flat() -> None:
    given = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    found = checks.check_weight("weight", given, (2, 3))
    np.testing.assert_array_equal(found, np.arange(6.0))
    assert not np.may_share_memory(found, given)


# ---- staging


def test_rows_that_a_kernel_can_read_are_taken_in_place_unless_a_copy_is_asked_for() -> None:
    array = np.arange(24.0).reshape(2, 3, 4)
    rows = Rows(array, 2, np.dtype(float))
    assert rows.direct is not None
    assert np.may_share_memory(rows.direct, array)
    np.testing.assert_array_equal(rows.direct, array.reshape(6, 4))
    flat = array.reshape(6, 4)
    assert Rows(flat, 1, np.dtype(float)).direct is flat
    copied = Rows(array, 2, np.dtype(float), copy=True)
    assert copied.direct is None
    assert not np.may_share_memory(copied.load(1, 5), array)
    np.testing.assert_array_equal(copied.load(1, 5), flat[1:5])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 4), np.float32),
        np.zeros((3, 4), ">f8"),
        np.zeros((3, 8))[:, ::2],
        np.frombuffer(bytes(3 * 4 * 8 + 1), np.float64, offset=1).reshape(3, 4),
        np.zeros((4, 3)).T,
    ],
    ids=["dtype", "byte order", "strides", "alignment", "by columns"],
)
def test_rows_that_a_kernel_cannot_read_are_staged(array: Any) -> None:
    rows = Rows(array, 1, np.dtype(float))
    assert rows.direct is None
    np.testing.assert_array_equal(rows.load(1, 3), array[1:3])


def test_blocks_of_a_read_only_array_are_read() -> None:
    array = np.arange(24.0, dtype=np.float32).reshape(2, 3, 4)
    array.flags.writeable = False
    rows = Rows(array[:, ::2], 2, np.dtype(float))
    np.testing.assert_array_equal(rows.load(1, 4), array[:, ::2].reshape(4, 4)[1:4])
    assert not rows._view.flags.writeable


@pytest.mark.parametrize(
    ("dtype", "computed"),
    [("f2", "f4"), ("f4", "f4"), ("f8", "f8"), (">f4", "f4"), (">f8", "f8"), ("i1", "f8"), ("u8", "f8"),
     (ml_dtypes.bfloat16, "f4")],
)  # fmt: skip
def test_the_dtype_that_logits_are_computed_in(dtype: Any, computed: str) -> None:
    assert compute_dtype(np.dtype(dtype)) == np.dtype(computed)


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, np.longdouble, np.complex64, np.bool_, object, "V2", "U1"])
def test_other_dtypes_are_refused(dtype: Any) -> None:
    if dtype is np.longdouble and np.dtype(dtype).itemsize == 8:
        pytest.skip("longdouble is float64 here")
    with pytest.raises(TypeError, match=r"^it of dtype .* are not supported; allowed: "):
        compute_dtype(np.dtype(dtype), "it")


# ---- options folded to factors


def _factors(classes: int, dtype: Any, rows: int = 2, ignore_index: int = -100, **options: Any) -> fold.Factors:
    problem = checks.check_logits(np.zeros((rows, classes), dtype), -1)
    checks.check_targets(problem, options.pop("labels", np.zeros(rows, np.int64)), ignore_index)
    default = {
        "weight": None, "sample_weight": None, "label_smoothing": 0.0, "z_loss": 0.0, "reduction": "sum",
        "denominator": None, "grad_output": None,
    }  # fmt: skip
    return fold.fold(problem, ignore_index=ignore_index, **{**default, **options})


def test_what_calls_share_cannot_be_written_to() -> None:
    """A backend that wrote to the row weight of all calls would spoil every later one."""
    plain = _factors(3, np.float32)
    empty = _factors(3, np.float32, labels=np.array([-100, -100]), reduction="mean")
    for shared, value in ((plain.row_weight, 1), (plain.upstream, 1), (empty.row_weight, 0)):
        np.testing.assert_array_equal(shared, [value])
        with pytest.raises(ValueError, match="read-only"):
            shared[0] = 2
    assert empty.empty


def test_the_base_mass_is_summed_in_float64_after_it_was_rounded() -> None:
    weight = np.random.default_rng(5).random(10_001) + 0.5
    found = _factors(weight.size, np.float32, weight=weight, label_smoothing=0.3)
    assert found.base_mass.dtype == np.float32
    assert found.base_total == pytest.approx(math.fsum(found.base_mass.tolist()), rel=1e-14)
    one_for_all = _factors(10, np.float32, label_smoothing=0.3)
    assert one_for_all.base_mass.shape == (1,)
    assert one_for_all.base_total == 10 * float(one_for_all.base_mass[0])


@pytest.mark.parametrize("ignored", [-100, 0, 2, 77])
@pytest.mark.parametrize("block", [3, 1 << 16])
def test_a_mean_is_over_the_counted_rows_and_their_weights(
    block: int, ignored: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rows ignored, those of a class, or none: sums by hand, in blocks of rows or at once."""
    monkeypatch.setattr(weights, "_BLOCK", block)
    labels = np.array([0, 1, 2, 0, 1, 1, 2, 1, 0, 1])
    if ignored == -100:
        labels[[4, 7]] = ignored
    weight, rows = np.array([1.0, 2.0, 4.0]), np.arange(1.0, 11.0)
    counted = labels != ignored
    many = counted.sum()
    of_weight, of_rows = weight[labels[counted]], rows[counted]
    for options, weighted, plain in (
        ({}, many, many),
        ({"weight": weight}, of_weight.sum(), many),
        ({"sample_weight": rows}, of_rows.sum(), of_rows.sum()),
        ({"weight": weight, "sample_weight": rows}, (of_rows * of_weight).sum(), of_rows.sum()),
    ):
        found = _factors(3, np.float64, 10, ignored, labels=labels, reduction="mean", z_loss=0.5, **options)
        scale = 2.0 ** -math.frexp(4)[1] if "weight" in options else 1.0  # weights are scaled to near one
        scale_rows = 2.0 ** -math.frexp(10)[1] if "sample_weight" in options else 1.0
        assert found.denominator == weighted * scale * scale_rows
        assert found.z_loss == pytest.approx(0.5 * weighted * scale / plain, rel=1e-15)
        np.testing.assert_array_equal(found.upstream, [1 / found.denominator])
        assert not found.empty


@pytest.mark.parametrize("options", [{"reduction": "sum"}, {"reduction": "mean", "denominator": 4.0}])
def test_weights_that_nothing_divides_by_are_taken_as_they_are(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(9)
    x, labels, weight, rows = rng.standard_normal((5, 4)), rng.integers(0, 4, 5), rng.random(4), rng.random(5)
    right = sce.cross_entropy(x, labels, weight=weight, sample_weight=rows, backend="numpy", **options)
    found = sce.cross_entropy(x, labels, weight=8 * weight, sample_weight=64 * rows, backend="numpy", **options)
    assert found == 512 * right


def test_smoothing_moves_mass_from_the_label_to_every_class() -> None:
    weight = np.array([1.0, 2.0, 4.0, 8.0])
    cases: tuple[tuple[float, dict[str, Any], Any, Any], ...] = (
        (0.25, {"weight": weight}, 0.75 * weight, 0.0625 * weight),
        (0.25, {}, [0.75], [0.0625]),
        (1.0, {}, [0.0], [0.25]),
        (0.0, {"weight": weight}, weight, None),
        (0.0, {}, [1.0], None),
    )
    for smoothing, options, mass, base in cases:
        found = _factors(4, np.float32, label_smoothing=smoothing, **options)
        np.testing.assert_array_equal(found.class_scale, mass)
        assert found.class_scale.dtype == np.float32
        if base is None:
            assert (found.base_mass, found.base_total) == (None, 0)
        else:
            np.testing.assert_array_equal(found.base_mass, base)
            assert found.base_total == np.sum(base) * (4 if len(base) == 1 else 1)


def test_weights_leave_the_range_of_float32_in_silence() -> None:
    with np.errstate(all="raise"):
        found = _factors(3, np.float32, weight=np.array([1e300, 1.0, 1e-300]), label_smoothing=0.5)
    np.testing.assert_array_equal(found.class_scale, [np.inf, 0.5, 0])


@pytest.mark.parametrize("power", [-1000, 1000])
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (5, 1), (5, 4), (0, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_mean_has_the_same_bits_whatever_the_scale_of_its_weights(
    dtype: Any, shape: tuple[int, int], power: int
) -> None:
    rng = np.random.default_rng(9)
    x, labels = rng.standard_normal(shape).astype(dtype), rng.integers(0, shape[1], shape[0])
    weight, rows = rng.random(shape[1]) + 0.5, rng.random(shape[0]) + 0.5
    for targets, names in ((labels, ("weight", "sample_weight")), (np.full(shape, 0.25), ("sample_weight",))):
        for name in names:
            value = weight if name == "weight" else rows
            options: dict[str, Any] = {"label_smoothing": 0.1, "z_loss": 0.1, "backend": "numpy", name: value}
            right = sce.cross_entropy_with_grad(x, targets, **options)
            found = sce.cross_entropy_with_grad(x, targets, **(options | {name: value * 2.0**power}))
            np.testing.assert_array_equal(found[0], right[0], err_msg=name)
            np.testing.assert_array_equal(found[1], right[1], err_msg=name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_mean_over_one_ignored_row_is_of_no_row(dtype: Any) -> None:
    for labels in (np.array([-100]), np.array([-100], np.int32)):
        assert math.isnan(sce.cross_entropy(np.zeros((1, 3), dtype), labels))
        assert sce.cross_entropy(np.zeros((1, 3), dtype), labels, on_empty="zero") == 0


# ---- row losses to one number


@pytest.mark.parametrize("denominator", [1, 1.5, 10_001])
def test_losses_are_summed_in_float64_then_divided_and_rounded_once(denominator: float) -> None:
    loss = np.random.default_rng(8).random(10_001)
    assert mean(loss, denominator, loss.dtype) == np.add.reduce(loss) / denominator
    narrow = loss.astype(np.float32)
    right = np.float32(math.fsum(narrow.tolist()) / denominator)
    assert mean(narrow, denominator, narrow.dtype) == right
    assert np.add.reduce(narrow) != np.float32(math.fsum(narrow.tolist())), "a sum in float32 would do as well"
    for dtype in (np.float32, np.float64):
        assert mean(np.array([3], dtype), denominator, np.dtype(dtype)) == np.dtype(dtype).type(3 / denominator)


@pytest.mark.parametrize("denominator", [1.5, 2, 3])
def test_a_mean_may_be_finite_where_the_sum_is_not(denominator: float) -> None:
    loss = np.full(2, 1e308)
    assert mean(loss, denominator, loss.dtype) == 2 * (1e308 / denominator) < math.inf
    assert mean(loss, 1, loss.dtype) == math.inf
    narrow = np.full(2, 2.0**127, np.float32)
    assert mean(narrow, denominator, narrow.dtype) == np.float32(2.0**128 / denominator)
