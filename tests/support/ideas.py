"""One small network for each architectural idea, with random weights.

``IDEAS`` has them by name. An idea has a largest fraction of its parameters that may be left when half the
channels of every group are gone: about a quarter, more where inputs, outputs and blocked axes weigh much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from helpers import Net


@dataclass(frozen=True)
class Idea:
    """A network and the reduction that its pruning has to reach.

    Attributes:
        build: Makes the network.
        reach: Largest fraction of the parameters that may be left with half the channels.
        inexact: Whether axes that are normalised over are opened.
        tolerance: Largest relative difference of sparse and dense.
    """

    build: Callable[[], onnx.ModelProto]
    reach: float
    inexact: bool = False
    tolerance: float = 1e-5


IDEAS: dict[str, Idea] = {}
Build = Callable[..., onnx.ModelProto]


def idea(reach: float, *, name: str = "", inexact: bool = False, tolerance: float = 1e-5, **how: Any) -> Any:
    """Enter a function that builds a network into ``IDEAS``; ``how`` are its arguments."""

    def enter(build: Build) -> Build:
        known = name or build.__name__
        assert known not in IDEAS
        IDEAS[known] = Idea(lambda: build(**how), reach, inexact, tolerance)
        return build

    return enter


def image(net: Net, size: int = 16, name: str = "image") -> str:
    return net.input(name, ["N", 3, size, size])


# --- convolutions one after the other ----------------------------------------------------------------------


@idea(0.27)
@idea(0.27, name="constants_in_nodes", constants="node")
@idea(0.27, name="initializers_listed_as_inputs", constants="input", ir=3, opset=8)
@idea(0.27, name="opset_7", opset=7)
@idea(0.27, name="opset_9", opset=9)
@idea(0.27, name="opset_11", opset=11)
@idea(0.27, name="opset_13", opset=13)
@idea(0.27, name="opset_15", opset=15)
@idea(0.27, name="opset_18", opset=18)
@idea(0.27, name="opset_21", opset=21, ir=10)
@idea(0.27, name="opset_23", opset=23, ir=11)
@idea(0.27, name="opset_25", opset=25, ir=12)
@idea(0.27, name="half_precision", dtype=np.float16, tolerance=1e-2)
def plain(**how: Any) -> onnx.ModelProto:
    net = Net(**how)
    x = net.cbr(image(net), 32)
    x = net.pool(net.cbr(x, 64))
    return net.proto(net.head(net.cbr(x, 64)))


@idea(0.26)
def vgg_flatten() -> onnx.ModelProto:
    net = Net()
    x = net.pool(net.cbr(image(net), 32))
    x = net.pool(net.cbr(x, 64))
    x = net.relu(net.gemm(net.op("Flatten", x), 128))
    return net.proto(net.gemm(x, 10))


@idea(0.26)
def flatten_channels_last() -> onnx.ModelProto:
    """As exporters from NHWC frameworks write it: Transpose before the Reshape that flattens."""
    net = Net()
    x = net.pool(net.cbr(image(net), 32))
    x = net.reshape(net.transpose(net.pool(net.cbr(x, 64)), 0, 2, 3, 1), -1, 4 * 4 * 64)
    return net.proto(net.linear(net.relu(net.linear(x, 128)), 10))


@idea(0.27)
def one_dimension() -> onnx.ModelProto:
    net = Net()
    x = net.input("signal", ["N", 2, 64])
    x = net.pool(net.cbr(x, 32))
    return net.proto(net.head(net.cbr(net.cbr(x, 64), 64)))


@idea(0.27)
def three_dimensions() -> onnx.ModelProto:
    net = Net()
    x = net.input("volume", ["N", 1, 8, 8, 8])
    x = net.pool(net.cbr(x, 16))
    return net.proto(net.head(net.cbr(net.cbr(x, 32), 32)))


@idea(0.28)
def space_pyramid() -> onnx.ModelProto:
    """Spatial pyramid pooling: max pools of several sizes, end to end."""
    net = Net()
    x = net.cbr(net.cbr(image(net), 32), 64)
    pools = [net.pool(x, k=k, stride=1, pad=k // 2) for k in (3, 5, 9)]
    return net.proto(net.head(net.cbr(net.concat(x, *pools), 64, 1)))


@idea(0.27)
def focus() -> onnx.ModelProto:
    """Every other pixel, four times, becomes channels."""
    net = Net()
    x = image(net)
    rows = [net.slice(x, k, 2**31, 2, 2) for k in (0, 1)]
    x = net.concat(*(net.slice(r, k, 2**31, 3, 2) for r in rows for k in (0, 1)))
    return net.proto(net.head(net.cbr(net.cbr(net.cbr(x, 32), 64), 64)))


# --- residual connections ----------------------------------------------------------------------------------


@idea(0.26)
def residual() -> onnx.ModelProto:
    net = Net()
    x = net.cbr(image(net), 32)
    x = net.relu(net.add(net.bn(net.conv(net.cbr(x, 32), 32)), x))
    short = net.bn(net.conv(x, 64, 1, stride=2))
    x = net.relu(net.add(net.bn(net.conv(net.cbr(x, 64, stride=2), 64)), short))
    return net.proto(net.head(x))


@idea(0.27)
def bottleneck() -> onnx.ModelProto:
    net = Net()
    x = net.cbr(image(net), 128)
    for _ in range(2):
        y = net.bn(net.conv(net.cbr(net.cbr(x, 64, 1), 64), 128, 1))
        x = net.relu(net.add(y, x))
    return net.proto(net.head(x))


@idea(0.27)
def preactivation() -> onnx.ModelProto:
    """BatchNormalization and ReLU come before the convolution, and the sum is not followed by any."""
    net = Net()
    x = net.conv(image(net), 32)
    for _ in range(2):
        y = net.conv(net.relu(net.bn(x)), 32)
        x = net.add(x, net.conv(net.relu(net.bn(y)), 32))
    return net.proto(net.head(net.relu(net.bn(x))))


@idea(0.27)
def padded_shortcut() -> onnx.ModelProto:
    """The CIFAR ResNet's option A: every other pixel, and new channels of zeros."""
    net = Net()
    x = net.cbr(image(net), 16)
    short = net.slice(net.slice(x, 0, 2**31, 2, 2), 0, 2**31, 3, 2)
    short = net.pad(short, [0, 8, 0, 0, 0, 8, 0, 0])
    x = net.relu(net.add(net.bn(net.conv(net.cbr(x, 32, stride=2), 32)), short))
    return net.proto(net.head(net.cbr(x, 64)))


