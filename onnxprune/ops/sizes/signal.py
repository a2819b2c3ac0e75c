"""Spectra and windows."""

from __future__ import annotations

from onnxprune.algebra.sizes.algebra import Extent, Value, floor_div
from onnxprune.algebra.sizes.tensors import FLOAT
from onnxprune.ops.sizes.node import SizedNode
from onnxprune.ops.sizes.table import size_rule


@size_rule("DFT")
def transform(node: SizedNode) -> None:
    """As many lines as a length gives, half of them if only one side is kept; the last axis is complex."""
    shape = node.shape()
    listed = [node.attribute("axis", 1)] if node.opset < 20 else node.numbers(2) if node.has(2) else [-2]
    if shape is None or not listed:
        node.put_rank(None if shape is None else len(shape))
        return
    axis = node.axis(listed[0], len(shape))
    length: Value = _length(node, shape[axis], axis) if node.has(1) else shape[axis]
    last = 2
    if node.flag("onesided"):
        if node.flag("inverse"):
            last = 1
            length = length if node.has(1) else (length - 1) * 2
        else:
            length = floor_div(length, 2) + 1
    node.put(0, [*shape[:axis], length, *shape[axis + 1 : -1], last])


def _length(node: SizedNode, size: Extent, axis: int) -> Extent:
    listed = node.elements(1)
    return (
        size
        if not listed and node.length(1) == 0
        else (node.fresh(0, axis) if not listed else node.nonnegative(listed[0], 0, axis))
    )


@size_rule("STFT")
def short_transform(node: SizedNode) -> None:
    """Frames of a signal, each with its spectrum."""
    shape, step = node.shape(), node.elements(1)
    if shape is None:
        node.put_rank(4)
        return
    length: Value
    window, listed = node.shape(2), node.elements(3) if node.has(3) else None
    if listed:
        length = node.nonnegative(listed[0], 0, 2)
    else:
        length = window[0] if window is not None else node.fresh(0, 2)
    frames: Value = node.fresh(0, 1)
    if step and isinstance(step[0], int) and step[0] > 0:
        room = shape[1] - length
        node.need_nonnegative(room, "one frame")
        frames = floor_div(room, step[0]) + 1
    lines = floor_div(length, 2) + 1 if node.flag("onesided", default=True) else length
    node.put(0, [shape[0], frames, lines, 2])


@size_rule("HannWindow", "HammingWindow", "BlackmanWindow")
def window(node: SizedNode) -> None:
    """A number for each sample."""
    listed = node.elements(0)
    size = node.fresh(0, 0) if not listed else node.nonnegative(listed[0], 0, 0)
    node.put(0, [size], node.attribute("output_datatype", FLOAT))


@size_rule("MelWeightMatrix")
def mel_matrix(node: SizedNode) -> None:
    """A column for each band, a row for each line of one side."""
    bands, length = node.elements(0), node.elements(1)
    rows = node.fresh(0, 0) if not length else floor_div(node.nonnegative(length[0], 0, 0), 2) + 1
    columns = node.fresh(0, 1) if not bands else node.nonnegative(bands[0], 0, 1)
    node.put(0, [rows, columns], node.attribute("output_datatype", FLOAT))
