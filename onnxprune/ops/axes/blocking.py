"""Operators whose axes all stay, and why: explicit entries, so that none is merely forgotten."""

from __future__ import annotations

from collections.abc import Callable

from onnxprune.ops.axes.axis_typing import UnknownOperandError
from onnxprune.ops.axes.context import Context
from onnxprune.ops.axes.table import rule

REASONS = {
    "it makes an optional value, whose content is not followed": (
        "Optional OptionalGetElement OptionalHasElement"
    ),
    "it works on text": "RegexFullMatch StringConcat StringNormalizer StringSplit TfIdfVectorizer",
    "it decodes pictures": "ImageDecoder",
    "the number of elements it returns is known at run time only": "NonMaxSuppression NonZero Unique",
    "it makes a tensor of numbers in order": (
        "BlackmanWindow EyeLike HammingWindow HannWindow MelWeightMatrix Range"
    ),
    "it transforms this axis as a whole": "DFT STFT Det",
    "it makes coordinates": "AffineGrid",
    "its value is no dense tensor": "Constant",
    "it crops or pads to a size that is given at run time": "CenterCropPad",
    "it computes a training loss": "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss",
    "it keeps a state that the caller hands on from run to run": "CausalConvWithState LinearAttention",
    "it reads the bits of a number in another way": "BitCast",
}
"""Operators of the standard domain, by the reason they are blocked with."""


MICROSOFT_REASONS = {
    "onnxruntime runs it on graphics processors only, so nothing could be compared here": (
        "BiasAdd BiasSplitGelu GroupNorm NhwcConv NhwcFusedConv PackedAttention PackedMultiHeadAttention "
        "SkipGroupNorm"
    ),
    "its weights are packed in blocks that run across its rows": ("MatMulBnb4 MatMulFpQ4"),
    "it attends to places by lists that are given at run time": (
        "DecoderMaskedMultiHeadAttention DecoderMaskedSelfAttention SparseAttention"
    ),
    "it crops or pads to a size that is given at run time": "ConvTransposeWithDynamicPads CropAndResize",
}
"""Operators of onnxruntime's own, likewise."""


def _blocked(reason: str) -> Callable[[Context], None]:
    def refuse(c: Context) -> None:
        """Block all axes of this node."""
        raise UnknownOperandError(reason)

    return refuse


rule(
    *("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
    random="always",
)(_blocked("it draws random numbers, so no two runs can be compared"))
for _reason, _operators in REASONS.items():
    rule(*_operators.split())(_blocked(_reason))
for _reason, _operators in MICROSOFT_REASONS.items():
    rule(*_operators.split(), domain="com.microsoft")(_blocked(_reason))
