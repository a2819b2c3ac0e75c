"""Graphs inside nodes: pruned like all others, and channels that cross their boundary on both sides of it."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, half_of_each, params, prune_exactly
from ideas_control import Body, choose, mlp
from onnx import TensorProto, helper, numpy_helper, parser

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.decisions.channels.masks import keep_masks
from onnxprune.ir import Model, check
from onnxprune.passes import Prune, Recover, Transform
from onnxprune.runtime import Session, compare


def sizes(channels: Channels) -> list[int]:
    return sorted(g.size for g in channels.groups)


def reasons(channels: Channels) -> set[str]:
    return {r.reason for b in channels.blocked for r in b.reasons}


def exact_both_ways(model: Model, channels: Channels) -> None:
    """Prune half of everything, and compare with the condition true and false."""
    outcome = prune_exactly(model, half_of_each(channels), channels)
    assert outcome.error <= 1e-5
    sparse, dense = (Session(m.proto, optimize=False) for m in (outcome.sparse, outcome.dense))
    random = np.random.default_rng(0)
    for choice in (True, False):
        feed = {"x": random.normal(size=(4, 6)).astype(np.float32), "choice": np.asarray(choice)}
        assert compare(sparse, dense, [feed]).max_rel_error <= 1e-5
    assert params(outcome.dense) < params(outcome.sparse)


# --- If ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["initializer", "node"])
def test_weights_inside_branches_are_pruned(inside: str) -> None:
    net = Net()
    x = net.input("x", [4, 6])
    branches = [Body(net, inside) for _ in range(2)]
    graphs = [b.graph(mlp(b, x, width, 5)) for b, width in zip(branches, (16, 12), strict=True)]
    model = net.model(net.op("Tanh", choose(net, *graphs)))
    channels = find_channels(model)
    assert sizes(channels) == [12, 16]
    exact_both_ways(model, channels)


def test_values_that_cross_the_boundary_are_pruned_on_both_sides() -> None:
    net = Net()
    x = net.relu(net.linear(net.input("x", [4, 6]), 20))
    one, two = Body(net), Body(net)
    graphs = one.graph(one.relu(one.linear(x, 16))), two.graph(two.op("Tanh", two.linear(x, 16)))
    model = net.model(net.linear(choose(net, *graphs), 3))
    channels = find_channels(model)
    assert sizes(channels) == [16, 20]
    exact_both_ways(model, channels)


def test_branches_that_return_different_shapes_keep_their_results() -> None:
    net = Net()
    x = net.input("x", [4, 6])
    one, two = Body(net), Body(net)
    graphs = one.graph(one.linear(x, 16)), two.graph(two.reshape(two.linear(x, 16), 4, 4, 4))
    model = net.model(net.op("ReduceSum", choose(net, *graphs), keepdims=0))
    assert not find_channels(model).groups


def test_a_weight_of_the_outer_graph_that_a_branch_reads() -> None:
    net = Net()
    x = net.input("x", [4, 6])
    weight = net.weight(6, 16, fan=6)
    one, two = Body(net), Body(net)
    hidden = one.relu(one.op("MatMul", x, weight))
    graphs = one.graph(one.linear(hidden, 3)), two.graph(mlp(two, x, 8, 3))
    model = net.model(choose(net, *graphs))
    channels = find_channels(model)
    assert sizes(channels) == [8, 16]
    exact_both_ways(model, channels)


def test_a_weight_that_a_branch_returns_stays() -> None:
    """Cutting the outer use alone would change the operand of the branch."""
    net = Net()
    x = net.input("x", [4, 6])
    weight = net.weight(6, 16, fan=6)
    y = net.relu(net.op("MatMul", x, weight))
    one, two = Body(net), Body(net)
    z = choose(net, one.graph(one.relu(weight)), two.graph(two.op("Neg", weight)))
    assert not find_channels(net.model(net.gemm(y, 3), z)).groups


@pytest.mark.parametrize("again", [False, True])
def test_branches_inside_branches(again: bool) -> None:
    """A branch of the inner If is dead where both ask for the same."""
    net = Net()
    x = net.input("x", [4, 6])
    choice = net.input("choice", [], kind=TensorProto.BOOL)
    total = net.op("ReduceSum", x, keepdims=0)
    own = choice if again else net.op("Less", total, net.const(np.asarray(0, np.float32)))
    outer = Body(net)
    h = outer.relu(outer.linear(x, 10))
    one, two = Body(outer), Body(outer)
    z = choose(outer, one.graph(mlp(one, h, 16, 3)), two.graph(mlp(two, h, 12, 3)), own)
    other = Body(net)
    model = net.model(choose(net, outer.graph(outer.op("Tanh", z)), other.graph(other.linear(x, 3)), choice))
    channels = find_channels(model)
    assert sizes(channels) == ([10, 16] if again else [10, 12, 16])
    exact_both_ways(model, channels)


def test_branches_that_use_the_same_names() -> None:
    """As exporters write them: a name means another tensor in either branch."""
    net = Net()
    x = net.input("x", [4, 6])
    graphs = []
    for width in (16, 12):
        body = Body(net)
        made = mlp(body, x, width, 5)
        graph = body.graph(made)
        known = {n: f"t{k}" for k, n in enumerate([t.name for t in graph.initializer])}
        known |= {o: f"n{k}" for k, o in enumerate(o for n in graph.node for o in n.output)}
        for tensor in graph.initializer:
            tensor.name = known[tensor.name]
        for node in graph.node:
            node.input[:] = [known.get(i, i) for i in node.input]
            node.output[:] = [known.get(o, o) for o in node.output]
        graph.output[0].name = known[made]
        graphs.append(graph)
    choice = net.input("choice", [], kind=TensorProto.BOOL)
    y = net.op("If", choice, then_branch=graphs[0], else_branch=graphs[1])
    net.types[y] = graphs[0].output[0].type
    model = net.model(net.op("Tanh", y))
    channels = find_channels(model)
    assert sizes(channels) == [12, 16]
    exact_both_ways(model, channels)


def test_a_condition_that_never_changes_takes_its_branch() -> None:
    net = Net()
    x = net.input("x", ["N", 6])
    width = net.op("Gather", net.op("Shape", x), net.const(np.asarray(1)))
    wide = net.op("Greater", width, net.const(np.asarray(4)))
    one, two = Body(net), Body(net)
    y = choose(net, one.graph(mlp(one, x, 16, 3)), two.graph(two.reshape(two.linear(x, 8), 1, -1)), wide)
    channels = find_channels(net.model(net.op("Tanh", net.sized(y, ["N", 3]))))
    assert [n.op_type for n in channels.model.nodes].count("If") == 0
    assert sizes(channels) == [16]
    outcome = prune_exactly(channels.model, half_of_each(channels), channels)
    assert outcome.error <= 1e-5


def test_a_condition_on_a_size_that_the_caller_chooses_stays() -> None:
    """It comes out alike for all sizes that are tried, and yet it is no constant."""
    net = Net()
    x = net.input("x", ["N", 6])
    batch = net.op("Gather", net.op("Shape", x), net.const(np.asarray(0)))
    alone = net.op("Equal", batch, net.const(np.asarray(1)))
    one, two = Body(net), Body(net)
    y = choose(net, one.graph(mlp(one, x, 16, 3)), two.graph(mlp(two, x, 8, 3)), alone)
    model = net.model(net.op("Tanh", net.sized(y, ["N", 3])))
    channels = find_channels(model)
    assert "If" in [n.op_type for n in channels.model.nodes]
    sparse = Prune(reduce_params=0.3, round_to=1)(model).model
    dense = Transform()(sparse).model
    sessions = [Session(m.proto, optimize=False) for m in (sparse, dense)]
    for count in (1, 3):
        feed = {"x": np.random.default_rng(0).normal(size=(count, 6)).astype(np.float32)}
        assert compare(*sessions, [feed]).max_rel_error <= 1e-5


def test_only_the_larger_branch_is_counted() -> None:
    net = Net()
    x = net.input("x", [4, 6])
    one, two = Body(net), Body(net)
    model = net.model(choose(net, one.graph(mlp(one, x, 8, 3)), two.graph(mlp(two, x, 16, 3))))
    figures = cost_of(find_channels(model)).figures()
    assert figures["macs"] == 4 * (6 * 16 + 16 * 3)
    assert figures["params"] == 6 * 8 + 8 + 8 * 3 + 3 + 6 * 16 + 16 + 16 * 3 + 3


def test_masks_and_passes_reach_into_bodies() -> None:
    net = Net()
    x = net.input("x", [4, 6])
    one, two = Body(net), Body(net)
    model = net.model(choose(net, one.graph(mlp(one, x, 32, 3)), two.graph(mlp(two, x, 16, 3))))
    channels = find_channels(model)
    removed = half_of_each(channels)
    assert set(keep_masks(channels, removed)) <= {t.name for g in model.graphs[1:] for t in g.initializer}
    sparse = Prune(reduce_params=0.5, round_to=1)(model)
    dense = Transform()(sparse.model)
    assert dense.facts["params_reduction"] == pytest.approx(0.5, abs=0.05)
    assert len(dense.model.proto.SerializeToString()) < 0.7 * len(model.proto.SerializeToString())


# --- loops -------------------------------------------------------------------------------------------------


def looped(net: Net, state: str, hidden: int, width: int, stacked: bool = False) -> list[str]:
    """Three turns of a residual block; on request with a stack of an output of each turn."""
    body = Body(net)
    for name, kind in (("turn", TensorProto.INT64), ("go", TensorProto.BOOL)):
        body.types[name] = helper.make_tensor_type_proto(kind, [])
    body.types["state"] = net.types[state]
    y = body.op("Tanh", mlp(body, "state", hidden, net.shape(state)[-1]))
    made = [body.op("Identity", "go"), body.add(y, "state")]
    made += [body.linear(y, width)] if stacked else []
    graph = body.graph(*made, given=["turn", "go", "state"])
    results = net.ops("Loop", net.const(np.asarray(3)), "", state, body=graph, outputs=len(made) - 1)
    net.types[results[0]] = net.types[state]
    if stacked:
        net.types[results[1]] = helper.make_tensor_type_proto(net.kind, [3, *net.shape(state)[:-1], width])
    return results


def test_the_state_of_a_loop_has_one_width() -> None:
    net = Net()
    x = net.relu(net.linear(net.input("x", [4, 6]), 16))
    model = net.model(net.linear(looped(net, x, 12, 0)[0], 3))
    channels = find_channels(model)
    assert sizes(channels) == [12, 16]
    outcome = prune_exactly(model, half_of_each(channels), channels)
    assert outcome.error <= 1e-5
    assert outcome.change > 1e-3


def test_results_that_a_loop_lays_end_to_end_are_pruned() -> None:
    net = Net()
    x = net.relu(net.linear(net.input("x", [4, 6]), 16))
    state, all_turns = looped(net, x, 12, 10, stacked=True)
    model = net.model(net.linear(state, 3), net.linear(net.relu(all_turns), 2))
    channels = find_channels(model)
    assert {12, 16} <= set(sizes(channels))
    outcome = prune_exactly(model, half_of_each(channels), channels)
    assert outcome.error <= 1e-5


def test_a_scan_over_a_sequence() -> None:
    net = Net()
    x = net.relu(net.linear(net.input("x", [5, 4, 6]), 16))
    start = net.const(np.zeros((4, 10)))
    body = Body(net)
    body.types["state"] = helper.make_tensor_type_proto(net.kind, [4, 10])
    body.types["step"] = helper.make_tensor_type_proto(net.kind, [4, 16])
    h = body.op("Tanh", body.add(body.linear("step", 10), body.linear("state", 10)))
    y = mlp(body, h, 12, 7)
    graph = body.graph(h, y, given=["state", "step"])
    last, steps = net.ops("Scan", start, x, body=graph, num_scan_inputs=1, outputs=2)
    net.types[last] = body.types["state"]
    net.types[steps] = helper.make_tensor_type_proto(net.kind, [5, 4, 7])
    model = net.model(net.linear(last, 3), net.linear(net.relu(steps), 2))
    channels = find_channels(model)
    assert {10, 12, 16} <= set(sizes(channels))
    outcome = prune_exactly(model, half_of_each(channels), channels)
    assert outcome.error <= 1e-5
    assert outcome.change > 1e-3
    assert "it goes through this axis turn by turn" in {
        b.reason for dim in channels.typing.axes[x][:1] for b in getattr(dim, "blocks", ())
    }


def test_a_state_that_grows_stays() -> None:
    net = Net()
    x = net.linear(net.input("x", [4, 6]), 16)
    body = Body(net)
    for name, kind in (("turn", TensorProto.INT64), ("go", TensorProto.BOOL)):
        body.types[name] = helper.make_tensor_type_proto(kind, [])
    body.types["state"] = helper.make_tensor_type_proto(net.kind, ["a", "b"])
    y = body.op("Concat", "state", "state", axis=1)
    graph = body.graph(body.op("Identity", "go"), y, given=["turn", "go", "state"])
    z = net.op("Loop", net.const(np.asarray(2)), "", x, body=graph)
    net.types[z] = helper.make_tensor_type_proto(net.kind, ["a", "b"])
    model = net.model(net.op("Tanh", z))
    channels = find_channels(model)
    assert not channels.groups
    assert "the result of its body there is not known" in reasons(channels)


def test_recovery_takes_bodies_as_they_are() -> None:
    """The weights inside differ from the original's, and that is no other graph."""
    net = Net()
    x = net.relu(net.linear(net.input("x", ["N", 6]), 20))
    positive = net.op("Greater", net.op("ReduceSum", x, keepdims=0), net.const(60.0))
    one, two = Body(net), Body(net)
    y = choose(net, one.graph(mlp(one, x, 16, 3)), two.graph(mlp(two, x, 12, 3)), positive)
    model = net.model(net.op("Identity", net.sized(y, ["N", 3])))
    sparse = Prune(reduce_params=0.4, round_to=1)(model).model
    samples = {"x": np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)}
    repaired = Recover(original=model, data=samples)(sparse)
    assert Transform()(repaired.model).facts["equal"]


