"""The work of nodes without a rule, estimated from their sizes.

A budget counts all work of the runtime, reducible or not. So a node whose axes are all blocked is counted
too, by the sizes of its operands and results alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from onnxprune.algebra.axes import Factor
from onnxprune.ops.axes.axis_typing import Typing
from onnxprune.ops.axes.context import Context

CONVOLUTIONS = {
    "Conv": 1,
    "ConvInteger": 1,
    "DeformConv": 1,
    "FusedConv": 1,
    "NhwcConv": 1,
    "NhwcFusedConv": 1,
    "QLinearConv": 3,
}
"""Operators that multiply each place of the result with a filter, and the operand that holds the filters."""
PRODUCTS = {
    "DynamicQuantizeMatMul": (0, 1),
    "FusedMatMul": (0, 1),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (0, 1),
    "QLinearMatMul": (0, 3),
    "TransposeMatMul": (0, 1),
}
"""Operators that multiply matrices, and the operands that hold those."""
STATED = ("MatMulBnb4", "MatMulFpQ4", "MatMulNBits")
"""Products whose second operand is packed: attributes ``K`` and ``N`` hold its sizes."""
ATTENTION = (
    "Attention DecoderMaskedMultiHeadAttention DecoderMaskedSelfAttention GroupQueryAttention "
    "MultiHeadAttention PackedMultiHeadAttention SparseAttention"
).split()
_OTHERS = (
    "CausalConvWithState ConvTranspose DFT DynamicQuantizeLSTM Einsum GRU Gemm LSTM LinearAttention MoE "
    "PackedAttention QAttention QGemm QMoE RNN STFT"
).split()


def may_work(typing: Typing, node: onnx.NodeProto) -> bool:
    """Return whether a node multiplies and accumulates, or is unknown and may.

    An unknown operator may if it reads a constant matrix, or two other operands that may be matrices.
    """
    known = {*CONVOLUTIONS, *PRODUCTS, *STATED, *ATTENTION, *_OTHERS}
    if node.op_type in known:
        return True
    constants, sizes = typing.model.constants, typing.shapes.sizes
    matrices = any(len(constants[i].dims) > 1 for i in node.input if i in constants)
    activations = [i for i in node.input if i and i not in constants and len(sizes.get(i, "..")) > 1]
    return (matrices or len(activations) > 1) and not onnx.defs.has(node.op_type, node.domain)


def estimate(c: Context) -> None:
    """Count the work of a node that no rule describes."""
    for sizes in _products(c):
        c.works(*(Factor(size) for size in sizes))


def _products(c: Context) -> Sequence[Sequence[int]]:
    """Return the sizes whose products add up to the work; none where they are not known."""
    kind = c.node.op_type
    if kind in CONVOLUTIONS:
        filters, result = _sizes(c, CONVOLUTIONS[kind]), _result(c)
        return [(*result, *filters[1:])] if filters and result else []
    if kind in PRODUCTS:
        left, result = _sizes(c, PRODUCTS[kind][0]), _result(c)
        return [(*result, left[-1])] if left and result is not None else []
    if kind in STATED:
        left, stated = _sizes(c, 0), [int(c.attributes.get(name, 0)) for name in "KN"]
        return [(*left[:-1], *stated)] if left and all(stated) else []
    if kind == "CausalConvWithState":
        filters, result = _sizes(c, 1), _result(c)
        return [(*result, filters[-1])] if filters and result else []
    if kind == "LinearAttention":
        return _linear_attention(c)
    return _attention(c) if kind in ATTENTION and not (kind == "Attention" and c.node.domain) else []


def _linear_attention(c: Context) -> Sequence[Sequence[int]]:
    """Return the products of a step: the state is read and added to, by delta rules read by the keys too."""
    queries, keys, values = (_sizes(c, k) for k in range(3))
    heads, groups = (int(c.attributes.get(f"{name}_num_heads", 0)) for name in ("q", "kv"))
    if not queries or not keys or not values or not heads or not groups:
        return []
    state = (*queries[:2], keys[2] // groups, values[2] // groups)
    rule = c.attributes.get("update_rule", "gated_delta")
    delta = "delta" in (rule.decode() if isinstance(rule, bytes) else rule)
    return [(*state, max(heads, groups)), *[(*state, groups)] * (2 if delta else 1)]


def _attention(c: Context) -> Sequence[Sequence[int]]:
    """Return the products of queries and keys, and of scores and values.

    Keys of earlier steps that an operand or a result holds count as well.
    """
    queries, keys = _sizes(c, 0), _sizes(c, 1)
    held = [s for k in (1, 2) if k < len(c.node.output) and (s := _result(c, k)) and len(s) == 4]
    if not queries or len(queries) not in (3, 4, 5):
        return []
    rows = queries[2] if len(queries) == 4 else queries[1]
    width = queries[2:3] if len(queries) == 3 else (queries[-1], queries[1 if len(queries) == 4 else 2])
    columns = held[0][2] if held else keys[-2] if keys and len(keys) in (3, 4) else rows
    return [(queries[0], rows, columns, *width)] * 2


def _sizes(c: Context, operand: int) -> tuple[int, ...] | None:
    return _numbers(c, c.node.input[operand] if c.has(operand) else "")


def _result(c: Context, result: int = 0) -> tuple[int, ...] | None:
    return _numbers(c, c.node.output[result] if c.makes(result) else "")


def _numbers(c: Context, name: str) -> tuple[int, ...] | None:
    """Return the shape of a tensor at the reference numbers."""
    return c.typing.shapes.numbers(name) if name in c.typing.shapes.sizes else None
