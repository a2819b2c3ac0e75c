"""A residual branch whose last projection is zero is removed: no input can change it."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net
from onnx import TensorProto
from places import CASES

from onnxprune.analysis.evidence.branches import without_dead_branches
from onnxprune.analysis.groups.channels import find_channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.ir import Model, load
from onnxprune.passes import Prune, Transform
from onnxprune.runtime import Session, compare, sample_feeds


def operators(model: Model) -> list[str]:
    return [n.op_type for n in model.all_nodes]


@pytest.mark.parametrize("pruned", [False, True])
def test_a_layer_of_a_language_model(pruned: bool) -> None:
    """Both halves of the second layer: nothing of it is left, whether the rest is pruned or not."""
    model = load(CASES / "deadlayer.onnx")
    assert len(model.nodes) == 37
    result = Transform()(Prune(reduce_channels=0.5, round_to=1)(model) if pruned else model)
    kinds = operators(result.model)
    assert len(kinds) <= 22
    assert kinds.count("Attention") == 1
    assert cost_of(find_channels(result.model)).figures()["params"] == result.facts["params"]
    assert result.facts["max_rel_error"] <= 1e-5


def residual(net: Net, x: str, kind: str) -> str:
    """A branch that ends in zeros, or in a number for each channel."""
    y = net.relu(net.conv(x, 24))
    last = net.const(np.zeros((16, 24, 3, 3), np.float32))
    if kind == "norm of nothing":
        y = net.conv(y, 16)
        zeros, c = net.const(np.zeros(16)), 16
        y = net.op("BatchNormalization", y, zeros, zeros, net.vector(c), net.vector(c, 0.5, 1.5))
    elif kind == "scale of nothing":
        y = net.mul(net.conv(y, 16), net.const(np.zeros((16, 1, 1))))
    else:
        y = net.op("Conv", y, last, *([net.vector(16)] if kind == "bias" else []), pads=[1] * 4)
    if kind == "dropped out":
        y = net.op("Identity", net.ops("Dropout", y, outputs=1)[0])
    if kind == "sum":
        return net.op("Sum", y, x)
    return (
        net.op("Sub", x, y) if kind == "subtracted" else net.add(y, x) if kind == "first" else net.add(x, y)
    )


KINDS = ["plain", "first", "bias", "subtracted", "norm of nothing", "scale of nothing", "dropped out", "sum"]


@pytest.mark.parametrize("kind", KINDS)
def test_branches(kind: str) -> None:
    net = Net()
    x = net.relu(net.conv(net.input("image", ["N", 3, 8, 8]), 16))
    model = net.model(net.conv(net.relu(residual(net, x, kind)), 4))
    left = without_dead_branches(model)
    assert operators(left).count("Conv") == 2
    one, two = (Session(m.proto, optimize=False) for m in (model, left))
    feeds = sample_feeds(one.inputs, shapes={"image": (2, 3, 8, 8)}, samples=2, seed=0)
    assert compare(one, two, feeds).max_rel_error <= 1e-6
    assert operators(Transform()(model).model).count("Conv") == 2


def test_a_branch_that_is_stretched_stays_as_long() -> None:
    """The sum is larger than the operand that is not zero: zeros, but of another shape."""
    net = Net()
    x = net.relu(net.linear(net.input("rows", ["N", 1, 8]), 16))
    y = net.op("MatMul", net.input("others", ["N", 5, 8]), net.const(np.zeros((8, 16))))
    model = net.model(net.linear(net.add(x, y), 3))
    assert without_dead_branches(model) is model


def test_outputs_keep_their_names() -> None:
    net = Net()
    x = net.relu(net.linear(net.input("rows", ["N", 8]), 16))
    total = net.add(x, net.op("MatMul", x, net.const(np.zeros((16, 16)))))
    model = net.model(total)
    left = without_dead_branches(model)
    assert [o.name for o in left.outputs] == [total]
    assert operators(left) == ["MatMul", "Add", "Relu", "Identity"]


def test_integers_are_left_alone() -> None:
    net = Net()
    x = net.input("ids", ["N", 8], TensorProto.INT64)
    y = net.op("MatMul", x, net.const(np.zeros((8, 8), np.int64)))
    model = net.model(net.add(x, y))
    assert without_dead_branches(model) is model


def test_networks_without_such_branches_are_not_touched() -> None:
    net = Net()
    model = net.model(net.head(net.cbr(net.input("image", ["N", 3, 8, 8]), 16)))
    assert without_dead_branches(model) is model
