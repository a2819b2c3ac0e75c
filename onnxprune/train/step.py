"""The graph of a step: forward, loss and backward in operators of the standard domain, for fixed sizes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from onnxprune.errors import TrainingError
from onnxprune.ops.spec import STANDARD_DOMAINS, spec_of
from onnxprune.train.dialect import IR_VERSION, opset_of
from onnxprune.train.emit import Untrainable
from onnxprune.train.pullbacks import FORWARDS, ForwardNode, Tape, Writer, pullback_of
from onnxprune.train.pullbacks.tensor_facts import StaticFacts
from onnxprune.train.pullbacks.writer import OPSET
from onnxprune.train.rewrites.registry import qualified

GRADIENT, STATISTIC = "gradient:", "statistic:"
"""In front of a tensor's name: outputs of the graph, next to the loss, which is the first one."""
_AXES_BECAME_INPUT = 18


def step_graph(
    model: onnx.ModelProto,
    trained: Sequence[str],
    statistics: Sequence[str],
    sizes: Mapping[str, Sequence[int]],
) -> onnx.ModelProto:
    """Write the graph of a step.

    Its inputs are the model's, of the given sizes, then the trained tensors and running statistics. Its
    outputs are the loss, the gradient of every trained tensor, and the new running statistics.

    Args:
        model: The training copy with the loss as its only output, sorted topologically.
        trained: Names of initializers.
        statistics: Names of running statistics.
        sizes: Shape of each input.

    Raises:
        TrainingError: A node has no gradient, or one that cannot be written for these sizes.
    """
    forward = modernised(model)
    tensors = {tensor.name: tensor for tensor in forward.graph.initializer}
    changing = {*trained, *statistics}
    facts = StaticFacts.of(forward, sizes, changing)
    nodes = [_node(proto) for proto in forward.graph.node]
    writer, loss = Writer(), forward.graph.output[0].name
    tape = Tape(writer, facts, wanted_of(nodes, forward.graph.node, facts, trained, loss), changing)
    _write_forward(forward.graph.node, nodes, tape)
    tape.give(loss, writer.tensor(1.0))
    _write_backward(nodes, tape)
    outputs = [loss]
    for name in trained:
        value = tape.gradient(name)
        outputs.append(writer("Identity", value, into=GRADIENT + name))
    outputs += [
        writer("Identity", tape.statistics.get(name, name), into=STATISTIC + name) for name in statistics
    ]
    kept = [tensor for name, tensor in tensors.items() if name not in changing]
    inputs = [_declared(i.name, i.type.tensor_type.elem_type, sizes[i.name]) for i in forward.graph.input]
    inputs += [_declared(name, TensorProto.FLOAT, tensors[name].dims) for name in (*trained, *statistics)]
    return _assembled(writer, inputs, outputs, [*kept, *writer.initializers()], forward)


def _declared(name: str, kind: int, shape: Sequence[int]) -> onnx.ValueInfoProto:
    declared: onnx.ValueInfoProto = helper.make_tensor_value_info(name, kind, list(shape))
    return declared


def _assembled(
    writer: Writer,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[str],
    initializers: Sequence[TensorProto],
    forward: onnx.ModelProto,
) -> onnx.ModelProto:
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(_read(writer.nodes, outputs), "step", inputs, made, initializers)
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=forward.opset_import, ir_version=IR_VERSION
    )
    return model


def _read(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """Return the nodes that the outputs need; the runtime would compute the others, too."""
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed |= _operands(node)
    return kept[::-1]


def _write_forward(protos: Iterable[onnx.NodeProto], nodes: Sequence[ForwardNode], tape: Tape) -> None:
    for proto, node in zip(protos, nodes, strict=True):
        form = FORWARDS.get(node.operator)
        if form is None or not any(tape.wants(name) for name in node.outputs):
            tape.writer.nodes.append(proto)
            continue
        try:
            form(node, tape)
        except Untrainable as verdict:
            raise _refusal(node, str(verdict)) from verdict


def _write_backward(nodes: Sequence[ForwardNode], tape: Tape) -> None:
    for node in reversed(nodes):
        arrived = any(tape.has(name) for name in node.outputs)
        if not arrived or not any(tape.wants(name) for name in node.inputs):
            continue
        rule = pullback_of(node.operator)
        if rule is None:
            raise _refusal(node, "it has no pullback")
        try:
            rule(node, tape)
        except Untrainable as verdict:
            raise _refusal(node, str(verdict)) from verdict


def _refusal(node: ForwardNode, reason: str) -> TrainingError:
    return TrainingError(f"node {node.name!r} ({node.operator}) cannot be trained through: {reason}")


def _node(proto: onnx.NodeProto) -> ForwardNode:
    attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
    operator = qualified(proto.op_type, proto.domain)
    return ForwardNode(proto.name, operator, tuple(proto.input), tuple(proto.output), attributes)


def wanted_of(
    nodes: Sequence[ForwardNode],
    protos: Sequence[onnx.NodeProto],
    facts: StaticFacts,
    trained: Collection[str],
    loss: str,
) -> set[str]:
    """Return the tensors that depend smoothly on trained ones, and that the loss depends on."""
    carrying = set(trained)
    read = [_operands(proto) for proto in protos]
    for node, proto, operands in zip(nodes, protos, read, strict=True):
        if not spec_of(proto).discrete and not carrying.isdisjoint(operands):
            carrying |= {name for name in node.outputs if facts.types.get(name, 1) == TensorProto.FLOAT}
    reaching = {loss}
    for node, operands in zip(reversed(nodes), reversed(read), strict=True):
        if any(name in reaching and name in carrying for name in node.outputs):
            reaching.update(operands)
    return carrying & reaching


def _operands(proto: onnx.NodeProto) -> set[str]:
    """Return the tensors a node reads, those its bodies read included."""
    names = {name for name in proto.input if name}
    for attribute in proto.attribute:
        for body in [attribute.g, *attribute.graphs] if attribute.type in _BODIES else []:
            for inner in body.node:
                names |= _operands(inner)
    return names


_BODIES = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


def modernised(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph in the operator set that steps are written in.

    Between sets 13 and 21, reductions take their axes as an operand, and Split the number of its parts. All
    other changes are extensions: nodes that are valid in the older set mean the same in the newer one.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    version = opset_of(model)
    if version < _AXES_BECAME_INPUT:
        _modernise(made.graph)
    for entry in made.opset_import:
        if entry.domain in STANDARD_DOMAINS:
            entry.version = OPSET
    made.ir_version = IR_VERSION
    return made


def _modernise(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        for attribute in node.attribute:
            for body in [attribute.g, *attribute.graphs] if attribute.type in _BODIES else []:
                _modernise(body)
        if node.domain:
            continue
        if node.op_type.startswith("Reduce"):
            _move_axes(graph, node)
        elif node.op_type == "Split" and len(node.input) < 2:
            node.attribute.append(helper.make_attribute("num_outputs", len(node.output)))


def _move_axes(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    given = [a for a in node.attribute if a.name == "axes"]
    if not given:
        return
    name = f"{node.output[0]}:axes"
    graph.initializer.append(numpy_helper.from_array(np.array(given[0].ints, np.int64), name))
    node.attribute.remove(given[0])
    node.input.append(name)
