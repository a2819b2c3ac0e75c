"""LSTM, GRU and RNN: hidden channels removed from every gate, both directions and all that is remembered."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, half_of_each, prune_exactly

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.ir import Model
from onnxprune.passes.prune import Prune
from onnxprune.passes.transform import Transform

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def cell(
    net: Net,
    x: str,
    hidden: int,
    kind: str = "LSTM",
    *,
    directions: int = 1,
    lengths: str = "",
    h: str = "",
    c: str = "",
    peepholes: bool = False,
    **attributes: object,
) -> list[str]:
    """Add a recurrent layer and return all its results."""
    gates, width = GATES[kind], net.shape(x)[-1]
    operands = [
        x,
        net.weight(directions, gates * hidden, width, fan=width),
        net.weight(directions, gates * hidden, hidden, fan=hidden),
        net.const(net.random.uniform(-0.5, 0.5, (directions, 2 * gates * hidden))),
        lengths,
        h,
    ]
    if kind == "LSTM":
        operands += [
            c,
            net.const(net.random.uniform(-0.5, 0.5, (directions, 3 * hidden))) if peepholes else "",
        ]
    while operands and not operands[-1]:
        operands.pop()
    direction = "bidirectional" if directions == 2 else "forward"
    outputs = 3 if kind == "LSTM" else 2
    return net.ops(kind, *operands, outputs=outputs, hidden_size=hidden, direction=direction, **attributes)


def flat(net: Net, y: str) -> str:
    """Bring ``t d n h`` to ``t n (d h)``."""
    t, d, n, h = net.shape(y)
    return net.reshape(net.transpose(y, 0, 2, 1, 3), t, n, d * h)


def assert_halves(model: Model, **widths: int) -> None:
    """Half the channels of every group go, exactly; the groups are as many as expected."""
    channels = find_channels(model)
    found = sorted(g.size for g in channels.groups)
    assert found == sorted(widths.values()), (found, channels.blocked)
    outcome = prune_exactly(model, half_of_each(channels, optional=True), channels)
    assert outcome.error <= 1e-5
    assert outcome.change > 1e-3


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("directions", [1, 2])
def test_stack(kind: str, directions: int) -> None:
    net = Net()
    x = net.input("x", [5, 2, 6])
    first = flat(net, cell(net, x, 8, kind, directions=directions)[0])
    second = flat(net, cell(net, first, 6, kind, directions=directions)[0])
    assert_halves(net.model(net.linear(second, 3)), first=8, second=6)


@pytest.mark.parametrize("kind", GATES)
def test_last_state(kind: str) -> None:
    net = Net()
    x = net.input("x", [5, 2, 6])
    last = cell(net, x, 8, kind)[1]
    assert_halves(net.model(net.gemm(net.squeeze(last, 0), 3)), hidden=8)


def test_both_directions_keep_the_same_channels_and_all_results_follow() -> None:
    net = Net()
    x = net.input("x", [5, 2, 6])
    y, h, c = cell(net, x, 8, directions=2, peepholes=True, input_forget=1, clip=2.0)
    states = net.reshape(net.transpose(net.concat(h, c, axis=2), 1, 0, 2), 2, 32)
    assert_halves(net.model(net.linear(flat(net, y), 3), net.gemm(states, 4)), hidden=8)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_lengths_and_constant_initial_states(kind: str) -> None:
    net = Net()
    x = net.input("x", [5, 2, 6])
    lengths = net.const(np.asarray([3, 5], np.int32))
    h, c = (net.const(net.random.normal(size=(1, 2, 8))) for _ in range(2))
    assert_halves(
        net.model(net.linear(flat(net, cell(net, x, 8, kind, lengths=lengths, h=h, c=c)[0]), 3)), h=8
    )


@pytest.mark.parametrize("how", ["ConstantOfShape", "Expand"])
def test_initial_states_made_at_run_time_follow(how: str) -> None:
    net = Net()
    x = net.input("x", [5, "batch", 6])
    batch = net.slice(net.op("Shape", x), 1, 2, axis=0)
    target = net.concat(net.ints(1), batch, net.ints(8), axis=0)
    if how == "Expand":
        h = net.op("Expand", net.const(net.random.normal(size=(1, 1, 8))), target)
    else:
        h = net.op("ConstantOfShape", target)
    y = cell(net, x, 8, "GRU", h=h)[0]
    assert_halves(net.model(net.linear(net.squeeze(y, 1), 3)), hidden=8)


def test_initial_states_that_the_caller_feeds_keep_the_channels() -> None:
    net = Net()
    x, h = net.input("x", [5, 2, 6]), net.input("h", [1, 2, 8])
    channels = find_channels(net.model(net.linear(flat(net, cell(net, x, 8, "GRU", h=h)[0]), 3)))
    assert not channels.groups
    assert any(r.operator == "graph input" and r.node == "h" for b in channels.blocked for r in b.reasons)


def test_an_encoder_hands_its_state_to_a_decoder() -> None:
    net = Net()
    x, y = net.input("x", [5, 2, 6]), net.input("y", [3, 2, 4])
    _, h, c = cell(net, x, 8)
    assert_halves(net.model(net.linear(flat(net, cell(net, y, 8, h=h, c=c)[0]), 3)), shared=8)


def test_convolution_before_a_recurrent_layer() -> None:
    """Channels and rows of the picture are one axis of the operand of the layer."""
    net = Net()
    x = net.input("x", [2, 3, 4, 5])
    picture = net.cbr(x, 8)
    sequence = net.reshape(net.transpose(picture, 3, 0, 1, 2), 5, 2, 32)
    assert_halves(net.model(net.linear(flat(net, cell(net, sequence, 6)[0]), 3)), conv=8, hidden=6)


def test_a_sum_over_hidden_channels_needs_zeros() -> None:
    """``0.5 · tanh(0)`` is zero, so scores between two steps do not notice; other activations are not."""
    for activations, groups in (("Sigmoid Tanh Tanh", [8]), ("Sigmoid Tanh HardSigmoid", [])):
        net = Net()
        y = net.squeeze(cell(net, net.input("x", [5, 2, 6]), 8, activations=activations.split())[0], 1)
        scores = net.op("MatMul", net.transpose(y, 1, 0, 2), net.transpose(y, 1, 2, 0))
        model = net.model(scores)
        channels = find_channels(model)
        assert [g.size for g in channels.groups] == groups
        if groups:
            assert prune_exactly(model, half_of_each(channels), channels).error <= 1e-5


@pytest.mark.parametrize("kind", GATES)
def test_a_sum_over_hidden_channels_that_do_not_start_at_zero(kind: str) -> None:
    """Initial states persist, in channels without weights too."""
    for squashed, groups in ((False, [8]), (True, [])):
        net = Net()
        x, h = net.input("x", [5, 2, 6]), net.const(net.random.normal(size=(1, 2, 8)))
        h = net.op("Sigmoid", net.add(h, net.reduce("ReduceMean", x, [0, 2]))) if squashed else h
        y = net.squeeze(cell(net, x, 8, kind, h=h)[0], 1)
        model = net.model(net.op("MatMul", net.transpose(y, 1, 0, 2), net.transpose(y, 1, 2, 0)))
        channels = find_channels(model)
        assert [g.size for g in channels.groups] == groups, channels.blocked
        if groups:
            assert prune_exactly(model, half_of_each(channels), channels).error <= 1e-5


def test_recurrent_weights_that_are_computed_keep_the_channels() -> None:
    """They are not zero where a channel is removed, so the others would still depend on it."""
    net = Net()
    x = net.input("x", [5, 2, 6])
    mean = net.reduce("ReduceMean", net.reduce("ReduceMean", x, [1, 2]), [0])
    w, r = net.weight(1, 8, 6), net.op("Sigmoid", net.add(net.weight(1, 8, 8), mean))
    y = net.ops("RNN", x, w, r, outputs=1, hidden_size=8)[0]
    channels = find_channels(net.model(net.linear(flat(net, y), 3)))
    assert not channels.groups
    assert any("no operand is zero" in reason.reason for b in channels.blocked for reason in b.reasons)


def test_shared_hidden_channels_of_a_residual_stack() -> None:
    net = Net()
    x = net.input("x", [5, 2, 6])
    first = net.squeeze(cell(net, x, 8)[0], 1)
    both = net.add(first, net.squeeze(cell(net, first, 8, "GRU")[0], 1))
    assert_halves(net.model(net.linear(both, 3)), both=8)


def test_batch_first_layout_is_typed() -> None:
    """The runtime does not run this layout on CPUs, so only the axes are looked at."""
    net = Net()
    y = cell(net, net.input("x", [2, 5, 6]), 8, layout=1)[0]
    assert net.shape(y) == [2, 5, 1, 8]
    channels = find_channels(net.model(net.linear(net.squeeze(y, 2), 3)))
    assert [g.size for g in channels.groups] == [8]


def test_prune_and_transform() -> None:
    net = Net()
    x = net.input("x", [5, "batch", 6])
    y = net.squeeze(cell(net, x, 32)[0], 1)
    result = Transform()(Prune(reduce_macs=0.5)(net.model(net.linear(y, 3))))
    assert result.facts["macs"] < 0.6 * result.facts["macs_before"]
    node = next(n for n in result.model.nodes if n.op_type == "LSTM")
    assert next(a.i for a in node.attribute if a.name == "hidden_size") < 32
