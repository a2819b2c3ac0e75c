"""The time for a network grows with the number of its nodes, not with the square of it."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import growth
import pytest
from deep_networks import DEEP
from helpers import params

from onnxprune.analysis.groups.channels import Channels, find_channels, group_channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.decisions.channels.channel_cut import shrunk
from onnxprune.decisions.channels.masks import dead_channels, masked
from onnxprune.ir import Model, check
from onnxprune.ir.canonical.canonicalise import canonicalise

SMALL, TIMES = 500, 8
LARGEST_RATIO = 2 * TIMES
"""Linear work takes ``TIMES`` as long, quadratic work the square of that: 64."""
FAST = 0.1
"""Seconds of processor time below which a stage takes no time that matters."""
ROUNDS = 6
"""Both depths are timed in pairs: the speed of a shared processor changes by a factor of two within seconds.

Work beyond the limit is beyond it in every pair.
"""


@pytest.fixture(autouse=True)
def unverified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time the work alone: verification looks at the whole network at every use of a cached analysis."""
    monkeypatch.setattr(Model, "verified", False)


def half(channels: Channels) -> dict[str, list[int]]:
    return {g.name: list(range(g.size // 2)) for g in channels.groups}


def stages(model: Model) -> dict[str, Callable[[], object]]:
    known = canonicalise(model)
    channels = group_channels(*known)
    removed = half(channels)
    return {
        "check": lambda: check(model),
        "canonical form and shapes": lambda: canonicalise(model),
        "groups": lambda: group_channels(*known),
        "cost": lambda: cost_of(channels).figures(),
        "mask": lambda: masked(channels, removed),
        "dead channels": lambda: dead_channels(channels),
        "shrink": lambda: shrunk(channels, removed),
    }


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Return the least processor time of some rounds, without the work of other programs.

    Nor does the garbage collector, which looks at all that is alive whenever so much more has been made.
    """
    times = []
    gc.disable()
    try:
        for _ in range(rounds):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
    finally:
        gc.enable()
    return min(times)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(DEEP))
def test_time_grows_with_the_number_of_nodes(name: str) -> None:
    small, large = (stages(DEEP[name](SMALL * k)) for k in (1, TIMES))
    for stage in small:
        assert any(
            seconds(large[stage], 1) < max(FAST, LARGEST_RATIO * seconds(small[stage], 2))
            for _ in range(ROUNDS)
        ), stage


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(DEEP))
def test_no_network_is_too_deep(name: str) -> None:
    """Nothing is followed in a recursion as deep as the network."""
    model = DEEP[name](20_000)
    assert len(model.nodes) > 19_000
    channels = find_channels(model)
    smaller = shrunk(channels, half(channels))
    assert params(smaller) < 0.6 * params(model)


NODES, MORE = 250, 4
"""`python tests/support/growth.py` does the same up to 8,000 nodes, with a narrower limit."""
LARGEST_RATIO_FOR_A_NODE = 2.5
"""Quadratic work takes ``MORE`` times as long for each node, linear work once: the limit lies between them.

Other programs share the caches of the processor, and the smaller network alone fits into them: linear stages
were seen at 1.8.
"""


@pytest.mark.slow
@pytest.mark.parametrize("network", growth.NETWORKS)
@pytest.mark.parametrize(
    "stage",
    [pytest.param(s, marks=[pytest.mark.training] if s in growth.TRAINING else []) for s in growth.STAGES],
)
def test_a_pass_takes_no_longer_for_a_node_of_a_deeper_network(stage: str, network: str) -> None:
    """Quadratic work would take four times as long for each."""
    ratios = []
    for _ in range(ROUNDS):
        large = growth.per_node(network, stage, NODES * MORE)
        if large * NODES * MORE <= FAST * 1e3:
            return
        small = growth.per_node(network, stage, NODES, rounds=2)
        if large <= LARGEST_RATIO_FOR_A_NODE * small:
            return
        ratios.append(large / small)
    pytest.fail(f"times for a node in {NODES * MORE} and in {NODES} nodes have the ratios {ratios}")
