"""Subgraphs as models of their own, and models with other outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx

from onnxprune.ir.model import Model

Tensors = Mapping[str, onnx.TensorProto]


def extracted(
    model: Model,
    nodes: Iterable[onnx.NodeProto],
    constants: Iterable[str],
    inputs: Iterable[onnx.ValueInfoProto],
    outputs: Iterable[onnx.ValueInfoProto],
    weights: Tensors | None = None,
) -> onnx.ModelProto:
    """Return some nodes of a model as a model.

    Args:
        model: The model.
        nodes: Its nodes, in order of execution.
        constants: Names of the constants they read, which become initializers.
        inputs: Inputs of the new model.
        outputs: Outputs of it.
        weights: Constants to take instead of the model's own, by name.
    """
    part = onnx.ModelProto(ir_version=max(model.proto.ir_version, 4))  # so that no constant is an input
    part.opset_import.extend(model.proto.opset_import)
    part.graph.name = model.proto.graph.name or "graph"
    part.graph.node.extend(nodes)
    part.graph.input.extend(inputs)
    part.graph.output.extend(outputs)
    for name in constants:
        tensor = (weights or {}).get(name)
        part.graph.initializer.append(model.constants[name] if tensor is None else tensor)
        part.graph.initializer[-1].name = name  # a Constant node's tensor may have another
    return part


def with_outputs(
    proto: onnx.ModelProto, names: Iterable[str], kind: int = onnx.TensorProto.UNDEFINED
) -> onnx.ModelProto:
    """Return a model with other outputs, values of its main graph; itself where they are the same.

    Args:
        proto: The model; it stays as it is.
        names: The outputs; those that the model has keep their declaration.
        kind: The element type to declare for the others; by default none.
    """
    required = list(dict.fromkeys(names))
    if required == [o.name for o in proto.graph.output]:
        return proto
    declared = {o.name: o for o in proto.graph.output}
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.output[:]
    copy.graph.output.extend(declared[n] if n in declared else _declared(n, kind) for n in required)
    return copy


def _declared(name: str, kind: int) -> onnx.ValueInfoProto:
    if not kind:
        return onnx.ValueInfoProto(name=name)
    return onnx.helper.make_tensor_value_info(name, kind, None)
