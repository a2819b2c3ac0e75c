"""Convolutions over small maps as one matrix product for the whole batch.

The runtime's gradient of a convolution goes picture by picture. Where a map has few positions each of these
products is narrow, and the work between them runs on one thread. So all windows of the batch become the rows
of one matrix: by a product too, with a matrix of zeros and ones, whose gradient is another product.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.train.emit import Emitter, optional_input, sizes_of
from onnxprune.train.rewrites.window_arithmetic import layout_of, windows_of
from onnxprune.train.wire import Array

MOST_POSITIONS = 64
"""Of the input. Measured: 2×2 takes a third of the time, 4×4 and 7×7 four fifths, 14×14 as long or longer."""
LARGEST_SHARE = 1.6
"""Multiplications that lay out the windows for each one of the convolution."""


def pays(node: gs.Node) -> bool:
    """Return whether a convolution of known sizes has one group and a map small enough."""
    x, weight = node.inputs[:2]
    if node.attrs.get("group", 1) != 1:
        return False
    made, _, *kernel = sizes_of(weight)
    positions = math.prod(sizes_of(x, 2))
    reached = math.prod(kernel) * math.prod(window.outputs for window in windows_of(node, kernel))
    return positions <= min(MOST_POSITIONS, LARGEST_SHARE * made, reached)


def as_product(node: gs.Node, emit: Emitter) -> gs.Tensor:
    """Write a convolution as one matrix product, its windows being the rows."""
    x, weight = node.inputs[:2]
    made, channels, *kernel = sizes_of(weight)
    windows = windows_of(node, kernel)
    matrix = _windows_as_rows(x, layout_of(windows), emit)
    taps, outputs = math.prod(kernel), math.prod(window.outputs for window in windows)
    by_tap = emit("Transpose", emit("Reshape", weight, emit.ints([made, channels, taps])), perm=[0, 2, 1])
    operands = [matrix, emit("Reshape", by_tap, emit.ints([made, taps * channels])), optional_input(node, 2)]
    product = emit("Gemm", *(o for o in operands if o is not None), transB=1)
    results = emit("Transpose", emit("Reshape", product, emit.ints([outputs, -1, made])), perm=[1, 2, 0])
    return emit("Reshape", results, emit.ints([0, made, *(window.outputs for window in windows)]))


def _windows_as_rows(x: gs.Tensor, layout: Array, emit: Emitter) -> gs.Tensor:
    """Return the window of each output in each picture, ``[outputs · pictures, taps · channels]``."""
    taps, positions, outputs = layout.shape
    channels = sizes_of(x, 1)[0]
    by_position = emit("Transpose", emit("Reshape", x, emit.ints([0, channels, positions])), perm=[2, 0, 1])
    if taps == 1 and np.array_equal(layout[0], np.eye(positions)):
        return emit("Reshape", by_position, emit.ints([-1, channels]))
    rows = emit("Reshape", by_position, emit.ints([positions, -1]))
    laid_out = emit("MatMul", layout.transpose(2, 0, 1).reshape(-1, positions), rows)
    apart = emit("Reshape", laid_out, emit.ints([outputs, taps, -1, channels]))
    return emit("Reshape", emit("Transpose", apart, perm=[0, 2, 1, 3]), emit.ints([-1, taps * channels]))
