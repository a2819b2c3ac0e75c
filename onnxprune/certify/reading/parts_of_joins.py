"""Elements of a single part of a Concat, picked from that part itself.

``Gather(Concat(a, b), k)`` is ``Gather(a, k)`` where ``k`` lies in ``a``: both models are read in this form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from onnxprune.certify.relations.element_bounds import Array

if TYPE_CHECKING:
    from onnxprune.certify.reading.graph import Graph


def read_in_part(graph: Graph, node: onnx.NodeProto) -> onnx.NodeProto:
    """Return a Gather or Slice of a single part as one of that part, any other node as it is.

    Args:
        graph: The model; it receives the numbers that the node reads then.
        node: A node whose operands are visited.
    """
    if node.op_type not in ("Gather", "Slice") or node.input[0] not in graph.joins:
        return node
    picked = _picked(graph, node)
    if picked is None:
        return node
    axis, places = picked
    first, last = int(places.min()), int(places.max())
    name, start = node.input[0], 0
    while (part := _part(graph, name, axis, first - start, last - start)) is not None:
        name, start = part[0], start + part[1]
    if name == node.input[0]:
        return node
    made = onnx.NodeProto()
    made.CopyFrom(node)
    made.input[0] = name
    if node.op_type == "Gather":
        _give(graph, made, 1, places - start)
    else:
        _give(graph, made, 1, np.asarray([first - start]))
        _give(graph, made, 2, np.asarray([last + 1 - start]))
    return made


def _picked(graph: Graph, node: onnx.NodeProto) -> tuple[int, Array] | None:
    """Return the axis that a node picks elements of, and which; ``None`` where that is not known."""
    sizes = graph.sizes.get(node.input[0], [])
    if not all(node.input):
        return None  # an operand is left out, such as the axes before the steps
    operands = [graph.values.get(name) for name in node.input[1:]]
    known = [v for v in operands if v is not None and all(isinstance(x, int) for x in v.ravel())]
    if len(sizes) < 2 or not known or len(known) < len(operands):
        return None
    if node.op_type == "Gather":
        axis, places = graph.attributes(node).get("axis", 0) % len(sizes), known[0].astype(np.int64)
    else:
        numbers = [[int(x) for x in v.ravel()] for v in known]
        if len(numbers) < 3 or any(len(n) != 1 for n in numbers) or (len(numbers) > 3 and numbers[3] != [1]):
            return None
        axis = numbers[2][0] % len(sizes)
        count = sizes[axis]
        chosen = range(count if isinstance(count, int) else 0)[numbers[0][0] : numbers[1][0]]
        places = np.asarray([chosen[0], chosen[-1]] if chosen else [], np.int64)
    count = sizes[axis]
    if not isinstance(count, int) or not places.size or places.min() < -count or places.max() >= count:
        return None
    return axis, np.where(places < 0, places + count, places)


def _part(graph: Graph, name: str, axis: int, first: int, last: int) -> tuple[str, int] | None:
    """Return the operand of a Concat along an axis that has some elements, and the place where it begins."""
    node = graph.joins.get(name)
    if node is None or graph.attributes(node)["axis"] % len(graph.sizes[name]) != axis:
        return None
    start = 0
    for operand in node.input:
        count = graph.sizes.get(operand, [None] * (axis + 1))[axis]
        if not isinstance(count, int):
            return None
        if start <= first and last < start + count:
            return operand, start
        start += count
    return None


def _give(graph: Graph, node: onnx.NodeProto, place: int, numbers: Array) -> None:
    """Give a node a list of numbers."""
    node.input[place] = graph.add(f"{node.output[0]}/{place}/part", numbers.astype(np.int64))
