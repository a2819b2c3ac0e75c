"""Operators that this runtime does not have: nodes before and behind them are pruned all the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import Net, half_of_each
from onnx import helper
from places import CASES

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.decisions.channels.channel_cut import shrunk
from onnxprune.decisions.channels.masks import masked
from onnxprune.ir import Model, check, load
from onnxprune.runtime import Session, compare, sample_feeds

OPENVINO = "org.openvinotoolkit"


def spelled_out(model: Model) -> onnx.ModelProto:
    """Return the network with its FakeQuantize nodes as formulas this runtime knows."""
    proto = model.copy().proto
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    for node in nodes:
        if node.op_type != "FakeQuantize":
            proto.graph.node.append(node)
            continue
        x, low, high, least, most = node.input
        steps, y = f"{node.output[0]}_steps", node.output[0]
        levels = helper.get_node_attr_value(node, "levels") - 1
        proto.graph.initializer.append(helper.make_tensor(steps, 1, [], [float(levels)]))
        formula = [
            ("Max", [x, low], "a"), ("Min", [f"{y}a", high], "b"), ("Sub", [f"{y}b", low], "c"),
            ("Sub", [high, low], "d"), ("Div", [f"{y}c", f"{y}d"], "e"), ("Mul", [f"{y}e", steps], "f"),
            ("Round", [f"{y}f"], "g"), ("Div", [f"{y}g", steps], "h"), ("Sub", [most, least], "i"),
            ("Mul", [f"{y}h", f"{y}i"], "j"),
        ]  # fmt: skip
        for kind, operands, result in formula:
            proto.graph.node.append(helper.make_node(kind, operands, [f"{y}{result}"]))
        proto.graph.node.append(helper.make_node("Add", [f"{y}j", least], [y]))
    return proto


def exact(model: Model, *widths: int) -> None:
    """Sparse and dense are compared as formulas; one step of rounding is passed over."""
    channels = find_channels(model)
    assert sorted(g.size for g in channels.groups) == sorted(widths), channels.blocked
    removed = half_of_each(channels)
    protos = [spelled_out(m) for m in (model, masked(channels, removed), shrunk(channels, removed))]
    whole, sparse, dense = (Session(proto, optimize=False) for proto in protos)
    shapes = {i.name: channels.typing.shapes.sizes[i.name] for i in whole.inputs}
    shapes = {n: tuple(s if isinstance(s, int) else 8 for s in sizes) for n, sizes in shapes.items()}
    feeds = sample_feeds(whole.inputs, shapes=shapes, samples=2, seed=0)
    assert compare(sparse, dense, feeds).max_rel_error <= 2e-2
    assert compare(whole, sparse, feeds).max_rel_error > 5e-2


def fake(net: Net, x: str, low: object, high: object, levels: int = 255) -> str:
    bounds = [net.const(np.asarray(b, np.float32)) for b in (low, high, low, high)]
    made = net.op("FakeQuantize", x, *bounds, domain=OPENVINO, levels=levels)
    return net.sized(made, net.shape(x))


def test_file() -> None:
    exact(load(CASES / "fakequant.onnx"), 16, 24, 16)


def test_inputs_of_an_unknown_operator_stay_and_channels_before_them_go() -> None:
    channels = find_channels(load(CASES / "trtnms.onnx"))
    assert sorted(g.size for g in channels.groups) == [16, 32]


def test_bounds_for_each_channel() -> None:
    net = Net()
    x = net.input("image", [1, 3, 8, 8])
    for out in (16, 24):
        w = net.weight(out, net.shape(x)[1], 3, 3)
        highest = np.abs(net.random.uniform(0.2, 0.5, (out, 1, 1, 1)))
        x = fake(net, net.relu(net.conv(x, out, w=fake(net, w, -highest, highest))), 0.0, 4.0, 256)
    exact(net.model(net.conv(x, 4)), 16, 24)


def test_nonzero_channels_before_a_plugin_are_nonzero_behind_it() -> None:
    net = Net()
    x = net.op("Sigmoid", net.conv(net.input("image", [1, 3, 8, 8]), 16))
    gate = net.op("Sigmoid", net.reduce("ReduceSum", fake(net, x, -1.0, 1.0), [1]))
    assert not find_channels(net.model(net.conv(net.mul(x, gate), 4))).groups


@pytest.mark.parametrize("levels", [255, 256])
def test_zero_is_zero_if_it_is_a_level(levels: int) -> None:
    """With an even number of levels between −1 and 1 none of them is zero."""
    net = Net()
    x = fake(net, net.relu(net.conv(net.input("image", [1, 3, 8, 8]), 16)), -1.0, 1.0, levels)
    gate = net.op("Sigmoid", net.reduce("ReduceSum", x, [1]))
    model = net.model(net.conv(net.mul(x, gate), 4))
    if levels == 255:
        exact(model, 16)
    else:
        assert not find_channels(model).groups


def test_a_plugin_of_unknown_meaning_blocks_its_operands() -> None:
    net = Net()
    x = net.relu(net.conv(net.input("image", [1, 3, 8, 8]), 16))
    x = net.relu(net.conv(x, 24))
    made = net.sized(net.op("Mystery", x, domain="somebody.else"), [1, 24, 8, 8])
    channels = find_channels(check(Model(net.proto(made))))
    assert [g.size for g in channels.groups] == [16]
    assert any("somebody.else.Mystery" in r.reason for b in channels.blocked for r in b.reasons)
