"""A model that computes in float32 the function of one in float16 or bfloat16."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from onnxprune.ir import every_graph
from onnxprune.support.mapped import array_of

_NARROW = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
_TYPE_ATTRIBUTES = ("dtype", "output_dtype", "stash_type", "to")


def widened(proto: onnx.ModelProto) -> bool:
    """Turn every float16 and bfloat16 tensor of a model into float32, in place.

    Args:
        proto: The model; the types of its inputs and outputs change with it.

    Returns:
        True if there was any.
    """
    changed = False
    for graph in every_graph(proto.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            changed |= _widen_type(value.type)
        for tensor in graph.initializer:
            changed |= _widen_tensor(tensor)
        for node in graph.node:
            for attribute in node.attribute:
                changed |= _widen_attribute(attribute)
    return changed


def _widen_type(kind: onnx.TypeProto) -> bool:
    if kind.HasField("sequence_type"):
        return _widen_type(kind.sequence_type.elem_type)
    if kind.HasField("optional_type"):
        return _widen_type(kind.optional_type.elem_type)
    narrow = kind.tensor_type.elem_type in _NARROW
    if narrow:
        kind.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return narrow


def _widen_tensor(tensor: onnx.TensorProto) -> bool:
    if tensor.data_type not in _NARROW:
        return False
    values = np.asarray(array_of(tensor)).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return True


def _widen_attribute(attribute: onnx.AttributeProto) -> bool:
    if attribute.type == onnx.AttributeProto.TENSOR:
        return _widen_tensor(attribute.t)
    if attribute.name in _TYPE_ATTRIBUTES and attribute.i in _NARROW:
        attribute.i = onnx.TensorProto.FLOAT
        return True
    return False
