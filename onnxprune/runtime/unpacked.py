"""Attention whose operands are packed, as nodes that this runtime has.

On processors onnxruntime has no MultiHeadAttention for queries, keys and values side by side in one tensor,
``[batch, length, heads, 3, width]``. Apart they mean the same, so a session takes them apart first.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

_WIDE, _PARTS = "onnxprune__wide", "onnxprune__part{}"


def take_apart(model: onnx.ModelProto) -> None:
    """Replace packed operands by a tensor each, in place."""
    if not any(_packed(node) for graph in _graphs(model.graph) for node in graph.node):
        return
    for graph in _graphs(model.graph):
        nodes = [part for node in graph.node for part in (*_cut(node), node)]
        del graph.node[:]
        graph.node.extend(nodes)
    numbers = {_WIDE: np.asarray([0, 0, -1])} | {_PARTS.format(k): np.asarray(k) for k in range(3)}
    model.graph.initializer.extend(
        numpy_helper.from_array(value.astype(np.int64), name) for name, value in numbers.items()
    )


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def _packed(node: onnx.NodeProto) -> int:
    """Return the number of tensors packed in the last operand of attention; 0 for separate tensors."""
    if node.op_type != "MultiHeadAttention" or node.domain != "com.microsoft":
        return 0
    _, keys, values = (*node.input, "", "", "")[:3]
    return 0 if values else 2 if keys else 3


def _cut(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Let a node read packed tensors as tensors of its own, and return the nodes that make those."""
    count = _packed(node)
    if not count:
        return []
    first = 3 - count
    source, made = node.input[first], []
    node.input.extend([""] * (3 - len(node.input)))
    for part in range(count):
        heads, name = f"{node.output[0]}__heads{part}", f"{node.output[0]}__operand{part}"
        made.append(helper.make_node("Gather", [source, _PARTS.format(part)], [heads], axis=3))
        made.append(helper.make_node("Reshape", [heads, _WIDE], [name]))
        node.input[first + part] = name
    return made
