"""Loops and scans of open length: their stacked outputs, weights they carry, and their costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from helpers import Array, Net, half_of_each, prune_exactly
from ideas_control import Body
from onnx import TensorProto, helper
from recurrences import CELLS, STEPS, recurrence

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.ir import Model, check

HIDDEN = 16
LENGTHS = (1, 3, 7)


def sizes(channels: Channels) -> list[int]:
    return sorted(g.size for g in channels.groups)


def assert_exact(model: Model, shapes: Sequence[dict[str, tuple[int, ...]]], *widths: int) -> Channels:
    """Half of every group goes, exactly, at lengths that nothing has tried."""
    channels = find_channels(model)
    assert sizes(channels) == sorted(widths), channels.blocked
    random = np.random.default_rng(4)
    feeds: list[dict[str, Array]] = [
        {name: random.normal(size=shape).astype(np.float32) for name, shape in given.items()}
        for given in shapes
    ]
    outcome = prune_exactly(model, half_of_each(channels), channels, feeds=feeds)
    assert outcome.error <= 1e-5
    assert outcome.change > 1e-3
    return channels


def typed(body: Body, name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> str:
    body.types[name] = helper.make_tensor_type_proto(kind, shape)
    return name


def start(net: Net, x: str, axis: int, width: int = HIDDEN) -> str:
    """Zeros for each sample."""
    batch = net.slice(net.op("Shape", x), axis, axis + 1, axis=0)
    return net.sized(net.op("ConstantOfShape", net.concat(batch, net.ints(width), axis=0)), ["n", width])


def cell(body: Body, step: str, state: str) -> str:
    return body.op("Tanh", body.add(body.linear(step, HIDDEN), body.linear(state, HIDDEN, bias=False)))


@pytest.mark.parametrize("out", [0, 1, -1])
@pytest.mark.parametrize("along", [0, 1])
def test_a_scan_of_open_length(along: int, out: int) -> None:
    """Its states, and its steps laid along any axis."""
    net = Net()
    x = net.input("x", ["s", "n", 8] if along == 0 else ["n", "s", 8])
    body = Body(net)
    typed(body, "state", ["n", HIDDEN])
    typed(body, "step", ["n", 8])
    h = cell(body, "step", "state")
    made = [h, body.op("Identity", h)]
    graph = body.graph(*made, given=["state", "step"])
    how = {"scan_input_axes": [along], "scan_output_axes": [out], "num_scan_inputs": 1}
    last, steps = net.ops("Scan", start(net, x, 1 - along), x, outputs=2, body=graph, **how)
    net.sized(last, ["n", HIDDEN])
    net.sized(steps, {0: ["s", "n", HIDDEN], 1: ["n", "s", HIDDEN], -1: ["n", HIDDEN, "s"]}[out])
    y = net.transpose(steps, 0, 2, 1) if out == -1 else steps
    net.sized(y, ["a", "b", HIDDEN])
    model = net.model(net.linear(net.relu(net.linear(y, 20)), 5), net.linear(last, 3))
    shapes = [{"x": (s, 2, 8) if along == 0 else (2, s, 8)} for s in LENGTHS]
    assert_exact(model, shapes, HIDDEN, 20)


def loop(
    net: Net, count: str, states: Sequence[str], scans: int = 0, go: str = "", **how: object
) -> list[str]:
    return net.ops("Loop", count, go, *states, outputs=len(states) + scans, **how)


def recurrent(carried: bool, steps: bool, length: int | str = "t") -> Model:
    """As Keras exports a recurrent layer: a Loop over the time, weights carried or read from outside."""
    net = Net()
    x = net.input("x", ["n", length, 8])
    along = net.transpose(x, 1, 0, 2)
    count = net.op("Gather", net.op("Shape", x), net.const(np.asarray(1)), axis=0)
    weights = [net.weight(8, HIDDEN, fan=8, name="wx"), net.weight(HIDDEN, HIDDEN, fan=HIDDEN, name="wh")]
    body = Body(net)
    typed(body, "turn", [], TensorProto.INT64)
    typed(body, "go", [], TensorProto.BOOL)
    typed(body, "state", ["n", HIDDEN])
    inner = [typed(body, name, [None, None]) for name in ("kx", "kh")] if carried else weights
    step = body.op("Gather", along, "turn", axis=0)
    a, b = body.op("MatMul", step, inner[0]), body.op("MatMul", "state", inner[1])
    h = typed(body, body.op("Tanh", body.op("Add", a, b)), ["n", HIDDEN])
    made = [typed(body, body.op("Identity", "go"), [], TensorProto.BOOL), h]
    if carried:
        made += [typed(body, body.op("Identity", name), [None, None]) for name in inner]
    if steps:
        made.append(typed(body, body.op("Identity", h), ["n", HIDDEN]))
    given = ["turn", "go", "state", *(inner if carried else ())]
    graph = body.graph(*made, given=given)
    states = [start(net, x, 0), *(weights if carried else ())]
    go = net.const(np.asarray(True))
    outputs = loop(net, count, states, int(steps), go, body=graph)
    net.sized(outputs[0], ["n", HIDDEN])
    results = [net.linear(net.relu(net.linear(outputs[0], 20)), 5)]
    if steps:
        net.sized(outputs[-1], ["t", "n", HIDDEN])
        results.append(net.linear(outputs[-1], 3))
    return net.model(*results)


@pytest.mark.parametrize("steps", [False, True])
@pytest.mark.parametrize("carried", [False, True])
def test_a_loop_of_open_length(carried: bool, steps: bool) -> None:
    model = recurrent(carried, steps)
    channels = assert_exact(model, [{"x": (2, t, 8)} for t in LENGTHS], HIDDEN, 20)
    (node,) = (n for n in channels.model.all_nodes if n.op_type == "Loop")
    assert len(node.input) == 3  # no state but the one that changes


def test_a_state_that_never_changes_is_still_returned() -> None:
    net = Net()
    x = net.relu(net.linear(net.input("x", [3, 8]), HIDDEN))
    scale = net.relu(net.linear(x, HIDDEN))
    body = Body(net)
    typed(body, "turn", [], TensorProto.INT64)
    typed(body, "go", [], TensorProto.BOOL)
    typed(body, "a", [3, HIDDEN])
    typed(body, "b", [3, HIDDEN])
    y = body.op("Tanh", body.mul("a", "b"))
    graph = body.graph(body.op("Identity", "go"), y, body.op("Identity", "b"), given=["turn", "go", "a", "b"])
    first, second = loop(net, net.const(np.asarray(3)), [x, scale], body=graph)
    for name in (first, second):
        net.sized(name, [3, HIDDEN])
    channels = assert_exact(net.model(net.linear(net.add(first, second), 4)), [{"x": (3, 8)}], HIDDEN)
    (node,) = (n for n in channels.model.all_nodes if n.op_type == "Loop")
    assert len(node.input) == 3


def test_states_that_change_places_are_not_fixed() -> None:
    """Each turn returns the other state: neither stays as it was."""
    net = Net()
    x = net.input("x", [3, 8])
    one, two = (net.relu(net.linear(x, HIDDEN)) for _ in range(2))
    body = Body(net)
    typed(body, "turn", [], TensorProto.INT64)
    typed(body, "go", [], TensorProto.BOOL)
    for name in "ab":
        typed(body, name, [3, HIDDEN])
    graph = body.graph(
        body.op("Identity", "go"),
        body.op("Identity", "b"),
        body.op("Identity", "a"),
        given=["turn", "go", "a", "b"],
    )
    first, second = loop(net, net.const(np.asarray(3)), [one, two], body=graph)
    for name in (first, second):
        net.sized(name, [3, HIDDEN])
    channels = assert_exact(net.model(net.linear(first, 4), net.linear(second, 3)), [{"x": (3, 8)}], HIDDEN)
    (node,) = (n for n in channels.model.all_nodes if n.op_type == "Loop")
    assert len(node.input) == 4


def body_macs(channels: Channels) -> float:
    names = {o for graph in channels.model.graphs[1:] for n in graph.node for o in n.output}
    nodes = channels.typing.nodes
    return sum(
        np.prod([channels.typing.shapes.number(d.size) for d in work.dims])
        for work in channels.typing.work
        if names & set(nodes[work.node].output)
    )


@pytest.mark.parametrize("length", [4, 9])
def test_work_counts_once_a_turn(length: int) -> None:
    channels = find_channels(recurrent(carried=True, steps=False, length=length))
    batch = channels.typing.shapes.inputs["x"][0]
    assert body_macs(channels) == length * batch * (8 * HIDDEN + HIDDEN * HIDDEN)
    per_sample = length * (8 * HIDDEN + HIDDEN * HIDDEN) + HIDDEN * 20 + 20 * 5
    assert cost_of(channels).figures()["macs"] == per_sample


def test_work_of_an_open_length_follows_it() -> None:
    """Without anything laid end to end: the number of turns is the length of the input."""
    channels = find_channels(recurrent(carried=True, steps=False))
    n, t, _ = channels.typing.shapes.inputs["x"]
    assert t > 1
    expected = t * (8 * HIDDEN + HIDDEN * HIDDEN) + HIDDEN * 20 + 20 * 5
    assert cost_of(channels).figures()["macs"] == expected, n


def test_a_loop_that_may_end_early_counts_one_turn() -> None:
    """The numbers decide how many turns it takes: one is known."""
    net = Net()
    x = net.relu(net.linear(net.input("x", [3, 8]), HIDDEN))
    body = Body(net)
    typed(body, "turn", [], TensorProto.INT64)
    typed(body, "go", [], TensorProto.BOOL)
    typed(body, "a", [3, HIDDEN])
    y = body.op("Tanh", body.linear("a", HIDDEN))
    more = typed(
        body, body.op("Less", body.op("ReduceSum", y, keepdims=0), body.const(3.0)), [], TensorProto.BOOL
    )
    graph = body.graph(more, y, given=["turn", "go", "a"])
    (z,) = loop(net, net.const(np.asarray(9)), [x], body=graph)
    net.sized(z, [3, HIDDEN])
    assert body_macs(find_channels(net.model(net.linear(z, 4)))) == 3 * HIDDEN * HIDDEN


def test_the_model_is_not_changed() -> None:
    model = recurrent(carried=True, steps=True)
    before = model.proto.SerializeToString()
    find_channels(model)
    assert model.proto.SerializeToString() == before
    onnx.checker.check_model(find_channels(model).model.proto)


# --- the unrolled network ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["scan", "loop"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_recurrence_has_the_groups_of_the_unrolled_network(cell: str, kind: str) -> None:
    widths = sizes(find_channels(check(Model(recurrence(cell, "unrolled")))))
    assert len(widths) >= 4
    model = check(Model(recurrence(cell, kind)))
    assert_exact(model, [{"x": (2, t, 12)} for t in (1, STEPS, 7)], *widths)


@pytest.mark.parametrize("start", [0.0, 0.5])
def test_a_state_is_zero_where_it_starts_and_stays_zero(start: float) -> None:
    """Two tensors that depend on the input are summed over, and the state alone could be zero."""
    net = Net()
    x = net.input("x", ["n", "s", 8])
    into, read = net.linear(x, HIDDEN, bias=False), net.op("Sigmoid", net.linear(x, HIDDEN))
    fill = helper.make_tensor("fill", TensorProto.FLOAT, [1], [start])
    form = net.concat(net.slice(net.op("Shape", x), 0, 1, axis=0), net.ints(HIDDEN), axis=0)
    state = net.sized(net.op("ConstantOfShape", form, value=fill), ["n", HIDDEN])
    body = Body(net)
    for name in ("state", "given"):
        typed(body, name, ["n", HIDDEN])
    after = body.add("state", "given")
    graph = body.graph(after, body.op("Identity", after), given=["state", "given"])
    how = {"scan_input_axes": [1], "scan_output_axes": [1], "num_scan_inputs": 1}
    _, states = net.ops("Scan", state, into, outputs=2, body=graph, **how)
    net.sized(states, ["n", "s", HIDDEN])
    y = net.sized(net.reduce("ReduceSum", net.mul(states, read), [2]), ["n", "s", 1])
    model = net.model(net.linear(y, 3))
    if start:
        assert sizes(find_channels(model)) == []
    else:
        assert_exact(model, [{"x": (2, s, 8)} for s in LENGTHS], HIDDEN)
