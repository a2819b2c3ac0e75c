"""Random networks whose sizes are computed while they run, from pictures of open batch, height and width.

Each block is a pattern of real exports: padding to a multiple, to the size of a skip or by the rule of SAME,
views, shuffles, positions, resizing, all with sizes read off tensors by Shape.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from helpers import Array, Net

OPSETS = (9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28)
SIZES = ((1, 8, 8), (2, 9, 7), (3, 5, 12), (1, 16, 6), (5, 7, 7))
"""Batch, height and width that no part of the program chooses."""


class OpenNet(Net):
    """A network that reads sizes off tensors."""

    output = ""

    def size(self, x: str, axis: int) -> str:
        """Return the size of one axis, as a list of one number."""
        return self.op("Gather", self.op("Shape", x), self.ints(axis))

    def binary(self, kind: str, a: str, b: str | int) -> str:
        return self.op(kind, a, self.ints(b) if isinstance(b, int) else b)

    def up_to(self, size: str, step: int) -> str:
        """Return how much is missing to the next multiple, ``(step - size % step) % step``."""
        if self.opset >= 10:
            rest = self.op("Mod", size, self.ints(step))
            return self.op("Mod", self.op("Sub", self.ints(step), rest), self.ints(step))
        whole = self.binary("Mul", self.binary("Div", self.binary("Add", size, step - 1), step), step)
        return self.op("Sub", whole, size)

    def padded(self, x: str, below: str, right: str) -> str:
        """Pad a picture at two sides by computed numbers; older opsets pad by Concat with zeros."""
        c = self.shape(x)[1]
        if self.opset >= 11:
            zero = self.ints(0)
            pads = self.concat(zero, zero, zero, zero, zero, zero, below, right, axis=0)
            return self.picture(self.op("Pad", x, pads), c)
        for axis, count in ((2, below), (3, right)):
            sizes = [self.size(x, k) for k in range(4)]
            sizes[axis] = count
            zeros = self.op("ConstantOfShape", self.concat(*sizes, axis=0))
            x = self.picture(self.concat(x, self.picture(zeros, c), axis=axis), c)
        return x

    def picture(self, x: str, channels: int) -> str:
        return self.sized(x, ["", channels, "", ""])


Block = Callable[[OpenNet, str], str]


def convolution(net: OpenNet, x: str) -> str:
    return net.relu(net.picture(net.conv(x, 8), 8))


def view(net: OpenNet, x: str) -> str:
    """Pixels on one axis and back, by a product of sizes."""
    n, h, w = (net.size(x, k) for k in (0, 2, 3))
    c = net.shape(x)[1]
    rows = net.concat(n, net.ints(c), net.op("Mul", h, w), axis=0)
    y = net.relu(net.sized(net.op("Reshape", x, rows), ["", c, ""]))
    return net.picture(net.op("Reshape", y, net.concat(n, net.ints(c), h, w, axis=0)), c)


def view_of_all(net: OpenNet, x: str) -> str:
    """Batch and channels on one axis, by a product of sizes."""
    n, c, h, w = (net.size(x, k) for k in range(4))
    channels = net.shape(x)[1]
    merged = net.op("Reshape", x, net.concat(net.op("Mul", n, c), h, w, axis=0))
    y = net.relu(net.sized(merged, ["", "", ""]))
    return net.picture(net.op("Reshape", y, net.concat(n, c, h, w, axis=0)), channels)


def tokens(net: OpenNet, x: str) -> str:
    """Pixels as rows of a matrix product."""
    n, h, w = (net.size(x, k) for k in (0, 2, 3))
    c = net.shape(x)[1]
    rows = net.op("Reshape", x, net.concat(n, net.ints(c, -1), axis=0))
    y = net.sized(net.transpose(net.sized(rows, ["", c, ""]), 0, 2, 1), ["", "", c])
    y = net.sized(net.op("Relu", net.linear(y, 6)), ["", "", 6])
    y = net.transpose(net.sized(net.linear(y, c), ["", "", c]), 0, 2, 1)
    return net.picture(net.op("Reshape", y, net.concat(n, net.ints(c), h, w, axis=0)), c)


def shuffle(net: OpenNet, x: str) -> str:
    """Channel shuffle whose half is computed."""
    n, c, h, w = (net.size(x, k) for k in range(4))
    channels = net.shape(x)[1]
    half = net.binary("Div", c, 2)
    y = net.op("Reshape", x, net.concat(n, net.ints(2), half, h, w, axis=0))
    y = net.transpose(net.sized(y, ["", 2, channels // 2, "", ""]), 0, 2, 1, 3, 4)
    return net.picture(net.op("Reshape", y, net.concat(n, net.ints(channels), h, w, axis=0)), channels)


def same_padding(net: OpenNet, x: str) -> str:
    """A convolution of stride 2, padded by the rule of SAME at this size."""
    missing = []
    for axis in (2, 3):
        size = net.size(x, axis)
        out = net.binary("Div", net.binary("Add", size, 1), 2)
        needed = net.binary("Add", net.binary("Mul", net.binary("Sub", out, 1), 2), 3)
        missing.append(net.op("Sub", needed, size))
    y = net.padded(x, *missing)
    c = net.shape(x)[1]
    weight, bias = net.weight(8, c, 3, 3), net.vector(8)
    return net.relu(net.picture(net.op("Conv", y, weight, bias, strides=[2, 2], kernel_shape=[3, 3]), 8))


def to_a_multiple(net: OpenNet, x: str) -> str:
    """Padding to a multiple of 4, windows of 4 by a Reshape, and the padding cut off again."""
    c = net.shape(x)[1]
    n, h, w = (net.size(x, k) for k in (0, 2, 3))
    y = net.padded(x, net.up_to(h, 4), net.up_to(w, 4))
    rows, columns = (net.binary("Div", net.size(y, k), 4) for k in (2, 3))
    y = net.op("Reshape", y, net.concat(n, net.ints(c), rows, net.ints(4), columns, net.ints(4), axis=0))
    y = net.transpose(net.sized(y, ["", c, "", 4, "", 4]), 0, 2, 4, 1, 3, 5)
    windows = net.op("Mul", net.op("Mul", n, rows), columns)
    y = net.op("Reshape", y, net.concat(windows, net.ints(c, 4, 4), axis=0))
    y = net.relu(net.conv(net.picture(y, c), c))
    y = net.op("Reshape", y, net.concat(n, rows, columns, net.ints(c, 4, 4), axis=0))
    y = net.transpose(net.sized(y, ["", "", "", c, 4, 4]), 0, 3, 1, 4, 2, 5)
    whole = [net.binary("Mul", k, 4) for k in (rows, columns)]
    y = net.picture(net.op("Reshape", y, net.concat(n, net.ints(c), *whole, axis=0)), c)
    return _cut(net, y, h, w) if net.opset >= 10 else y


def _cut(net: OpenNet, x: str, h: str, w: str) -> str:
    c = net.shape(x)[1]
    y = net.op("Slice", x, net.ints(0, 0), net.concat(h, w, axis=0), net.ints(2, 3))
    return net.picture(y, c)


def skip(net: OpenNet, x: str) -> str:
    """A U-Net's way down and up, padded to the size of its skip."""
    c = net.shape(x)[1]
    down = net.picture(net.pool(x), c)
    up = net.picture(net.up(net.relu(net.picture(net.conv(down, 6), 6)), 8), 8)
    missing = [net.op("Sub", net.size(x, k), net.size(up, k)) for k in (2, 3)]
    return net.picture(net.concat(net.padded(up, *missing), x), 8 + c)