@idea(0.28)
def resnext() -> onnx.ModelProto:
    net = Net()
    x = net.cbr(image(net), 64)
    for _ in range(2):
        y = net.bn(net.conv(net.cbr(net.cbr(x, 64, 1), 64, group=4), 64, 1))
        x = net.relu(net.add(y, x))
    return net.proto(net.head(x))


# --- depthwise convolutions and gates ----------------------------------------------------------------------


@idea(0.30)
def mobilenet_v1() -> onnx.ModelProto:
    net = Net()
    x = net.cbr(image(net), 64, stride=2)
    for c in (128, 256):
        x = net.cbr(net.relu(net.bn(net.depthwise(x, bias=False))), c, 1)
    return net.proto(net.head(x))


@idea(0.33)
def mobilenet_v2() -> onnx.ModelProto:
    net = Net(opset=11)
    x = net.cbr(image(net), 32, stride=2)
    for _ in range(2):
        y = net.op("Clip", net.bn(net.conv(x, 96, 1)), net.const(0.0), net.const(6.0))
        y = net.op("Clip", net.bn(net.depthwise(y)), net.const(0.0), net.const(6.0))
        x = net.add(net.bn(net.conv(y, 32, 1)), x)
    return net.proto(net.head(net.relu(net.conv(x, 96, 1))))


def hard_sigmoid(net: Net, x: str) -> str:
    six = net.op("Clip", net.add(x, net.const(3.0)), net.const(0.0), net.const(6.0))
    return net.op("Div", six, net.const(6.0))


def squeeze_excite(net: Net, x: str, inner: int) -> str:
    c = net.shape(x)[1]
    return net.mul(x, hard_sigmoid(net, net.conv(net.relu(net.conv(net.gap(x), inner, 1)), c, 1)))


