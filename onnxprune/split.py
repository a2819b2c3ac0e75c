"""A network cut in two at some of its weights: what they cannot reach, and the rest.

However those weights change, the first half computes the same. Whoever tries many values of them runs it
once, keeps what it hands over, and runs only the second half again and again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import onnx
from onnx import helper

from onnxprune.graph import Model, captured
from onnxprune.shapes import Shapes


@dataclass(frozen=True)
class Split:
    """The two halves of a network.

    Attributes:
        before: What the weights cannot reach; ``None`` where nothing is to be computed there.
        after: The rest. It reads ``carried`` and makes the outputs that the weights reach.
        carried: Tensors that the second half reads: made by the first, or inputs of the network.
        unreached: Outputs of the network that the weights do not reach.
    """

    before: Model | None
    after: Model
    carried: tuple[str, ...]
    unreached: tuple[str, ...]


def split(model: Model, shapes: Shapes, weights: Collection[str]) -> Split:
    """Cut a network as early as any of some weights is read.

    What depends on neither the weights nor the inputs (arithmetic on other weights) goes with the second
    half, so that the runtime still sees constants there.

    Args:
        model: The network.
        shapes: Its shapes: a tensor whose type or rank is unknown is not cut at.
        weights: Names of constants.
    """
    inputs = {i.name for i in model.inputs}
    reached = _downstream(model, weights)
    fixed = inputs | _declarable(model, shapes, _downstream(model, inputs) - reached)
    outputs = [o.name for o in model.outputs]
    nodes, carried = _upstream(model, [o for o in outputs if o in reached], fixed)
    unreached = tuple(o for o in outputs if o not in reached)
    after = _part(model, shapes, nodes, carried, [o for o in outputs if o in reached])
    made = [n for n in dict.fromkeys((*carried, *unreached)) if n not in inputs]
    before = None
    if made:
        nodes, _ = _upstream(model, made, inputs)
        before = _part(model, shapes, nodes, sorted(inputs), made)
    return Split(before, after, carried, unreached)


def _reads(node: onnx.NodeProto) -> set[str]:
    return {*node.input, *captured(node)} - {""}


def _downstream(model: Model, names: Collection[str]) -> set[str]:
    """Return the names, and all tensors computed from them."""
    found = set(names)
    for node in model.proto.graph.node:
        if not found.isdisjoint(_reads(node)):
            found.update(o for o in node.output if o)
    return found


def _declarable(model: Model, shapes: Shapes, names: Collection[str]) -> set[str]:
    """Return those of some tensors that a model can take as inputs: all a node makes, or none of it."""
    known = {name for name in shapes.sizes if shapes.types.get(name)}.intersection(names)
    made = (set(node.output) - {""} for node in model.proto.graph.node)
    return set[str]().union(*(outputs for outputs in made if outputs <= known))


def _upstream(
    model: Model, outputs: Collection[str], stops: Collection[str]
) -> tuple[list[onnx.NodeProto], tuple[str, ...]]:
    """Return the nodes that make some tensors from others, and which of those others they need."""
    wanted, nodes = set(outputs), []
    for node in reversed(model.proto.graph.node):
        if any(o in wanted and o not in stops for o in node.output):
            nodes.append(node)
            wanted |= _reads(node)
    return nodes[::-1], tuple(sorted(wanted.intersection(stops)))


def _part(
    model: Model,
    shapes: Shapes,
    nodes: Iterable[onnx.NodeProto],
    inputs: Iterable[str],
    outputs: Iterable[str],
) -> Model:
    """Make a model of some nodes of another, with the constants they read."""
    graph = model.proto.graph
    part = onnx.ModelProto(ir_version=max(model.proto.ir_version, 4))  # so that no constant is an input
    part.opset_import.extend(model.proto.opset_import)
    part.graph.name = graph.name
    part.graph.node.extend(nodes)
    declared = {v.name: v for v in (*graph.input, *graph.output)}
    part.graph.input.extend(declared.get(n) or _declaration(n, shapes) for n in inputs)
    part.graph.output.extend(declared.get(n) or _declaration(n, shapes) for n in outputs)
    read = {name for node in part.graph.node for name in _reads(node)}.union(outputs)
    part.graph.initializer.extend(t for t in graph.initializer if t.name in read)
    part.graph.sparse_initializer.extend(t for t in graph.sparse_initializer if t.values.name in read)
    return Model(part, model.path)


def _declaration(name: str, shapes: Shapes) -> onnx.ValueInfoProto:
    """Declare a tensor by type and rank; its sizes may differ from those it was analysed with."""
    return helper.make_tensor_value_info(name, shapes.types[name], [None] * len(shapes.sizes[name]))
