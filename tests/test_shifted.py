"""The NumPy backend's blocks: how rows are cut, which maximum is left out, and whose memory is written."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import softmax_ce as sce
from softmax_ce import tuning
from softmax_ce._backends import _rows, shifted
from softmax_ce_bench.conformance.harness import assert_same_bits
from softmax_ce_bench.truth import oracle


@pytest.mark.parametrize("rows", [1, 2, 7, 1000, 4097])
@pytest.mark.parametrize("classes", [1, 10, 300, 1 << 19])
def test_blocks_are_even_and_cover_the_rows_once(rows, classes):
    blocks = list(_rows.row_blocks(3, 3 + rows, classes))
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(3, 3 + rows))
    lengths = [block.stop - block.start for block in blocks]
    assert max(lengths) == lengths[0] == _rows.step_of(3, 3 + rows, classes)
    assert max(lengths) * classes <= max(1.5 * tuning.NUMPY_BLOCK_ELEMENTS, classes)
    assert list(_rows.row_blocks(5, 5, classes)) == []


def ties(dtype, rows, classes, seed=0):
    """Logits with many equal maxima, with unusual rows among them; and labels."""
    rng = np.random.default_rng(seed)
    x = np.round(2 * rng.standard_normal((rows, classes))).astype(dtype)
    if rows > 4:
        x[1], x[2, 0], x[3, classes // 2], x[4, -1] = -np.inf, np.inf, np.nan, -np.inf
    return x, rng.integers(0, classes, rows)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [1, 2, 7, 8, 9, 16, 17, 31, 32, 63, 64, 65, 129])
def test_a_row_has_the_same_bits_in_any_company(classes, dtype, monkeypatch):
    """Whether alone or in blocks of any size, on every way in which a maximum is found; soft targets likewise."""
    x, y = ties(dtype, 23, classes)
    soft = np.random.default_rng(1).random(x.shape).astype(dtype)
    upstream = np.random.default_rng(2).uniform(-2, 2, 23)
    for targets, options in itertools.product((y, soft), ({}, {"label_smoothing": 0.1, "z_loss": 0.01})):

        def results(part, targets=targets, options=options):
            return sce.cross_entropy_with_grad(
                x[part], targets[part], reduction="none", grad_output=upstream[part], return_lse=True, backend="numpy",
                threads=1, **options,
            )  # fmt: skip

        whole = results(slice(None))
        for i in range(23):
            for got, right in zip(results(slice(i, i + 1)), whole, strict=True):
                assert_same_bits(got, right[i : i + 1], f"row {i} alone")
        for block in (1, 5 * (classes + _rows._ROW)):
            monkeypatch.setattr(_rows.row_blocks, "__defaults__", (block,))
            monkeypatch.setattr(_rows.step_of, "__defaults__", (block,))
            for got, right in zip(results(slice(None)), whole, strict=True):
                assert_same_bits(got, right, f"blocks of {block} elements")
            monkeypatch.undo()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [2, 3, 16, 17, 40, 63, 64, 200])
def test_of_equal_maxima_one_is_left_out(classes, dtype):
    """The loss is then log of how many there are, also when the label is the first, the last or none of them."""
    x = np.full((3, classes), -200, dtype)
    x[:, [0, -1]] = 3
    y = np.array([0, classes - 1, classes // 2])
    loss, grad = sce.cross_entropy_with_grad(x, y, reduction="none", backend="numpy")
    info = sce.get_backend("numpy").info
    assert oracle.worst_over_bound(info, x, y, loss, grad) <= 1
    np.testing.assert_allclose(loss[:2], np.log(2), rtol=2 * np.finfo(dtype).eps)


def test_exponentials_are_computed_in_the_gradient_unless_it_is_the_logits():
    x, _ = ties(np.float32, 9, 5)
    assert shifted._scratch(x, np.empty_like(x), 0, 9) is None
    for grad in (x, x[:], None):
        scratch = shifted._scratch(x, grad, 0, 9)
        assert scratch.shape == (9, 5)
        assert not np.may_share_memory(scratch, x)


def test_labels_are_read_once():
    """What another thread writes into them later is not seen, and what is out of range does not count."""
    labels = np.array([0, 4, 2])
    y, counts = shifted._read(labels, 5, -100)
    labels[:] = 1 << 40
    assert (y.tolist(), counts) == ([0, 4, 2], None)
    for wild in (5, -1, -(2**63), 2**63 - 1):
        y, counts = shifted._read(np.array([1, wild, 3]), 5, -100)
        assert y.tolist() == [1, 0, 3]
        assert counts.tolist() == [True, False, True]
    assert shifted._read(np.array([1, 3]), 5, 3)[1].tolist() == [True, False]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_soft_targets_of_masked_and_of_huge_logits_beside_ordinary_ones(dtype):
    """Rows whose cost is not finite at once: 0 at -inf, mass at -inf, and gaps beyond the format."""
    largest = np.finfo(dtype).max
    x = np.array([[1, 2, -np.inf, 0], [0, 1, 2, 3], [largest, -largest, 0, 0], [-np.inf, 1, 0, 2]], dtype)
    t = np.array([[0.5, 0.5, 0, 0], [0.1, 0.2, 0.3, 0.4], [0.75, 0.25, 0, 0], [0.5, 0.5, 0, 0]], dtype)
    loss, grad = sce.cross_entropy_with_grad(x, t, reduction="none", backend="numpy")
    assert np.isfinite(loss[:3]).all()
    assert loss[3] == np.inf
    assert oracle.worst_over_bound(sce.get_backend("numpy").info, x, t, loss, grad) <= 1
    alone = sce.cross_entropy(x[1:2], t[1:2], reduction="none", backend="numpy")
    assert_same_bits(loss[1:2], alone, "an ordinary row")


@pytest.mark.parametrize("classes", [3, 20, 40, 63, 64, 300])
@pytest.mark.parametrize("odd", [-np.inf, np.inf, 0.0])
def test_a_nan_wins_over_an_infinity_however_many_rows_there_are(classes, odd):
    x = np.zeros((300, classes), np.float32)
    x[::2, 0] = odd
    x[::3, -1] = np.nan
    x[1::3, 1] = np.nan
    broken = np.isnan(x).any(axis=1) | (x == np.inf).any(axis=1)
    for name in [info.name for info in sce.backends() if info.available and info.stable]:
        together = np.asarray(sce.logsumexp(x, backend=name, threads=1))
        alone = np.concatenate([sce.logsumexp(x[i : i + 1], backend=name) for i in range(300)])
        assert_same_bits(together, alone, name)
        np.testing.assert_array_equal(np.isnan(together) | (together == np.inf), broken)
        assert np.isnan(together[np.isnan(x).any(axis=1)]).all()
