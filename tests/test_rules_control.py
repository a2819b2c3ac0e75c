"""Graphs inside nodes: only what crosses their boundary stays."""

from __future__ import annotations

import numpy as np
from helpers import Net, half_of_each, prune_exactly
from onnx import TensorProto, helper, numpy_helper

from onnxprune.channels import Channels, find_channels


def branch(net: Net, kind: str, read: str, out: str) -> helper.GraphProto:
    """A graph that reads a tensor of the outer one."""
    info = helper.make_tensor_value_info(out, net.kind, net.shape(read))
    return helper.make_graph([helper.make_node(kind, [read], [out])], out, [], [info])


def reasons(channels: Channels, tensor: str) -> list[str]:
    return [r.reason for b in channels.blocked if b.tensor == tensor and b.axis == 0 for r in b.reasons]


def test_branches_keep_what_they_read_and_make() -> None:
    net = Net()
    x = net.relu(net.conv(net.input("x", [2, 3, 6, 6]), 16))
    inner = net.conv(x, 12)
    choice = net.input("choice", [], kind=TensorProto.BOOL)
    graphs = {"then_branch": branch(net, "Relu", inner, "t"), "else_branch": branch(net, "Neg", inner, "e")}
    y = net.op("If", choice, **graphs)
    net.types[y] = net.types[inner]
    channels = find_channels(net.model(net.conv(net.relu(net.conv(y, 8)), 4)))
    assert sorted(g.size for g in channels.groups) == [8, 16]
    second = net.nodes[2].input[1]
    assert reasons(channels, second) == [f"its branches read '{inner}'"]
    outcome = prune_exactly(channels.model, half_of_each(channels), channels)
    assert outcome.error <= 1e-5
    assert outcome.change > 1e-3


def test_a_weight_that_a_branch_reads_too_stays() -> None:
    """Cutting the outer use alone would change what the branch sees."""
    net = Net()
    x = net.input("x", [4, 6])
    weight = net.weight(6, 16, fan=6)
    y = net.relu(net.op("MatMul", x, weight))
    choice = net.input("choice", [], kind=TensorProto.BOOL)
    graphs = {"then_branch": branch(net, "Relu", weight, "t"), "else_branch": branch(net, "Neg", weight, "e")}
    z = net.op("If", choice, **graphs)
    net.types[z] = net.types[weight]
    channels = find_channels(net.model(net.gemm(y, 3), z))
    assert not channels.groups


def test_loops_keep_their_state() -> None:
    net = Net()
    x = net.relu(net.linear(net.input("x", [4, 6]), 16))
    infos = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        helper.make_tensor_value_info("state", net.kind, [4, 16]),
    ]
    nodes = [helper.make_node("Identity", ["go"], ["again"]), helper.make_node("Tanh", ["state"], ["next"])]
    outputs = [
        helper.make_tensor_value_info("again", TensorProto.BOOL, []),
        helper.make_tensor_value_info("next", net.kind, [4, 16]),
    ]
    body = helper.make_graph(nodes, "body", infos, outputs)
    y = net.op("Loop", net.const(np.asarray(3)), "", x, body=body)
    net.types[y] = net.types[x]
    channels = find_channels(net.model(net.linear(net.relu(net.linear(y, 12)), 3)))
    assert [g.size for g in channels.groups] == [12]
    assert any("its body reads" in r.reason for b in channels.blocked for r in b.reasons)
    assert prune_exactly(channels.model, half_of_each(channels), channels).error <= 1e-5


def test_weights_inside_a_branch_are_left_alone() -> None:
    net = Net()
    x = net.relu(net.linear(net.input("x", [4, 6]), 16))
    weight = numpy_helper.from_array(np.ones((6, 6), np.float32), "w")
    info = helper.make_tensor_value_info("t", net.kind, [4, 6])
    then = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["t"])], "then", [], [info], [weight])
    choice = net.input("choice", [], kind=TensorProto.BOOL)
    y = net.op("If", choice, then_branch=then, else_branch=branch(net, "Neg", "x", "e"))
    net.types[y] = net.types["x"]
    model = net.model(net.add(net.linear(x, 3), net.linear(y, 3)))
    channels = find_channels(model)
    assert [g.size for g in channels.groups] == [16]
    assert prune_exactly(model, half_of_each(channels), channels).error <= 1e-5