def cropped(net: OpenNet, x: str) -> str:
    """A U-Net without padding: the skip is cut around its middle to the size of the other operand."""
    c = net.shape(x)[1]
    if net.opset < 10:
        return net.relu(x)
    down = net.picture(net.pool(x), c)
    up = net.picture(net.up(net.relu(net.picture(net.conv(down, 6), 6)), 8), 8)
    sizes = [net.size(up, k) for k in (2, 3)]
    over = [net.op("Sub", net.size(x, k), size) for k, size in zip((2, 3), sizes, strict=True)]
    starts = [net.binary("Div", missing, 2) for missing in over]
    ends = [net.op("Add", start, size) for start, size in zip(starts, sizes, strict=True)]
    bounds = net.concat(*starts, axis=0), net.concat(*ends, axis=0)
    return net.picture(net.concat(net.picture(net.op("Slice", x, *bounds, net.ints(2, 3)), c), up), 8 + c)


def resized(net: OpenNet, x: str) -> str:
    """Pooled and resized to the size it had."""
    c = net.shape(x)[1]
    small = net.picture(net.pool(x), c)
    if net.opset < 11:
        return net.add(x, net.picture(net.gap(small), c))
    whole = net.concat(net.op("Shape", small), axis=0)
    sizes = net.concat(_part(net, whole, 0, 2), _part(net, net.op("Shape", x), 2, 4), axis=0)
    empty = "" if net.opset >= 13 else net.const(np.zeros(0, np.float32))
    return net.add(x, net.picture(net.op("Resize", small, empty, empty, sizes, mode="nearest"), c))


