"""Integers in the place of floats, and back."""

from __future__ import annotations

from onnxprune.algebra.sizes.tensors import UINT8
from onnxprune.ops.sizes.joining import joined
from onnxprune.ops.sizes.node import SizedNode
from onnxprune.ops.sizes.table import MICROSOFT, size_rule


@size_rule("QuantizeLinear")
@size_rule("QuantizeLinear", domain=MICROSOFT)
def quantize(node: SizedNode) -> None:
    """The operand's shape, in the zero point's type."""
    listed = node.attribute("output_dtype", 0)
    node.put(0, node.shape(), node.kind(2) or listed or UINT8)


@size_rule("DequantizeLinear")
@size_rule("DequantizeLinear", domain=MICROSOFT)
def dequantize(node: SizedNode) -> None:
    """The operand's shape, in the scale's type."""
    node.put(0, node.shape(), node.attribute("output_dtype", 0) or node.kind(1))


@size_rule("DynamicQuantizeLinear")
def dynamic_quantize(node: SizedNode) -> None:
    """The operand's shape, and a scale and a zero point."""
    node.put(0, node.shape(), UINT8)
    node.put(1, [], node.kind())
    node.put(2, [], UINT8)


@size_rule("QLinearAdd", "QLinearMul", domain=MICROSOFT)
def quantized_elementwise(node: SizedNode) -> None:
    """The broadcast of both operands."""
    node.put(0, node.broadcast([node.shape(0), node.shape(3)]))


@size_rule("QLinearWhere", domain=MICROSOFT)
def quantized_where(node: SizedNode) -> None:
    """The broadcast of the condition and both choices."""
    node.put(0, node.broadcast([node.shape(k) for k in (0, 1, 4)]), node.kind(1))


@size_rule("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", domain=MICROSOFT)
def quantized_unary(node: SizedNode) -> None:
    """The operand's shape."""
    node.put(0, node.shape())


@size_rule("QLinearConcat", domain=MICROSOFT)
def quantized_concat(node: SizedNode) -> None:
    """Tensors laid end to end, each with a scale and a zero point."""
    shapes = [node.shape(k) for k in range(2, len(node.inputs), 3)]
    known = [s for s in shapes if s is not None]
    if len(known) < len(shapes):
        node.put_rank(len(known[0]) if known else None, node.kind(1))
        return
    node.put(0, joined(node, known, node.axis(node.attribute("axis", 0), len(known[0]))), node.kind(1))


@size_rule("QLinearReduceMean", domain=MICROSOFT)
def quantized_mean(node: SizedNode) -> None:
    """1 on the axes that are taken together, or those axes gone."""
    shape, keep = node.shape(), node.flag("keepdims", default=True)
    if shape is None:
        node.put(0, None)
        return
    gone = {node.axis(k, len(shape)) for k in node.attribute("axes") or range(len(shape))}
    sizes = [1 if k in gone else s for k, s in enumerate(shape) if keep or k not in gone]
    node.put(0, sizes)
