"""A model cut before the nodes that this runtime cannot compute, and before outputs that are no tensors.

The result of such a node can be replaced by a stand-in, computed from the first operand of the node, so that
the rest of the network can be run. Two models are compared with a stand-in that changes its operand: with a
copy, a model without the node would look the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

import onnx
from onnx import helper

from onnxprune.ir import anonymous, captured, dead_nodes, every_graph, subgraphs
from onnxprune.ops.spec import find_spec
from onnxprune.runtime import has_operator

Operator = tuple[str, str]
"""Domain and name."""
StandIn = Literal["copy", "shifted"]
"""A copy of the operand, or its elements shifted away from zero (operator Shrink; all types of numbers)."""
_SHOWN = " (operand)"
"""End of the names of copies that show constants and inputs."""
_SHIFT = 1.7312


@dataclass(frozen=True)
class RunnableModel:
    """The rest of a model that was cut.

    Attributes:
        proto: The model; its outputs are those that remain, then the operands of the nodes that were cut off.
        operands: The outputs that hold the operands of each node that was cut off, then those of the outer
            tensors its bodies read, in order of execution; `None` for omitted operands, and for results of
            such nodes.
        nodes: Those nodes; of two that follow each other without a stand-in, the first alone.
        lost: Outputs of the original that are gone, by name.
    """

    proto: onnx.ModelProto
    operands: tuple[tuple[str | None, ...], ...]
    nodes: tuple[onnx.NodeProto, ...]
    lost: tuple[str, ...]


def unknown_operators(proto: onnx.ModelProto) -> set[Operator]:
    """Return the operators of a model, bodies included, that this runtime has no implementation of.

    Local functions that use one, also through other functions, are among them.
    """
    functions = {(f.domain, f.name): _operators(f.node) for f in proto.functions}
    used = _operators(proto.graph.node).union(*functions.values()) - set(functions)
    unknown = {o for o in used if not has_operator(*o) and find_spec(*o).function is None}
    while more := {f for f, inner in functions.items() if f not in unknown and inner & unknown}:
        unknown |= more
    return unknown


def _operators(nodes: Iterable[onnx.NodeProto]) -> set[Operator]:
    """Return the operators of nodes and of their bodies."""
    inner = (n for node in nodes for body in subgraphs(node) for g in every_graph(body) for n in g.node)
    return {(n.domain, n.op_type) for n in itertools.chain(nodes, inner)}


def cut_before(
    proto: onnx.ModelProto, operators: Collection[Operator], stand_in: StandIn | None = None
) -> RunnableModel:
    """Return a model without certain operators and nodes that depend on them, and without non-tensor outputs.

    Args:
        proto: The model; it stays as it is.
        operators: Those to be cut off.
        stand_in: Replacement for the first result of such a node, so that its consumers are kept.

    Returns:
        The model, with the nodes and outputs that it has lost.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    graph = copy.graph
    before = [o.name for o in graph.output]
    gone = {o.name for o in graph.output if not o.type.HasField("tensor_type")}
    _drop_dead(graph)
    kept, cut = _divided(graph, operators, gone, set(before), stand_in)
    shown = _Shown({o for node in kept for o in node.output}, gone)
    operands = tuple(tuple(shown.output(name) for name in _read(node)) for node in cut)
    del graph.node[:]
    graph.node.extend([*kept, *shown.copies])
    outputs = [o for o in graph.output if o.name not in gone]
    listed = {o.name for o in outputs}
    needed = dict.fromkeys(i for names in operands for i in names if i is not None and i not in listed)
    outputs += [onnx.ValueInfoProto(name=name) for name in needed]
    del graph.output[:]
    graph.output.extend(outputs)
    _drop_dead(graph)
    return RunnableModel(copy, operands, tuple(cut), tuple(n for n in before if n in gone))


def shown_by(output: str) -> str:
    """Return the tensor that an output shows: itself, or the constant or input that it is a copy of."""
    return output.removesuffix(_SHOWN)


class _Shown:
    """Operands of nodes that are cut off, as outputs; constants and inputs by copies."""

    def __init__(self, made: set[str], gone: set[str]) -> None:
        self._made, self._gone = made, gone
        self._copies: dict[str, onnx.NodeProto] = {}

    @property
    def copies(self) -> list[onnx.NodeProto]:
        return list(self._copies.values())

    def output(self, name: str) -> str | None:
        """Return the output that shows a tensor, `None` if it is gone."""
        if not name or name in self._gone:
            return None
        if name in self._made:
            return name
        node = helper.make_node("Identity", [name], [f"{name}{_SHOWN}"])
        return str(self._copies.setdefault(name, node).output[0])


def _divided(
    graph: onnx.GraphProto,
    operators: Collection[Operator],
    gone: set[str],
    final: Collection[str],
    stand_in: StandIn | None,
) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """Part the nodes that remain from those that are cut off; add the results of the latter to ``gone``.

    With a stand-in the first result of a node that is cut off remains, unless it is one of the final outputs.
    """
    kept, cut = [], []
    for original in graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        if gone.intersection((*node.input, *captured(node))):
            gone.update(node.output)
        elif (node.domain, node.op_type) in operators or _holds(node, operators):
            cut.append(node)
            gone.update(node.output)
            name = node.output[0] if node.output else ""
            if stand_in is not None and node.input and name and name not in final:
                gone.discard(name)
                kept.append(_replacement(stand_in, node.input[0], name))
        elif gone.intersection(node.output):  # an output that is no tensor
            cut.append(node)
            gone.update(node.output)
        else:
            kept.append(node)
    return kept, cut


def _replacement(stand_in: StandIn, operand: str, result: str) -> onnx.NodeProto:
    """Return the node that makes a stand-in."""
    if stand_in == "copy":
        return helper.make_node("Identity", [operand], [result])
    return helper.make_node("Shrink", [operand], [result], lambd=0.0, bias=-_SHIFT)


def _holds(node: onnx.NodeProto, operators: Collection[Operator]) -> bool:
    """Return true if a body inside a node has one of the operators."""
    bodies = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return any(
        (n.domain, n.op_type) in operators for body in bodies for g in every_graph(body) for n in g.node
    )


def _read(node: onnx.NodeProto) -> tuple[str, ...]:
    """Return the operands of a node and the outer tensors of its bodies, in order of their first use."""
    return (*node.input, *anonymous(node)[1])


def _drop_dead(graph: onnx.GraphProto) -> None:
    """Remove nodes without a result that is read."""
    dead = dead_nodes(graph.node, (o.name for o in graph.output))
    alive = [node for node, unread in zip(graph.node, dead, strict=True) if not unread]
    del graph.node[:]
    graph.node.extend(alive)
