"""A model without the quantisation of its activations, which computes with floats alone."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx
from onnx import numpy_helper

from onnxprune.ops.spec import spec_of


def is_rounding(node: onnx.NodeProto) -> bool:
    """Return true if a node rounds activations to a few steps, so that the last digit can decide on one."""
    return spec_of(node).rounds


def steps(proto: onnx.ModelProto) -> list[bytes]:
    """Return the scales and zero points of one number that quantisation in the main graph reads, sorted."""
    known = {t.name: t for t in proto.graph.initializer}
    known |= {n.output[0]: n.attribute[0].t for n in proto.graph.node if n.op_type == "Constant"}
    read = [known[name] for node in proto.graph.node for name in _quantising(node) if name in known]
    arrays = [numpy_helper.to_array(t) for t in read if math.prod(t.dims) == 1]
    return sorted(a.tobytes() for a in arrays)


def _quantising(node: onnx.NodeProto) -> list[str]:
    """Return the operands of a node among which its scales and zero points are."""
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return list(node.input[1:])
    return list(node.input) if node.op_type.startswith("QLinear") else []


def without_rounding(proto: onnx.ModelProto) -> int:
    """Replace every pair of QuantizeLinear and DequantizeLinear by an Identity of its operand, in place.

    Args:
        proto: The model.

    Returns:
        Number of pairs.
    """
    makers: Mapping[str, onnx.NodeProto] = {o: n for n in proto.graph.node for o in n.output}
    pairs = 0
    for node in proto.graph.node:
        maker = makers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if maker is not None and maker.op_type == "QuantizeLinear":
            node.CopyFrom(
                onnx.NodeProto(
                    op_type="Identity", name=node.name, input=[maker.input[0]], output=node.output[:1]
                )
            )
            pairs += 1
    return pairs
