"""Convolutions: `auto_pad` has wrong gradients, ConvTranspose has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.train.emit import Emitter, Untrainable, has_known_sizes, optional_input, sizes_of
from onnxprune.train.rewrites import dense, depthwise
from onnxprune.train.rewrites.registry import rewrites
from onnxprune.train.rewrites.window_arithmetic import windows_of


@rewrites("Conv", form=True)
def conv(node: gs.Node, emit: Emitter) -> gs.Tensor | None:
    """Turn `auto_pad` into explicit pads, and convolutions over small maps into matrix products."""
    with_explicit_pads(node)
    if not (has_known_sizes(node.inputs[0], 1) and has_known_sizes(node.inputs[1])):
        return None
    if depthwise.pays(node):
        return depthwise.as_products(node, emit)
    return dense.as_product(node, emit) if dense.pays(node) else None


def with_explicit_pads(node: gs.Node) -> None:
    """Replace `auto_pad` by explicit pads."""
    if node.attrs.get("auto_pad", "NOTSET") != "NOTSET":
        windows = windows_of(node, sizes_of(node.inputs[1], 2))
        node.attrs["pads"] = [window.begin for window in windows] + [window.end for window in windows]
        del node.attrs["auto_pad"]


@rewrites("ConvTranspose")
def conv_transpose(node: gs.Node, emit: Emitter) -> Any:
    """Spread the input with zeros, pad or crop it, and convolve with the kernel turned around."""
    x, weight = node.inputs[:2]
    kernel = sizes_of(weight, 2)
    axes = len(kernel)
    strides = node.attrs.get("strides") or [1] * axes
    dilations = node.attrs.get("dilations") or [1] * axes
    begin, end = _transposed_pads(node, kernel, strides, dilations)
    reach = [dilation * (taps - 1) for dilation, taps in zip(dilations, kernel, strict=True)]
    in_front = [r - b for r, b in zip(reach, begin, strict=True)]
    # Spreading leaves stride − 1 zeros behind the last sample, which belong to no output.
    behind = [r - e - (stride - 1) for r, e, stride in zip(reach, end, strides, strict=True)]
    padded = emit("Pad", _spread(x, emit, strides), emit.ints([0, 0, *in_front, 0, 0, *behind]))
    group = node.attrs.get("group", 1)
    operands = [padded, _turned(weight, emit, group)]
    bias = optional_input(node, 2)
    if bias is not None:
        operands.append(bias)
    return emit("Conv", *operands, group=group, dilations=list(dilations), kernel_shape=kernel)


def _spread(x: gs.Tensor, emit: Emitter, strides: list[int]) -> gs.Tensor:
    """Put stride − 1 zeros behind every sample of every spatial axis."""
    if all(stride == 1 for stride in strides):
        return x
    sizes = sizes_of(x, 2)
    columns = [factor for size in sizes for factor in (size, 1)]
    zeros = [factor for stride in strides for factor in (0, stride - 1)]
    apart = emit("Reshape", x, emit.ints([0, 0, *columns]))
    filled = emit("Pad", apart, emit.ints([0] * (2 + len(zeros)) + [0, 0, *zeros]))
    merged = [size * stride for size, stride in zip(sizes, strides, strict=True)]
    return emit("Reshape", filled, emit.ints([0, 0, *merged]))


def _turned(weight: gs.Tensor, emit: Emitter, group: int) -> gs.Tensor:
    """Convert [g·i, o, *k] to [g·o, i, *k] with every spatial axis reversed."""
    channels_in, per_group, *kernel = sizes_of(weight)
    axes = len(kernel)
    apart = emit("Reshape", weight, emit.ints([group, channels_in // group, per_group, *kernel]))
    swapped = emit("Transpose", apart, perm=[0, 2, 1, *range(3, 3 + axes)])
    merged = emit("Reshape", swapped, emit.ints([group * per_group, channels_in // group, *kernel]))
    for axis, taps in enumerate(kernel):
        if taps > 1:
            merged = emit("Gather", merged, emit.ints(list(range(taps))[::-1]), axis=2 + axis)
    return merged


def _transposed_pads(
    node: gs.Node, kernel: list[int], strides: list[int], dilations: list[int]
) -> tuple[list[int], list[int]]:
    """Return the crops in front and behind, by axis; output padding counts as a negative crop behind."""
    axes = len(kernel)
    extra = node.attrs.get("output_padding") or [0] * axes
    auto_pad = node.attrs.get("auto_pad", "NOTSET")
    output_shape = node.attrs.get("output_shape")
    if output_shape is None and auto_pad in ("NOTSET", "VALID"):
        pads = (node.attrs.get("pads") if auto_pad == "NOTSET" else None) or [0] * (2 * axes)
        return list(pads[:axes]), [end - more for end, more in zip(pads[axes:], extra, strict=True)]
    sizes = np.array(sizes_of(node.inputs[0], 2))
    full = (
        np.array(strides) * (sizes - 1) + np.array(extra) + (np.array(kernel) - 1) * np.array(dilations) + 1
    )
    total = full - (np.array(output_shape[-axes:]) if output_shape is not None else sizes * np.array(strides))
    if (total < 0).any():
        raise Untrainable(f"its output_shape {output_shape} is larger than its largest result")
    begin = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
    return begin.tolist(), (total - begin - np.array(extra)).tolist()
