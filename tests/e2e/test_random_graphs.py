"""Random networks: the channels of groups are removed without a change of the function."""

from __future__ import annotations

import numpy as np
from branched_networks import branched
from helpers import chosen_apart, prune_exactly
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_networks import LARGEST, TOLERANCE, networks

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.ir import Model


def unaccounted(channels: Channels) -> set[tuple[str, int]]:
    """Return the axes of weights that neither have a channel to be removed nor a reason why not."""
    found = {(p.tensor, p.axis) for g in channels.groups for p in g.places}
    found |= {(b.tensor, b.axis) for b in channels.blocked}
    constants = channels.model.constants
    weights = [name for name in channels.typing.weight_uses if name in constants]
    return {(n, a) for n in weights for a, size in enumerate(constants[n].dims) if size > 1} - found


@given(networks(), st.integers(0, 99), st.floats(0.1, 0.9), st.booleans())
@settings(deadline=None, suppress_health_check=list(HealthCheck))
def test_random_networks(model: Model, seed: int, fraction: float, apart: bool) -> None:
    check_exact(model, seed, fraction, apart)


@given(branched(), st.integers(0, 99), st.floats(0.1, 0.9), st.booleans())
@settings(deadline=None, suppress_health_check=list(HealthCheck))
def test_random_networks_with_branches(model: Model, seed: int, fraction: float, apart: bool) -> None:
    check_exact(model, seed, fraction, apart)


def check_exact(model: Model, seed: int, fraction: float, apart: bool) -> None:
    channels = find_channels(model)
    assert not unaccounted(channels)
    random = np.random.default_rng(seed)
    removed = {}
    for group in channels.groups:
        gone = np.flatnonzero(random.uniform(size=group.size) < fraction)[: group.size - 1]
        if random.uniform() < 0.7:
            removed[group.name] = gone.tolist()
    if apart:
        channels, removed = chosen_apart(channels, removed, seed)
    outcome = prune_exactly(model, removed, channels)
    assert outcome.error <= max(TOLERANCE, min(100 * outcome.noise, LARGEST))