def _part(net: OpenNet, shape: str, start: int, end: int) -> str:
    return net.op("Slice", shape, net.ints(start), net.ints(end), net.ints(0))


def stretched(net: OpenNet, x: str) -> str:
    """A gate for each channel, stretched over the picture."""
    c = net.shape(x)[1]
    gate = net.op("Sigmoid", net.picture(net.conv(net.picture(net.gap(x), c), c, 1), c))
    return net.mul(x, net.picture(net.op("Expand", gate, net.op("Shape", x)), c))


def zeros(net: OpenNet, x: str) -> str:
    return net.add(x, net.picture(net.op("ConstantOfShape", net.op("Shape", x)), net.shape(x)[1]))


def positions(net: OpenNet, x: str) -> str:
    """Numbers of the rows, added to each."""
    if net.opset < 11:
        return net.relu(x)
    count = net.squeeze(net.size(x, 2), 0)
    zero, one = net.const(np.int64(0)), net.const(np.int64(1))
    rows = net.op("Cast", net.op("Range", zero, count, one), to=onnx.TensorProto.FLOAT)
    rows = net.mul(rows, net.const(0.01))
    return net.add(x, net.sized(net.unsqueeze(net.sized(rows, [""]), 1), ["", 1]))


def square(net: OpenNet, x: str) -> str:
    """Cut to the smaller of two sides."""
    if net.opset < 12:
        return net.relu(x)
    side = net.op("Min", net.size(x, 2), net.size(x, 3))
    return _cut(net, x, side, side)


def at_least(net: OpenNet, x: str) -> str:
    """Padded to eight rows where there are fewer, and cut to the size it had."""
    if net.opset < 12:
        return net.relu(x)
    h, w = net.size(x, 2), net.size(x, 3)
    missing = net.op("Sub", net.op("Max", h, net.ints(8)), h)
    y = net.padded(x, missing, net.ints(0))
    return _cut(net, net.relu(net.picture(net.conv(y, net.shape(x)[1]), net.shape(x)[1])), h, w)


def halves(net: OpenNet, x: str) -> str:
    """Rows cut in the middle, the lower part above the upper one."""
    if net.opset < 10:
        return net.relu(x)
    c, h = net.shape(x)[1], net.size(x, 2)
    middle = net.binary("Div", h, 2)
    upper = net.op("Slice", x, net.ints(0), middle, net.ints(2))
    lower = net.op("Slice", x, middle, h, net.ints(2))
    return net.picture(net.concat(net.picture(lower, c), net.picture(upper, c), axis=2), c)


