"""Nodes of a dense network that a cut leaves as they were: those of the user's file."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import Net, half_of_each
from onnx import TensorProto, helper
from recurrences import carried

from onnxprune.algebra.sizes.facts import ContradictionError
from onnxprune.analysis.groups.channels import find_channels
from onnxprune.decisions.channels.channel_cut import shrunk
from onnxprune.decisions.channels.hints import kept_elements
from onnxprune.decisions.channels.masks import masked
from onnxprune.decisions.channels.own_nodes import with_own_nodes
from onnxprune.ir import Model, check
from onnxprune.ir.canonical.canonicalise import canonicalise
from onnxprune.passes import Prune, Transform
from onnxprune.runtime import Session

HEADS, EACH = 4, 8
WIDTH = HEADS * EACH


def cut(model: Model, *names: str) -> tuple[Model, Model]:
    """Return a network with half of some groups zero, and the dense network with the user's nodes."""
    channels = find_channels(model)
    removed = {n: gone for n, gone in half_of_each(channels).items() if not names or n in names}
    assert removed, [g.name for g in channels.groups]
    dense = shrunk(channels, removed)
    hints = kept_elements(channels, removed)
    return masked(channels, removed), with_own_nodes(model, dense, lambda m: canonicalise(m)[0], but=hints)


def written(model: Model) -> list[tuple[str, str, list[str]]]:
    return [(n.op_type, n.output[0], list(n.input)) for n in model.all_nodes]


def listed_heads(net: Net, x: str, like: str) -> str:
    """Heads of a tensor, their list of sizes computed: two numbers read off a tensor, two constants."""
    open_sizes = [net.op("Gather", net.op("Shape", like), net.ints(axis)) for axis in (0, 1)]
    half = net.op("Div", net.op("Gather", net.op("Shape", like), net.ints(2)), net.ints(HEADS))
    sizes = net.op("Concat", *open_sizes, net.ints(HEADS), half, axis=0)
    return net.transpose(net.op("Reshape", x, sizes), 0, 2, 1, 3)


def layer(constants: str = "initializer") -> Model:
    """Attention with computed lists of sizes, then two products with a group of their own."""
    net = Net(constants=constants)
    x = net.layer_norm(net.input("x", ("N", "T", WIDTH)), spelled_out=False)
    q, k, v = (listed_heads(net, net.linear(x, WIDTH), x) for _ in range(3))
    scores = net.op("Softmax", net.op("MatMul", q, net.transpose(k, 0, 1, 3, 2)), axis=-1)
    y = net.transpose(net.op("MatMul", scores, v), 0, 2, 1, 3)
    y = net.op("Reshape", y, net.op("Concat", net.ints(0), net.ints(-1), net.ints(WIDTH), axis=0))
    y = net.add(net.linear(net.sized(y, ("N", "T", WIDTH)), WIDTH), x)
    inner = net.relu(net.linear(y, 3 * WIDTH))
    return net.model(net.add(net.linear(inner, WIDTH), y))


@pytest.mark.parametrize("constants", ["initializer", "node"])
def test_lists_of_sizes_that_no_cut_touches_stay_computed(constants: str) -> None:
    model = layer(constants)
    assert len(canonicalise(model)[0].nodes) < len(model.nodes)
    last = find_channels(model).groups[-1]
    assert last.size == 3 * WIDTH
    _, dense = cut(model, last.name)
    assert written(dense) == written(model)
    changed = {n for n, t in dense.constants.items() if t != model.constants[n]}
    assert len(changed) == 3  # a matrix and its bias, and the matrix behind
    assert dense.constants.keys() == model.constants.keys()


def test_only_the_lists_of_the_heads_that_are_cut_stay_folded() -> None:
    model = layer()
    sparse, dense = cut(model)
    own, left = {n.output[0] for n in model.nodes}, {n.output[0] for n in dense.nodes}
    gone = own - left
    assert gone
    assert {n.op_type for n in model.nodes if n.output[0] in gone} <= {"Concat", "Div", "Gather", "Shape"}
    feed = {"x": np.random.default_rng(1).normal(size=(2, 5, WIDTH)).astype(np.float32)}
    one, other = (Session(m.proto).run(feed) for m in (sparse, dense))
    assert all(np.abs(one[n] - other[n]).max() < 1e-4 for n in one)


def test_a_number_that_follows_the_width_stays_folded() -> None:
    """A result scaled by the number of its channels is scaled by the old number after a cut."""
    net = Net()
    x = net.input("x", ("N", 6))
    hidden = net.relu(net.linear(x, 16))
    width = net.op("Gather", net.op("Shape", hidden), net.ints(1))
    kept = net.op("Gather", net.op("Shape", x), net.ints(1))
    y = net.mul(hidden, net.op("Cast", width, to=TensorProto.FLOAT))
    y = net.mul(y, net.op("Cast", kept, to=TensorProto.FLOAT))
    model = net.model(net.linear(y, 5))
    sparse, dense = cut(model)
    kinds = [n.op_type for n in dense.nodes]
    assert kinds.count("Shape") == 1  # that of the input
    feed = {"x": np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32)}
    (one,), (other,) = (Session(m.proto).run(feed).values() for m in (sparse, dense))
    np.testing.assert_allclose(one, other, rtol=1e-4)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_vectors_that_no_cut_touches_stay_shared(which: int) -> None:
    net = Net()
    x = net.input("x", ("N", 8))
    zeros = net.const(np.zeros(16))
    for _ in range(3):
        x = net.relu(net.add(net.op("MatMul", x, net.weight(net.shape(x)[1], 16)), zeros))
    model = net.model(net.linear(x, 4))
    groups = find_channels(model).groups
    _, dense = cut(model, groups[which].name)
    adds = [n.input[1] for n in dense.nodes if n.op_type == "Add"][:3]
    other = adds.pop(which)
    assert len(set(adds)) == 1
    assert adds[0] != other
    assert dense.constants[adds[0]].dims == [16]
    assert dense.constants[other].dims == [8]


