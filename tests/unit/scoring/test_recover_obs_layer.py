"""The optimal brain surgeon on blocks: its costs and weights are those of least squares without the block."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.scoring.layerwise import obs as surgeon
from onnxprune.scoring.layerwise.moments import Moments
from onnxprune.scoring.layerwise.obs import ObsLayer, elimination_costs
from onnxprune.scoring.layerwise.ridge import ridge


def layer(seed: int, channels: int, width: int, outputs: int = 3):
    random = np.random.default_rng(seed)
    inputs = channels * width
    mixed = random.standard_normal((4 * inputs + 5, inputs)) @ random.standard_normal((inputs, inputs))
    columns = random.permutation(inputs).reshape(channels, width)
    return random.standard_normal((outputs, inputs)), mixed.T @ mixed, columns


def best_without(weights, gram, gone):
    """Least squares on the kept inputs, in closed form, and its squared error; H damped as in `obs`."""
    damped = gram + surgeon.DAMPING * np.trace(gram) / len(gram) * np.eye(len(gram))
    kept = np.setdiff1d(np.arange(len(gram)), gone)
    found = np.zeros_like(weights)
    found[:, kept] = np.linalg.solve(damped[np.ix_(kept, kept)], damped[kept] @ weights.T).T
    missing = weights - found
    return found, float(np.trace(missing @ damped @ missing.T))


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 4))
def test_one_block_costs_the_error_of_least_squares(seed, channels, width):
    weights, gram, columns = layer(seed, channels, width)
    costs = ObsLayer.admit(weights, gram, columns).costs(np.arange(channels))
    wanted = [best_without(weights, gram, gone)[1] for gone in columns]
    np.testing.assert_allclose(costs, wanted, rtol=1e-6, atol=1e-6 * max(wanted))


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 6), st.integers(1, 3), st.integers(1, 2))
def test_blocks_one_after_the_other_are_all_at_once(seed, channels, width, first):
    weights, gram, columns = layer(seed, channels, width)
    obs = ObsLayer.admit(weights, gram, columns)
    obs.remove(np.arange(first))
    wanted, error = best_without(weights, gram, columns[:first].ravel())
    np.testing.assert_allclose(obs.weights, wanted, rtol=1e-5, atol=1e-6)
    after = obs.costs(np.array([channels - 1]))[0]
    _, both = best_without(weights, gram, columns[[*range(first), channels - 1]].ravel())
    assert error + after == pytest.approx(both, rel=1e-6)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.lists(st.integers(1, 3), min_size=2, max_size=4))
def test_rounds_in_any_order_leave_the_costs_and_weights_of_least_squares(seed, width, rounds):
    """Rows of inputs that stay are moved out of the way of each round."""
    channels = sum(rounds) + 2
    weights, gram, columns = layer(seed, channels, width)
    obs = ObsLayer.admit(weights, gram, columns)
    order = np.random.default_rng(seed).permutation(channels)
    for stop in np.cumsum(rounds):
        obs.remove(order[obs.removed // width : stop])
    gone, left = order[: sum(rounds)], order[sum(rounds) :]
    wanted, error = best_without(weights, gram, columns[gone].ravel())
    scale = float(np.abs(wanted).max())
    np.testing.assert_allclose(obs.weights, wanted, rtol=1e-5, atol=1e-6 * scale)
    for channel, cost in zip(left, obs.costs(left), strict=True):
        _, more = best_without(weights, gram, columns[[*gone, channel]].ravel())
        assert error + cost == pytest.approx(more, rel=1e-6)


def test_the_cheapest_channels_go_first_and_copies_are_cheap():
    """Of two equal channels one is free; after its removal the other is not."""
    random = np.random.default_rng(0)
    x = random.standard_normal((500, 4)) * [1.0, 1.0, 0.2, 3.0]
    x[:, 1] = x[:, 0] + 1e-3 * x[:, 1]
    weights = np.ones((2, 4))
    obs = ObsLayer.admit(weights, x.T @ x, np.arange(4)[:, None])
    costs = elimination_costs([obs], [1.0], 4, rounds=4)
    copies = sorted([costs[0], costs[1]])
    assert copies[0] < 0.1 * copies[1]
    assert costs[2] < copies[1] < costs[3]


@pytest.mark.parametrize("rounds", [1, 3, 64])
def test_every_channel_gets_a_cost_in_any_number_of_rounds(rounds):
    weights, gram, columns = layer(1, 10, 2)
    layers = [ObsLayer.admit(weights, gram, columns), ObsLayer.admit(weights * 0, gram, columns)]
    costs = elimination_costs(layers, [2.0, 1.0], 10, rounds)
    assert (costs > 0).all()
    assert len(np.unique(costs)) >= min(rounds, 9)


def test_the_update_is_the_one_of_least_squares():
    """`recover` with least squares makes the update of `obs`, on the operands of the pruned layers before."""
    weights, gram, columns = layer(3, 5, 2)
    obs = ObsLayer.admit(weights, gram, columns)
    obs.remove(np.array([1, 4]))
    kept = columns[[0, 2, 3]].ravel()
    moments = Moments.empty(1, len(kept), len(weights))
    moments.xx[0], moments.xy[0], moments.count = gram[np.ix_(kept, kept)], gram[kept] @ weights.T, 1
    strength = surgeon.DAMPING * np.trace(gram) / len(gram) / (np.trace(moments.xx[0]) / len(kept))
    found, _ = ridge(moments, weights[None, :, kept], np.zeros((1, len(weights))), strength, shift=False)
    np.testing.assert_allclose(obs.weights[:, kept], found[0], rtol=1e-6)


def test_elimination_costs_of_zero_inputs_are_finite():
    obs = ObsLayer.admit(np.ones((2, 3)), np.zeros((3, 3)), np.arange(3)[:, None])
    assert np.isfinite(elimination_costs([obs], [1.0], 3, 3)).all()
