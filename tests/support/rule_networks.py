"""Small networks for statements of rules that examples of one operator cannot show."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from helpers import Net
from ideas_control import Body, choose
from onnx import helper

Build = Callable[[], onnx.ModelProto]
NETWORKS: dict[str, tuple[Build, bool]] = {}
"""Builders by name, and whether axes that are normalised over are opened."""


def network(build: Build) -> Build:
    """Enter a network that is pruned exactly."""
    NETWORKS[build.__name__] = (build, False)
    return build


def inexact(build: Build) -> Build:
    """Enter a network whose normalised axes are opened."""
    NETWORKS[build.__name__] = (build, True)
    return build


def _columns(net: Net, width: int) -> str:
    """Return the features of rows that an input selects."""
    return net.relu(net.gemm(net.input("rows", ["N", 5]), width))


@inexact
def instance_normalization_over_places() -> onnx.ModelProto:
    """Channels and places of InstanceNormalization are factors of one axis: places are optional."""
    net = Net()
    x = net.op("Reshape", _columns(net, 24), net.ints(0, 4, 6))
    x = net.op("InstanceNormalization", x, net.vector(4, 0.7, 1.3), net.vector(4))
    x = net.op("Reshape", x, net.ints(0, 24))
    return net.proto(net.gemm(net.relu(x), 3))


@inexact
def group_normalization_within_groups() -> onnx.ModelProto:
    """Channels within groups of GroupNormalization are optional."""
    net = Net(opset=21)
    x = net.conv(net.input("image", ["N", 3, 5, 5]), 12)
    shape = net.types[x]
    x = net.op("GroupNormalization", x, net.vector(12, 0.7, 1.3), net.vector(12), num_groups=3)
    net.types[x] = shape
    return net.proto(net.conv(net.relu(x), 4))


@network
def scores_by_einsum() -> onnx.ModelProto:
    """Heads of Einsum are pruned first; their width, which is summed over, is optional."""
    net = Net()
    x = net.input("tokens", ["N", 4, 5])
    q, k = (net.op("Reshape", net.linear(x, 12), net.ints(0, 0, 3, 4)) for _ in range(2))
    scores = net.op("Einsum", q, k, equation="bqhd,bkhd->bqkh")
    return net.proto(net.linear(scores, 2))


@network
def padding_beside_fixed_channels() -> onnx.ModelProto:
    """Padding beside channels of an input stays, like them."""
    net = Net()
    x = net.op("Pad", net.input("image", ["N", 3, 5, 5]), net.ints(0, 2, 0, 0, 0, 1, 0, 0))
    return net.proto(net.conv(net.relu(net.conv(x, 6)), 4))


@network
def channels_resized_to_a_size() -> onnx.ModelProto:
    """Sizes of a Resize between convolutions name the number of channels."""
    net = Net()
    x = net.conv(net.input("image", ["N", 3, 4, 4]), 6)
    sizes = net.ints(2, 6, 8, 8)
    x = net.op("Resize", x, "", "", sizes, mode="nearest")
    return net.proto(net.conv(net.relu(x), 4))


@network
def tiled_heads() -> onnx.ModelProto:
    """Copies that Tile makes of one head are optional: heads with all their copies are pruned first."""
    net = Net()
    x = net.op("Reshape", _columns(net, 12), net.ints(0, 4, 1, 3))
    x = net.op("Tile", x, net.ints(1, 1, 2, 1))
    x = net.op("Reshape", x, net.ints(0, 24))
    return net.proto(net.gemm(x, 3))


@network
def number_of_axes_as_data() -> onnx.ModelProto:
    """Elements of a shape are weighed: none of them may go."""
    net = Net()
    x = net.input("image", ["N", 3, 5, 5])
    shape = net.op("Cast", net.op("Shape", x), to=onnx.TensorProto.FLOAT)
    shape = net.op("Mul", shape, net.vector(4))
    return net.proto(net.add(net.gap(net.conv(x, 4)), net.op("ReduceSum", shape, keepdims=0)))


@network
def maxima_put_back() -> onnx.ModelProto:
    """Samples of MaxPool and MaxUnpool are weights: the two lose them together, and no places."""
    net = Net()
    x = net.op("Mul", net.input("x", [1, 1, 1, 1]), net.weight(2, 3, 4, 4))
    y, places = net.ops("MaxPool", x, outputs=2, kernel_shape=[2, 2], strides=[2, 2])
    y = net.op("MaxUnpool", y, places, kernel_shape=[2, 2], strides=[2, 2])
    y = net.sized(y, [2, 3, 4, 4])
    return net.proto(net.op("ReduceSum", y, keepdims=1))


@network
def channels_cut_at_an_open_bound() -> onnx.ModelProto:
    """As many channels as there are samples are added up: all stay."""
    net = Net()
    image = net.input("image", ["N", 3, 5, 5])
    samples = net.op("Slice", net.op("Shape", image), net.ints(0), net.ints(1))
    x = net.op("Slice", net.conv(image, 6), net.ints(0), samples, net.ints(1))
    return net.proto(net.op("ReduceSum", x, net.ints(1)))


@network
def branches_of_other_widths() -> onnx.ModelProto:
    """The result of a choice is as wide as the branch that is taken: no channel may go."""
    net = Net()
    x = net.input("rows", ["N", 5])
    branches = []
    for width in (6, 4):
        body = Body(net)
        made = body.relu(body.linear(x, width))
        body.types[made] = helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, ["N", "width"])
        branches.append(body.graph(made))
    total = net.op("ReduceSum", choose(net, *branches), net.ints(1), keepdims=1)
    total = net.sized(total, [2, 1])
    return net.proto(net.linear(net.relu(net.linear(total, 8)), 3))


def moved_weights(kind: str) -> Build:
    """Return a product whose weights are rounded to integers and rearranged by an operator."""

    def build() -> onnx.ModelProto:
        net = Net(opset=21)
        shape = {"Reshape": (2, 2, 6), "Squeeze": (1, 4, 6)}.get(kind, (4, 6))
        lists = {"Reshape": [net.ints(4, 6)], "Squeeze": [net.ints(0)], "Unsqueeze": [net.ints(0)]}
        scale, zero = net.const(0.02), net.const(np.uint8(128))
        integers = net.op("QuantizeLinear", net.weight(*shape), scale, zero)
        if kind != "QuantizeLinear":
            integers = net.op(kind, integers, *lists.get(kind, []))
        y = net.op("MatMul", _columns(net, 4), net.op("DequantizeLinear", integers, scale, zero))
        return net.proto(net.op("ReduceSum", net.relu(y), net.ints(-1), keepdims=0))  # zeros show

    return build


for _kind in ("Reshape", "Squeeze", "Unsqueeze", "Identity", "QuantizeLinear"):
    NETWORKS[f"weights_behind_{_kind.lower()}"] = (moved_weights(_kind), False)


@network
def rows_in_blocks() -> onnx.ModelProto:
    """Scales of a table in blocks are masked with the blocks."""
    net = Net(opset=21, ir=10)
    table = net.const(net.random.integers(0, 255, (7, 32)).astype(np.uint8))
    ids = net.input("ids", ["N", 5], onnx.TensorProto.INT64)
    how = {"bits": 8, "block_size": 16, "gather_axis": 0, "quantize_axis": 1, "domain": "com.microsoft"}
    (x,) = net.ops(
        "GatherBlockQuantized", table, ids, net.const(net.random.uniform(0.01, 0.02, (7, 2))), **how
    )
    return net.proto(net.linear(net.relu(net.sized(x, ["N", 5, 32])), 6))


@network
def rows_that_are_normalised() -> onnx.ModelProto:
    """Rows of zeros are not zero behind a shift, where they are summed up: they stay."""
    net = Net()
    mean = net.reduce("ReduceMean", net.linear(net.input("tokens", ["N", 5, 6]), 8), [1])
    rows = net.mul(mean, net.weight(6, 8))
    made = net.op("LayerNormalization", rows, net.vector(8, 0.7, 1.3), net.vector(8), axis=-1)
    return net.proto(net.linear(net.reduce("ReduceSum", made, [1]), 3))