def repeated(net: OpenNet, x: str) -> str:
    """Each pixel of a pooled picture several times, as many as are needed, and the rest cut off."""
    if net.opset < 10:
        return net.relu(x)
    c, h, w = net.shape(x)[1], net.size(x, 2), net.size(x, 3)
    one = net.ints(1)
    y = net.op("Tile", net.picture(net.gap(x), c), net.concat(one, one, h, w, axis=0))
    return net.add(x, net.picture(y, c))


def attention(net: OpenNet, x: str) -> str:
    """Pixels that attend to those before them: heads and masks by computed sizes."""
    if net.opset < 11:
        return net.relu(x)
    n, h, w = (net.size(x, k) for k in (0, 2, 3))
    c = net.shape(x)[1]
    rows = net.sized(net.op("Reshape", x, net.concat(n, net.ints(c, -1), axis=0)), ["", c, ""])
    rows = net.sized(net.transpose(rows, 0, 2, 1), ["", "", c])
    length = net.op("Mul", h, w)
    parts = []
    for _ in range(3):
        y = net.sized(net.linear(rows, 8), ["", "", 8])
        y = net.op("Reshape", y, net.concat(n, length, net.ints(2, 4), axis=0))
        parts.append(net.sized(net.transpose(net.sized(y, ["", "", 2, 4]), 0, 2, 1, 3), ["", 2, "", 4]))
    q, k, v = parts
    scores = net.sized(
        net.op("MatMul", q, net.sized(net.transpose(k, 0, 1, 3, 2), ["", 2, 4, ""])), ["", 2, "", ""]
    )
    zero, one = net.const(np.int64(0)), net.const(np.int64(1))
    places = net.op("Range", zero, net.squeeze(length, 0), one)
    later = net.op("Less", net.unsqueeze(places, 1), net.unsqueeze(places, 0))
    masked = net.op("Where", later, net.const(-1e4), scores)
    shares = net.sized(net.op("Softmax", net.sized(masked, ["", 2, "", ""]), axis=3), ["", 2, "", ""])
    y = net.sized(
        net.transpose(net.sized(net.op("MatMul", shares, v), ["", 2, "", 4]), 0, 2, 1, 3), ["", "", 2, 4]
    )
    y = net.sized(net.op("Reshape", y, net.concat(n, length, net.ints(8), axis=0)), ["", "", 8])
    y = net.sized(net.transpose(net.sized(net.linear(y, c), ["", "", c]), 0, 2, 1), ["", c, ""])
    return net.add(x, net.picture(net.op("Reshape", y, net.concat(n, net.ints(c), h, w, axis=0)), c))


BLOCKS: tuple[Block, ...] = (
    convolution,
    view,
    view_of_all,
    tokens,
    shuffle,
    same_padding,
    to_a_multiple,
    skip,
    cropped,
    resized,
    stretched,
    zeros,
    positions,
    square,
    at_least,
    halves,
    repeated,
    attention,
)


def network(seed: int, sizes: tuple[int, int, int] | None = None) -> OpenNet:
    """Write down a random network; with sizes, the same for pictures of these alone."""
    random = np.random.default_rng(seed)
    net = OpenNet(opset=int(random.choice(OPSETS)), seed=seed)
    n, h, w = sizes or ("N", "H", "W")
    x = net.relu(net.picture(net.conv(net.input("x", [n, 3, h, w]), 8), 8))
    for choice in random.integers(0, len(BLOCKS), random.integers(2, 5)):
        x = BLOCKS[choice](net, x)
        if random.integers(0, 2):
            x = net.relu(net.picture(net.conv(x, 8), 8))
    rows = net.op("Reshape", net.gap(x), net.concat(net.size(x, 0), net.ints(-1), axis=0))
    net.output = net.gemm(net.sized(rows, ["", net.shape(x)[1]]), 5)
    return net


def feeds(seed: int) -> list[dict[str, Array]]:
    """Draw pictures of sizes that nothing was analysed with."""
    random = np.random.default_rng(seed)
    return [{"x": random.normal(size=(n, 3, h, w)).astype(np.float32)} for n, h, w in SIZES]
