"""Values computed from initializers alone are weights, and folding them enlarges no file."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import Net, half_of_each, params, prune_exactly
from onnx import TensorProto
from places import CASES

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.ir import Model, load
from onnxprune.ir.canonical.canonicalise import canonicalise
from onnxprune.passes import Prune, Transform
from onnxprune.runtime import Session, compare, sample_feeds


def size(model: Model) -> int:
    return len(model.proto.SerializeToString())


def operators(model: Model) -> list[str]:
    return [n.op_type for n in model.all_nodes]


@pytest.mark.parametrize(("file", "left"), [("wnorm", 0.4), ("pow_cast", 0.55)])
def test_files(file: str, left: float) -> None:
    model = load(CASES / f"{file}.onnx")
    sparse = Prune(reduce_channels=0.5, round_to=1)(model)
    dense = Transform()(sparse).model
    assert params(dense) <= left * params(model)
    assert size(sparse.model) <= size(model) + 1000


def test_the_same_is_computed() -> None:
    net = Net()
    w = net.weight(16, 3, 3, 3)
    norm = net.reduce("ReduceL2", w, [1, 2, 3])
    x = net.relu(net.conv(net.input("image", ["N", 3, 8, 8]), 16, w=net.op("Div", w, norm)))
    model = net.model(net.head(x))
    folded, _ = canonicalise(model)
    assert "Div" not in operators(folded)
    assert "Div" in operators(model)
    assert size(folded) <= size(model)
    one, two = (Session(m.proto, optimize=False) for m in (model, folded))
    feeds = sample_feeds(one.inputs, shapes={"image": (2, 3, 8, 8)}, samples=2, seed=0)
    assert compare(one, two, feeds).max_rel_error == 0.0


@pytest.mark.parametrize("kind", ["expanded", "tiled", "shared", "outer product"])
def test_no_file_grows(kind: str) -> None:
    """Values larger than their operands are computed in the file as before."""
    net = Net()
    x = net.linear(net.input("x", ["N", 32]), 64)
    if kind == "expanded":
        w = net.op("Mul", net.op("Expand", net.weight(64, 1), net.ints(64, 4096)), net.const(2.0))
    elif kind == "tiled":
        w = net.op("Mul", net.op("Tile", net.weight(64, 8), net.ints(1, 512)), net.const(2.0))
    elif kind == "outer product":
        w = net.op("MatMul", net.weight(64, 2), net.weight(2, 4096))
    else:
        whole = net.weight(64, 4096)
        x = net.op("MatMul", net.op("MatMul", x, net.op("Abs", whole)), net.transpose(whole, 1, 0))
        w = net.op("Exp", whole)
    model = net.model(net.op("MatMul", x, w))
    folded, _ = canonicalise(model)
    assert size(folded) <= size(model)
    assert operators(folded) == operators(model)


def test_quantised_weights_stay_quantised() -> None:
    net = Net()
    x = net.input("x", ["N", 32])
    q = net.const(net.random.integers(-100, 100, (32, 64)).astype(np.int8))
    w = net.op("DequantizeLinear", q, net.const(0.01), net.const(np.int8(0)))
    model = net.model(net.linear(net.relu(net.op("MatMul", x, net.op("Mul", w, net.const(0.5)))), 4))
    folded, _ = canonicalise(model)
    assert "DequantizeLinear" in operators(folded)


def test_a_huge_step_on_the_way_is_not_taken() -> None:
    net = Net()
    x = net.input("x", ["N", 32])
    whole = net.op("Expand", net.vector(1), net.ints(1 << 20, 1 << 12))
    model = net.model(net.mul(x, net.reduce("ReduceSum", whole, [0, 1], keepdims=0)))
    folded, _ = canonicalise(model)
    assert "Expand" in operators(folded)


def test_results_of_the_network_keep_their_nodes() -> None:
    net = Net()
    w = net.weight(8, 4)
    double = net.op("Mul", w, net.const(2.0))
    y = net.linear(net.op("MatMul", net.input("x", ["N", 8]), double), 4)
    folded, _ = canonicalise(net.model(y, double))
    assert [o.name for o in folded.outputs] == [y, double]
    assert "Mul" in operators(folded)


def test_weights_of_several_outputs() -> None:
    """A split of constants: both halves are weights."""
    net = Net()
    a, b = net.split(net.op("Mul", net.weight(32, 128, fan=32), net.const(0.5)), 2, axis=1)
    x = net.input("x", ["N", 32])
    x = net.mul(net.op("MatMul", x, a), net.op("Sigmoid", net.op("MatMul", x, b)))
    model = net.model(net.linear(x, 10))
    channels = find_channels(model)
    outcome = prune_exactly(model, half_of_each(channels), channels)
    assert outcome.error <= 1e-5
    assert params(outcome.dense) <= 0.55 * params(model)


def test_inside_a_body() -> None:
    """A branch that computes its weight from the constants of the graph around it."""
    net = Net()
    x, flag = net.input("x", ["N", 32]), net.input("flag", [], TensorProto.BOOL)
    w = net.weight(32, 32)
    hidden = net.relu(net.linear(x, 32))
    branches = []
    for kind in ("Abs", "Neg"):
        inner = [
            onnx.helper.make_node(kind, [w if kind == "Abs" else hidden], [f"{kind}_w"]),
            onnx.helper.make_node("MatMul", [hidden, f"{kind}_w"], [f"{kind}_y"])
            if kind == "Abs"
            else onnx.helper.make_node("Identity", [f"{kind}_w"], [f"{kind}_y"]),
        ]
        result = onnx.helper.make_tensor_value_info(f"{kind}_y", TensorProto.FLOAT, ["N", 32])
        branches.append(onnx.helper.make_graph(inner, kind, [], [result]))
    y = net.op("If", flag, then_branch=branches[0], else_branch=branches[1])
    net.sized(y, ["N", 32])
    model = net.model(net.linear(y, 4))
    folded, _ = canonicalise(model)
    assert "Abs" not in operators(folded)
    assert "Neg" in operators(folded)
    one, two = (Session(m.proto, optimize=False) for m in (model, folded))
    for value in (True, False):
        feed = {"x": np.ones((2, 32), np.float32), "flag": np.asarray(value)}
        assert compare(one, two, [feed]).max_rel_error <= 1e-6


def test_a_single_number_is_dequantised() -> None:
    """The exponent of a norm, as quantised exports have it."""
    net = Net()
    x = net.op("Gather", net.weight(50, 32, fan=1), net.input("ids", ["N", 8], TensorProto.INT64))
    how = net.const(np.float32(1.0)), net.const(np.uint8(0))
    square = net.op("Pow", x, net.op("DequantizeLinear", net.const(np.uint8(2)), *how))
    mean = net.add(net.reduce("ReduceMean", square, [-1]), net.const(1e-5))
    model = net.model(net.linear(net.op("Div", x, net.op("Sqrt", mean)), 10))
    channels = find_channels(model)
    assert [g.size for g in channels.groups] == [32]
    assert prune_exactly(model, half_of_each(channels), channels).error <= 1e-5


@pytest.mark.parametrize("number", [0.0, 0.01])
def test_weights_of_one_number_were_merged_by_an_exporter(number: float) -> None:
    """Two projections that were never trained; trained ones that are shared stay so."""
    net = Net()
    x = net.relu(net.linear(net.input("x", ["N", 8]), 32))
    shared = net.const(np.full((32, 32), number))
    for _ in range(2):
        x = net.add(net.relu(net.linear(x, 32)), net.op("MatMul", net.relu(net.linear(x, 32)), shared))
    model = net.model(net.linear(x, 4))
    channels = find_channels(model)
    assert sum(shared in n for n in channels.model.constants) == 2
    assert [g.size for g in channels.groups] == [32] * 5
    assert prune_exactly(model, half_of_each(channels), channels).error <= 1e-5
