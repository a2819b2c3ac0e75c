"""A loss of the user's own: an ONNX graph, or a callable that builds one.

The inputs of the graph are bound by name: the name of an output of the model is that output, `labels` are the
labels, `NAME_target` is the array of the data for the output, `NAME_teacher` the teacher's value of it.
The first output of the graph is the loss, a single number, the mean over the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, version_converter

from onnxprune.errors import DataError, TrainingError, UsageError
from onnxprune.support.callables import is_reference, load_callable, user_code
from onnxprune.train.emit import Emitter
from onnxprune.train.output_heads import LABELS, TEACHER
from onnxprune.train.training_copy import make_training_copy
from onnxprune.train.wire import Array

_SUFFIXES = {"_target": "", "_teacher": TEACHER}


@dataclass(frozen=True)
class OwnLoss:
    """A loss of the user's own.

    Attributes:
        name: The file or callable it comes from.
        graph: The loss, in the dialect that can be trained.
        targets: Element type by the data's name of the targets it needs.
    """

    name: str
    graph: gs.Graph
    targets: Mapping[str, type]

    @classmethod
    def open(cls, name: str, graph: gs.Graph, outputs: Mapping[str, Array]) -> OwnLoss:
        """Read or build the loss for a model.

        Args:
            name: A file, or `module:callable`, which is called with the outputs of the model as a list of
                `onnx.ValueInfoProto` and returns an `onnx.ModelProto`.
            graph: The training copy of the model.
            outputs: Its outputs for a sample batch.

        Raises:
            DataError: The callable is not there or fails.
            UsageError: It is no loss for this model.
        """
        model = _built(name, graph, outputs) if is_reference(name) else _read(name)
        known = {output.name for output in graph.outputs}
        names = {i.name: _data_name(name, i.name, known) for i in model.graph.input if i.name not in known}
        types = {i.name: _type(i) for i in model.graph.input}
        model = _in_opset(model, graph.opset, name)
        sample = {
            i.name: outputs[i.name] if i.name in known else np.zeros(_shape(i), types[i.name])
            for i in model.graph.input
        }
        try:
            copied = make_training_copy(model, sample).graph
        except TrainingError as error:
            raise UsageError(f"the loss {name} cannot be used: {error}") from error
        return cls(name, copied, {names[n]: types[n] for n in names})

    def attach(self, graph: gs.Graph, emit: Emitter, targets: Mapping[str, gs.Variable]) -> gs.Tensor:
        """Append the nodes of the loss; return its value.

        Args:
            graph: The training copy of the model.
            emit: Emitter that appends nodes.
            targets: The graph inputs for the targets.
        """
        known = {output.name: output for output in graph.outputs}
        given = {id(i): known.get(i.name) for i in self.graph.inputs}
        for variable in self.graph.inputs:
            if variable.name not in known:
                given[id(variable)] = targets[_data_name(self.name, variable.name, known)]
        tensors = [tensor for tensor in self.graph.tensors().values() if id(tensor) not in given]
        for tensor in tensors:
            tensor.name = f"loss:own/{self.name}/{tensor.name}"
        for node in list(self.graph.nodes):
            node.name = f"loss:own/{self.name}/{node.name}"
            node.inputs = [given.get(id(operand)) or operand for operand in node.inputs]
            graph.nodes.append(node)
        return emit("Reshape", self.graph.outputs[0], emit.ints([]))


def _data_name(loss: str, name: str, outputs: Any) -> str:
    """Return the name that an input of a loss has in the data."""
    if name == LABELS:
        return name
    for suffix, prefix in _SUFFIXES.items():
        if name.endswith(suffix) and name.removesuffix(suffix) in outputs:
            return prefix + name.removesuffix(suffix)
    known = ", ".join(outputs)
    raise UsageError(
        f"the loss {loss} has an input {name!r} that is nothing the model or the data has",
        f"name inputs like the model's outputs ({known}), those with _target or _teacher behind, or {LABELS}",
    )


def _built(name: str, graph: gs.Graph, outputs: Mapping[str, Array]) -> onnx.ModelProto:
    infos = [
        helper.make_tensor_value_info(
            output.name,
            helper.np_dtype_to_tensor_dtype(np.dtype(output.dtype)),
            ["batch", *outputs[output.name].shape[1:]],
        )
        for output in graph.outputs
    ]
    build = load_callable(name)
    with user_code(f"building the loss {name}"):
        model = build(infos)
    if not isinstance(model, onnx.ModelProto):
        raise DataError(f"{name} returns {type(model).__name__}, not an onnx.ModelProto", "return the graph")
    return model


def _read(name: str) -> onnx.ModelProto:
    try:
        return onnx.load(Path(name))
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"cannot read the loss {name}: {reason}", "give an ONNX file") from error


def _in_opset(model: onnx.ModelProto, opset: int, name: str) -> onnx.ModelProto:
    try:
        return version_converter.convert_version(model, opset)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"the loss {name} cannot be converted to operator set {opset}: {reason}") from error


def _type(info: onnx.ValueInfoProto) -> type:
    kind: type = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type).type
    return np.float32 if np.issubdtype(kind, np.floating) else kind


def _shape(info: onnx.ValueInfoProto) -> list[int]:
    return [size.dim_value or 1 for size in info.type.tensor_type.shape.dim]