@idea(0.31)
def mobilenet_v3() -> onnx.ModelProto:
    """Squeeze and excite, and hard-swish spelled out."""
    net = Net()
    x = net.cbr(image(net), 32, stride=2)
    for _ in range(2):
        y = net.bn(net.conv(x, 96, 1))
        y = squeeze_excite(net, net.bn(net.depthwise(net.mul(y, hard_sigmoid(net, y)))), 24)
        x = net.add(net.bn(net.conv(y, 32, 1)), x)
    return net.proto(net.head(net.relu(net.conv(x, 96, 1))))


@idea(0.55)
def efficient_channel_attention() -> onnx.ModelProto:
    """A convolution along the channels: those have to stay, the others go."""
    net = Net()
    x = net.cbr(net.cbr(image(net), 32), 32)
    along = net.transpose(net.squeeze(net.gap(x), -1), 0, 2, 1)
    gate = net.unsqueeze(net.transpose(net.op("Sigmoid", net.conv(along, 1, 3)), 0, 2, 1), -1)
    return net.proto(net.head(net.cbr(net.mul(x, gate), 64)))


@idea(0.28)
def depthwise_multiplier() -> onnx.ModelProto:
    net = Net()
    x = net.cbr(image(net), 32)
    x = net.relu(net.bn(net.depthwise(x, multiplier=2)))
    return net.proto(net.head(net.cbr(x, 64)))


@idea(0.27)
def gated_convolution() -> onnx.ModelProto:
    """One half of the channels is the gate of the other."""
    net = Net()
    x = net.cbr(image(net), 32)
    for _ in range(2):
        a, b = net.split(net.conv(x, 64), 2)
        x = net.mul(a, net.op("Sigmoid", b))
    return net.proto(net.head(x))


# --- concatenations and cuts -------------------------------------------------------------------------------


@idea(0.27)
def densenet() -> onnx.ModelProto:
    net = Net()
    x = net.conv(image(net), 32)
    for _ in range(3):
        y = net.conv(net.relu(net.bn(x)), 64, 1)
        x = net.concat(x, net.conv(net.relu(net.bn(y)), 16))
    x = net.pool(net.conv(net.relu(net.bn(x)), 40, 1), "AveragePool")
    return net.proto(net.head(net.relu(net.bn(x))))


@idea(0.28)
def inception() -> onnx.ModelProto:
    net = Net()
    x = net.cbr(image(net), 32)
    for _ in range(2):
        parts = [net.cbr(x, 16, 1), net.cbr(net.cbr(x, 24, 1), 32), net.cbr(net.cbr(x, 8, 1), 16, 5)]
        x = net.concat(*parts, net.cbr(net.pool(x, "MaxPool", 3, 1, 1), 16, 1))
    return net.proto(net.head(x))


@idea(0.39)
def deformable_convolution() -> onnx.ModelProto:
    """Read at offsets that another convolution makes, which stay; in two groups."""
    net = Net(opset=19)
    x = net.cbr(image(net), 32, stride=2)
    for _ in range(2):
        offsets = net.conv(x, 18)
        w, bias = net.weight(32, 16, 3, 3), net.vector(32)
        x = net.relu(net.op("DeformConv", x, w, offsets, bias, kernel_shape=[3, 3], pads=[1] * 4, group=2))
    return net.proto(net.head(net.cbr(x, 32, 1)))


@idea(0.35)
def grouped_transposed_convolution() -> onnx.ModelProto:
    """Up and up again, four groups of channels at a time."""
    net = Net()
    x = net.cbr(image(net), 32, stride=4)
    for _ in range(2):
        x = net.relu(net.bn(net.up(x, 32, group=4)))
    return net.proto(net.head(net.cbr(x, 32, 1)))


@idea(0.28)
def group_normalization_of_whole_groups() -> onnx.ModelProto:
    """Statistics are taken within groups of four, so a group goes as a whole or not at all."""
    net = Net(opset=21)
    x = net.cbr(image(net), 32)
    for _ in range(2):
        scale, shift = net.vector(32, 0.7, 1.3), net.vector(32)
        x = net.conv(x, 32, bias=False)
        y = net.op("GroupNormalization", x, scale, shift, num_groups=8)
        x = net.relu(net.sized(y, ["N", 32, 16, 16]))
    return net.proto(net.head(x))


