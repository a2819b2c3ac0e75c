"""Operators that change the resolution, or add and crop borders."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import onnx

from onnxprune.algebra.sizes.algebra import Extent, Value, floor_div, maximum, minimum, rounded
from onnxprune.algebra.sizes.tensor_arithmetic import total
from onnxprune.algebra.sizes.tensors import Shape, Values, from_array, plain
from onnxprune.ops.sizes.node import SizedNode
from onnxprune.ops.sizes.table import MICROSOFT, size_rule


@size_rule("Pad")
@size_rule("Pad", domain=MICROSOFT)
def pad(node: SizedNode) -> None:
    """Borders before and after; negative ones crop."""
    shape = node.shape()
    if shape is None:
        node.put(0, None)
        return
    borders = _borders(node)
    axes = list(range(len(shape)))
    if node.has(3):
        listed = node.numbers(3)
        if listed is None:
            node.put_rank(len(shape))
            return
        axes = [node.axis(k, len(shape)) for k in listed]
    sizes: list[Value] = list(shape)
    for k, axis in enumerate(axes):
        if borders is None or len(borders) != 2 * len(axes):
            sizes[axis] = node.fresh(0, axis)
        elif borders[k] != 0 or borders[len(axes) + k] != 0:
            sizes[axis] = shape[axis] + borders[k] + borders[len(axes) + k]
            node.need_nonnegative(sizes[axis], f"rest of axis {axis}")
    node.put(0, sizes, None, _padded(node, plain(borders), axes))


def _borders(node: SizedNode) -> list[Value] | None:
    if node.opset < 11 and not node.proto.domain:
        return list(node.attribute("pads") or node.attribute("paddings") or ())
    return node.target(1)


def _padded(node: SizedNode, borders: list[int] | None, axes: Sequence[int]) -> Values | None:
    value = node.known(0)
    number = node.known(2) if node.has(2) else from_array(np.zeros((), np.int64))
    if value is None or borders is None or number is None or node.attribute("mode", "constant") != "constant":
        return None
    widths = [(0, 0)] * value.ndim
    for k, axis in enumerate(axes):
        widths[axis] = (borders[k], borders[len(axes) + k])
    if any(width < 0 for pair in widths for width in pair):
        return None
    found: Values = np.pad(value, widths, constant_values=number.ravel()[0])
    return found


def scaled(size: Extent, factor: Value) -> Extent:
    """Return floor(size * factor), multiplied in 32 bits as the runtime does."""
    return floor_div(rounded(size * factor, 32), 1)


@size_rule("Upsample")
def upsample(node: SizedNode) -> None:
    """Each axis by a factor: attributes before version 9."""
    shape = node.shape()
    if shape is None:
        node.put(0, None)
        return
    listed = node.attribute("scales")
    values = node.known(1) if listed is None else from_array(np.asarray(listed, np.float32))
    _scale(node, shape, list(range(len(shape))), values)


@size_rule("Resize")
def resize(node: SizedNode) -> None:
    """Each axis by a factor, or to a size."""
    shape = node.shape()
    if shape is None:
        node.put(0, None)
        return
    axes = [node.axis(k, len(shape)) for k in node.attribute("axes") or range(len(shape))]
    if node.opset < 11:
        _scale(node, shape, axes, node.known(1))
    elif node.has(3) and node.length(3) != 0:
        _resize_to(node, shape, axes, node.elements(3))
    else:
        _scale(node, shape, axes, node.known(2))


def _scale(node: SizedNode, shape: Shape, axes: Sequence[int], factors: Values | None) -> None:
    sizes: list[Value] = list(shape)
    listed = None if factors is None else list(factors.ravel())
    for k, axis in enumerate(axes):
        if listed is None or len(listed) != len(axes):
            sizes[axis] = node.fresh(0, axis)
        else:
            sizes[axis] = scaled(shape[axis], listed[k])
    node.put(0, sizes)


def _resize_to(node: SizedNode, shape: Shape, axes: Sequence[int], target: list[Value] | None) -> None:
    sizes: list[Value] = list(shape)
    policy = node.attribute("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch" and target is not None:
        target = _in_proportion([shape[k] for k in axes], target, larger=policy == "not_smaller")
    for k, axis in enumerate(axes):
        known = target is not None and len(target) == len(axes)
        sizes[axis] = (
            node.nonnegative(target[k], 0, axis) if target is not None and known else node.fresh(0, axis)
        )
    node.put(0, sizes)


def _in_proportion(sizes: Sequence[Extent], target: Sequence[Value], *, larger: bool) -> list[Value] | None:
    """Return the sizes that keep the proportions, computed in 32 bits as the runtime does.

    The factor of all axes is the largest or smallest quotient of target and size; halves are rounded up.
    """
    if len(sizes) != len(target) or 0 in sizes:
        return None
    if len(sizes) == 1:
        return list(target)
    ratios = [rounded(t, 32, s) for s, t in zip(sizes, target, strict=True)]
    ratio = maximum(*ratios) if larger else minimum(*ratios)
    return [floor_div(rounded(s * ratio, 32) + Fraction(1, 2), 1) for s in sizes]


@size_rule("GridSample")
@size_rule("GridSample", domain=MICROSOFT)
def grid_sample(node: SizedNode) -> None:
    """As many points as the grid has."""
    shape, grid = node.shape(), node.shape(1)
    node.put(0, None if shape is None or grid is None else [*shape[:2], *grid[1:-1]])


@size_rule("AffineGrid")
def affine_grid(node: SizedNode) -> None:
    """A point for each pixel of a size."""
    size = node.elements(1)
    if size is None:
        length = node.length(1)
        node.put_rank(None if length is None else length)
        return
    node.put(0, [*(node.nonnegative(s, 0, k) for k, s in enumerate([size[0], *size[2:]])), len(size) - 2])


@size_rule("CenterCropPad")
def center_crop_pad(node: SizedNode) -> None:
    """To a size, along some axes."""
    shape, target = node.shape(), node.elements(1)
    if shape is None:
        node.put(0, None)
        return
    axes = [node.axis(k, len(shape)) for k in node.attribute("axes") or range(len(shape))]
    sizes: list[Value] = list(shape)
    for k, axis in enumerate(axes):
        sizes[axis] = node.fresh(0, axis) if target is None else node.nonnegative(target[k], 0, axis)
    node.put(0, sizes)


@size_rule("Col2Im")
def columns_to_image(node: SizedNode) -> None:
    """Blocks laid out in an image of a size."""
    shape, image, block = node.shape(), node.elements(1), node.elements(2)
    if shape is None or image is None or block is None:
        length = node.length(1)
        node.put_rank(None if length is None else length + 2)
        return
    channels = floor_div(shape[1], total(block))
    node.put(0, [shape[0], channels, *(node.nonnegative(s, 0, k + 2) for k, s in enumerate(image))])


@size_rule("CropAndResize", domain=MICROSOFT)
def crop_and_resize(node: SizedNode) -> None:
    """One picture a box."""
    shape, boxes, size = node.shape(), node.shape(1), node.elements(3)
    if shape is None or boxes is None:
        node.put_rank(4)
        return
    sides: list[Value] = [node.fresh(0, 2), node.fresh(0, 3)] if size is None else size
    node.put(0, [boxes[0], shape[1], *sides])


@size_rule("ImageDecoder")
def image_decoder(node: SizedNode) -> None:
    """A picture of any size, its channels last."""
    channels = 1 if node.attribute("pixel_format", "RGB") == "Grayscale" else 3
    node.put(0, [node.fresh(0, 0), node.fresh(0, 1), channels], onnx.TensorProto.UINT8)
