"""Convolutions: gradients of the data, the kernel and the bias.

The kernel's gradient is itself a convolution: the data slides under the gradient of the result, so that the
strides of one are the dilations of the other. Spelled with the pictures as channels and the channels of the
data as one more spatial axis it is a single node, which nothing has to be unrolled for.
"""

from __future__ import annotations

import math

import numpy as np

from onnxprune.train.pullbacks import winograd
from onnxprune.train.pullbacks.geometry import Geometry
from onnxprune.train.pullbacks.registry import ForwardNode, forward, pullback
from onnxprune.train.pullbacks.tape import Gradient, Tape, elements
from onnxprune.train.pullbacks.writer import Writer, ints
from onnxprune.train.wire import Array

FEW_CHANNELS = 8
"""Channels of the data in a group, below which they lie before the positions and not behind them."""
MANY_POSITIONS = 49
"""Positions from which a 1×1 convolution's kernel gradient is computed picture by picture and summed."""


@forward("Conv")
def in_its_form(node: ForwardNode, tape: Tape) -> None:
    """Use Winograd's form where it pays; a bias is added behind it."""
    write, (x, w), y = tape.writer, node.inputs[:2], node.outputs[0]
    g = Geometry.of(node.attributes, tape.dims(x), tape.dims(w), tape.dims(y))
    if not winograd.pays(g):
        tape.keep(node)
        return
    form = node.saved["winograd"] = winograd.Winograd(write, g, w)
    bias = write.reshape(node.inputs[2], [g.made, 1, 1]) if node.input(2) else None
    result = form.result(x)
    write("Identity" if bias is None else "Add", result, bias, into=y)


@pullback("Conv")
def convolution(node: ForwardNode, tape: Tape) -> None:
    """A convolution for the kernel, a transposed one for the data, a sum for the bias."""
    x, w, y = node.inputs[0], node.inputs[1], node.outputs[0]
    g = Geometry.of(node.attributes, tape.dims(x), tape.dims(w), tape.dims(y))
    arrived = tape.carried(y)
    worth_carrying = 2 * elements(tape.dims(w)) < elements(tape.dims(y))
    if arrived.factor and (arrived.axis != 1 or not worth_carrying):
        arrived = Gradient(tape.full(arrived, g.axes + 2))
    if tape.wants(node.input(2)):
        total = tape.writer.total(arrived.value, [0, *range(2, g.axes + 2)])
        tape.give(node.inputs[2], tape.writer.mul(total, arrived.factor) if arrived.factor else total)
    if "winograd" in node.saved:
        node.saved["winograd"].give(tape, x, w, arrived)
        return
    if tape.wants(w):
        tape.give(w, _scaled(tape.writer, kernel_gradient(tape.writer, g, x, arrived.value), arrived, g))
    if tape.wants(x):
        give_data_gradient(tape, g, x, w, arrived)


def _scaled(write: Writer, weight: str, arrived: Gradient, g: Geometry) -> str:
    """Multiply the factor of the result's channels into a tensor of the kernel's shape."""
    if not arrived.factor:
        return weight
    return write.mul(weight, write.reshape(arrived.factor, [g.made] + [1] * (g.axes + 1)))


def give_data_gradient(tape: Tape, g: Geometry, x: str, w: str, arrived: Gradient) -> None:
    """Give the data its gradient; a depthwise convolution passes the factor on."""
    write = tape.writer
    depthwise = g.each == 1 and g.made == g.group
    weight = w if depthwise else _scaled(write, w, arrived, g)
    if g.pointwise and all(stride == 1 for stride in g.strides):
        value = write("Conv", arrived.value, _turned(write, weight, g), group=g.group)
    else:
        value = write(
            "ConvTranspose",
            arrived.value,
            weight,
            group=g.group,
            kernel_shape=list(g.kernel),
            strides=list(g.strides),
            dilations=list(g.dilations),
            pads=[*g.begin, *g.end],
            output_padding=list(g.unread),
        )
    tape.give(x, value, arrived.factor if depthwise else "", 1)


