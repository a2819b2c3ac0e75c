"""Elementwise operators in terms of others."""

from __future__ import annotations

import onnx

from spellings.speller import Speller, is_float, spelling


@spelling("Relu")
def relu_as_max(s: Speller, node: onnx.NodeProto) -> bool:
    x = node.input[0]
    s.op("Max", x, s.const(0.0, x), into=node.output[0])
    return True


@spelling("Relu")
def relu_as_clip(s: Speller, node: onnx.NodeProto) -> bool:
    x = node.input[0]
    if s.opset < 12:
        return False
    s.op("Clip", x, s.const(0.0, x), into=node.output[0])
    return True


@spelling("Relu")
def relu_as_where(s: Speller, node: onnx.NodeProto) -> bool:
    x = node.input[0]
    above = s.op("Greater", x, s.const(0.0, x))
    s.op("Where", above, x, s.const(0.0, x), into=node.output[0])
    return True


@spelling("Relu")
def relu_as_product(s: Speller, node: onnx.NodeProto) -> bool:
    x = node.input[0]
    above = s.op("Cast", s.op("Greater", x, s.const([0.0], x)), to=s.kind(x))
    s.op("Mul", x, above, into=node.output[0])
    return True


@spelling("Sigmoid")
def sigmoid_as_quotient(s: Speller, node: onnx.NodeProto) -> bool:
    x = node.input[0]
    power = s.op("Exp", s.op("Neg", x))
    s.op("Div", s.const(1.0, x), s.op("Add", s.const(1.0, x), power), into=node.output[0])
    return True


@spelling("Sigmoid")
def sigmoid_as_reciprocal(s: Speller, node: onnx.NodeProto) -> bool:
    x = node.input[0]
    s.op("Reciprocal", s.op("Add", s.op("Exp", s.op("Neg", x)), s.const(1.0, x)), into=node.output[0])
    return True


@spelling("Tanh")
def tanh_by_sigmoid(s: Speller, node: onnx.NodeProto) -> bool:
    x = node.input[0]
    half = s.op("Sigmoid", s.op("Mul", x, s.const(2.0, x)))
    s.op("Sub", s.op("Mul", half, s.const(2.0, x)), s.const(1.0, x), into=node.output[0])
    return True


@spelling("HardSigmoid")
def hard_sigmoid_as_clip(s: Speller, node: onnx.NodeProto) -> bool:
    x = node.input[0]
    slope, shift = s.attribute(node, "alpha", 0.2), s.attribute(node, "beta", 0.5)
    y = s.op("Add", s.op("Mul", x, s.const(slope, x)), s.const(shift, x))
    s.op("Min", s.op("Max", y, s.const(0.0, x)), s.const(1.0, x), into=node.output[0])
    return True


@spelling("HardSwish")
def hard_swish_as_product(s: Speller, node: onnx.NodeProto) -> bool:
    x = node.input[0]
    gate = s.op("Clip", s.op("Add", x, s.const(3.0, x)), s.const(0.0, x), s.const(6.0, x))
    s.op("Div", s.op("Mul", x, gate), s.const(6.0, x), into=node.output[0])
    return True


@spelling("Add")
def add_as_sum(s: Speller, node: onnx.NodeProto) -> bool:
    if not is_float(s, node):
        return False
    s.op("Sum", *node.input, into=node.output[0])
    return True


@spelling("Add")
def add_as_difference(s: Speller, node: onnx.NodeProto) -> bool:
    if not is_float(s, node):
        return False
    s.op("Sub", node.input[0], s.op("Neg", node.input[1]), into=node.output[0])
    return True


@spelling("Add")
def add_the_other_way_round(s: Speller, node: onnx.NodeProto) -> bool:
    s.op("Add", node.input[1], node.input[0], into=node.output[0])
    return True


@spelling("Sub")
def sub_as_sum(s: Speller, node: onnx.NodeProto) -> bool:
    if not is_float(s, node):
        return False
    minus = s.op("Mul", node.input[1], s.const(-1.0, node.input[0]))
    s.op("Add", node.input[0], minus, into=node.output[0])
    return True


@spelling("Div")
def div_as_product(s: Speller, node: onnx.NodeProto) -> bool:
    if not is_float(s, node):
        return False
    s.op("Mul", node.input[0], s.op("Reciprocal", node.input[1]), into=node.output[0])
    return True


@spelling("Mul")
def mul_the_other_way_round(s: Speller, node: onnx.NodeProto) -> bool:
    s.op("Mul", node.input[1], node.input[0], into=node.output[0])
    return True


@spelling("LeakyRelu")
def leaky_relu_as_max(s: Speller, node: onnx.NodeProto) -> bool:
    x, slope = node.input[0], s.attribute(node, "alpha", 0.01)
    if slope > 1:
        return False
    s.op("Max", x, s.op("Mul", x, s.const(slope, x)), into=node.output[0])
    return True


@spelling("LeakyRelu")
def leaky_relu_in_two_halves(s: Speller, node: onnx.NodeProto) -> bool:
    x = node.input[0]
    below = s.op("Mul", s.op("Relu", s.op("Neg", x)), s.const(s.attribute(node, "alpha", 0.01), x))
    s.op("Sub", s.op("Relu", x), below, into=node.output[0])
    return True


@spelling("Clip")
def clip_as_bounds(s: Speller, node: onnx.NodeProto) -> bool:
    bounds = [*node.input[1:], "", ""][:2]
    if not all(bounds) or not is_float(s, node):
        return False
    s.op("Min", s.op("Max", node.input[0], bounds[0]), bounds[1], into=node.output[0])
    return True


@spelling("Softplus")
def softplus_as_logarithm(s: Speller, node: onnx.NodeProto) -> bool:
    x = node.input[0]
    s.op("Log", s.op("Add", s.op("Exp", x), s.const(1.0, x)), into=node.output[0])
    return True


@spelling("Pow")
def square_as_product(s: Speller, node: onnx.NodeProto) -> bool:
    exponent = s.array(node.input[1])
    if exponent is None or exponent.size != 1 or exponent.item() != 2:
        return False
    s.op("Mul", node.input[0], node.input[0], into=node.output[0])
    return True


@spelling("Sqrt")
def root_as_power(s: Speller, node: onnx.NodeProto) -> bool:
    s.op("Pow", node.input[0], s.const(0.5, node.input[0]), into=node.output[0])
    return True


@spelling("Reciprocal")
def reciprocal_as_power(s: Speller, node: onnx.NodeProto) -> bool:
    s.op("Pow", node.input[0], s.const(-1.0, node.input[0]), into=node.output[0])
    return True


@spelling("Add")
def add_as_sum_along_a_new_axis(s: Speller, node: onnx.NodeProto) -> bool:
    """Both operands on a new axis, added up along it."""
    sizes = [s.shapes.sizes.get(s.equal(i)) for i in node.input]
    if sizes[0] is None or sizes[0] != sizes[1] or not sizes[0] or s.opset < 13 or not is_float(s, node):
        return False
    parts = [s.op("Unsqueeze", i, s.ints(0)) for i in node.input]
    s.op("ReduceSum", s.op("Concat", *parts, axis=0), s.ints(0), keepdims=0, into=node.output[0])
    return True