@pytest.mark.parametrize("opset", [11, 17])
def test_a_split_into_equal_parts_is_written_without_sizes(opset: int) -> None:
    net = Net(opset)
    x = net.input("x", ("N", 8))
    parts = net.ops("Split", net.linear(x, 12), outputs=2, axis=1)
    for part in parts:
        net.sized(part, ("N", 6))
    y = net.add(*(net.op("Softmax", part, axis=1) for part in parts))
    hidden = net.relu(net.linear(y, 10))
    model = net.model(net.linear(hidden, 3))
    last = find_channels(model).groups[-1]
    assert last.size == 10
    _, dense = cut(model, last.name)
    assert written(dense) == written(model)
    (split,) = (n for n in dense.nodes if n.op_type == "Split")
    assert [a.name for a in split.attribute] == ["axis"]


def test_a_normalised_weight_that_is_not_cut_stays_computed() -> None:
    net = Net()
    x = net.input("x", ("N", 6))
    plain = net.weight(6, 8)
    norm = net.op("Sqrt", net.op("ReduceSum", net.mul(plain, plain), net.ints(0), keepdims=1))
    weight = net.mul(net.op("Div", plain, norm), net.vector(8, 0.5, 1.5))
    y = net.op("Softmax", net.sized(net.op("MatMul", x, weight), ("N", 8)), axis=-1)
    model = net.model(net.linear(net.relu(net.linear(y, 10)), 3))
    assert "Sqrt" not in {n.op_type for n in canonicalise(model)[0].nodes}
    last = find_channels(model).groups[-1]
    _, dense = cut(model, last.name)
    assert written(dense) == written(model)


def body_network() -> Model:
    """A scan whose body reshapes by a computed list; a layer with channels of its own before it."""
    net = Net()
    x = net.input("x", ("N", "T", 6))
    hidden = net.relu(net.linear(x, 12))
    steps = net.transpose(net.linear(hidden, 4), 1, 0, 2)
    net.sized(steps, ("T", "N", 4))
    body = helper.make_graph(
        [
            helper.make_node("Shape", ["step"], ["step_shape"]),
            helper.make_node("Gather", ["step_shape", "one"], ["step_width"]),
            helper.make_node("Concat", ["minus", "step_width"], ["sizes"], axis=0),
            helper.make_node("Reshape", ["step", "sizes"], ["flat"]),
            helper.make_node("Add", ["state", "flat"], ["next"]),
            helper.make_node("Identity", ["next"], ["made"]),
        ],
        "body",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4]) for n in ("state", "step")],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4]) for n in ("next", "made")],
        [
            onnx.numpy_helper.from_array(np.asarray([1], np.int64), "one"),
            onnx.numpy_helper.from_array(np.asarray([-1], np.int64), "minus"),
        ],
    )
    zeros = net.mul(net.op("Gather", steps, net.const(np.asarray(0)), axis=0), net.const(np.asarray(0.0)))
    net.nodes.append(
        helper.make_node("Scan", [zeros, steps], ["last", "all"], name="scan", body=body, num_scan_inputs=1)
    )
    net.sized("last", ("N", 4))
    return check(Model(net.proto("last")))


def test_nodes_of_a_body_stay_in_it() -> None:
    model = body_network()
    assert len(canonicalise(model)[0].all_nodes) < len(model.all_nodes)
    _, dense = cut(model)
    assert written(dense) == written(model)


def test_the_pass_writes_the_users_nodes_in_their_order() -> None:
    model = layer()
    sparse = Prune(reduce_params=0.2, only=[find_channels(model).groups[-1].name])(model)
    result = Transform()(sparse)
    assert [n.name for n in result.model.nodes] == [n.name for n in model.nodes]
    assert written(result.model) == written(model)
    assert result.facts["verdict"] == "agree"


def test_the_folded_network_stays_where_its_own_nodes_contradict_it() -> None:
    model = layer()
    channels = find_channels(model)
    removed = half_of_each(channels)
    dense = shrunk(channels, removed)
    forms = iter([canonicalise(model)[0], canonicalise(dense)[0]])

    def form(_: Model) -> Model:
        found = next(forms, None)
        if found is None:
            raise ContradictionError("sizes do not fit")
        return found

    assert with_own_nodes(model, dense, form, but=kept_elements(channels, removed)) is dense


def test_weights_that_a_loop_carries_are_masked_where_they_are() -> None:
    """The sparse model has the nodes and constants of the original, and no copy of a weight."""
    model = check(Model(carried(stack=True)))
    sparse = Prune(reduce_channels=0.5, round_to=1)(model).model
    assert [n.SerializeToString() for n in sparse.proto.graph.node] == [
        n.SerializeToString() for n in model.proto.graph.node
    ]
    assert sparse.constants.keys() == model.constants.keys()
    assert not sparse.array("kernel").all()
    dense = Transform()(sparse)
    assert dense.facts["params"] < 0.6 * dense.facts["params_before"]