def _turned(write: Writer, weight: str, g: Geometry) -> str:
    """Convert [g·o, i, 1…] to [g·i, o, 1…]."""
    ones = [1] * g.axes
    if g.group == 1:
        return write.reshape(
            write.transpose(write.reshape(weight, [g.made, g.each]), [1, 0]), [g.each, g.made, *ones]
        )
    apart = write.reshape(weight, [g.group, g.made // g.group, g.each])
    return write.reshape(write.transpose(apart, [0, 2, 1]), [g.channels, g.made // g.group, *ones])


def kernel_gradient(write: Writer, g: Geometry, x: str, dy: str) -> str:
    """Return the gradient of the kernel."""
    if g.pointwise:
        return _pointwise(write, g, x, dy)
    if g.axes > 2:
        return _tap_by_tap(write, g, x, dy)
    if g.each == 1 and g.made == g.group and g.axes == 2 and set(g.dilations) == {1}:
        return _in_bands(write, g, x, dy)
    return _as_convolution(write, g, x, dy)


def _pointwise(write: Writer, g: Geometry, x: str, dy: str) -> str:
    """A matrix product: for each picture, or where these are narrow, one for all."""
    if any(stride > 1 for stride in g.strides):
        x = write("Slice", x, ints([0] * g.axes), ints(g.size), ints(range(2, 2 + g.axes)), ints(g.strides))
    positions, shape = math.prod(g.outputs), [g.made, g.each, *[1] * g.axes]
    split = (g.group, g.made // g.group, g.each)
    if g.group == 1 and positions < MANY_POSITIONS:
        left = write.transpose(write.reshape(dy, [g.samples, g.made, positions]), [1, 0, 2])
        right = write.transpose(write.reshape(x, [g.samples, g.channels, positions]), [0, 2, 1])
        left = write.reshape(left, [g.made, g.samples * positions])
        right = write.reshape(right, [g.samples * positions, g.channels])
        return write.reshape(write("MatMul", left, right), shape)
    left = write.reshape(dy, [g.samples, split[0], split[1], positions])
    right = write.transpose(write.reshape(x, [g.samples, split[0], split[2], positions]), [0, 1, 3, 2])
    return write.reshape(write.total(write("MatMul", left, right), [0]), shape)


def _as_convolution(write: Writer, g: Geometry, x: str, dy: str) -> str:
    """One convolution: pictures are its channels, the channels of the data one more spatial axis."""
    n, m = g.samples, g.axes
    filters = write.transpose(dy, [1, 0, *range(2, m + 2)])
    apart = write.reshape(x, [n, g.group, g.each, *g.size])
    spatial = list(range(3, m + 3))
    zeros = [0] * m
    if g.each < FEW_CHANNELS:
        data = write.reshape(write.transpose(apart, [1, 0, 2, *spatial]), [1, g.group * n, g.each, *g.size])
        shape, kernel = [g.made, n, 1, *g.outputs], [1, *g.outputs]
        pads, strides, dilations = [0, *g.begin, 0, *g.end], [1, *g.dilations], [1, *g.strides]
        axes = list(range(3, m + 3))
    else:
        data = write.reshape(write.transpose(apart, [1, 0, *spatial, 2]), [1, g.group * n, *g.size, g.each])
        shape, kernel = [g.made, n, *g.outputs, 1], [*g.outputs, 1]
        pads, strides, dilations = [*g.begin, 0, *g.end, 0], [*g.dilations, 1], [*g.strides, 1]
        axes = list(range(2, m + 2))
    found = write(
        "Conv",
        data,
        write.reshape(filters, shape),
        group=g.group,
        kernel_shape=kernel,
        pads=pads,
        strides=strides,
        dilations=dilations,
    )
    cut = write.slice(found, axes, zeros, list(g.kernel))
    if g.each < FEW_CHANNELS:
        return write.reshape(cut, [g.made, g.each, *g.kernel])
    last = write.reshape(cut, [g.made, *g.kernel, g.each])
    return write.transpose(last, [0, m + 1, *range(1, m + 1)])


def _padded(write: Writer, g: Geometry, x: str) -> str:
    if not g.padded:
        return x
    return write("Pad", x, ints([0, 0, *g.begin, 0, 0, *g.end]))


def _tap_by_tap(write: Writer, g: Geometry, x: str, dy: str) -> str:
    """For each tap the product of the gradient with the elements under the tap."""
    padded, positions = _padded(write, g, x), math.prod(g.outputs)
    left = write.reshape(dy, [g.samples, g.group, g.made // g.group, positions])
    found, spatial = [], ints(range(2, 2 + g.axes))
    for tap in np.ndindex(*g.kernel):
        starts = [t * dilation for t, dilation in zip(tap, g.dilations, strict=True)]
        ends = [
            start + (outputs - 1) * stride + 1
            for start, outputs, stride in zip(starts, g.outputs, g.strides, strict=True)
        ]
        seen = write("Slice", padded, ints(starts), ints(ends), spatial, ints(g.strides))
        right = write.reshape(seen, [g.samples, g.group, g.each, positions])
        product = write.total(write("MatMul", left, write.transpose(right, [0, 1, 3, 2])), [0])
        found.append(write.reshape(product, [g.made, g.each, 1]))
    whole = found[0] if len(found) == 1 else write("Concat", *found, axis=2)
    return write.reshape(whole, [g.made, g.each, *g.kernel])


def _in_bands(write: Writer, g: Geometry, x: str, dy: str) -> str:
    """A depthwise kernel row by row: every row of the gradient times all of the data's that it saw.

    The product holds each pair of columns; those of a tap are summed by a product with zeros and ones.
    """
    width, (rows, columns) = g.size[1], g.outputs
    n, c, (down, across) = g.samples, g.channels, g.strides
    by_channel = write.transpose(x, [1, 0, 2, 3])
    padded = write("Pad", by_channel, ints([0, 0, g.begin[0], 0, 0, 0, g.end[0], 0]))
    gradient = write.reshape(write.transpose(dy, [1, 0, 2, 3]), [c, n * rows, columns])
    turned = write.transpose(gradient, [0, 2, 1])
    pairs = _pairs(g.kernel[1], width, columns, across, g.begin[1])
    found = []
    for row in range(g.kernel[0]):
        band = write.slice(padded, [2], [row], [row + down * (rows - 1) + 1], down)
        products = write("MatMul", turned, write.reshape(band, [c, n * rows, width]))
        flat = write.reshape(products, [c, columns * width])
        found.append(write.reshape(write("MatMul", flat, pairs), [c, 1, 1, g.kernel[1]]))
    return found[0] if len(found) == 1 else write("Concat", *found, axis=2)


def _pairs(taps: int, width: int, columns: int, stride: int, begin: int) -> Array:
    """The tap that joins a column of the result with one of the data, [columns · width, taps]."""
    column, position, tap = np.ogrid[:columns, :width, :taps]
    joined = np.asarray(column * stride - begin + tap == position)
    return joined.reshape(columns * width, taps).astype(np.float32)
