"""Losses of training."""

from __future__ import annotations

from onnxprune.ops.sizes.node import SizedNode
from onnxprune.ops.sizes.table import size_rule


@size_rule("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
def loss(node: SizedNode) -> None:
    """One number, or one for each label; the logarithms of the probabilities are another result."""
    every = node.attribute("reduction", "mean") == "none"
    node.put(0, node.shape(1) if every else [])
    node.put(1, node.shape())
