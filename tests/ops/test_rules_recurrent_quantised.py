"""LSTM of integers that finds the range of its data while it runs."""

from __future__ import annotations

import numpy as np
import pytest
from attention_networks import contrib
from helpers import Net, half_of_each, prune_exactly

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.ir import Model

HIDDEN = 16


def integers(net: Net, shape: tuple[int, ...], each: bool, signed: bool) -> list[str]:
    """Weights, their scale and their zero point, one a direction or one a column."""
    low, high, kind = (-100, 100, np.int8) if signed else (20, 220, np.uint8)
    values = net.random.integers(low, high, shape).astype(kind)
    size = (shape[0], shape[2]) if each else (shape[0],)
    point = 0 if signed and each else net.random.integers(*((1, 9) if signed else (110, 140)))
    points = np.full(size, point)  # the runtime requires one for all columns, and 0 where those are signed
    scale = net.random.uniform(0.5, 1.0, size) / 60 / np.sqrt(shape[1])
    return [net.const(values), net.const(scale), net.const(points.astype(kind))]


def network(
    *, directions: int = 1, each: bool = False, signed: bool = True, state: str = "", **how: object
) -> Model:
    net = Net()
    x = net.relu(net.linear(net.input("x", [5, 3, 8]), 12))
    w, ws, wz = integers(net, (directions, 12, 4 * HIDDEN), each, signed)
    r, rs, rz = integers(net, (directions, HIDDEN, 4 * HIDDEN), each, signed)
    bias = net.const(net.random.uniform(-0.5, 0.5, (directions, 8 * HIDDEN)))
    first = ""
    if state == "learned":
        first = net.const(net.random.uniform(-1, 1, (directions, 3, HIDDEN)))
    elif state == "fed":
        first = net.input("state", [directions, 3, HIDDEN])
    direction = "bidirectional" if directions == 2 else "forward"
    operands = [x, w, r, bias, "", first, "", "", ws, wz, rs, rz]
    y = contrib(
        net,
        "DynamicQuantizeLSTM",
        *operands,
        shape=[5, directions, 3, HIDDEN],
        hidden_size=HIDDEN,
        direction=direction,
        **how,
    )
    flat = net.reshape(net.transpose(y, 0, 2, 1, 3), 5, 3, directions * HIDDEN)
    return net.model(net.linear(flat, 4))


def assert_prunes(model: Model, *widths: int) -> Channels:
    channels = find_channels(model)
    assert sorted(g.size for g in channels.groups) == sorted(widths), channels.blocked
    outcome = prune_exactly(model, half_of_each(channels), channels)
    assert outcome.error <= max(1e-5, 4 * outcome.noise)
    assert outcome.change > 1e-3
    return channels


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("each", [False, True])
def test_hidden_channels_and_inputs(each: bool, signed: bool) -> None:
    assert_prunes(network(each=each, signed=signed), HIDDEN, 12)


def test_both_directions() -> None:
    assert_prunes(network(directions=2), HIDDEN, 12)


def test_masked_weights_are_the_zero_point() -> None:
    model = network(signed=False)
    channels = find_channels(model)
    (hidden,) = (g for g in channels.groups if g.size == HIDDEN)
    outcome = prune_exactly(model, {hidden.name: [3]}, channels)
    node = next(n for n in outcome.sparse.nodes if n.op_type == "DynamicQuantizeLSTM")
    weights, point = outcome.sparse.array(node.input[1]), outcome.sparse.array(node.input[9])
    assert (weights[0, :, 3] == point[0]).all()
    assert (weights[0, :, HIDDEN + 3] == point[0]).all()


def test_a_learned_first_state_is_masked_too() -> None:
    assert_prunes(network(state="learned"), HIDDEN, 12)


def test_a_first_state_that_is_fed_keeps_the_hidden_channels() -> None:
    assert [g.size for g in find_channels(network(state="fed")).groups] == [12]


def test_activations_that_are_not_zero_at_zero() -> None:
    """A removed channel would be remembered as one half, and set the range of the integers."""
    model = network(activations=["Sigmoid", "Sigmoid", "Tanh"])
    channels = find_channels(model)
    assert [g.size for g in channels.groups] == [12]
    assert any("range" in b.reason for axis in channels.blocked for b in axis.reasons)


def lstm(net: Net, x: str, inner: int, state: str = "") -> str:
    """Add a layer over 5 steps of 3 samples, without the axis of directions."""
    w, ws, wz = integers(net, (1, inner, 4 * HIDDEN), each=False, signed=False)
    r, rs, rz = integers(net, (1, HIDDEN, 4 * HIDDEN), each=False, signed=False)
    bias = net.const(net.random.uniform(-0.5, 0.5, (1, 8 * HIDDEN)))
    operands = [x, w, r, bias, "", state, state, "", ws, wz, rs, rz]
    sizes = {"shape": [5, 1, 3, HIDDEN], "hidden_size": HIDDEN}
    return net.op("Squeeze", contrib(net, "DynamicQuantizeLSTM", *operands, **sizes), net.ints(1))


def test_a_channel_of_the_data_that_is_not_zero_stays() -> None:
    """Masked, it is 10 and the largest of all: it sets the range of the integers."""
    net = Net()
    small = net.op("Sigmoid", net.add(net.linear(net.input("x", [5, 3, 8]), 12), net.const(np.full(12, 8.0))))
    data = net.op("Mul", net.const(20.0), net.op("Sub", net.const(1.0), small))
    channels = assert_prunes(net.model(net.linear(lstm(net, data, 12), 4)), HIDDEN)
    assert any("no operand is zero" in b.reason for axis in channels.blocked for b in axis.reasons)


def test_integers_made_of_the_result() -> None:
    net = Net()
    y = lstm(net, net.relu(net.linear(net.input("x", [5, 3, 8]), 12)), 12)
    q, scale, point = net.ops("DynamicQuantizeLinear", y, outputs=3)
    weights = net.const(net.random.integers(20, 220, (HIDDEN, 4)).astype(np.uint8))
    product = net.op("MatMulInteger", q, weights, point, net.const(np.array(120, np.uint8)))
    scaled = net.op("Mul", net.op("Cast", product, to=1), net.op("Mul", scale, net.const(0.01)))
    assert_prunes(net.model(scaled), HIDDEN, 12)


def test_a_first_state_that_is_zero_expanded_to_the_batch() -> None:
    """PyTorch's newer exporter writes the states of all layers as one Expand, cut by Slice."""
    net = Net()
    data = net.relu(net.linear(net.input("x", [5, "batch", 8]), 12))
    batch = net.op("Shape", data, start=1, end=2)
    sizes = net.op("Concat", net.ints(2), batch, net.ints(HIDDEN), axis=0)
    states = net.op("Expand", net.const(0.0), sizes)
    first = net.op("Slice", states, net.ints(0), net.ints(1), net.ints(0))
    assert_prunes(net.model(net.linear(lstm(net, data, 12, first), 4)), HIDDEN, 12)
