"""Normalisations and softmax in terms of sums, quotients and products."""

from __future__ import annotations

import numpy as np
import onnx

from spellings.speller import Speller, is_float, spelling


@spelling("BatchNormalization")
def batch_normalization_spelled_out(s: Speller, node: onnx.NodeProto) -> bool:
    rank = s.rank(node.input[0])
    values = [s.array(i) for i in node.input[1:]]
    if rank is None or rank < 2 or any(v is None for v in values) or len(node.output) > 1:
        return False
    scale, shift, mean, variance = (np.reshape(v, (-1, *[1] * (rank - 2))) for v in values if v is not None)
    deviation = np.sqrt(variance + np.float32(s.attribute(node, "epsilon", 1e-5)))
    x = s.op("Sub", node.input[0], s.const(mean, node.input[0]))
    x = s.op("Div", x, s.const(deviation, node.input[0]))
    x = s.op("Mul", x, s.const(scale, node.input[0]))
    s.op("Add", x, s.const(shift, node.input[0]), into=node.output[0])
    return True


@spelling("BatchNormalization")
def batch_normalization_as_convolution(s: Speller, node: onnx.NodeProto) -> bool:
    rank = s.rank(node.input[0])
    values = [s.array(i) for i in node.input[1:]]
    if rank is None or rank < 3 or any(v is None for v in values) or len(node.output) > 1:
        return False
    scale, shift, mean, variance = (v for v in values if v is not None)
    factor = scale / np.sqrt(variance + np.float32(s.attribute(node, "epsilon", 1e-5)))
    weight = factor.reshape(-1, 1, *[1] * (rank - 2))
    s.op(
        "Conv",
        node.input[0],
        s.const(weight, node.input[0]),
        s.const(shift - factor * mean, node.input[0]),
        group=len(factor),
        into=node.output[0],
    )
    return True


@spelling("Softmax")
def softmax_as_quotient(s: Speller, node: onnx.NodeProto) -> bool:
    rank = s.rank(node.input[0])
    if rank is None or s.opset < 13:
        return False
    axis = s.attribute(node, "axis", -1)
    x = node.input[0]
    largest = s.op("ReduceMax", x, axes=[axis]) if s.opset < 18 else s.op("ReduceMax", x, s.ints(axis))
    power = s.op("Exp", s.op("Sub", x, largest))
    s.op("Div", power, s.op("ReduceSum", power, s.ints(axis)), into=node.output[0])
    return True


@spelling("LayerNormalization")
def layer_normalization_spelled_out(s: Speller, node: onnx.NodeProto) -> bool:
    return _normalised(s, node, folded=False)


@spelling("LayerNormalization")
def layer_normalization_with_folded_scale(s: Speller, node: onnx.NodeProto) -> bool:
    """``x·k + (b − m·k)`` with ``k = g/σ``."""
    return _normalised(s, node, folded=True)


def _normalised(s: Speller, node: onnx.NodeProto, folded: bool) -> bool:
    rank, x = s.rank(node.input[0]), node.input[0]
    axis = s.attribute(node, "axis", -1)
    if rank is None or len(node.output) > 1 or s.opset < 18 or not is_float(s, node):
        return False
    axes = s.ints(*range(axis % rank, rank))
    mean = s.op("ReduceMean", x, axes)
    less = s.op("Sub", x, mean)
    square = s.op("Mul", less, less) if folded else s.op("Pow", less, s.const(2.0, x))
    variance = s.op("Add", s.op("ReduceMean", square, axes), s.const(s.attribute(node, "epsilon", 1e-5), x))
    shift = node.input[2] if len(node.input) > 2 and node.input[2] else s.const(0.0, x)
    if folded:
        scale = s.op("Mul", s.op("Reciprocal", s.op("Sqrt", variance)), node.input[1])
        rest = s.op("Sub", shift, s.op("Mul", mean, scale))
        s.op("Add", s.op("Mul", x, scale), rest, into=node.output[0])
    else:
        y = s.op("Mul", s.op("Div", less, s.op("Sqrt", variance)), node.input[1])
        s.op("Add", y, shift, into=node.output[0])
    return True


@spelling("InstanceNormalization")
def instance_normalization_spelled_out(s: Speller, node: onnx.NodeProto) -> bool:
    rank, x = s.rank(node.input[0]), node.input[0]
    scale, shift = s.array(node.input[1]), s.array(node.input[2])
    if rank is None or scale is None or shift is None or s.opset < 18 or not is_float(s, node):
        return False
    axes = s.ints(*range(2, rank))
    less = s.op("Sub", x, s.op("ReduceMean", x, axes))
    variance = s.op("ReduceMean", s.op("Mul", less, less), axes)
    deviation = s.op("Sqrt", s.op("Add", variance, s.const(s.attribute(node, "epsilon", 1e-5), x)))
    wide = (-1, *[1] * (rank - 2))
    y = s.op("Mul", s.op("Div", less, deviation), s.const(scale.reshape(wide)))
    s.op("Add", y, s.const(shift.reshape(wide)), into=node.output[0])
    return True
