"""Resize, in every mode, as the linear map it is along each axis.

The map is found by resizing the identity matrix with the very same operator, so coordinate transformation,
rounding, cubic coefficients and borders come from the operator and not from a second implementation. Where it
picks single samples (nearest) it becomes a Gather, else a MatMul.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper

from onnxprune.runtime import Session
from onnxprune.train.emit import Emitter, Untrainable, optional_input, rank_of, sizes_of
from onnxprune.train.rewrites.registry import rewrites
from onnxprune.train.wire import Array

_SCALES, _SIZES = 2, 3


@rewrites("Resize")
def resize(node: gs.Node, emit: Emitter) -> Any:
    """Apply the maps of the axes that change, one after the other."""
    x = node.inputs[0]
    if node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise Untrainable("it crops a region given at run time")
    rank = rank_of(x)
    axes = [axis % rank for axis in node.attrs.get("axes", range(rank))]
    for position, axis in enumerate(axes):
        if axis == 0:
            continue  # the batch; the forward check finds who resizes that
        matrix = _axis_map(node, emit, position, sizes_of(node.inputs[0], 1)[axis - 1])
        x = x if matrix is None else apply_along(x, emit, matrix, axis, rank)
    return x


def _axis_map(node: gs.Node, emit: Emitter, position: int, size: int) -> Array | None:
    """Return the matrix [inputs, outputs] of one axis; None where nothing changes."""
    scales, sizes = optional_input(node, _SCALES), optional_input(node, _SIZES)
    if scales is not None and emit.values_of(scales).size:
        scale = float(emit.values_of(scales)[position])
        if scale == 1.0:
            return None
        name, amount = "scales", np.array([1, 1, scale, 1], np.float32)
    elif sizes is not None:
        target = int(emit.values_of(sizes)[position])
        if target == size:
            return None
        name, amount = "sizes", np.array([size, 1, target, 1], np.int64)
    else:
        raise Untrainable("it has neither scales nor sizes")
    return _resized_identity(node, size, name, amount)


def _resized_identity(node: gs.Node, size: int, name: str, amount: Array) -> Array:
    """Resize one unit vector per batch entry."""
    attributes = {
        key: value for key, value in node.attrs.items() if key not in ("axes", "keep_aspect_ratio_policy")
    }
    inputs = ["x", "", "scales"] if name == "scales" else ["x", "", "", "sizes"]
    graph = helper.make_graph(
        [helper.make_node("Resize", inputs, ["y"], **attributes)],
        "axis",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [size, 1, size, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(amount, name)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    identity = np.eye(size, dtype=np.float32)[:, None, :, None]
    return Session(model).run({"x": identity})["y"][:, 0, :, 0]


def apply_along(x: gs.Tensor, emit: Emitter, matrix: Array, axis: int, rank: int) -> Any:
    """Multiply a matrix onto one axis."""
    if ((matrix == 1).sum(axis=0) == 1).all() and (matrix != 0).sum() == matrix.shape[1]:
        return emit("Gather", x, emit.ints(matrix.argmax(axis=0).tolist()), axis=axis)
    if axis == rank - 1:
        return emit("MatMul", x, matrix)
    order = list(range(rank))
    order[axis], order[-1] = order[-1], order[axis]
    last = emit("MatMul", emit("Transpose", x, perm=order), matrix)
    return emit("Transpose", last, perm=order)
