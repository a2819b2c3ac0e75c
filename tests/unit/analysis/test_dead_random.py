"""Random networks some of whose filters, columns or shifts are zero: the removal changes no output."""

from __future__ import annotations

import numpy as np
from branched_networks import branched
from helpers import _noise, feeds_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_networks import LARGEST, TOLERANCE, networks

from onnxprune.algebra.kept_axes import channel_of
from onnxprune.analysis.evidence.folding import folded
from onnxprune.analysis.evidence.liveness import find_evidence
from onnxprune.analysis.evidence.precomputed import precomputed
from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.analysis.groups.slots import lined_up
from onnxprune.decisions.channels.channel_cut import shrunk
from onnxprune.ir import Model
from onnxprune.passes.base import check_valid
from onnxprune.runtime import Session, compare


def damaged(channels: Channels, seed: int, share: float) -> Model:
    """Set some channels of some weights to zero: a filter here, a column there."""
    random, model = np.random.default_rng(seed), channels.model.copy()
    for group in channels.groups:
        chosen = random.uniform(size=group.size) < share
        for place in (p for p in group.places if p.weight):
            if random.uniform() < 0.6:
                values = model.array(place.tensor).copy()
                numbers = channel_of(channels.typing.axes[place.tensor][place.axis], group.factor)
                np.moveaxis(values, place.axis, 0)[(numbers >= 0) & chosen[numbers]] = 0
                model.set_array(place.tensor, values)
    return model


def check_dead(model: Model, seed: int, share: float) -> None:
    sparse = damaged(find_channels(model), seed, share)
    channels = find_channels(precomputed(sparse))
    evidence = find_evidence(find_channels(lined_up(channels)) if channels.freedoms else channels)
    dense = shrunk(find_channels(folded(evidence)), evidence.removed)
    check_valid(dense, "shrink")
    feeds = feeds_for(sparse, channels)
    before, after = (Session(m.proto, optimize=False) for m in (sparse, dense))
    found = compare(before, after, feeds)
    if found.max_rel_error > TOLERANCE:
        assert found.max_rel_error <= min(100 * _noise(before, feeds, seed), LARGEST), evidence.removed


@given(networks(), st.integers(0, 99), st.floats(0.1, 0.9))
@settings(max_examples=settings().max_examples // 2, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_networks(model: Model, seed: int, share: float) -> None:
    check_dead(model, seed, share)


@given(branched(), st.integers(0, 99), st.floats(0.1, 0.9))
@settings(max_examples=settings().max_examples // 2, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_networks_with_branches(model: Model, seed: int, share: float) -> None:
    check_dead(model, seed, share)
