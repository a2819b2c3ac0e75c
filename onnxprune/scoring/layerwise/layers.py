"""Which nodes are linear maps with weights of their own."""

from __future__ import annotations

import onnx

from onnxprune.ir import Model
from onnxprune.scoring.layerwise.linear import Linear, Product, Stack
from onnxprune.scoring.layerwise.windows import Convolution, TransposedConvolution

_KINDS: dict[str, type[Linear]] = {
    "Conv": Convolution,
    "ConvTranspose": TransposedConvolution,
    "Gemm": Product,
    "MatMul": Product,
}
LINEAR = tuple(_KINDS)
"""Operators that may be linear maps."""


def linear_of(model: Model, node: onnx.NodeProto) -> Linear | str:
    """Return a node as a linear map, or the reason why it cannot be treated as one."""
    kind = _KINDS.get(node.op_type)
    if kind is None or node.domain not in ("", "ai.onnx"):
        return f"{node.op_type} is not a linear map with weights of its own"
    fixed = [k for k, name in enumerate(node.input[:2]) if name in model.constants]
    if len(fixed) != 1 or (kind is not Product and fixed != [1]):
        return "its weights are not a constant"
    name = node.input[fixed[0]]
    if sum(name in n.input for n in model.nodes) > 1:
        return "other nodes share its weights"
    shape = tuple(model.constants[name].dims)
    if kind is Product and len(shape) != 2:
        if fixed == [0] or len(shape) < 3:
            return "its weights are neither a matrix nor a stack that stands on the right"
        kind = Stack
    return kind(node, shape, fixed[0])
