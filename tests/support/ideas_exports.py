"""Patterns that exporters leave in files: computed weights, numbers behind Cast, norms spelled out."""

from __future__ import annotations

import numpy as np
import onnx
from helpers import Net
from ideas import idea, image

WIDTH = 32


# --- values made of constants alone ------------------------------------------------------------------------


def normed(net: Net, w: str, axes: list[int]) -> str:
    """Weight normalisation left in the graph: ``g · v / ‖v‖``."""
    lengths = [1 if k in axes else size for k, size in enumerate(net.shape(w))]
    g = net.const(net.random.uniform(0.5, 1.5, lengths))
    return net.mul(net.op("Div", w, net.reduce("ReduceL2", w, axes)), g)


@idea(0.27)
@idea(0.27, name="weight_norm_opset_11", opset=11)
@idea(0.27, name="weight_norm_constants_in_nodes", constants="node")
@idea(0.27, name="weight_norm_half", dtype=np.float16, tolerance=1e-2)
def weight_norm(**how: object) -> onnx.ModelProto:
    net = Net(**how)  # type: ignore[arg-type]
    x = net.relu(net.conv(image(net), 32, w=normed(net, net.weight(32, 3, 3, 3), [1, 2, 3])))
    x = net.relu(net.conv(x, 64, w=normed(net, net.weight(64, 32, 3, 3), [1, 2, 3])))
    return net.proto(net.head(net.relu(net.conv(x, 64, w=normed(net, net.weight(64, 64, 3, 3), [1, 2, 3])))))


@idea(0.27)
def spectral_norm() -> onnx.ModelProto:
    """Weights divided by a number computed from them: ``W / (u · W · v)``."""
    net = Net()
    x = image(net)
    for out in (32, 64, 64):
        w = net.weight(out, net.shape(x)[1], 3, 3)
        flat = net.reshape(w, out, -1)
        u, v = net.vector(out, 0.1, 0.3), net.vector(net.shape(x)[1] * 9, 0.1, 0.3)
        sigma = net.op("MatMul", u, net.op("MatMul", flat, v))
        x = net.relu(
            net.conv(x, out, w=net.op("Div", w, net.op("Add", net.op("Abs", sigma), net.const(1.0))))
        )
    return net.proto(net.head(x))


# --- the root of a mean square, spelled out ----------------------------------------------------------------


def squared(net: Net, x: str, form: str) -> str:
    if form == "product":
        return net.mul(x, x)
    two = net.op("Cast", net.const(2), to=net.kind) if form == "cast" else net.const(2.0)
    return net.op("Pow", x, two)


def rms_norm(net: Net, x: str, square: str, root: str) -> str:
    """``x / √(mean(x²) + ε) · scale`` in the ways that exporters write it."""
    width = net.shape(x)[-1]
    y = squared(net, x, square)
    if root == "sum":
        mean = net.op("Div", net.reduce("ReduceSum", y, [-1]), net.const(float(width)))
    else:
        mean = net.reduce("ReduceMean", y, [-1])
    mean = net.add(mean, net.const(1e-5))
    if root == "power":
        y = net.mul(x, net.op("Pow", mean, net.op("Neg", net.const(0.5))))
    elif root == "reciprocal":
        y = net.mul(x, net.op("Reciprocal", net.op("Sqrt", mean)))
    elif root == "one_over":
        y = net.mul(x, net.op("Div", net.const(1.0), net.op("Sqrt", mean)))
    else:
        y = net.op("Div", x, net.op("Sqrt", mean))
    return net.mul(y, net.vector(width, 0.7, 1.3))


@idea(0.54, name="rms_exponent_behind_cast", square="cast")
@idea(0.54, name="rms_by_power", root="power")
@idea(0.54, name="rms_by_reciprocal", square="product", root="reciprocal")
@idea(0.54, name="rms_by_one_over", square="cast", root="one_over")
@idea(0.54, name="rms_by_sum", root="sum")
def embedded_rms(square: str = "plain", root: str = "root") -> onnx.ModelProto:
    net = Net()
    x = net.op("Gather", net.weight(50, WIDTH, fan=1), net.input("ids", ["N", 8], onnx.TensorProto.INT64))
    for _ in range(2):
        y = net.linear(rms_norm(net, x, square, root), 2 * WIDTH)
        x = net.add(x, net.linear(net.relu(y), WIDTH))
    return net.proto(net.linear(rms_norm(net, x, square, root), 10))


@idea(0.34)
def scores_divided_by_a_root() -> onnx.ModelProto:
    """The scale of attention is computed in the file: √(Cast(width))."""
    net = Net()
    x = net.op("Gather", net.weight(50, WIDTH, fan=1), net.input("ids", ["N", 8], onnx.TensorProto.INT64))
    q, k, v = (net.transpose(net.reshape(net.linear(x, WIDTH), -1, 8, 4, 8), 0, 2, 1, 3) for _ in range(3))
    root = net.op("Sqrt", net.op("Cast", net.const(8), to=net.kind))
    scores = net.op("Div", net.op("MatMul", q, net.transpose(k, 0, 1, 3, 2)), root)
    y = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    y = net.linear(net.reshape(net.transpose(y, 0, 2, 1, 3), -1, 8, WIDTH), WIDTH)
    return net.proto(net.linear(net.add(x, y), 10))