def shuffle(net: Net, x: str, groups: int) -> str:
    _, c, h, w = net.shape(x)
    y = net.transpose(net.reshape(x, -1, groups, c // groups, h, w), 0, 2, 1, 3, 4)
    return net.reshape(y, -1, c, h, w)


@idea(0.32)
def shufflenet_v1() -> onnx.ModelProto:
    net = Net()
    x = net.cbr(image(net), 128, stride=2)
    for _ in range(2):
        y = shuffle(net, net.cbr(x, 128, 1, group=4), 4)
        y = net.bn(net.conv(net.bn(net.depthwise(y)), 128, 1, group=4))
        x = net.relu(net.add(x, y))
    return net.proto(net.head(net.cbr(x, 128, 1)))


@idea(0.31, name="shufflenet_v2_split")
@idea(0.31, name="shufflenet_v2_slice", cut_by_slice=True)
@idea(0.32, name="shufflenet_v2_uneven_split", half=58, units=3, opset=18)
@idea(0.32, name="shufflenet_v2_uneven_slice", half=58, units=3, cut_by_slice=True)
def shufflenet_v2(
    cut_by_slice: bool = False, half: int = 64, units: int = 2, opset: int = 17
) -> onnx.ModelProto:
    """Half the channels pass by, and all are shuffled; 58 of them are cut within a pair after two units."""
    net = Net(opset)
    x = net.cbr(image(net), 2 * half, stride=2)
    for _ in range(units):
        if cut_by_slice:
            a, b = net.slice(x, 0, half), net.slice(x, half, 2 * half)
        else:
            a, b = net.split(x, 2)
        b = net.cbr(net.bn(net.depthwise(net.cbr(b, half, 1))), half, 1)
        x = shuffle(net, net.concat(a, b), 2)
    return net.proto(net.head(net.cbr(x, 96, 1)))


@idea(0.27)
def cross_stage_partial() -> onnx.ModelProto:
    """YOLO's C2f: cut in two, pass one half on and on, and lay all that was made end to end."""
    net = Net(seed=1)
    x = net.cbr(image(net), 32)
    for _ in range(2):
        parts = net.split(net.silu(net.conv(x, 32, 1)), 2)
        for _ in range(2):
            y = net.silu(net.conv(net.silu(net.conv(parts[-1], 16)), 16))
            parts.append(net.add(parts[-1], y))
        x = net.silu(net.conv(net.concat(*parts), 32, 1))
    return net.proto(net.head(x))


# --- pictures as results -----------------------------------------------------------------------------------


@idea(0.26, name="unet_resize")
@idea(0.26, name="unet_transposed", transposed=True)
@idea(0.26, name="unet_upsample", opset=9)
@idea(0.26, name="unet_resize_10", opset=10)
@idea(0.26, name="unet_resize_11", opset=11)
def unet(transposed: bool = False, opset: int = 17) -> onnx.ModelProto:
    net = Net(opset=opset)
    a = net.cbr(image(net), 16)
    b = net.cbr(net.pool(a), 32)
    c = net.cbr(net.pool(b), 64)
    for skip, width in ((b, 32), (a, 16)):
        c = net.up(c, width) if transposed else net.double(c)
        c = net.cbr(net.concat(c, skip), width)
    return net.proto(net.conv(c, 2, 1))


@idea(0.28)
def feature_pyramid() -> onnx.ModelProto:
    """Sums from coarse to fine, one convolution shared by all levels, an output each."""
    net = Net()
    a = net.cbr(image(net), 32)
    b = net.cbr(a, 64, stride=2)
    c = net.cbr(b, 64, stride=2)
    top = net.conv(c, 32, 1)
    middle = net.add(net.conv(b, 32, 1), net.double(top))
    bottom = net.add(net.conv(a, 32, 1), net.double(middle))
    shared = net.weight(32, 32, 3, 3)
    levels = [net.relu(net.conv(x, 32, w=shared)) for x in (top, middle, bottom)]
    return net.proto(*(net.conv(x, 4, 1) for x in levels))


@idea(0.27, name="pixel_shuffle")
@idea(0.27, name="pixel_shuffle_columns", mode="CRD")
def pixel_shuffle(mode: str = "DCR") -> onnx.ModelProto:
    net = Net()
    x = net.cbr(net.cbr(image(net), 32), 128)
    x = net.op("DepthToSpace", x, blocksize=2, mode=mode)
    return net.proto(net.conv(net.cbr(x, 32), 3))


@idea(0.27)
def pixel_shuffle_spelled_out() -> onnx.ModelProto:
    net = Net()
    x = net.cbr(net.cbr(image(net), 32), 128)
    x = net.transpose(net.reshape(x, -1, 32, 2, 2, 16, 16), 0, 1, 4, 2, 5, 3)
    return net.proto(net.conv(net.cbr(net.reshape(x, -1, 32, 32, 32), 32), 3))


# --- normalisation in groups, shared weights, several inputs -----------------------------------------------


@idea(0.27)
def group_norm() -> onnx.ModelProto:
    """As exported: Reshape, InstanceNormalization over the groups, Reshape, scale and shift."""
    net = Net()
    x = image(net)
    for c in (32, 64, 64):
        x = net.conv(x, c)
        groups = net.reshape(x, 0, 8, -1)
        ones, zeros = net.const(np.ones(8)), net.const(np.zeros(8))
        y = net.op("InstanceNormalization", groups, ones, zeros)
        y = net.op("Reshape", y, net.op("Shape", x))
        scale = net.const(net.random.uniform(0.7, 1.3, (c, 1, 1)))
        shift = net.const(net.random.uniform(-0.5, 0.5, (c, 1, 1)))
        x = net.relu(net.add(net.mul(y, scale), shift))
    return net.proto(net.head(x))


@idea(0.27)
def shared_convolution() -> onnx.ModelProto:
    """One weight, used three times on end."""
    net = Net()
    x = net.cbr(image(net), 32)
    w = net.weight(32, 32, 3, 3)
    for _ in range(3):
        x = net.relu(net.conv(x, 32, w=w))
    return net.proto(net.head(net.cbr(x, 64)))


@idea(0.27)
def siamese() -> onnx.ModelProto:
    """Two pictures through the same weights, then their distance."""
    net = Net()
    weights = [net.weight(32, 3, 3, 3), net.weight(64, 32, 3, 3)]
    towers = []
    for name in ("left", "right"):
        x = image(net, name=name)
        for w in weights:
            x = net.relu(net.conv(x, net.shape(w)[0], w=w, bias=False))
        towers.append(net.op("Flatten", net.gap(x)))
    distance = net.op("Abs", net.op("Sub", *towers))
    return net.proto(net.gemm(net.relu(net.gemm(distance, 64)), 2))


@idea(0.29)
def several_inputs() -> onnx.ModelProto:
    net = Net()
    x = net.op("Flatten", net.gap(net.cbr(net.cbr(image(net), 32), 32)))
    y = net.relu(net.gemm(net.input("table", ["N", 7]), 32))
    return net.proto(net.gemm(net.relu(net.gemm(net.concat(x, y), 64)), 10))


@idea(0.28)
def several_outputs() -> onnx.ModelProto:
    net = Net()
    x = net.cbr(net.cbr(image(net), 32), 64)
    boxes = net.conv(net.cbr(x, 32), 4, 1)
    return net.proto(net.head(net.cbr(x, 32)), boxes)


@idea(0.28)
def computed_weights() -> onnx.ModelProto:
    """Weights that are transposed, retyped and made of nothing before they are used."""
    net = Net()
    w = net.op("Transpose", net.weight(3, 3, 3, 32), perm=[3, 2, 0, 1])
    x = net.relu(net.bn(net.conv(image(net), 32, w=w)))
    ones = net.op("ConstantOfShape", net.ints(32), value=onnx.numpy_helper.from_array(np.ones(1, np.float32)))
    zeros = net.op("ConstantOfShape", net.ints(32))
    x = net.op("BatchNormalization", x, ones, zeros, zeros, ones)
    x = net.op("Flatten", net.gap(net.relu(net.conv(x, 64))))
    x = net.relu(net.op("MatMul", x, net.transpose(net.weight(64, 64), 1, 0)))
    return net.proto(net.linear(x, 10))


@idea(0.27, tolerance=1e-10)
def double_precision() -> onnx.ModelProto:
    net = Net(dtype=np.float64)
    x = net.input("table", ["N", 8])
    for width in (64, 128, 128):
        x = net.relu(net.gemm(x, width))
    return net.proto(net.gemm(x, 4))


import ideas_sequences  # noqa: E402, F401  (enters the other ideas, whichever module is imported first)
