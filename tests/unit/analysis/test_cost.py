"""Costs: the polynomials equal the counts in the files."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from helpers import Net, half_of_each, params
from ideas import IDEAS
from onnx import helper, numpy_helper

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.analysis.groups.reach import reach_of
from onnxprune.decisions.channels.channel_cut import shrunk
from onnxprune.ir import Model, check

COUNTED = ["residual", "resnext", "unet_transposed", "densenet", "pixel_shuffle", "vit_exact", "lstm"]


def figures(model: Model) -> dict[str, int]:
    return cost_of(find_channels(model)).figures()


def counts(channels: Channels, removed: dict[str, list[int]]) -> dict[object, int]:
    return {f: len(k) for f, k in channels.kept(removed).items()}


def test_a_convolution() -> None:
    """Kernel × channels in × channels out × pixels out."""
    net = Net()
    x = net.conv(net.input("x", [1, 3, 8, 8]), 16, 5, stride=2)
    assert figures(net.model(x))["macs"] == 5 * 5 * 3 * 16 * 4 * 4


def test_a_convolution_in_groups() -> None:
    net = Net()
    x = net.conv(net.input("x", [1, 8, 6, 6]), 16, 3, group=4)
    assert figures(net.model(x))["macs"] == 3 * 3 * 2 * 16 * 6 * 6


def test_a_transposed_convolution() -> None:
    """Counted over the pixels of its input."""
    net = Net()
    x = net.up(net.input("x", [1, 8, 6, 6]), 4, k=2)
    assert figures(net.model(x))["macs"] == 2 * 2 * 8 * 4 * 6 * 6


@pytest.mark.parametrize("batch", [1, 4, "N"])
def test_matrix_products_of_one_sample(batch: int | str) -> None:
    net = Net()
    rows = net.relu(net.gemm(net.input("x", [batch, 6]), 10))
    macs = figures(net.model(net.gemm(rows, 3)))["macs"]
    assert macs == (6 * 10 + 10 * 3) * (batch if isinstance(batch, int) else 1)


def test_products_of_activations() -> None:
    net = Net()
    x = net.input("x", [1, 2, 5, 4])
    assert figures(net.model(net.op("MatMul", x, net.transpose(x, 0, 1, 3, 2))))["macs"] == 2 * 5 * 5 * 4


def test_parameters_are_the_floats() -> None:
    net = Net()
    x = net.reshape(net.conv(net.input("x", [1, 3, 4, 4]), 8), 1, -1)
    model = net.model(net.gemm(x, 2))
    assert figures(model)["params"] == params(model) == 8 * 3 * 9 + 8 + 128 * 2 + 2


@pytest.mark.parametrize("name", COUNTED)
def test_predicted_costs_are_those_of_the_dense_model(name: str) -> None:
    model = check(Model(IDEAS[name].build()))
    channels = find_channels(model)
    removed = half_of_each(channels, optional=True)
    predicted = cost_of(channels).figures(counts(channels, removed))
    dense = shrunk(channels, removed)
    assert predicted["params"] == params(dense)
    assert predicted["macs"] == figures(dense)["macs"]


def test_terms_of_a_factor_are_all_that_change() -> None:
    channels = find_channels(check(Model(IDEAS["densenet"].build())))
    macs = cost_of(channels).macs
    for group in channels.groups:
        after = {group.factor: group.size - 3}
        change = sum(t.value({}) - t.value(after) for t in macs.of(group.factor))
        assert math.isclose(change, macs.value() - macs.value(after))
        assert change > 0


def test_channels_are_those_pruned_by_default() -> None:
    channels = find_channels(check(Model(IDEAS["resnext"].build())))
    chosen = [g for g in channels.groups if not g.optional]
    assert cost_of(channels).figures()["channels"] == sum(g.size for g in chosen)
    assert cost_of(channels, chosen[:1]).figures()["channels"] == chosen[0].size


def test_integers_cost_nothing() -> None:
    net = Net()
    x = net.gemm(net.input("x", ["N", 6]), 4)
    picked = net.op("Gather", x, net.const(np.arange(4)), axis=1)
    assert figures(net.model(picked))["params"] == 6 * 4 + 4


@pytest.mark.parametrize("constants", ["initializer", "input"])
def test_constants_that_are_not_read_cost_nothing(constants: str) -> None:
    net = Net(constants=constants, ir=8 if constants == "initializer" else 3)
    net.vector(1000)
    model = net.model(net.gemm(net.relu(net.gemm(net.input("x", ["N", 6]), 4)), 2))
    channels = find_channels(model)
    assert figures(model)["params"] == 6 * 4 + 4 + 4 * 2 + 2
    assert math.isclose(reach_of(channels).params, 36 / 38)  # all but the bias of the result


def test_constants_that_branches_do_not_read_cost_nothing() -> None:
    choice = helper.make_tensor_value_info("choice", onnx.TensorProto.BOOL, [])
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 2])
    branches = []
    for number in range(2):
        shapes = {f"w{number}": (6, 2), f"unread{number}": (500,)}
        weights = [numpy_helper.from_array(np.ones(s, np.float32), n) for n, s in shapes.items()]
        product = helper.make_node("MatMul", ["x", f"w{number}"], [f"y{number}"])
        returned = helper.make_tensor_value_info(f"y{number}", onnx.TensorProto.FLOAT, ["N", 2])
        branches.append(helper.make_graph([product], f"branch{number}", [], [returned], weights))
    node = helper.make_node("If", ["choice"], ["y"], then_branch=branches[0], else_branch=branches[1])
    data = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 6])
    graph = helper.make_graph([node], "net", [data, choice], [result])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert figures(check(Model(proto)))["params"] == 2 * 6 * 2
