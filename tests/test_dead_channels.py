"""Channels made dead by hand in every idea are found in the weights and removed, and nothing else changes.

Three ways to be dead: all weights are zero; the filters are, but biases and shifts are not, so that a channel
is a constant; the columns that read a channel are zero. Where a constant cannot be moved elsewhere the
channel stays, and the program says why.
"""

from __future__ import annotations

from functools import cache

import ideas_sequences  # noqa: F401  (enters its ideas)
import numpy as np
import pytest
from helpers import Net, feeds_for
from ideas import IDEAS

from onnxprune.channels import Channels, Place, find_channels
from onnxprune.dims import channel_of
from onnxprune.folding import folded
from onnxprune.graph import Model, check
from onnxprune.liveness import HEIR, LOST, PATTERN, SHARED, Evidence, find_evidence
from onnxprune.masks import masked
from onnxprune.passes.base import check_valid
from onnxprune.runtime import Session, compare
from onnxprune.shrink import shrunk
from onnxprune.slots import lined_up

each_idea = pytest.mark.parametrize("name", sorted(IDEAS))
STAYS = {
    "group_norm": LOST,  # a group of channels that are constants is not constant after its statistics
    "lstm": LOST,  # a state with nothing but a bias changes from step to step
    "lstm_both_ways": LOST,
    "gru": LOST,
    "gru_both_ways": LOST,
    "rnn": LOST,
    "pixel_shuffle": PATTERN,  # four constants, one for each pixel of a block
    "pixel_shuffle_columns": PATTERN,
    "pixel_shuffle_spelled_out": PATTERN,
    "feature_pyramid": SHARED,  # one convolution reads several pictures, each with other constants
    "shared_convolution": SHARED,
}
"""Ideas some of whose constant channels stay, besides one of each group for the others, and why."""

READERS = {"Conv": 1, "ConvTranspose": 0, "MatMul": 0, "LSTM": 2, "GRU": 2, "RNN": 2}
"""The axis of the weights along which an operator sums."""


@cache
def network(name: str) -> Channels:
    return find_channels(check(Model(IDEAS[name].build())))


def quarter(channels: Channels) -> dict[str, list[int]]:
    random = np.random.default_rng(0)
    return {
        g.name: sorted(random.permutation(g.size)[: max(1, g.size // 4)].tolist())
        for g in channels.groups
        if not g.optional
    }


def reads(channels: Channels, place: Place) -> bool | None:
    """Whether a node sums over an axis of its weights; ``None`` for a vector, which has no others."""
    model = channels.model
    if sum(size > 1 for size in model.constants[place.tensor].dims) < 2:
        return None
    name, axis = place.tensor, place.axis
    while True:
        node = next(n for n in model.nodes if name in n.input)
        if node.op_type != "Transpose":
            break
        axis, name = list(node.attribute[0].ints).index(axis), node.output[0]
    if node.op_type == "Gemm":
        return axis == (1 if any(a.name == "transB" and a.i for a in node.attribute) else 0)
    return axis == READERS.get(node.op_type, -1)


def killed(channels: Channels, removed: dict[str, list[int]], readers: bool) -> Model:
    """Set the filters of channels to zero, or the columns that read them."""
    model = channels.model.copy()
    for group in channels.groups:
        for place in (p for p in group.places if p.weight and reads(channels, p) is readers):
            values = model.array(place.tensor).copy()
            dim = channels.typing.axes[place.tensor][place.axis]
            gone = np.isin(channel_of(dim, group.factor), removed.get(group.name, ()))
            np.moveaxis(values, place.axis, 0)[gone] = 0
            model.set_array(place.tensor, values)
    return model


def error_without(sparse: Model, evidence: Evidence) -> float:
    """Remove what was found, and return how far the results are from what they were."""
    dense = shrunk(find_channels(folded(evidence)), evidence.removed)
    check_valid(dense, "shrink")
    sessions = [Session(m.proto, optimize=False) for m in (sparse, dense)]
    return compare(*sessions, feeds_for(sparse, evidence.channels)).max_rel_error


def check_error(name: str, sparse: Model, evidence: Evidence) -> None:
    half = name == "half_precision"
    assert error_without(sparse, evidence) <= (1e-3 if half else 1e-6)


@each_idea
def test_channels_of_zeros(name: str) -> None:
    channels = network(name)
    removed = quarter(channels)
    sparse = masked(channels, removed)
    evidence = find_evidence(find_channels(sparse))
    assert evidence.removed == removed
    check_error(name, sparse, evidence)


@each_idea
def test_channels_that_nobody_reads(name: str) -> None:
    channels = network(name)
    removed = quarter(channels)
    sparse = killed(channels, removed, readers=True)
    evidence = find_evidence(find_channels(sparse))
    if name == "tied_embedding":  # its table makes channels and reads them: neither was touched
        del removed["Gather_3"]
    assert evidence.removed == removed
    check_error(name, sparse, evidence)


@each_idea
def test_channels_that_are_constants(name: str) -> None:
    """All of them go but the heirs, unless a reason is stated above."""
    channels = network(name)
    removed = quarter(channels)
    sparse = killed(channels, removed, readers=False)
    evidence = find_evidence(find_channels(sparse))
    check_error(name, sparse, evidence)
    left = {g: set(r) - set(evidence.removed.get(g, ())) for g, r in removed.items()}
    reasons = {r.reason for r in evidence.left}
    assert sum(map(len, left.values())) == sum(r.channels for r in evidence.left)
    assert all(set(gone) <= set(removed[g]) for g, gone in evidence.removed.items())
    if name in STAYS:
        assert STAYS[name] in reasons
    else:
        assert all(len(stay) <= 1 for stay in left.values())
        assert reasons <= {HEIR} | {r for r in reasons if "pads" in r or "lays its kernel" in r}


def grouped() -> tuple[Model, str, str]:
    """A grouped convolution between two others, and the names of its weights and shifts."""
    net = Net()
    x = net.relu(net.conv(net.input("x", ["N", 3, 6, 6]), 16))
    weights = net.weight(16, 4, 3, 3)
    y = net.op("Conv", x, weights, group=4, kernel_shape=[3, 3], pads=[1] * 4)
    shift = net.vector(16, 0.1, 0.5)
    ones = net.vector(16, 0.7, 1.3)
    y = net.op("BatchNormalization", y, ones, shift, net.vector(16), net.vector(16, 0.5, 1.5))
    return net.model(net.conv(net.relu(y), 5, 1)), weights, shift


@pytest.mark.parametrize("constant", [False, True])
def test_each_group_of_a_convolution_has_other_dead_channels(constant: bool) -> None:
    model, weights, shift = grouped()
    filters, added = model.array(weights).copy(), model.array(shift).copy()
    dead = [0, 1, 5, 7, 8, 11, 14, 15]
    filters[dead] = 0
    means = next(n for n in model.nodes if n.op_type == "BatchNormalization").input[3]
    if not constant:
        added[dead] = 0
        statistics = model.array(means).copy()
        statistics[dead] = 0
        model.set_array(means, statistics)
    model.set_array(weights, filters)
    model.set_array(shift, added)
    evidence = find_evidence(find_channels(lined_up(find_channels(model))))
    assert sorted(map(len, evidence.removed.values())) == [2]
    assert error_without(model, evidence) <= 1e-6
