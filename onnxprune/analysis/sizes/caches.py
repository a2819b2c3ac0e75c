"""Inputs that a network returns with more elements appended: caches, with any names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

Place = tuple[str, int]
"""An input and one of its axes."""


def lengthened(graph: onnx.GraphProto, values: Iterable[onnx.ValueInfoProto]) -> frozenset[Place]:
    """Return the axes along which a Concat appends to an input, and the result is an output.

    Keys and values of earlier steps are such inputs: the caller feeds the returned ones.

    Args:
        graph: The main graph.
        values: Its inputs.
    """
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in values}
    outputs, same = {v.name for v in graph.output}, _copies(graph)
    found = {
        (name, axis)
        for node in graph.node
        if node.op_type == "Concat" and any(same.get(name, name) in outputs for name in node.output)
        for name, axis in _appended(node, ranks)
    }
    return frozenset(found)


def _copies(graph: onnx.GraphProto) -> dict[str, str]:
    """Return the output that an Identity makes of a value, by the value."""
    return {n.input[0]: n.output[0] for n in graph.node if n.op_type == "Identity"}


def _appended(node: onnx.NodeProto, ranks: dict[str, int]) -> Iterator[Place]:
    """Yield the inputs among the operands of a Concat, if one of the operands is computed."""
    fed = [name for name in node.input if name in ranks]
    if len(fed) < len(node.input):
        (axis,) = (a.i for a in node.attribute if a.name == "axis")
        yield from ((name, axis % ranks[name]) for name in fed if ranks[name])
