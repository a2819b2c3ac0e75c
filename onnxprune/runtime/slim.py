"""A copy of a model without its large weights, which travel beside it.

A protobuf message ends at 2 GB and serialising one takes time in proportion, so sessions get the graph as a
message and the weights as arrays.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
import onnx
from google.protobuf.message import Message
from onnx import helper

from onnxprune.errors import ModelError
from onnxprune.ops.spec import STANDARD_DOMAINS
from onnxprune.support.mapped import array_of, is_mapped, loaded

# Shape inference needs the values of small constants in the message.
_LARGE_BYTES = 1 << 16

_Message = TypeVar("_Message", bound=Message)


def slim_copy(
    model: onnx.ModelProto, fed: Iterable[str] = (), *, as_inputs: bool = False
) -> tuple[onnx.ModelProto, dict[str, np.ndarray[Any, np.dtype[Any]]]]:
    """Copy a model, leaving its large constants out.

    Args:
        model: A model with its weights in memory; it is not changed.
        fed: Constants that become graph inputs with a default value.
        as_inputs: True to make the constants left out inputs without a default value.

    Returns:
        The small model, in which every constant left out is an initializer marked as external, and those
        constants by name.

    Raises:
        ModelError: A weight lies in external data, or a tensor to be fed is not a constant of the main graph.
    """
    fed = set(fed)
    small = _copy_without(model, {"graph"})
    small.graph.CopyFrom(_copy_without(model.graph, {"node", "initializer"}))
    tensors = list(model.graph.initializer)
    for node in model.graph.node:
        tensor = _constant(node)
        if tensor is None or not (node.output[0] in fed or _is_large(tensor)):
            small.graph.node.append(node)
        else:
            tensors.append(_renamed(tensor, node.output[0]))
    used, listed = _used(model.graph), {value.name for value in model.graph.input}
    weights = {}
    for tensor in tensors:
        if tensor.data_location == onnx.TensorProto.EXTERNAL and not is_mapped(tensor):
            raise ModelError(f"the values of tensor {tensor.name!r} are not loaded", "load its external data")
        if _is_large(tensor) and tensor.name in used:
            weights[tensor.name] = array_of(tensor)
            if not as_inputs:
                small.graph.initializer.append(_marker(tensor))
            elif tensor.name not in listed:
                info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                small.graph.input.append(info)
        elif not _is_large(tensor):  # onnxruntime drops unread tensors first, and refuses the weight then
            small.graph.initializer.append(loaded(tensor))
    if fed:
        _make_inputs(small, fed)
    return small, weights


def _copy_without(message: _Message, skipped: set[str]) -> _Message:
    """Copy a message but for some of its fields."""
    copy: _Message = type(message)()
    for field, value in message.ListFields():
        if field.name in skipped:
            continue
        if hasattr(value, "MergeFrom"):
            getattr(copy, field.name).MergeFrom(value)
        else:
            setattr(copy, field.name, value)
    return copy


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """Return the tensor a Constant node holds."""
    if node.op_type != "Constant" or node.domain not in STANDARD_DOMAINS:
        return None
    return next((a.t for a in node.attribute if a.name == "value"), None)


def _used(graph: onnx.GraphProto) -> set[str]:
    """Return every name that nodes, inner graphs or the outputs of a graph read."""
    names = {o.name for o in graph.output}
    for node in graph.node:
        names.update(node.input)
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                names |= _used(inner)
    return names


def _renamed(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy


def _is_large(tensor: onnx.TensorProto) -> bool:
    """Return whether a tensor is worth handing over as an array, and of a type numpy has."""
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if dtype.kind not in "fiu" or not dtype.isbuiltin:
        return False
    return int(np.prod(tensor.dims, dtype=np.int64)) * dtype.itemsize >= _LARGE_BYTES


def _marker(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Return a tensor without values, to be replaced by the array of its name."""
    marker = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    marker.data_location = onnx.TensorProto.EXTERNAL
    marker.external_data.add(key="location", value="in memory")
    return marker


def _make_inputs(model: onnx.ModelProto, fed: set[str]) -> None:
    """List exactly the fed constants among the inputs, so that exactly they may be overridden."""
    constants = {t.name: t for t in model.graph.initializer}
    if unknown := sorted(fed - set(constants)):
        raise ModelError(
            f"the model has no constant tensor {unknown[0]!r} that could be fed", "name an initializer"
        )
    required = [i for i in model.graph.input if i.name not in constants]
    chosen = [
        helper.make_tensor_value_info(n, constants[n].data_type, constants[n].dims) for n in sorted(fed)
    ]
    del model.graph.input[:]
    model.graph.input.extend([*required, *chosen])
    model.ir_version = max(model.ir_version, 4)  # before, inputs with a value were constants all the same
