"""What no exporter writes: values, types and names by which a damaged file is told before it is worked on.

onnx's own checker leaves these out, or would have to copy all weights to see them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import onnx
from onnx import helper

from onnxprune.errors import ModelError

EXPORT_AGAIN = "the file is damaged, or was edited wrongly: export the model again"
_TYPES = frozenset(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.UNDEFINED}


def refuse_damage(proto: onnx.ModelProto, model: str) -> None:
    """Look through a model, its inner graphs and all its tensors.

    Args:
        proto: The model, weights in memory.
        model: What to call it.

    Raises:
        ModelError: Something in it cannot be meant.
    """
    _check_text((text for p in proto.metadata_props for text in (p.key, p.value)), model)
    for graph in graphs(proto.graph):
        _check_text(_names(graph), model)
        for value in (*graph.input, *graph.output, *graph.value_info):
            kind = value.type.tensor_type.elem_type
            if value.type.HasField("tensor_type") and kind and kind not in _TYPES:
                raise ModelError(f"{model}: tensor '{value.name}' is of unknown type {kind}", EXPORT_AGAIN)
        for tensor in tensors(graph):
            _check_tensor(tensor, model)


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all graphs inside it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from graphs(inner)


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield the tensors a graph itself holds: its initializers, and those in attributes of its nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def _check_tensor(tensor: onnx.TensorProto, model: str) -> None:
    """Refuse values of no known type, of impossible shape, or of another number than the shape says."""
    what = f"{model}: tensor '{tensor.name}'"
    if tensor.data_type not in _TYPES:
        raise ModelError(f"{what} is of unknown type {tensor.data_type}", EXPORT_AGAIN)
    if any(size < 0 for size in tensor.dims):
        raise ModelError(f"{what} has an axis of negative size: {list(tensor.dims)}", EXPORT_AGAIN)
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if tensor.HasField("raw_data") and dtype.isbuiltin:  # others may be packed, several to a byte
        wanted, found = math.prod(tensor.dims) * dtype.itemsize, len(tensor.raw_data)
        if wanted != found:
            raise ModelError(f"{what} is damaged: it has {found} bytes and needs {wanted}", EXPORT_AGAIN)


def _check_text(texts: Iterable[object], model: str) -> None:
    """Refuse what is no UTF-8: protobuf hands that over as bytes."""
    for text in texts:
        if not isinstance(text, str):
            raise ModelError(f"{model}: {text!r} stands where text should", EXPORT_AGAIN)


def _names(graph: onnx.GraphProto) -> Iterator[object]:
    yield graph.name
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
    yield from (tensor.name for tensor in tensors(graph))
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield value.name
        yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
