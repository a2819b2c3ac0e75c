"""Operators of onnxruntime that fuse several of onnx's."""

from __future__ import annotations

from onnxprune.algebra.sizes.algebra import exact_quotient, floor_div
from onnxprune.algebra.sizes.tensors import BOOL, FLOAT, INT32
from onnxprune.ops.sizes.node import SizedNode
from onnxprune.ops.sizes.table import MICROSOFT, size_rule
from onnxprune.ops.spec import enter_all

AS_FIRST = (
    "Gelu FastGelu QuickGelu BiasGelu BiasAdd BiasSoftmax GroupNorm RotaryEmbedding MoE QMoE Trilu "
    "NGramRepeatBlock ParametricSoftplus ScaledTanh Affine ThresholdedRelu ImageScaler RestorePadding"
).split()
TABULAR = ("Scaler", "Normalizer", "Imputer", "Binarizer", "LabelEncoder")
enter_all(" ".join(TABULAR), "ai.onnx.ml", keeps_shape=True)


@size_rule(*AS_FIRST, domain=MICROSOFT)
@size_rule("Affine", "ParametricSoftplus", "ScaledTanh", "ImageScaler")
@size_rule(*TABULAR, domain="ai.onnx.ml")
def as_first(node: SizedNode) -> None:
    """The shape of the first operand."""
    if node.operator in ("LabelEncoder", "Scaler", "Normalizer"):
        node.put(0, node.shape(), None if node.operator == "LabelEncoder" else FLOAT)
    else:
        node.put(0, node.shape())


@size_rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "SkipGroupNorm", domain=MICROSOFT)
def skip_normalization(node: SizedNode) -> None:
    """The shape of the operand; the sum with the skip is another result."""
    shape = node.shape()
    node.put(0, shape)
    statistics = None if shape is None else [*shape[:-1], 1]
    if node.operator == "SkipGroupNorm":
        node.put(1, shape)
        return
    node.put(1, statistics, FLOAT)
    node.put(2, statistics, FLOAT)
    node.put(3, shape)


@size_rule("EmbedLayerNormalization", "QEmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_normalization(node: SizedNode) -> None:
    """A row of the table for each token."""
    ids, table = node.shape(), node.shape(2)
    kind = FLOAT if node.operator.startswith("Q") else node.kind(2)
    shape = None if ids is None or table is None else [*ids, table[1]]
    node.put(0, shape, kind)
    node.put(1, None if ids is None else [ids[0]], INT32)
    node.put(2, shape, kind)


@size_rule("SwiGLU", domain=MICROSOFT)
def swish_gated(node: SizedNode) -> None:
    """The shape of the gate, or half of it along the last axis where it holds both parts."""
    shape = node.shape()
    node.put(0, shape if shape is None or node.has(1) else [*shape[:-1], floor_div(shape[-1], 2)])


@size_rule("BiasSplitGelu", domain=MICROSOFT)
def split_gelu(node: SizedNode) -> None:
    """One half times the other."""
    shape = node.shape()
    node.put(0, None if shape is None else [*shape[:-1], floor_div(shape[-1], 2)])


@size_rule("BiasDropout", "BitmaskDropout", domain=MICROSOFT)
def bias_dropout(node: SizedNode) -> None:
    """The shape of the operand; so has the mask."""
    node.put(0, node.shape())
    if node.operator == "BiasDropout":
        node.put(1, node.shape(), BOOL)


@size_rule("ExpandDims", domain=MICROSOFT)
def expand_dims(node: SizedNode) -> None:
    """A new axis of 1."""
    shape, axis = node.shape(), node.numbers(1)
    if shape is None or not axis:
        node.put_rank(None if shape is None else len(shape) + 1)
        return
    at = node.axis(axis[0], len(shape) + 1)
    node.put(0, [*shape[:at], 1, *shape[at:]])


@size_rule("Rfft", "Irfft", domain=MICROSOFT)
def real_transform(node: SizedNode) -> None:
    """Half of the frequencies, real and imaginary part as the last axis; and back."""
    shape, count = node.shape(), int(node.attribute("signal_ndim", 1))
    if shape is None:
        node.put(0, None)
    elif node.operator == "Rfft":
        onesided = node.flag("onesided", default=True)
        last = floor_div(shape[-1], 2) + 1 if onesided else shape[-1]
        node.put(0, [*shape[:-1], last, 2])
    else:
        lines = shape[:-1]
        last = (lines[-1] - 1) * 2 if node.flag("onesided", default=True) else lines[-1]
        node.put(0, [*lines[:-1], last] if count else lines)


@size_rule("PackedAttention", domain=MICROSOFT)
def packed_rows(node: SizedNode) -> None:
    """A row for each token."""
    shape, weight = node.shape(), node.shape(1)
    if shape is None or weight is None:
        node.put(0, None)
        return
    parts = node.attribute("qkv_hidden_sizes")
    third = exact_quotient(weight[1], 3)
    node.put(0, [shape[0], parts[2] if parts else node.fresh(0, 1) if third is None else third])
