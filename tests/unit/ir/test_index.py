"""The index of a graph says the same of its values as a search through all nodes."""

from __future__ import annotations

import ideas
import onnx
import pytest
from helpers import Net
from ideas_control import CONTROL

from onnxprune.ir import CAPTURED, GraphIndex, Model, bodies, captured, check

NAMES = ("residual", "cross_stage_partial", "rotary_embedding", "unet_resize")
NETWORKS = {n: i for n, i in (ideas.IDEAS | CONTROL).items() if n in NAMES or n in CONTROL}
each = pytest.mark.parametrize("name", sorted(NETWORKS))


def built(name: str) -> Model:
    return check(Model(NETWORKS[name].build()))


def values(model: Model) -> set[str]:
    return {name for node in model.all_nodes for name in (*node.input, *node.output)} - {""}


def read_by(node: onnx.NodeProto) -> set[str]:
    return {*node.input, *captured(node)} - {""}


@each
def test_producers_and_readers_of_the_main_graph(name: str) -> None:
    model = built(name)
    nodes, index = model.nodes, model.main
    for value in values(model):
        makers = [node for node in nodes if value in node.output]
        assert index.producer(value) == (makers[0] if makers else None)
        assert index.readers(value) == [k for k, node in enumerate(nodes) if value in read_by(node)]
        last = max((k for k, node in enumerate(nodes) if value in read_by(node)), default=-1)
        returned = any(o.name == value for o in model.outputs)
        assert index.last_read(value) == (len(nodes) if returned else last)


@each
def test_the_flat_index_counts_a_read_in_a_body_once(name: str) -> None:
    model = built(name)
    nodes = model.all_nodes
    for value in values(model):
        places = sum(list(node.input).count(value) for node in nodes)
        places += sum(value in captured(node) for node in nodes if not any(bodies(node)))
        places += any(o.name == value for graph in model.graphs for o in graph.output)
        assert model.index.count(value) == places


@each
def test_live_values(name: str) -> None:
    model = built(name)
    nodes = model.nodes
    for position in range(len(nodes) + 1):
        made = {o for node in nodes[:position] for o in node.output} | {i.name for i in model.inputs}
        read = {o.name for o in model.outputs}.union(*map(read_by, nodes[position:]))
        assert model.main.live(position, made - {""}) == made & read


@each
def test_backward_slices(name: str) -> None:
    model = built(name)
    nodes = model.nodes
    for stop in range(len(nodes)):
        stops = {*nodes[stop].output, *model.constants}
        wanted, expected = {o.name for o in model.outputs}, []
        for number in reversed(range(len(nodes))):
            if wanted.difference(stops).intersection(nodes[number].output):
                expected.append(number)
                wanted |= read_by(nodes[number])
        assert model.main.needed([o.name for o in model.outputs], stops) == expected[::-1]


def test_a_slice_ends_at_the_tensors_before_its_first_node() -> None:
    net = Net()
    x = net.input("x", [1, 2])
    for _ in range(4):
        x = net.relu(x)
    index = net.model(x).main
    assert index.needed([x], begin=2) == [2, 3]
    assert index.needed(index.nodes[2].output, begin=1, end=3) == [1, 2]


@each
def test_rewired_nodes_are_indexed_as_if_anew(name: str) -> None:
    model = built(name)
    for number, node in enumerate(model.nodes):
        operands = list(node.input)
        model.rewire(number, [*operands, "added", "added"])
        assert model.main.readers("added") == [number]
        assert list(node.input) == [*operands, "added", "added"]
        assert model.main == GraphIndex.of(model.proto.graph)
        model.rewire(number, operands)
    assert not model.main.readers("added")


def test_a_captured_value_is_no_operand() -> None:
    model = built("branches_around_a_stem")
    inside = {u for uses in model.main.uses.values() for u in uses if u.operand == CAPTURED}
    assert inside
    assert all(any(bodies(model.nodes[use.node])) for use in inside)
    names = [n for n, uses in model.main.uses.items() if all(u.operand == CAPTURED for u in uses)]
    assert names
    assert not any(model.main.operands(n) for n in names)


def test_an_unreported_edit_is_found_by_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "verified", True)
    model = built("residual")
    assert model.main.nodes
    model.proto.graph.node[3].input[0] = model.proto.graph.node[0].input[0]
    with pytest.raises(AssertionError, match="edited"):
        model.main.readers("x")
    model.edited()
    assert model.main == GraphIndex.of(model.proto.graph)
