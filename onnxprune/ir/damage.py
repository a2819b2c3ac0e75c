"""Detection of damaged files: values, types and names that are invalid in any model.

onnx's own checker leaves these out, or would have to copy all weights to check them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import onnx
from onnx import AttributeProto, helper

from onnxprune.errors import ModelError
from onnxprune.ops.spec import STANDARD_DOMAINS

EXPORT_AGAIN = "the file is damaged, or was edited wrongly: export the model again"
_TYPES = frozenset(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.UNDEFINED}
_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2, "FLOAT6E2M3": 6, "FLOAT6E3M2": 6}
"""Types of which several elements share a byte."""
_PACKED = {kind: _BITS[name] for name, kind in onnx.TensorProto.DataType.items() if name in _BITS}
_CONSTANT_FORMS = {
    "value": AttributeProto.TENSOR,
    "sparse_value": AttributeProto.SPARSE_TENSOR,
    "value_float": AttributeProto.FLOAT,
    "value_floats": AttributeProto.FLOATS,
    "value_int": AttributeProto.INT,
    "value_ints": AttributeProto.INTS,
    "value_string": AttributeProto.STRING,
    "value_strings": AttributeProto.STRINGS,
}
_COUNTS = frozenset(
    "group num_groups num_heads q_num_heads kv_num_heads hidden_size blocksize block_size num_outputs"
    " kernel_shape strides dilations sampling_ratio".split()
)
"""Attributes that are counts of at least one."""
_FROM_ZERO = frozenset({"sampling_ratio", "block_size", "kv_num_heads", "q_num_heads", "num_heads"})
"""Attributes among them whose value 0 means that they are not used."""
_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype"})
"""Attributes that hold the number of an element type; 0 leaves it open."""
Holder: TypeAlias = onnx.GraphProto | onnx.FunctionProto


def refuse_damage(proto: onnx.ModelProto, model: str) -> None:
    """Look through a model, its inner graphs, all its nodes and tensors; through its local functions too.

    Args:
        proto: The model, weights in memory.
        model: Name of the model in messages.

    Raises:
        ModelError: A part of it is invalid.
    """
    _check_text((text for p in proto.metadata_props for text in (p.key, p.value)), model)
    for function in proto.functions:
        _check_function(function, model)
    for graph in graphs(proto.graph):
        _check_text(_names(graph), model)
        for node in graph.node:
            _check_node(node, model)
        for value in (*graph.input, *graph.output, *graph.value_info):
            kind = value.type.tensor_type.elem_type
            if value.type.HasField("tensor_type") and kind and kind not in _TYPES:
                raise ModelError(f"{model}: tensor '{value.name}' is of unknown type {kind}", EXPORT_AGAIN)
        for tensor in tensors(graph):
            _check_tensor(tensor, model)


def graphs(holder: Holder) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all graphs inside it; of a function only those."""
    if isinstance(holder, onnx.GraphProto):
        yield holder
    for node in holder.node:
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from graphs(inner)


def holders(holder: Holder) -> Iterator[Holder]:
    """Yield a graph or a function, and all graphs inside it."""
    if isinstance(holder, onnx.FunctionProto):
        yield holder
    yield from graphs(holder)


def tensors(holder: Holder) -> Iterator[onnx.TensorProto]:
    """Yield the tensors of a graph or function itself: initializers, and those in its nodes' attributes."""
    sparse = []
    if isinstance(holder, onnx.GraphProto):
        yield from holder.initializer
        sparse += holder.sparse_initializer
    for node in holder.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                sparse.append(attribute.sparse_tensor)
            sparse += attribute.sparse_tensors
    for tensor in sparse:
        yield tensor.values
        yield tensor.indices


def stored_bytes(tensor: onnx.TensorProto, model: str) -> int:
    """Return the bytes of the values of a tensor where they are stored as such.

    Raises:
        ModelError: It has no such values, or no possible shape.
    """
    _check_form(tensor, model)
    if tensor.data_type == onnx.TensorProto.STRING:
        raise ModelError(f"{model}: text of '{tensor.name}' lies where only numbers may", EXPORT_AGAIN)
    count = int(math.prod(tensor.dims))
    if tensor.data_type in _PACKED:
        return -(-count * _PACKED[tensor.data_type] // 8)
    return count * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _check_form(tensor: onnx.TensorProto, model: str) -> None:
    """Refuse values of no known type or of impossible shape."""
    what = f"{model}: tensor '{tensor.name}'"
    if tensor.data_type not in _TYPES:
        raise ModelError(f"{what} is of unknown type {tensor.data_type}", EXPORT_AGAIN)
    if any(size < 0 for size in tensor.dims):
        raise ModelError(f"{what} has an axis of negative size: {list(tensor.dims)}", EXPORT_AGAIN)


def _check_tensor(tensor: onnx.TensorProto, model: str) -> None:
    """Refuse values of no known type, of impossible shape, or of another number than that of the shape."""
    what = f"{model}: tensor '{tensor.name}'"
    _check_form(tensor, model)
    if tensor.HasField("segment"):
        raise ModelError(f"{what} is in pieces, which no runtime puts together", EXPORT_AGAIN)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return  # a model made in memory, whose weights are not loaded
    if tensor.HasField("raw_data"):
        required, found, unit = stored_bytes(tensor, model), len(tensor.raw_data), "bytes"
    else:
        required, found, unit = _field_length(tensor), len(_field(tensor)), "values"
    if required != found:
        raise ModelError(f"{what} is damaged: it has {found} {unit} and needs {required}", EXPORT_AGAIN)


def _field(tensor: onnx.TensorProto) -> list[object]:
    """Return the values of a tensor that are not stored as bytes."""
    values: list[object] = getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type))
    return values


