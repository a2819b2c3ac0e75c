"""Depthwise convolutions over small maps as matrix products.

The runtime's gradient of a convolution goes picture by picture and group by group, which is slow where each
product is tiny. The kernel of a channel, laid out as a matrix from all positions of the input to all of
the output, turns the whole batch of that channel into one product, and its gradient into two. These multiply
by many zeros, so they are faster only where a map has not many more positions than the kernel has taps.
"""

from __future__ import annotations

import math

import onnx_graphsurgeon as gs

from onnxprune.train.emit import Emitter, optional_input, sizes_of
from onnxprune.train.rewrites.window_arithmetic import layout_of, windows_of

LARGEST_GROWTH = 8
"""Multiplications of the product for each one of the convolution, up to which the product is faster.

Measured on kernels of 9 and 25 taps over 4×4 to 14×14 positions: 8 to 2 times as fast, and slower from 11 on.
"""
LARGEST_GROWTH_OF_MANY = 22
"""The same for at least `MANY` pictures where nothing is to be turned around: two threads gain, one does not.

Of fewer the matrices themselves, which take as long for one picture as for all, cost more than they save.
"""
MANY = 32
LARGEST_ELEMENTS = 1 << 24
"""Of the matrices of all channels together."""


def pays(node: gs.Node, largest_growth: float = LARGEST_GROWTH) -> bool:
    """Return whether a convolution of known sizes is a depthwise one over a map small enough.

    Args:
        node: The convolution.
        largest_growth: Multiplications of the product for each one of the convolution.
    """
    x, weight = node.inputs[:2]
    channels, *sizes = sizes_of(x, 1)
    if not weight.shape[0] == node.attrs.get("group", 1) == channels > 1:
        return False
    kernel = sizes_of(weight, 2)
    outputs = math.prod(window.outputs for window in windows_of(node, kernel))
    positions = math.prod(sizes)
    small = channels * positions * outputs <= LARGEST_ELEMENTS
    return small and positions <= largest_growth * math.prod(kernel)


def as_products(node: gs.Node, emit: Emitter) -> gs.Tensor:
    """Write a convolution as one matrix product for each channel."""
    x, channels = node.inputs[0], node.inputs[1].shape[0]
    rows = emit("Transpose", emit("Reshape", x, emit.ints([0, channels, -1])), perm=[1, 0, 2])
    results = emit("Transpose", emit("MatMul", rows, matrices_of(node, emit)), perm=[1, 0, 2])
    windows = windows_of(node, sizes_of(node.inputs[1], 2))
    spread = emit("Reshape", results, emit.ints([0, channels, *(window.outputs for window in windows)]))
    bias = optional_input(node, 2)
    if bias is None:
        return spread
    return emit("Add", spread, emit("Reshape", bias, emit.ints([channels, *[1] * len(windows)])))


def matrices_of(node: gs.Node, emit: Emitter) -> gs.Tensor:
    """Lay the kernel of each channel out as a matrix, ``[channels, positions, outputs]``."""
    weight = node.inputs[1]
    channels, _, *kernel = sizes_of(weight)
    layout = layout_of(windows_of(node, kernel))
    taps, positions, outputs = layout.shape
    flat = emit("Reshape", weight, emit.ints([channels, taps]))
    laid_out = emit("MatMul", flat, layout.reshape(taps, -1))
    matrices: gs.Tensor = emit("Reshape", laid_out, emit.ints([channels, positions, outputs]))
    return matrices
