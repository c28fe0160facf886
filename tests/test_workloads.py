"""The named inputs, and the user's own."""

from __future__ import annotations

import os
import socket
import warnings
from pathlib import Path

import click
import numpy as np
import pytest

from softmax_ce_bench.inputs import digits, workloads
from softmax_ce_bench.inputs.workloads import SHAPES, Shape, WorkloadError, from_files, softened, synthetic
from softmax_ce_bench.terminal.options import Weight


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_the_same_numbers_every_time_and_for_every_dtype(shape):
    narrow, wide = synthetic(shape, "float32"), synthetic(shape, "float64")
    assert narrow.shape == (shape.rows, shape.classes)
    assert (narrow.dtype, wide.dtype) == ("float32", "float64")
    np.testing.assert_array_equal(narrow.logits, synthetic(shape, "float32").logits)
    np.testing.assert_array_equal(narrow.logits, wide.logits)
    np.testing.assert_array_equal(narrow.targets, wide.targets)
    assert not np.array_equal(narrow.targets, synthetic(shape, "float32", seed=1).targets)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_logits_are_wide_and_half_of_them_right(shape):
    made = synthetic(shape, "float32")
    real = made.logits[:, : shape.classes - shape.padding]
    assert abs(real.std(dtype=np.float64) / workloads.WIDTH - 1) < 0.01
    with np.errstate(over="ignore", under="ignore"):
        e = np.exp(real)
        spread = np.exp(real.min() - real.max())
    assert np.isinf(e).any()  # overflows unshifted,
    assert spread == 0  # and underflows shifted
    assert np.all(made.logits[:, shape.classes - shape.padding :] == -np.inf)
    assert made.targets.min() >= 0
    assert made.targets.max() < shape.classes - shape.padding
    right = made.logits.argmax(axis=1) == made.targets
    assert right[::2].all()
    assert right[1::2].mean() < 0.2


def test_labels_are_as_frequent_as_words():
    labels = synthetic(Shape("words", 20_000, 100, "", zipf=True), "float32").targets
    counts = np.bincount(labels, minlength=100)
    expected = 20_000 / np.arange(1, 101) / np.sum(1 / np.arange(1, 101))
    # Each count within five standard deviations of a Poisson number.
    assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))


def test_a_subset_of_rows_is_drawn_once_and_for_all():
    made = synthetic(SHAPES[1], "float32")
    few = made.rows(50_000)
    assert few.shape == (50, 1000)
    np.testing.assert_array_equal(few.logits, made.rows(50_000).logits)
    at = [int(np.flatnonzero((made.logits == row).all(axis=1))[0]) for row in few.logits]
    assert at == sorted(set(at))
    np.testing.assert_array_equal(few.targets, made.targets[at])
    assert made.rows(10).shape == (1, 1000)
    assert made.rows(made.logits.size) is made


def test_digits_are_split_the_same_way_every_time():
    data = digits.load()
    assert data.pixels.shape == (1797, 65)
    assert data.trained == 1347
    assert (data.pixels.min(), data.pixels.max()) == (0.0, 1.0)
    np.testing.assert_array_equal(np.bincount(data.labels), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
    assert np.bincount(data.labels[: data.trained]).min() > 120  # every digit is learned from


@pytest.fixture
def files(tmp_path):
    """Saves arrays, returns their paths."""

    def save(**arrays):
        for name, array in arrays.items():
            np.save(tmp_path / f"{name}.npy", array)
        return [tmp_path / f"{name}.npy" for name in arrays]

    return save


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_own_arrays_are_mapped_as_they_are(files, dtype):
    logits = np.random.default_rng(0).normal(size=(7, 5)).astype(dtype)
    made = from_files(*files(logits=logits, targets=np.array([0, 1, 2, 3, 4, -100, 0])))
    assert isinstance(made.logits, np.memmap)
    assert not made.logits.flags.writeable
    np.testing.assert_array_equal(made.logits, logits)
    assert made.targets.tolist() == [0, 1, 2, 3, 4, -100, 0]
    assert made.name == "logits.npy"


def test_own_soft_labels(files):
    soft = np.full((3, 2), 0.5, np.float32)
    made = from_files(*files(logits=np.eye(3, 2), targets=soft))
    np.testing.assert_array_equal(made.targets, soft)


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (np.zeros(4), np.zeros(4, int), r"shape \(rows, classes\), got float64 of shape \(4,\)"),
        (np.zeros((4, 2), int), np.zeros(4, int), r"logits must be floats .* got int64"),
        (np.zeros((0, 2)), np.zeros(0, int), r"got float64 of shape \(0, 2\)"),
        (np.zeros((4, 2)), np.zeros(5, int), r"targets of shape \(5,\) do not fit logits of shape \(4, 2\)"),
        (np.zeros((4, 2)), np.array([0, 1, 2, 0]), r"target 2 at position 2 is outside \[0, 2\)"),
        (np.zeros((4, 2)), np.array([0, -1, 0, 0]), r"target -1 at position 1 is outside \[0, 2\)"),
        (np.zeros((4, 2)), np.zeros(4), r"integer"),
        (np.zeros((4, 2), complex), np.zeros(4, int), r"^\S*logits.npy: logits must be floats"),
        (np.zeros((4, 2), np.longdouble), np.zeros(4, int), r"^\S*logits.npy: .*" + str(np.dtype(np.longdouble))),
        (np.zeros((4, 2)), np.array([0, 1, 255, 0], np.uint8), r"target 255 .*; label the rows to ignore -100$"),
    ],
)
def test_arrays_that_do_not_fit(files, logits, targets, message):
    with pytest.raises(WorkloadError, match=message) as caught:
        from_files(*files(logits=logits, targets=targets))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "is not an .npy array"),
        (b"1,2\n3,4\n", "is not an .npy array"),
        (b"PK\x03\x04 an archive", "is not an .npy array"),
        (b"\x93NUMPY\x01\x00", "cannot be read"),
    ],
)
def test_files_that_are_no_arrays(files, tmp_path, content, message):
    (targets,) = files(targets=np.zeros(2, int))
    if content is not None:
        (tmp_path / "logits.npy").write_bytes(content)
    with pytest.raises(WorkloadError, match=message) as caught:
        from_files(tmp_path / "logits.npy", targets)
    assert str(tmp_path / "logits.npy") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_a_folder_and_a_pickle(files, tmp_path):
    logits, targets = files(logits=np.zeros((100, 10)), targets=np.zeros(100, int))
    logits.write_bytes(logits.read_bytes()[:500])
    with pytest.raises(WorkloadError, match="cannot be read"):
        from_files(logits, targets)
    with pytest.raises(WorkloadError, match="cannot be read"):
        from_files(tmp_path, targets)
    np.save(logits, np.array([{}]), allow_pickle=True)
    with pytest.raises(WorkloadError, match="Python objects"):
        from_files(logits, targets)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((10**12, 10**12), "<f4"), ((2**32, 2**32), "<f4"), ((2**62, 2), "<f8"), ((2**63 - 1, 1), "<f4"),
        ((2**40, 2**20, 16), "|u1"), ((10**12, 10), "<f2"), ((1, 2**64), "<f4"), ((10**9,), "|V4096"),
        ((2**21, 2**21, 2**22), "<i8"), ((10**5, 10**5), "<f4"),
    ],
)  # fmt: skip
def test_a_header_that_promises_more_than_is_there(tmp_path, shape, dtype):
    """Refused, and by nothing but the error: the tests turn each warning of NumPy's into another one."""
    path = tmp_path / "array.npy"
    text = str({"descr": dtype, "fortran_order": False, "shape": shape}).encode() + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(64))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(WorkloadError, match="cannot be read: ") as caught:
            workloads.load_array(path)
    assert warned == []
    assert "\n" not in str(caught.value)
    assert "warning" not in str(caught.value).lower()