def _field_length(tensor: onnx.TensorProto) -> int:
    """Return the number of values that the field for the type of a tensor must have."""
    count = int(math.prod(tensor.dims))
    if tensor.data_type in _PACKED:
        bits = _PACKED[tensor.data_type]
        return count if bits == _BITS["FLOAT6E2M3"] else -(-count * bits // 8)
    parts = 2 if tensor.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128) else 1
    return count * parts


def _check_function(function: onnx.FunctionProto, model: str) -> None:
    """Refuse a local function with names that are none; its nodes are looked at once they are inlined."""
    what = (function.name, function.domain, *function.input, *function.output, *function.attribute)
    _check_text((*what, *_names_of_nodes(function)), model)
    for graph in graphs(function):
        _check_text(_names(graph), model)
    for part in holders(function):
        for tensor in tensors(part):
            _check_tensor(tensor, model)


def _check_node(node: onnx.NodeProto, model: str) -> None:
    """Refuse a node whose attributes are invalid."""
    what = f"{model}: node '{node.name or next(iter(node.output), '')}' ({node.op_type})"
    for attribute in node.attribute:
        _check_attribute(attribute, what, node.domain in (*STANDARD_DOMAINS, "com.microsoft"))
    if node.op_type in ("If", "Loop", "Scan") and node.domain in STANDARD_DOMAINS:
        _check_bodies(node, what)
    if node.op_type == "Constant" and node.domain in STANDARD_DOMAINS:
        forms = [a for a in node.attribute if a.name in _CONSTANT_FORMS]
        if len(node.output) != 1 or not node.output[0]:
            raise ModelError(f"{what} has {len(node.output)} outputs and needs one", EXPORT_AGAIN)
        if len(node.attribute) != 1 or not forms or forms[0].type != _CONSTANT_FORMS[forms[0].name]:
            raise ModelError(f"{what} holds no value, or more than one", EXPORT_AGAIN)


def _check_attribute(attribute: AttributeProto, node: str, is_known: bool) -> None:
    """Refuse a reference outside a function and, for operators of known domains, impossible numbers."""
    if attribute.ref_attr_name:
        fault = f"refers to '{attribute.ref_attr_name}' of a function, and stands in none"
        raise ModelError(f"{node}: attribute '{attribute.name}' {fault}", EXPORT_AGAIN)
    if attribute.name in _COUNTS and is_known:
        least = 0 if attribute.name in _FROM_ZERO else 1
        numbers = [attribute.i] if attribute.type == AttributeProto.INT else list(attribute.ints)
        if any(n < least for n in numbers):
            raise ModelError(f"{node}: {attribute.name} is {min(numbers)}", EXPORT_AGAIN)
    if attribute.name in _TYPE_ATTRIBUTES and is_known and attribute.i and attribute.i not in _TYPES:
        raise ModelError(f"{node}: {attribute.name} is the unknown type {attribute.i}", EXPORT_AGAIN)


def _check_bodies(node: onnx.NodeProto, what: str) -> None:
    """Refuse bodies that are given, or return, another number of values than their node."""
    scanned = next((a.i for a in node.attribute if a.name == "num_scan_inputs"), 0)
    given = 0 if node.op_type == "If" else len(node.input)
    states = given - 2 if node.op_type == "Loop" else given - scanned
    least = states + 1 if node.op_type == "Loop" else max(states, 0)
    for attribute in node.attribute:
        if attribute.type != AttributeProto.GRAPH:
            continue
        if node.op_type == "Scan" and len(attribute.g.input) == given - 1:  # opset 8: lengths come first
            given, states, least = given - 1, states - 1, max(states - 1, 0)
        made, returned = len(attribute.g.output), len(node.output) + (node.op_type == "Loop")
        if states < 0 or len(attribute.g.input) != given or made < max(least, returned):
            fault = f"takes {len(attribute.g.input)} values and returns {made}"
            raise ModelError(f"{what}: its body '{attribute.name}' {fault}, which do not fit", EXPORT_AGAIN)


def _check_text(texts: Iterable[object], model: str) -> None:
    """Refuse text that is not UTF-8: protobuf returns it as bytes."""
    for text in texts:
        if not isinstance(text, str):
            raise ModelError(f"{model}: {text!r} stands where text should", EXPORT_AGAIN)


def _names_of_nodes(holder: Holder) -> Iterator[object]:
    for node in holder.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            yield from (attribute.name, attribute.ref_attr_name)


def _names(graph: onnx.GraphProto) -> Iterator[object]:
    yield graph.name
    yield from _names_of_nodes(graph)
    yield from (tensor.name for tensor in tensors(graph))
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield value.name
        yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
