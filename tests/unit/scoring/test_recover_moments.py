"""Sums over samples: streamed in any pieces, they are those of all samples at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.errors import DataError
from onnxprune.scoring.layerwise.moments import ChannelMoments, Moments
from onnxprune.scoring.layerwise.ridge import fit, ridge


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(0, 9),
)
def test_errors_are_those_of_the_rows(pieces, groups, inputs, seed):
    random = np.random.default_rng(seed)
    rows, outputs = sum(pieces), 3
    x, y = random.standard_normal((groups, rows, inputs)), random.standard_normal((groups, rows, outputs)) + 2
    weights, bias = (
        random.standard_normal((groups, outputs, inputs)),
        random.standard_normal((groups, outputs)),
    )
    moments = Moments.empty(groups, inputs, outputs)
    for start, count in zip(np.cumsum([0, *pieces[:-1]]), pieces, strict=True):
        moments.add(x[:, start : start + count], y[:, start : start + count])
    wrong = x @ weights.transpose(0, 2, 1) + bias[:, None] - y
    np.testing.assert_allclose(moments.errors(weights, bias), np.square(wrong).sum(1), rtol=1e-9, atol=1e-9)
    assert moments.count == rows


def test_long_sums_of_many_groups_are_cut_without_loss():
    random = np.random.default_rng(0)
    x, y = random.standard_normal((3, 5000, 9)), random.standard_normal((3, 5000, 2))
    moments = Moments.empty(3, 9, 2)
    moments.add(x, y)
    np.testing.assert_allclose(moments.xx, x.transpose(0, 2, 1) @ x, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(moments.xy, x.transpose(0, 2, 1) @ y, rtol=1e-12, atol=1e-9)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(0, 9))
def test_channel_statistics_do_not_depend_on_the_batches(sizes, seed):
    random = np.random.default_rng(seed)
    batches = [random.normal(1e3, 1, (n, 5, 4)) for n in sizes]
    moments = ChannelMoments(4)
    for batch in batches:
        moments.add(batch, "it")
    columns = np.concatenate([b.reshape(-1, 4) for b in batches])
    if len(columns):
        np.testing.assert_allclose(moments.mean, columns.mean(0), rtol=1e-12)
        np.testing.assert_allclose(moments.variance, columns.var(0), rtol=1e-8)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match="layer 7 is NaN or infinite"):
        ChannelMoments(1).add(np.array([[np.nan]]), "layer 7")


def test_ridge_keeps_weights_of_directions_without_samples():
    """An input that is always zero keeps its weight; the others take the weights that made the outputs."""
    random = np.random.default_rng(0)
    x = random.standard_normal((1, 200, 3)) * [1, 1, 0]
    y = x @ np.array([[2.0], [-1.0], [9.0]]) + 0.5
    moments = Moments.empty(1, 3, 1)
    moments.add(x, y)
    weights, bias = ridge(moments, np.array([[[0.0, 0.0, 7.0]]]), np.zeros((1, 1)), 1e-9, True)
    np.testing.assert_allclose(weights, [[[2, -1, 7]]], atol=1e-6)
    np.testing.assert_allclose(bias, [[0.5]], atol=1e-6)
    fixed, same = ridge(moments, np.zeros((1, 1, 3)), np.full((1, 1), 0.5), 1e-9, False)
    np.testing.assert_allclose(fixed[..., :2], [[[2, -1]]], atol=1e-6)
    assert same == 0.5


def test_fit_keeps_the_strength_that_held_back_samples_prefer():
    random = np.random.default_rng(0)
    seen, held = Moments.empty(1, 20, 1), Moments.empty(1, 20, 1)
    truth, x = random.standard_normal((20, 1)), random.standard_normal((1, 400, 20))
    seen.add(x[:, :5], random.standard_normal((1, 5, 1)) * 50)  # noise, which fits the five rows at will
    held.add(x[:, 5:], x[:, 5:] @ truth)
    start = truth.T[None].copy()
    weights, _, strength = fit(seen, held, start, np.zeros((1, 1)), np.ones((1, 1), bool), True)
    assert strength is None
    np.testing.assert_array_equal(weights, start)
