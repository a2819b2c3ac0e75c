"""Graphs inside nodes: the names they read and make, and branches in the place of their node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx
from onnx import helper

if TYPE_CHECKING:
    from onnxprune.certify.reading.graph import Graph


@dataclass
class Body:
    """A graph, main or inside a node.

    Attributes:
        inputs: Names of its inputs.
        outputs: Names of its outputs.
        nodes: Its nodes, constants aside.
    """

    inputs: list[str]
    outputs: list[str]
    nodes: list[onnx.NodeProto]


def read_by(graph: Graph, nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Return the names that nodes and the bodies in them read."""
    nodes = list(nodes)
    return {i for n in nodes for i in n.input} | {
        i for n in nodes for body in bodies_of(graph, n).values() for i in captured(graph, body)
    }


def needed_for(graph: Graph, nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """Return the nodes that some outputs depend on: a runtime may leave out all others."""
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed |= read_by(graph, [node])
    return kept[::-1]


def captured(graph: Graph, body: Body) -> Iterator[str]:
    """Yield the names that a body and the bodies in it read from outside."""
    made = {*body.inputs, *(o for n in body.nodes for o in n.output)}
    for node in body.nodes:
        yield from (i for i in node.input if i and i not in made)
        for inside in bodies_of(graph, node).values():
            yield from (i for i in captured(graph, inside) if i not in made)
    yield from (o for o in body.outputs if o not in made)


def made_inside(graph: Graph, body: Body) -> set[str]:
    """Return the names that a body and the bodies in it make."""
    made = {o for node in body.nodes for o in node.output if o}
    for node in body.nodes:
        for inside in bodies_of(graph, node).values():
            made |= made_inside(graph, inside)
    return made


def inlined(node: onnx.NodeProto, branch: Body) -> Body:
    """Return a branch as part of the graph around it: its results have the names of those of the node."""
    made = {o for n in branch.nodes for o in n.output if not any(a.type == a.GRAPH for a in n.attribute)}
    pairs = [(i, o) for i, o in zip(branch.outputs, node.output, strict=True) if o]
    names = {i: o for i, o in pairs if i in made and branch.outputs.count(i) == 1}
    nodes = []
    for given in branch.nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(given)
        copy.input[:] = [names.get(i, i) for i in given.input]
        copy.output[:] = [names.get(o, o) for o in given.output]
        nodes.append(copy)
    nodes += [helper.make_node("Identity", [i], [o]) for i, o in pairs if i not in names]
    return Body([], list(node.output), nodes)


def bodies_of(graph: Graph, node: onnx.NodeProto) -> dict[str, Body]:
    """Return the bodies of a node by attribute."""
    names = [a.name for a in node.attribute if a.type == a.GRAPH]
    return {name: graph.bodies[node.output[0], name] for name in names}
