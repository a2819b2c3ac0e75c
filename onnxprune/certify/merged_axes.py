"""Transpositions between a Reshape that merges the first axes and one that splits them again.

``Reshape(Transpose(Reshape(x)))`` is a transposition of ``x`` where the first axes are merged and come back
as they were: exporters write the batches and the heads of an attention as one axis. Both models are read in
this form, for the merged axis may be cut in one factor while the size of the other is unknown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import helper

from onnxprune.certify.size_products import product

if TYPE_CHECKING:
    from onnxprune.certify.graph import Graph


def read_unmerged(graph: Graph, node: onnx.NodeProto) -> onnx.NodeProto:
    """Return a Reshape that splits merged axes as the transposition that it ends, any other node as it is.

    Args:
        graph: The model, with the nodes that move elements.
        node: A visited node.
    """
    if node.op_type != "Reshape" or node.output[0] not in graph.moves:
        return node
    inner = graph.moves.get(node.input[0])
    order: list[int] | None = None
    if inner is not None and inner.op_type == "Transpose":
        order = graph.attributes(inner).get("perm")
        inner = graph.moves.get(inner.input[0]) if order is not None else None
    if inner is None or inner.op_type != "Reshape":
        return node
    sizes = [graph.sizes.get(name) for name in (inner.input[0], inner.output[0], node.output[0])]
    if any(s is None for s in sizes):
        return node
    whole, merged, split = (s for s in sizes if s is not None)
    count = len(whole) - len(merged) + 1
    order = list(range(len(merged))) if order is None else list(order)
    turned = [*range(count), *(count - 1 + axis for axis in order[1:])]
    alike = (
        count > 1
        and order[0] == 0
        and merged == [product(whole[:count]), *whole[count:]]
        and split == [whole[axis] for axis in turned]
    )
    if not alike:
        return node
    return helper.make_node("Transpose", [inner.input[0]], list(node.output), name=node.name, perm=turned)
