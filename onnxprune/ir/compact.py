"""Constants that a file made of much less than their values, made of as little again where that can be."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxprune.ir.model import Model
from onnxprune.support.mapped import byte_count, is_mapped

SMALLEST = 1 << 10
"""Bytes below which values are written as they are."""
_FILLS_SINCE = 9
"""The opset that has ConstantOfShape."""


def compacted(model: Model) -> onnx.ModelProto:
    """Return the message to be written for a model.

    Constants that `Model.compact` names become a ConstantOfShape node if all their elements are equal, and a
    sparse initializer if few of them are not zero; otherwise, and without named constants, the message is the
    model's own.
    """
    graph = model.proto.graph
    listed = {value.name for value in graph.input}
    chosen = {
        t.name: _form(model, t) for t in graph.initializer if t.name in model.compact and t.name not in listed
    }
    if not any(chosen.values()):
        return model.proto
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for place in reversed(range(len(graph.initializer))):
        name = graph.initializer[place].name
        form = chosen.get(name)
        if form is None:
            continue
        del proto.graph.initializer[place]
        if isinstance(form, onnx.SparseTensorProto):
            proto.graph.sparse_initializer.append(form)
        else:
            shape = numpy_helper.from_array(np.asarray(form.dims, np.int64), _fresh(f"{name}__shape", model))
            value = numpy_helper.from_array(model.array(name).ravel()[:1], "value")
            proto.graph.initializer.append(shape)
            node = helper.make_node("ConstantOfShape", [shape.name], [name], name=name, value=value)
            proto.graph.node.insert(0, node)
    return proto


def _form(model: Model, tensor: onnx.TensorProto) -> onnx.TensorProto | onnx.SparseTensorProto | None:
    """Return the tensor itself where all elements are equal, its sparse form where that is much smaller."""
    if not (tensor.HasField("raw_data") or is_mapped(tensor)) or byte_count(tensor) < SMALLEST:
        return None
    values = model.array(tensor.name).ravel()
    if values.dtype.isbuiltin and model.opset() >= _FILLS_SINCE and np.all(values == values[0]):
        return tensor
    places = np.flatnonzero(values)
    if 2 * len(places) * (values.itemsize + 8) > byte_count(tensor) or not values.dtype.isbuiltin:
        return None
    sparse = onnx.SparseTensorProto(dims=tensor.dims)
    sparse.values.CopyFrom(numpy_helper.from_array(values[places], tensor.name))
    sparse.indices.CopyFrom(numpy_helper.from_array(places.astype(np.int64), ""))
    return sparse


def fill_bytes(shape: tuple[int, ...], kind: np.dtype[np.generic]) -> int:
    """Return the bytes of the values of a filled tensor."""
    return math.prod(int(size) for size in shape) * kind.itemsize


def _fresh(name: str, model: Model) -> str:
    unique, count = name, 2
    while unique in model.names:
        unique, count = f"{name}_{count}", count + 1
    return unique
