"""A network cut in two at what some of its weights reach: what lies before, and the rest.

However those weights change, what lies before them computes the same. Whoever tries many values of them runs
it once, keeps what it hands over, and runs only the rest again and again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper

from onnxprune.analysis.shapes import Shapes
from onnxprune.ir import Model, bodies, captured, flat

Tensors = Mapping[str, onnx.TensorProto]


@dataclass(frozen=True)
class Cut:
    """A cut of a network.

    Attributes:
        carried: Tensors that the rest reads: made before it, or inputs of the network.
        reached: Outputs of the network that the rest makes.
        unreached: Outputs of the network that are made before.
        begin: The place of the first node of the rest.
    """

    carried: tuple[str, ...]
    reached: tuple[str, ...]
    unreached: tuple[str, ...]
    begin: int


def cut(model: Model, shapes: Shapes, changing: Collection[str]) -> Cut:
    """Cut a network as early as anything that changes is read or made.

    What depends on neither that nor the inputs (arithmetic on other weights) goes with the rest, so that the
    runtime still sees constants there.

    Args:
        model: The network.
        shapes: Its shapes: a tensor whose type or rank is unknown is not cut at.
        changing: Names of constants, and of other tensors that are no longer to be what they were.
    """
    inputs = {i.name for i in model.inputs}
    reached = _downstream(model, changing)
    fixed = inputs | _declarable(model, shapes, _downstream(model, inputs) - reached)
    outputs = [o.name for o in model.outputs]
    ends = tuple(o for o in outputs if o in reached)
    carried = _upstream(model, ends, fixed)[1]
    unreached = tuple(o for o in outputs if o not in reached)
    affected = (k for k, n in enumerate(model.nodes) if not reached.isdisjoint(n.output))
    return Cut(carried, ends, unreached, begin=next(affected, len(model.nodes)))


def stations(model: Model, shapes: Shapes, cuts: Sequence[Cut]) -> list[tuple[str, ...]]:
    """Return what has to be known of the samples at each of several cuts so that they can go on to the next.

    Args:
        model: The network.
        shapes: Its shapes.
        cuts: The cuts, in the order in which they begin.
    """
    found: list[tuple[str, ...]] = []
    inputs, wanted = {i.name for i in model.inputs}, set[str]()
    declarable = _declarable(model, shapes, _downstream(model, inputs))
    for at in reversed(cuts):
        known = {*at.carried, *at.unreached, *_passing(model, at.begin, inputs | declarable)}
        known |= inputs.intersection(_upstream(model, wanted, known | inputs)[1])
        found.append(tuple(sorted(known)))
        wanted = known
    return found[::-1]


def extract(
    model: Model,
    shapes: Shapes,
    outputs: Collection[str],
    known: Collection[str],
    weights: Tensors | None = None,
) -> Model:
    """Return the part of a network that makes some tensors.

    Args:
        model: The network.
        shapes: Shapes of the tensors at both ends.
        outputs: What the part makes.
        known: What it may be fed; it lists those inputs that it reads.
        weights: Constants to take instead of the network's own, by name.
    """
    nodes, inputs = _upstream(model, outputs, known)
    return _part(model, shapes, nodes, inputs, outputs, weights or {})


def _reads(node: onnx.NodeProto) -> set[str]:
    """Return what a node reads, constants and all else inside its bodies included."""
    inside = {name for body in bodies(node) for n in flat(body) for name in n.input}
    return {*node.input, *captured(node), *inside} - {""}


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


def _passing(model: Model, begin: int, known: set[str]) -> set[str]:
    """Return what the nodes from some place on read of what those before it make."""
    nodes = model.nodes
    made = {i.name for i in model.inputs}.union(*(n.output for n in nodes[:begin]))
    read = {o.name for o in model.outputs}.union(*map(_reads, nodes[begin:]))
    return made & read & known


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
    weights: Tensors,
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
    part.graph.initializer.extend(weights.get(t.name, t) for t in graph.initializer if t.name in read)
    part.graph.sparse_initializer.extend(t for t in graph.sparse_initializer if t.values.name in read)
    return Model(part, model.path)


def _declaration(name: str, shapes: Shapes) -> onnx.ValueInfoProto:
    """Declare a tensor by type and rank; its sizes may differ from those it was analysed with."""
    return helper.make_tensor_value_info(name, shapes.types[name], [None] * len(shapes.sizes[name]))
