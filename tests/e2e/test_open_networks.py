"""Networks that compute their sizes are pruned exactly at every size, as far as with sizes written out."""

from __future__ import annotations

import pytest
from helpers import half_of_each, params, prune_exactly
from open_networks import SIZES, feeds, network

from onnxprune.analysis.groups.channels import find_channels

COUNT = 60


def judge(seed: int) -> str:
    """Prune half of each group; return a sentence on the fault, empty where there is none."""
    net = network(seed)
    model = net.model(net.output)
    channels = find_channels(model)
    outcome = prune_exactly(model, half_of_each(channels, seed), channels, feeds=feeds(seed))
    if outcome.error > max(1e-4, 10 * outcome.noise):
        return f"sparse and dense differ by {outcome.error:.1e}"
    fixed = network(seed, SIZES[1])
    written = fixed.model(fixed.output)
    alone = find_channels(written)
    least = params(prune_exactly(written, half_of_each(alone, seed), alone, feeds=feeds(seed)[1:2]).dense)
    if params(outcome.dense) > least:
        groups = {g.name for g in alone.groups} - {g.name for g in channels.groups}
        return (
            f"{params(outcome.dense)} parameters are left, {least} with sizes written out: {sorted(groups)}"
        )
    return ""


@pytest.mark.parametrize("seed", range(COUNT))
def test_networks_that_compute_their_sizes(seed: int) -> None:
    assert judge(seed) == ""
