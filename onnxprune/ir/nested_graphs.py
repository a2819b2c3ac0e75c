"""Graphs inside nodes: the bodies of If, Loop and Scan, and the outer values they capture."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

_STANDARD_DOMAINS = ("", "ai.onnx")
_WITH_BODIES = ("If", "Loop", "Scan")


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs a node holds (If, Loop, Scan)."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs of a node whose operator the analysis supports: the bodies of If, Loop and Scan."""
    if node.op_type in _WITH_BODIES and node.domain in _STANDARD_DOMAINS:
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


def label(node: onnx.NodeProto) -> str:
    """Return the label of a node: its name, or its first output where it has none."""
    return node.name or next((o for o in node.output if o), node.op_type)