# --- maxima over channels ----------------------------------------------------------------------------------


def spatial_gate(net: Net, x: str, activate: str, floor: str) -> str:
    """CBAM: a gate over positions from the largest and the mean of all channels."""
    largest = net.reduce("ReduceMax", x, [1])
    if floor == "relu":
        largest = net.relu(largest)
    elif floor == "max":
        largest = net.op("Max", net.op("Identity", largest), net.const(0.0))
    both = net.concat(largest, net.reduce("ReduceMean", x, [1]))
    return net.mul(x, net.op("Sigmoid", net.conv(both, 1, 7)))


@idea(0.3)
@idea(0.3, name="cbam_relu6", activate="Clip")
@idea(0.3, name="cbam_magnitudes", activate="Abs")
@idea(0.3, name="cbam_squares", activate="square")
@idea(0.3, name="cbam_relu_after", activate="Tanh", floor="relu")
@idea(0.3, name="cbam_maximum_with_zero_after", activate="Tanh", floor="max")
@idea(0.3, name="cbam_opset_20", opset=20)
def cbam(activate: str = "Relu", floor: str = "", opset: int = 17) -> onnx.ModelProto:
    net = Net(opset=opset)

    def act(y: str) -> str:
        if activate == "square":
            return net.mul(y, y)
        return net.op(activate, y, *([net.const(0.0), net.const(6.0)] if activate == "Clip" else []))

    x = spatial_gate(net, act(net.conv(image(net), 32)), activate, floor)
    x = spatial_gate(net, act(net.conv(x, 64)), activate, floor)
    x = net.pool(net.relu(net.conv(x, 64)), "AveragePool", 4, 4)
    return net.proto(net.gemm(net.op("Flatten", x), 10))


@idea(0.29)
@idea(0.29, name="pooled_widths_mean", kind="GlobalAveragePool")
@idea(0.29, name="pooled_widths_power", kind="GlobalLpPool")
def pooled_widths(kind: str = "GlobalMaxPool") -> onnx.ModelProto:
    """Tokens pooled over their width, with a pool that is meant for pictures."""
    net = Net()
    x = net.relu(net.linear(net.input("tokens", ["N", 16, 8]), WIDTH))
    x = net.relu(net.linear(x, 2 * WIDTH))
    gate = net.op("Sigmoid", net.op(kind, x))
    return net.proto(net.linear(net.relu(net.linear(net.mul(x, gate), WIDTH)), 10))


# --- places of maxima --------------------------------------------------------------------------------------


@idea(0.28)
@idea(0.28, name="segnet_with_sizes", shapes=True)
def segnet(shapes: bool = False) -> onnx.ModelProto:
    """Maxima of a pool are put back to their positions: SegNet, DeconvNet."""
    net = Net()
    x, places = net.input("image", [2 if shapes else "N", 3, 16, 16]), []
    how = {"kernel_shape": [2, 2], "strides": [2, 2]}
    for out in (32, 64):
        before = net.cbr(x, out)
        x, indices = net.ops("MaxPool", before, outputs=2, **how)
        places.append((net.op("Identity", indices), net.shape(before)[1:]))
    for out in (32, 16):
        indices, sizes = places.pop()
        size = [net.ints(2, *sizes)] if shapes else []
        x = net.op("MaxUnpool", net.cbr(x, sizes[0]), indices, *size, **how)
        x = net.cbr(net.sized(x, [2 if shapes else "N", *sizes]), out)
    return net.proto(net.conv(x, 3, 1))


# --- channels in reverse order -----------------------------------------------------------------------------


def flipped(net: Net, x: str, how: str) -> str:
    width = net.shape(x)[1]
    if how == "gather":
        return net.op("Gather", x, net.ints(*range(width - 1, -1, -1)), axis=1)
    return net.slice(x, -1, -(2**31), step=-1)


@idea(0.3)
@idea(0.3, name="flow_by_list", how="gather")
def flow(how: str = "slice") -> onnx.ModelProto:
    """Coupling layers: channels are turned round, and one half shifts the other."""
    net = Net()
    x = net.relu(net.conv(net.input("signal", ["N", 4, 16]), 32))
    for _ in range(3):
        a, b = net.split(flipped(net, x, how), [16, 16])
        shift = net.conv(net.relu(net.conv(a, 48)), 16)
        x = net.concat(a, net.add(b, shift))
    return net.proto(net.conv(net.relu(flipped(net, x, how)), 3, 1))


@idea(0.28)
def mirrored_sum() -> onnx.ModelProto:
    """Channels added to themselves in reverse order: those at both ends are coupled."""
    net = Net()
    x = net.cbr(image(net), 32)
    x = net.cbr(net.add(x, flipped(net, net.relu(net.conv(x, 32)), "slice")), 64)
    x = net.cbr(net.add(x, flipped(net, x, "slice")), 64)
    return net.proto(net.head(x))