@pytest.mark.parametrize(("version", "size"), [(1, 65_535), (2, 65_537), (2, 2**32 - 1), (3, 10**9)])
def test_a_header_that_is_larger_than_any(tmp_path, version, size):
    path = tmp_path / "array.npy"
    field = size.to_bytes(2 if version == 1 else 4, "little")
    with path.open("wb") as file:
        file.write(b"\x93NUMPY" + bytes([version, 0]) + field)
        file.truncate(size + 100)
    with pytest.raises(WorkloadError, match="cannot be read: "):
        workloads.load_array(path)


@pytest.mark.skipif(os.name == "nt", reason="POSIX files")
@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null", "pipe", "link", "socket", "."])
def test_what_is_no_file_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    os.symlink("pipe", "link")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
    with pytest.raises(WorkloadError, match="cannot be read: it is a folder, pipe, socket or device, not a file"):
        workloads.load_array(Path(name))


@pytest.mark.parametrize(
    "header",
    [
        "{[]: 1}",  # TypeError in NumPy
        "{'descr': '<f8', 'fortran_order': False, 'shape': (3,",  # tokenize.TokenError
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-3,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999999999999999,)}",
    ],
)
def test_a_damaged_header_is_a_file_that_cannot_be_read(tmp_path, header):
    text = header.encode() + b"\n"
    path = tmp_path / "array.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(64))
    with pytest.raises(WorkloadError, match="cannot be read") as caught:
        from_files(path, path)
    assert "\n" not in str(caught.value)
    with pytest.raises(click.BadParameter, match=r"neither 'drawn' nor an \.npy file"):
        Weight().convert(str(path), None, None)


@pytest.mark.parametrize("soft", [False, True])
def test_classes_on_axis_1_are_the_same_numbers_in_another_layout(soft):
    flat = synthetic(Shape("flat", 24, 5, ""), "float32")
    images = synthetic(Shape("images", 24, 5, "", inner=(3, 4)), "float32")
    assert (images.logits.shape, images.targets.shape) == ((2, 5, 3, 4), (2, 3, 4))
    assert images.logits.flags.c_contiguous
    if soft:
        flat, images = softened(flat), softened(images)
        assert images.is_soft
        np.testing.assert_allclose(images.targets.sum(axis=1), 1, rtol=1e-6)
    else:
        assert (images.as_rows(images.targets) == flat.targets).all()
    assert (images.as_rows(images.logits) == flat.logits).all()
    assert (images.shape, images.axis, flat.axis) == ((24, 5), {"axis": 1}, {})
    some = images.rows(50)
    assert (some.logits.shape, some.targets.shape) == ((1, 5, 10), (1, 5, 10) if soft else (1, 10))
    rows = images.as_rows(images.logits)
    assert all((rows == row).all(axis=1).any() for row in some.as_rows(some.logits))


def test_every_set_names_as_many_rows_as_its_shapes_have():
    for shapes in workloads.SETS.values():
        assert all(shape.rows % int(np.prod(shape.inner)) == 0 for shape in shapes)
