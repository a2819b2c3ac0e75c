"""Layers that read their first states from one tensor of zeros are not coupled by it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from helpers import Net, half_of_each, prune_exactly
from onnx import TensorProto, helper, numpy_helper

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.certify import certify
from onnxprune.ir import Model
from onnxprune.passes import Prune, Transform

WIDTH = 8


def fill(net: Net, x: str, layers: int, way: str) -> str:
    """Zeros for the states of all layers, ``[layers, N, 8]``."""
    batch = net.op("Gather", net.op("Shape", x), net.ints(1), axis=0)
    target = net.op("Concat", net.ints(layers), batch, net.ints(WIDTH), axis=0)
    if way == "expand":
        return net.op("Expand", net.const(np.float32(0)), target)
    value = numpy_helper.from_array(np.zeros(1, np.float32))
    return net.op("ConstantOfShape", target, value=value)


def recurrent(net: Net, kind: str, x: str, size: int, states: list[str]) -> str:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    weights = net.weight(1, gates * WIDTH, size, fan=size), net.weight(1, gates * WIDTH, WIDTH, fan=WIDTH)
    made = net.ops(kind, x, *weights, net.weight(1, 2 * gates * WIDTH, fan=9), "", *states, hidden_size=WIDTH)
    return net.squeeze(net.sized(made[0], [5, 1, "N", WIDTH]), 1)


def stack(kind: str, way: str, opset: int, parts: str = "slice") -> Model:
    """Three layers, each of which takes its states from a part of one fill."""
    net = Net(opset)
    y = x = net.input("x", [5, "N", 6])
    zeros = fill(net, x, 3 if parts != "whole" else 1, way)
    for layer in range(3):
        states = []
        for _ in range(2 if kind == "LSTM" else 1):
            if parts == "slice":
                states.append(net.slice(zeros, layer, layer + 1, axis=0))
            elif parts == "gather":
                states.append(net.unsqueeze(net.op("Gather", zeros, net.const(np.int64(layer)), axis=0), 0))
            else:
                states.append(zeros)
        y = recurrent(net, kind, y, 6 if layer == 0 else WIDTH, states)
    return net.model(net.linear(y, 3))


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("parts", ["slice", "gather", "whole"])
@pytest.mark.parametrize("way", ["fill", "expand"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_stacked_layers_have_widths_of_their_own(kind: str, way: str, parts: str, opset: int) -> None:
    model = stack(kind, way, opset, parts)
    channels = find_channels(model)
    assert [group.size for group in channels.groups] == [WIDTH] * 3
    uneven = {g.name: list(range(k + 1)) for k, g in enumerate(channels.groups)}
    outcome = prune_exactly(model, uneven, channels)
    assert outcome.error <= 1e-5
    assert outcome.change > 1e-3


def test_zeros_between_layers_of_a_network() -> None:
    """Zeros that are joined to the channels of two layers: each layer's are as high as its own."""
    net = Net(17)
    x = net.input("x", ["N", 3, 6, 6])
    batch = net.op("Gather", net.op("Shape", x), net.ints(0), axis=0)
    target = net.op("Concat", batch, net.ints(8, 1, 6), axis=0)
    zeros = net.sized(net.op("ConstantOfShape", target), ["N", 8, 1, 6])
    for _ in range(2):
        x = net.op("Concat", net.relu(net.conv(x, 8)), zeros, axis=2)
        x = net.sized(x, ["N", 8, 7, 6])
    model = net.model(net.op("Conv", x, net.weight(4, 8, 2, 1)))
    channels = find_channels(model)
    assert [group.size for group in channels.groups] == [8, 8]
    assert prune_exactly(model, half_of_each(channels), channels).error <= 1e-5


def test_masks_stay_shared() -> None:
    """A fill whose fixed axes have one element."""
    net = Net(17)
    x = net.input("x", ["N", "S", 6])
    length = net.op("Gather", net.op("Shape", x), net.ints(1), axis=0)
    mask = net.op("ConstantOfShape", net.op("Concat", net.ints(1), length, net.ints(1), axis=0))
    y = net.add(net.linear(net.add(x, mask), 8), mask)
    channels = find_channels(net.model(net.linear(net.sized(net.relu(y), ["N", "S", 8]), 3)))
    assert Counter(n.op_type for n in channels.model.nodes)["ConstantOfShape"] == 1


def test_a_fill_that_is_returned_or_read_in_a_body_stays() -> None:
    model = stack("GRU", "fill", 17, "whole")
    zeros = next(n.output[0] for n in model.nodes if n.op_type == "ConstantOfShape")
    model.proto.graph.output.append(helper.make_tensor_value_info(zeros, TensorProto.FLOAT, [1, "N", WIDTH]))
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(op, [zeros], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "N", WIDTH])],
        )
        for name, op in (("then", "Neg"), ("else", "Exp"))
    }
    model.proto.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    model.proto.graph.node.append(helper.make_node("If", ["c"], ["z"], **branches))
    model.proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, "N", WIDTH]))
    model.edited()
    channels = find_channels(model)
    assert [group.size for group in channels.groups] == [WIDTH] * 3
    assert prune_exactly(model, half_of_each(channels), channels).error <= 1e-5


@pytest.mark.parametrize("way", ["fill", "expand"])
def test_equal_copies_are_one_in_the_dense_file(way: str) -> None:
    """The hidden and the cell state of a layer have one width: the fills are as many as the widths."""
    model = stack("LSTM", way, 17)
    sparse = Prune(reduce_macs=0.4, round_to=1)(model).model
    dense = Transform()(sparse).model
    count = Counter(n.op_type for n in dense.nodes)["ConstantOfShape" if way == "fill" else "Expand"]
    widths = {n.attribute[0].i for n in dense.nodes if n.op_type == "LSTM"}
    assert count == len(widths)
    assert certify(sparse.proto, dense.proto).certified