def test_a_condition_is_one_or_zero_where_work_is_counted() -> None:
    """One branch is a constant for one sample: the batch depends on the condition."""
    proto = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[n, 3, 8, 8] x, bool c) => (float[a, 4, 8, 8] y) {
            first = Conv(x, w)
            z = If (c) <
                then_branch = one () => (float[1, 8, 1, 1] t) { t = Identity(k) },
                else_branch = two () => (float[b, 8, 8, 8] e) { e = Relu(first) }
            >
            y = Conv(z, v)
        }""")
    shapes = {"w": (8, 3, 1, 1), "v": (4, 8, 1, 1), "k": (1, 8, 1, 1)}
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in shapes.items()
    )
    channels = find_channels(check(Model(proto)))
    assert cost_of(channels).macs.value() > 0


def test_a_loop_without_a_turn() -> None:
    """Its results have the shapes that its body declares: those are shorter as well."""
    proto = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[n, t, 6] x) => (float[a, b, 4] y) {
            first = MatMul(x, w)
            shape = Shape<start = 1, end = 2>(x)
            turns = Squeeze(shape)
            last, all = Loop(turns, on, first) <body = turn (int64 i, bool go, float[n, t, 8] h)
                => (bool still, float[n, t, 8] next, float[n, t, 8] out) {
                still = Identity(go)  next = Mul(h, first)  out = Relu(next)
            }>
            s = ReduceSum<keepdims = 0>(all, zero)
            y = MatMul(s, v)
        }""")
    tensors = {
        "w": np.ones((6, 8), np.float32), "v": np.ones((8, 4), np.float32),
        "on": np.asarray(True), "zero": np.asarray([0]),
    }  # fmt: skip
    proto.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in tensors.items())
    model = check(Model(proto))
    channels = find_channels(model)
    feeds = [{"x": np.ones((2, turns, 6), np.float32)} for turns in (0, 3)]
    assert prune_exactly(model, half_of_each(channels), channels, feeds=feeds).error <= 1e-5
    assert channels.groups
