"""Graphs inside nodes: the bodies of If, Loop and Scan, and the outer values they capture."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Iterator, Sequence

import onnx

from onnxprune.ops.spec import STANDARD_DOMAINS

_WITH_BODIES = ("If", "Loop", "Scan")


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs a node holds (If, Loop, Scan)."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs of a node whose operator the analysis supports: the bodies of If, Loop and Scan."""
    if node.op_type in _WITH_BODIES and node.domain in STANDARD_DOMAINS:
        yield from subgraphs(node)


def with_bodies(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and the bodies inside it that the analysis reads."""
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from with_bodies(body)


def flat(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph, those of a body right before the node that holds it."""
    for node in graph.node:
        for body in bodies(node):
            yield from flat(body)
        yield node


def every_graph(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all graphs inside its nodes, those of unknown operators included."""
    yield graph
    for node in graph.node:
        for body in subgraphs(node):
            yield from every_graph(body)


def captured(node: onnx.NodeProto) -> set[str]:
    """Return the outer tensors that a node's subgraphs read without listing them as inputs."""
    names: set[str] = set()
    for graph in subgraphs(node):
        own = {t.name for t in graph.initializer} | {i.name for i in graph.input}
        own |= {o for n in graph.node for o in n.output}
        read = {i for n in graph.node for i in n.input} | {o.name for o in graph.output}
        names |= (read.union(*(captured(n) for n in graph.node)) if graph.node else read) - own - {""}
    return names


def dead_nodes(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> list[bool]:
    """Return which nodes of a graph are dead: none of their results is read.

    Args:
        nodes: The nodes, in order of execution.
        outputs: The tensors that the graph returns.
    """
    live = set(outputs)
    dead = []
    for node in reversed(nodes):
        dead.append(not live.intersection(node.output))
        if not dead[-1]:
            live |= {*node.input, *captured(node)}
    return dead[::-1]


def label(node: onnx.NodeProto) -> str:
    """Return the label of a node: its name, or its first output where it has none."""
    return node.name or next((o for o in node.output if o), node.op_type)


def anonymous(node: onnx.NodeProto) -> tuple[onnx.NodeProto, tuple[str, ...]]:
    """Return a node without the names of its tensors, and the outer tensors its bodies read.

    Tensors inside the bodies are numbered in the order of their definition, outer ones in the order of
    their first use. Two nodes that differ in names alone give equal nodes.
    """
    bare = onnx.NodeProto(op_type=node.op_type, domain=node.domain)
    bare.attribute.extend(sorted(node.attribute, key=lambda a: str(a.name)))
    outer: dict[str, str] = {}
    for graph in subgraphs(bare):
        _number(graph, ChainMap(), outer)
    return bare, tuple(outer)


def _number(graph: onnx.GraphProto, names: ChainMap[str, str], outer: dict[str, str]) -> None:
    """Give the tensors of a body numbers for names; ``names`` are those of the bodies around it."""
    own = names.new_child()

    def define(name: str) -> str:
        return own.setdefault(name, f"{len(own)}") if name else ""

    def read(name: str) -> str:
        return (own.get(name) or outer.setdefault(name, f"outer {len(outer)}")) if name else ""

    for tensor in (*graph.input, *graph.initializer, *(t.values for t in graph.sparse_initializer)):
        tensor.name = define(tensor.name)
    for node in graph.node:
        node.input[:] = [read(name) for name in node.input]
        for body in subgraphs(node):
            _number(body, own, outer)
        node.output[:] = [define(name) for name in node.output]
        node.ClearField("name")
        node.ClearField("doc_string")
    for value in graph.output:
        value.name = read(value.name)
    for field in ("name", "doc_string", "value_info", "quantization_annotation", "metadata_props"):
        graph.ClearField(field)
