"""One table: rewrites of the operators that onnxruntime-training does not differentiate, or not rightly.

An entry is a function from a node and an emitter to the tensors that stand for the node's outputs. It spells
the operator in operators whose gradients exist and are right, keeping every trained tensor as it is, so that
trained tensors can be written back by name. Each is checked against the operator itself, forward through
onnxruntime and backward against finite differences.
"""

from __future__ import annotations

from onnxprune.train.rewrites import (
    activation,
    convolution,
    fused,
    layout,
    normalization,
    pooling,
    products,
    recurrent,
    reduction,
    resize,
)
from onnxprune.train.rewrites.registry import FORMS, REWRITES, Rewrite

__all__ = [
    "FORMS",
    "REWRITES",
    "Rewrite",
    "activation",
    "convolution",
    "fused",
    "layout",
    "normalization",
    "pooling",
    "products",
    "recurrent",
    "reduction",
    "resize",
]
