"""Decomposition of fused operators (contrib operator specification of onnxruntime)."""

from __future__ import annotations

from typing import Any

import onnx_graphsurgeon as gs

from onnxprune.train.emit import Emitter, Untrainable, optional_input, rank_of
from onnxprune.train.rewrites.activation import hard_sigmoid_of
from onnxprune.train.rewrites.normalization import mean_square_normalized, standardized
from onnxprune.train.rewrites.registry import rewrites

_OWN = "com.microsoft"


@rewrites("FusedConv", domain=_OWN)
def convolution(node: gs.Node, emit: Emitter) -> Any:
    """Convolution, addition of operand 3, activation."""
    if node.attrs.get("auto_pad", "NOTSET") != "NOTSET":
        raise Untrainable("it leaves its padding open")
    attributes = {k: v for k, v in node.attrs.items() if not k.startswith("activation") and k != "auto_pad"}
    value = emit("Conv", *node.inputs[:3], **attributes)
    added = optional_input(node, 3)
    return _activated(node, emit, value if added is None else emit("Add", value, added))


@rewrites("FusedGemm", domain=_OWN)
def dense(node: gs.Node, emit: Emitter) -> Any:
    """Gemm, activation."""
    attributes = {k: v for k, v in node.attrs.items() if not k.startswith("activation")}
    return _activated(node, emit, emit("Gemm", *node.inputs, **attributes))


@rewrites("FusedMatMul", "TransposeMatMul", domain=_OWN)
def matrix_product(node: gs.Node, emit: Emitter) -> Any:
    """Transposes, MatMul, a factor."""
    if node.attrs.get("transBatchA") or node.attrs.get("transBatchB"):
        raise Untrainable("it moves the batch axes of an operand")
    operands = []
    for operand, name in zip(node.inputs, ("transA", "transB"), strict=True):
        order = list(range(rank_of(operand)))
        order[-2:] = reversed(order[-2:])
        turned = node.attrs.get(name) and len(order) > 1
        operands.append(emit("Transpose", operand, perm=order) if turned else operand)
    product = emit("MatMul", *operands)
    factor = node.attrs.get("alpha", 1.0)
    return product if factor == 1.0 else emit("Mul", product, factor)


def _activated(node: gs.Node, emit: Emitter, value: Any) -> Any:
    name, numbers = node.attrs.get("activation", ""), node.attrs.get("activation_params") or []
    if name in ("Relu", "Sigmoid", "Tanh"):
        return emit(name, value)
    if name == "LeakyRelu":
        return emit(name, value, alpha=(numbers or [node.attrs.get("activation_alpha", 0.01)])[0])
    if name == "Clip":
        return emit(name, value, *numbers)
    if name == "HardSigmoid":
        return hard_sigmoid_of(value, emit, *numbers)
    if name:
        raise Untrainable(f"its activation is {name}")
    return value


@rewrites("SkipLayerNormalization", domain=_OWN)
def skip_layer_normalization(node: gs.Node, emit: Emitter) -> Any:
    """Additions, LayerNormalization over the last axis; the sum is the fourth result."""
    total = _sum(node, emit, 4)
    last = [rank_of(node.inputs[0]) - 1]
    value = emit("Mul", standardized(total, emit, last, node.attrs.get("epsilon", 1e-12)), node.inputs[2])
    shift = optional_input(node, 3)
    value = value if shift is None else emit("Add", value, shift)
    return [value, *_no_statistics(node), total][: max(len(node.outputs), 1)]


@rewrites("SkipSimplifiedLayerNormalization", domain=_OWN)
def skip_mean_square_normalization(node: gs.Node, emit: Emitter) -> Any:
    """Additions, division by the root mean square over the last axis; the sum is the fourth result."""
    total = _sum(node, emit, 3)
    last = [rank_of(node.inputs[0]) - 1]
    scaled = mean_square_normalized(total, emit, last, node.attrs.get("epsilon", 1e-12))
    return [emit("Mul", scaled, node.inputs[2]), *_no_statistics(node), total][: max(len(node.outputs), 1)]


def _sum(node: gs.Node, emit: Emitter, bias: int) -> Any:
    added = emit("Add", *node.inputs[:2])
    third = optional_input(node, bias)
    return added if third is None else emit("Add", added, third)


def _no_statistics(node: gs.Node) -> list[gs.Tensor]:
    """Stand-ins for mean and deviation, which inference leaves out."""
    if any(output.outputs for output in node.outputs[1:3]):
        raise Untrainable("its statistics are read")
    return list(node.inputs[:1]) * 2
