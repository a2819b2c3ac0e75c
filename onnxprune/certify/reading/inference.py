"""The sizes that onnx infers."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

LARGE = 1024
"""Elements from which constants are not shown to onnx's inference."""
LONGEST = 1 << 16
"""Elements of a list of sizes up to which onnx's inference may follow it."""
_RANK = 64
"""Axes of a tensor, at most."""
_LISTED = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
_HIDDEN = "hidden"


def _hide_long_lists(model: onnx.ModelProto) -> None:
    """Keep from onnx the nodes that make lists which may be long: it writes down every element.

    A Range is one, and so is a Concat of lists that add up to more than `LONGEST` elements.
    """
    lengths = {
        t.name: int(np.prod(t.dims, dtype=np.int64))
        for t in model.graph.initializer
        if t.data_type in _LISTED
    }
    for node in model.graph.node:
        known = [lengths.get(name, 0) for name in node.input]
        length = sum(known) if node.op_type == "Concat" else max(known, default=0)
        if node.op_type == "Shape":
            length = _RANK
        if node.op_type == "Range" or length > LONGEST:
            node.domain, length = _HIDDEN, 0
        lengths.update(dict.fromkeys(node.output, length))
    if any(node.domain == _HIDDEN for node in model.graph.node):
        model.opset_import.add(domain=_HIDDEN, version=1)


def inferred_sizes(model: onnx.ModelProto) -> dict[str, list[int | None]]:
    """Return the sizes that onnx infers, declared shapes of inner tensors and outputs left out."""
    bare = onnx.ModelProto(ir_version=max(model.ir_version, 4))
    bare.opset_import.extend(model.opset_import)
    bare.functions.extend(model.functions)
    graph = bare.graph
    graph.name = "bare"
    for tensor in model.graph.initializer:
        if np.prod(tensor.dims, dtype=np.int64) > LARGE:
            graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
        else:
            graph.initializer.add().CopyFrom(tensor)
    large = {i.name for i in graph.input}
    graph.input.extend(i for i in model.graph.input if i.name not in large)
    for dim in (d for i in graph.input for d in i.type.tensor_type.shape.dim if d.dim_value < 0):
        dim.ClearField("dim_value")
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = node.attribute[0].t
            if np.prod(tensor.dims, dtype=np.int64) > LARGE:
                name, dims = node.output[0], list(tensor.dims)
                graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, dims))
                continue
        graph.node.add().CopyFrom(node)
    _hide_long_lists(bare)
    for value in model.graph.output:
        made = graph.output.add()
        made.CopyFrom(value)
        if made.type.HasField("tensor_type"):
            made.type.tensor_type.ClearField("shape")
    try:
        done = onnx.shape_inference.infer_shapes(bare, data_prop=True)
    except Exception:  # inference refuses more than runtimes do: then it yields no sizes
        return {}
    return {
        v.name: [d.dim_value if d.HasField("dim_value") else None for d in v.type.tensor_type.shape.dim]
        for v in (*done.graph.value_info, *done.graph.output)
        if v.type.HasField("tensor_type") and v.type.tensor_type.HasField("shape")
    }
