"""Operators that onnxruntime does not have, as functions of those it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx

from onnxprune.ops.spec import find_spec


def add_functions(proto: onnx.ModelProto, has_operator: Callable[[str, str], bool]) -> None:
    """Add to a model, in place, the functions of operators that the runtime does not have.

    Args:
        proto: The model.
        has_operator: Test whether the runtime has an operator, by domain and name.
    """
    there = {(f.domain, f.name) for f in proto.functions}
    for domain, name in sorted({(n.domain, n.op_type) for n in _nodes(proto.graph)} - there):
        function = None if has_operator(domain, name) else find_spec(domain, name).function
        if function is not None:
            proto.functions.add().CopyFrom(function)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _nodes(body)
