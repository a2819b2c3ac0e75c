"""Boxes in pictures."""

from __future__ import annotations

from onnxprune.algebra.sizes.tensors import INT64
from onnxprune.ops.sizes.node import SizedNode
from onnxprune.ops.sizes.table import size_rule


@size_rule("NonMaxSuppression")
def non_max_suppression(node: SizedNode) -> None:
    """Batch, class and box of those that are kept; their number depends on the data."""
    node.put(0, [node.fresh(0, 0), 3], INT64)


@size_rule("RoiAlign")
def roi_align(node: SizedNode) -> None:
    """A small picture for each box."""
    shape, boxes = node.shape(), node.shape(1)
    channels = node.fresh(0, 1) if shape is None else shape[1]
    count = node.fresh(0, 0) if boxes is None else boxes[0]
    sides = [node.attribute("output_height", 1), node.attribute("output_width", 1)]
    node.put(0, [count, channels, *sides])


@size_rule("MaxRoiPool")
def roi_pool(node: SizedNode) -> None:
    """A small picture for each box."""
    shape, boxes = node.shape(), node.shape(1)
    channels = node.fresh(0, 1) if shape is None else shape[1]
    count = node.fresh(0, 0) if boxes is None else boxes[0]
    node.put(0, [count, channels, *node.attribute("pooled_shape", ())])
