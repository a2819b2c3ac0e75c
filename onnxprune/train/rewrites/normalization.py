"""Normalisations spelled in ReduceMean, Sqrt and Div (definitions: ONNX operator specification)."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.train.emit import Emitter, Untrainable, optional_input, rank_of, sizes_of
from onnxprune.train.rewrites.registry import rewrites


def standardized(x: gs.Tensor, emit: Emitter, axes: list[int], epsilon: float) -> Any:
    """(x − mean) / sqrt(variance + epsilon) over some axes."""
    centred = emit("Sub", x, emit.reduce("ReduceMean", x, axes))
    variance = emit.reduce("ReduceMean", emit("Mul", centred, centred), axes)
    return emit("Div", centred, emit("Sqrt", emit("Add", variance, epsilon)))


def _affine(x: gs.Tensor, emit: Emitter, scale: gs.Tensor, bias: gs.Tensor, shape: list[int]) -> Any:
    """Scale and shift with parameters brought into a shape that broadcasts."""
    scaled = emit("Mul", x, emit("Reshape", scale, emit.ints(shape)))
    return emit("Add", scaled, emit("Reshape", bias, emit.ints(shape)))


def mean_square_normalized(x: gs.Tensor, emit: Emitter, axes: list[int], epsilon: float) -> Any:
    """Divide by the root of the mean square plus epsilon over some axes."""
    square = emit.reduce("ReduceMean", emit("Mul", x, x), axes)
    return emit("Div", x, emit("Sqrt", emit("Add", square, epsilon)))


@rewrites("SimplifiedLayerNormalization")
def simplified_layer_normalization(node: gs.Node, emit: Emitter) -> Any:
    """Divide by the root mean square over the last axes."""
    x, scale = node.inputs
    axes = list(range(node.attrs.get("axis", -1) % rank_of(x), rank_of(x)))
    scaled = emit("Mul", mean_square_normalized(x, emit, axes, node.attrs.get("epsilon", 1e-5)), scale)
    if any(output.outputs for output in node.outputs[1:]):
        raise Untrainable("its statistics are read")
    return scaled


@rewrites("MeanVarianceNormalization")
def mean_variance_normalization(node: gs.Node, emit: Emitter) -> Any:
    """Standardise over some axes, by default all but the channels."""
    x, rank = node.inputs[0], rank_of(node.inputs[0])
    axes = sorted(axis % rank for axis in node.attrs.get("axes", (0, 2, 3)))
    if 0 in axes:
        raise Untrainable("it normalises over the batch")
    return standardized(x, emit, axes, 1e-9)


@rewrites("InstanceNormalization")
def instance_normalization(node: gs.Node, emit: Emitter) -> Any:
    """Standardise every channel of every sample."""
    x, scale, bias = node.inputs
    spatial = list(range(2, rank_of(x)))
    standard = standardized(x, emit, spatial, node.attrs.get("epsilon", 1e-5))
    return _affine(standard, emit, scale, bias, [-1] + [1] * len(spatial))


def frozen_batch_normalization(node: gs.Node, emit: Emitter) -> Any:
    """Scale and shift by the running statistics, as in inference; not in the table, as training does not."""
    x, scale, bias, mean, variance = node.inputs
    shape = [-1] + [1] * (rank_of(x) - 2)
    epsilon = node.attrs.get("epsilon", 1e-5)
    slope = emit("Div", scale, emit("Sqrt", emit("Add", variance, epsilon)))
    centred = emit("Sub", x, emit("Reshape", mean, emit.ints(shape)))
    return _affine(centred, emit, slope, bias, shape)


@rewrites("GroupNormalization")
def group_normalization(node: gs.Node, emit: Emitter) -> Any:
    """Standardise groups of channels; scale and bias are per group before operator set 21."""
    x, scale, bias = node.inputs
    groups = node.attrs["num_groups"]
    channels, *spatial = sizes_of(x, 1)
    grouped = emit("Reshape", x, emit.ints([0, groups, -1]))
    standard = standardized(grouped, emit, [2], node.attrs.get("epsilon", 1e-5))
    if emit.graph.opset < 21:
        standard = _affine(standard, emit, scale, bias, [-1, 1])
    whole = emit("Reshape", standard, emit.ints([0, channels, *spatial]))
    return whole if emit.graph.opset < 21 else _affine(whole, emit, scale, bias, [-1] + [1] * len(spatial))


@rewrites("LayerNormalization")
def layer_normalization(node: gs.Node, emit: Emitter) -> None:
    """The gradient needs a bias and the two optional outputs."""
    if optional_input(node, 2) is None:
        x, scale = node.inputs[:2]
        node.inputs = [x, scale, emit.floats(np.zeros(sizes_of(scale)))]
    while len(node.outputs) < 3:
        node.outputs.append(gs.Variable(f"{node.outputs[0].name}:statistic_{len(node.outputs)}"))


@rewrites("LpNormalization")
def lp_normalization(node: gs.Node, emit: Emitter) -> Any:
    """Divide by the sum of magnitudes or the Euclidean norm."""
    x, axes = node.inputs[0], [node.attrs.get("axis", -1)]
    order = node.attrs.get("p", 2)
    if order not in (1, 2):
        raise Untrainable(f"its norm of order {order} is not one of 1 and 2")
    size = emit.reduce("ReduceSum", emit("Abs", x) if order == 1 else emit("Mul", x, x), axes)
    # The runtime's result for zeros is zero; a divisor of one gives the same, with a gradient.
    size = emit("Where", emit("Greater", size, 0.0), size, 1.0)
    return emit("Div", x, size if order == 1 else emit("Sqrt", size))


@rewrites("LRN")
def local_response_normalization(node: gs.Node, emit: Emitter) -> Any:
    """Sum squares over neighbouring channels with a convolution along the channel axis."""
    x, size = node.inputs[0], node.attrs["size"]
    channels, *spatial = sizes_of(x, 1)
    squares = emit("Reshape", emit("Mul", x, x), emit.ints([0, 1, channels, -1]))
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    window = np.full((1, 1, size, 1), node.attrs.get("alpha", 1e-4) / size)
    summed = emit("Conv", squares, window, pads=[before, 0, after, 0])
    base = emit(
        "Add", emit("Reshape", summed, emit.ints([0, channels, *spatial])), node.attrs.get("bias", 1.0)
    )
    return emit("Div", x, emit("Pow", base, node.attrs.get("beta", 0.75)))
