"""Networks of operators that pick, order or replace elements, and of functions that few networks have."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from attention_networks import contrib
from helpers import Net
from onnx import TensorProto

INT64, INT32, FLOAT, BOOL = TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT, TensorProto.BOOL
PICKING: dict[str, Callable[[], onnx.ModelProto]] = {}
"""Functions that build the networks, by name."""


def picking(build: Callable[[], onnx.ModelProto]) -> Callable[[], onnx.ModelProto]:
    """Enter a function that builds a network into ``PICKING``."""
    PICKING[build.__name__] = build
    return build


@picking
def places_picked_and_ordered() -> onnx.ModelProto:
    """The largest of each channel, the first places in reverse, some places by truth values."""
    net = Net()
    x = net.input("x", ["N", 6, 8])
    lengths = net.input("lengths", ["N"], INT64)
    h = net.relu(net.linear(x, 16))
    top, at = net.ops("TopK", h, net.ints(3), outputs=2, axis=1)
    turned = net.op("ReverseSequence", net.linear(top, 12), lengths, batch_axis=0, time_axis=1)
    some = net.op("Compress", h, net.const(np.asarray([True, False, True, True, False, False])), axis=1)
    net.sized(some, ["N", 3, 16])
    both = net.add(net.linear(net.relu(turned), 10), net.linear(some, 10))
    return net.proto(net.linear(net.relu(both), 4), net.linear(net.op("Cast", at, to=FLOAT), 3))


@picking
def places_replaced() -> onnx.ModelProto:
    """Rows written over by others: at places of their own in each channel, and as whole slices."""
    net = Net(opset=18)
    x = net.input("x", ["N", 6, 8])
    h = net.relu(net.linear(x, 16))
    places = net.op("ArgMax", h, axis=1, keepdims=1)
    new = net.linear(net.reduce("ReduceMean", x, [1]), 16)
    h = net.op("ScatterElements", h, places, new, axis=1)
    h = net.op("ScatterElements", h, places, new, axis=1, reduction="add")
    h = net.transpose(net.relu(net.linear(h, 12)), 1, 0, 2)
    two = net.transpose(net.linear(net.slice(x, 0, 2), 12), 1, 0, 2)
    h = net.op("ScatterND", h, net.const(np.asarray([[4], [1]])), two)
    hot = net.op(
        "OneHot", net.squeeze(places, 1), net.const(np.asarray(6)), net.const(np.asarray([0.0, 2.0]))
    )
    y = net.linear(net.relu(net.transpose(h, 1, 0, 2)), 10)
    seen = net.linear(net.transpose(hot, 0, 2, 1), 10)
    return net.proto(net.linear(net.relu(net.add(y, seen)), 4))


@picking
def functions_of_each_element() -> onnx.ModelProto:
    """Functions that few networks have, with channels that are constant behind some of them."""
    net = Net()
    x = net.input("x", ["N", 3, 6, 6])
    y = net.op("Asinh", net.op("Sinh", net.op("Tanh", net.conv(x, 16))))
    y = net.op("Shrink", net.conv(y, 12), lambd=0.1, bias=0.05)
    y = net.sized(net.op("MeanVarianceNormalization", y, axes=[2, 3]), ["N", 12, 6, 6])
    near = net.op("Mul", net.op("Tanh", net.conv(y, 16)), net.const(0.5))
    y = net.add(net.op("Atanh", near), net.op("Asin", near))
    y = net.add(net.conv(net.op("Acos", near), 10), net.conv(y, 10))
    y = net.add(net.op("Cosh", near), net.op("Acosh", net.op("Cosh", net.conv(y, 16))))
    y = net.sized(net.op("CastLike", y, x), ["N", 16, 6, 6])
    gate = net.op("Cast", net.op("Not", net.op("IsInf", y)), to=FLOAT)
    bits = net.op("Cast", net.op("Cast", net.mul(y, net.const(9.0)), to=INT32), to=INT64)
    both = net.mul(net.conv(y, 12), net.conv(gate, 12))
    return net.proto(net.head(both, 5), net.head(net.op("Cast", bits, to=FLOAT), 3))


@picking
def columns_and_regions() -> onnx.ModelProto:
    """Blocks of a picture made of channels, and the largest of each region."""
    net = Net(opset=18)
    x = net.input("x", ["N", 4, 12])
    wide = net.op("Conv", net.relu(net.op("Conv", x, net.weight(16, 4, 1))), net.weight(12 * 4, 16, 1))
    picture = net.op("Col2Im", wide, net.ints(4, 5), net.ints(2, 2))
    net.sized(picture, ["N", 12, 4, 5])
    y = net.relu(net.conv(net.relu(picture), 16))
    rois = net.input("rois", ["R", 5])
    largest = net.sized(net.op("MaxRoiPool", y, rois, pooled_shape=[2, 2]), ["R", 16, 2, 2])
    return net.proto(net.head(net.conv(largest, 8), 5), net.head(y, 3))


def integers(net: Net, *shape: int, low: int = 20, high: int = 220) -> str:
    """Add weights of eight bits."""
    return net.const(net.random.integers(low, high, shape).astype(np.uint8))


@picking
def products_of_ranges() -> onnx.ModelProto:
    """A recurrence of integers, and products of integers in one operator each."""
    net = Net()
    x = net.relu(net.linear(net.input("x", [5, "N", 8]), 12))
    hidden = 10
    scale, point = net.const(np.full(1, 0.01)), net.const(np.full(1, 120, np.uint8))
    weights = integers(net, 1, 12, 4 * hidden), integers(net, 1, hidden, 4 * hidden)
    bias = net.const(net.random.uniform(-0.5, 0.5, (1, 8 * hidden)))
    y = contrib(net, "DynamicQuantizeLSTM", x, *weights, bias, "", "", "", "", scale, point, scale, point,
                shape=[5, 1, "N", hidden], hidden_size=hidden)  # fmt: skip
    y = net.sized(net.squeeze(y, 1), [5, "N", hidden])
    each, points = net.const(net.random.uniform(0.005, 0.02, 14)), net.const(np.full(14, 118, np.uint8))
    y = contrib(net, "DynamicQuantizeMatMul", y, integers(net, hidden, 14), each, points, net.vector(14),
                shape=[5, "N", 14])  # fmt: skip
    numbers, step, zero = net.ops("DynamicQuantizeLinear", net.relu(y), outputs=3)
    y = contrib(net, "MatMulIntegerToFloat", numbers, integers(net, 14, 12), step, net.const(0.01), zero,
                net.const(np.asarray(125, np.uint8)), net.vector(12), shape=[5, "N", 12])  # fmt: skip
    return net.proto(net.linear(net.relu(y), 4))


@picking
def attention_of_integers() -> onnx.ModelProto:
    """Rows of a table of few bits, attention whose projections are products of integers."""
    net = Net()
    ids = net.input("ids", ["N", 6], INT64)
    scales = net.const(net.random.uniform(0.01, 0.03, (20, 2)))
    x = contrib(net, "GatherBlockQuantized", integers(net, 20, 16, high=255), ids, scales,
                shape=["N", 6, 32], block_size=16, bits=4)  # fmt: skip
    x = net.relu(net.linear(x, 16))
    step, zero = net.const(0.02), net.const(np.asarray(100, np.uint8))
    numbers = net.op("QuantizeLinear", x, step, zero)
    y = contrib(net, "QAttention", numbers, integers(net, 16, 48), net.vector(48), step, net.const(0.005), "",
                zero, net.const(np.asarray(128, np.uint8)), shape=["N", 6, 16], num_heads=2)  # fmt: skip
    return net.proto(net.linear(net.relu(net.linear(y, 12)), 4))


@picking
def parts_in_a_list() -> onnx.ModelProto:
    """Parts of an axis in a list, of which some are taken, others laid out; a value that is there."""
    net = Net(opset=18)
    x = net.input("x", ["N", 6, 8])
    h = net.relu(net.linear(x, 16))
    parts = net.op("SplitToSequence", h, net.const(np.asarray(2)), axis=1)
    first, last = (
        net.sized(net.op("SequenceAt", parts, net.const(np.asarray(k))), ["N", 2, 16]) for k in (0, -1)
    )
    listed = net.op("SequenceInsert", net.op("SequenceConstruct", net.relu(net.linear(first, 12))),
                    net.linear(last, 12), net.const(np.asarray(0)))  # fmt: skip
    laid = net.sized(net.op("ConcatFromSequence", listed, axis=1, new_axis=1), ["N", 2, 2, 12])
    maybe = net.op("Optional", net.linear(net.relu(laid), 10))
    there = net.op("OptionalHasElement", maybe)
    y = net.sized(net.op("OptionalGetElement", maybe), ["N", 2, 2, 10])
    return net.proto(net.linear(net.relu(net.op("Where", there, y, net.const(0.0))), 4))
