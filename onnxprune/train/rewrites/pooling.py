"""Pools: AveragePool crashes on a symbolic batch, GlobalMaxPool has no gradient."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.train.emit import Emitter, rank_of, sizes_of
from onnxprune.train.rewrites.reduction import largest
from onnxprune.train.rewrites.registry import rewrites
from onnxprune.train.rewrites.window_arithmetic import Window, windows_of
from onnxprune.train.wire import Array


@rewrites("AveragePool")
def average_pool(node: gs.Node, emit: Emitter) -> Any:
    """Sum each window with a depthwise convolution of ones, then divide by the number of covered elements."""
    x = node.inputs[0]
    windows = windows_of(node, node.attrs["kernel_shape"])
    if all(window.kernel == window.size and window.outputs == 1 and not window.begin for window in windows):
        return emit("GlobalAveragePool", x)
    channels = sizes_of(x, 1)[0]
    inverse = _inverse_counts(windows, bool(node.attrs.get("count_include_pad", 0)))
    even = bool((inverse == inverse.flat[0]).all())
    summed = _summed(x, emit, windows, channels, float(inverse.flat[0]) if even else 1.0)
    return summed if even else emit("Mul", summed, inverse[None, None])


def _summed(x: gs.Tensor, emit: Emitter, windows: list[Window], channels: int, factor: float) -> Any:
    """Sum each window, times a factor."""
    return emit(
        "Conv",
        x,
        np.full((channels, 1, *(window.kernel for window in windows)), factor),
        group=channels,
        strides=[window.stride for window in windows],
        dilations=[window.dilation for window in windows],
        pads=[window.begin for window in windows] + [max(window.overhang, 0) for window in windows],
    )


@rewrites("LpPool")
def norm_pool(node: gs.Node, emit: Emitter) -> Any:
    """Root of the summed powers of each window."""
    x, order = node.inputs[0], float(node.attrs.get("p", 2))
    windows = windows_of(node, node.attrs["kernel_shape"])
    powers = emit("Pow", emit("Abs", x), order)
    return emit("Pow", _summed(powers, emit, windows, sizes_of(x, 1)[0], 1.0), 1.0 / order)


@rewrites("GlobalLpPool")
def global_norm_pool(node: gs.Node, emit: Emitter) -> Any:
    """Root of the summed powers over all spatial axes, which are kept with size 1."""
    x, order = node.inputs[0], float(node.attrs.get("p", 2))
    powers = emit.reduce("ReduceSum", emit("Pow", emit("Abs", x), order), list(range(2, rank_of(x))))
    return emit("Pow", powers, 1.0 / order)


def _inverse_counts(windows: list[Window], include_pad: bool) -> Array:
    """One over the number of elements under each window."""
    counts = [
        np.array(
            [window.taps_within(position, include_pad) for position in range(window.outputs)], np.float64
        )
        for window in windows
    ]
    return 1.0 / functools.reduce(np.multiply.outer, counts)


@rewrites("GlobalMaxPool")
def global_max_pool(node: gs.Node, emit: Emitter) -> Any:
    """Largest value over all spatial axes, which are kept with size 1."""
    x = node.inputs[0]
    return largest(x, emit, list(range(2, rank_of(x))))
