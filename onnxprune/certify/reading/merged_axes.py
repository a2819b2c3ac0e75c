"""Tensors whose first axes are merged into one of open size, read with these axes apart.

Exporters write the batches and the heads of an attention as one axis. It may be cut in one factor while the
size of the other is unknown. For each tensor ``x`` whose first axis is such a product, ``apart[x]`` names
one that has the factors as axes: ``x`` is a Reshape of it. Between the Reshape that merges the axes and the
one that splits them again, each node gets a counterpart on tensors apart. Both models are read in this form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx
from onnx import helper

from onnxprune.certify.sizes.size_monomials import Monomial, Size, product
from onnxprune.certify.sizes.size_rules import SPREAD

if TYPE_CHECKING:
    from onnxprune.certify.reading.graph import Graph

UNARY = "Cast Identity Neg Relu Tanh Sigmoid Exp Sqrt Erf".split()
ALONG = ("Softmax", "LogSoftmax", "GatherElements")
"""Operators with an attribute ``axis``."""


def read_apart(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return a visited node, and its counterpart on tensors apart; in its place where it splits the axes.

    Args:
        graph: The model; it receives the names of tensors apart.
        node: A node whose operands are visited.
    """
    known = [name in graph.sizes for name in (*node.input[:1], *node.output[:1])]
    if not all(known) or len(node.output) != 1:
        return [node]
    if node.op_type == "Reshape":
        return _reshaped(graph, node)
    made = _counterpart(graph, node)
    if not made:
        return [node]
    for part in made:
        graph.visit(part)
    graph.apart[node.output[0]] = made[-1].output[0]
    return [node, *made]


def _reshaped(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Note a Reshape that merges the first axes; read one that splits them again as a copy."""
    source, result = node.input[0], node.output[0]
    whole, made = graph.sizes[source], graph.sizes[result]
    apart = graph.apart.get(source)
    if apart is not None and graph.sizes[apart] == made:
        return [helper.make_node("Identity", [apart], [result], name=node.name)]
    count = len(whole) - len(made) + 1
    if count > 1 and isinstance(made[0], Monomial) and made == [product(whole[:count]), *whole[count:]]:
        graph.apart[result] = source
    return [node]


def _counterpart(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return the nodes that compute a result with its first axes apart; none where there are none."""
    rank = len(graph.sizes[node.output[0]])
    if node.op_type == "Tile":
        return _tiled(graph, node)
    leads = _leads(graph, node)
    if not leads or rank < 2:
        return []
    more, given = len(leads) - 1, graph.attributes(node)
    if node.op_type == "Transpose":
        order = list(given.get("perm", range(rank)[::-1]))
        given["perm"] = [*range(len(leads)), *(axis + more for axis in order[1:])]
        fits = order[0] == 0
    elif node.op_type in ALONG:
        axis = given.get("axis", -1 if node.op_type != "GatherElements" else 0)
        fits = "axis" in given and axis % rank > 0
        given["axis"] = axis % rank + more
    elif node.op_type == "MatMul":
        fits = rank > 2 and all(len(graph.sizes.get(i, [])) == rank for i in node.input)
    else:
        fits = node.op_type in SPREAD or node.op_type in UNARY
    if not fits:
        return []
    parts: list[onnx.NodeProto] = []
    result = node.output[0]
    operands = [_operand(graph, name, result, leads, parts) for name in node.input]
    if not all(operands):
        return []
    return [*parts, helper.make_node(node.op_type, operands, [graph.fresh(f"apart {result}")], **given)]


def _leads(graph: Graph, node: onnx.NodeProto) -> list[Size]:
    """Return the sizes of the first axes apart, which all operands apart share; none where they do not."""
    found = []
    for name in node.input:
        if name in graph.apart:
            apart, merged = (graph.sizes[n] for n in (graph.apart[name], name))
            found.append(apart[: len(apart) - len(merged) + 1])
    return found[0] if found and all(leads == found[0] for leads in found) else []


def _operand(graph: Graph, name: str, result: str, leads: Sequence[Size], parts: list[onnx.NodeProto]) -> str:
    """Return the name of an operand with its first axis apart; empty where there is none.

    Args:
        graph: The model.
        name: The operand.
        result: The result, whose first axis is merged.
        leads: The sizes of the axes apart.
        parts: Nodes that make operands apart, which it adds to.
    """
    rank = len(graph.sizes[result])
    if name in graph.apart:
        return graph.apart[name] if len(graph.sizes[name]) == rank else ""
    sizes = graph.sizes.get(name)
    if sizes is None:
        return ""
    if len(sizes) < rank:
        return name  # it lies along the last axes
    made = graph.fresh(f"apart {name} for {result}")
    maker = graph.moves.get(name)
    if sizes[0] != 1 and maker is not None and maker.op_type == "Expand":
        return _expanded(graph, maker, made, leads, parts)
    if sizes[0] != 1:
        return ""
    parts.append(_with_ones(name, made, sizes, len(leads) - 1, graph))
    return made


def _with_ones(name: str, made: str, sizes: Sequence[Size], count: int, graph: Graph) -> onnx.NodeProto:
    """Return a Reshape that puts axes of length one in front."""
    target = graph.fresh(f"sizes of {made}")
    graph.note_list(target, [*[1] * count, *sizes])
    return helper.make_node("Reshape", [name, target], [made])


def _expanded(
    graph: Graph, maker: onnx.NodeProto, made: str, leads: Sequence[Size], parts: list[onnx.NodeProto]
) -> str:
    """Return the name of an Expand of a first axis of length one, or of none, with that axis apart."""
    sizes, wide = graph.sizes[maker.input[0]], graph.sizes[maker.output[0]]
    if len(sizes) == len(wide) and sizes[0] != 1:
        return ""
    if wide[0] != product(leads):
        return ""
    source = maker.input[0]
    if len(sizes) == len(wide):
        once = graph.fresh(f"{made} once")
        parts.append(_with_ones(source, once, sizes, len(leads) - 1, graph))
        source = once
    target = graph.fresh(f"sizes of {made}")
    graph.note_list(target, [*leads, *wide[1:]])
    parts.append(helper.make_node("Expand", [source, target], [made]))
    return made


def _tiled(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return the nodes of a Tile along the first axis, whose repeats are an axis of their own."""
    repeats = graph.values.get(node.input[1])
    if repeats is None or not isinstance(repeats[0], Monomial):
        return []
    made = graph.fresh(f"apart {node.output[0]}")
    one = _with_ones(node.input[0], graph.fresh(f"{made} once"), graph.sizes[node.input[0]], 1, graph)
    target = graph.fresh(f"repeats of {made}")
    graph.note_list(target, [repeats[0], 1, *repeats[1:]])
    return [one, helper.make_node("Tile", [one.output[0], target], [made])]
