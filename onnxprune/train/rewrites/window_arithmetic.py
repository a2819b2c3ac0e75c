"""The arithmetic of sliding windows: output sizes and paddings of convolutions and pools.

Formulas: ONNX operator specification of Conv, ConvTranspose and AveragePool.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.train.emit import sizes_of
from onnxprune.train.wire import Array


@dataclass(frozen=True)
class Window:
    """A window sliding along one axis.

    Attributes:
        size: Size of the input.
        kernel: Taps.
        stride: Distance between positions.
        dilation: Distance between taps.
        begin: Padding in front.
        end: Padding behind; with `ceil_mode` the last window may reach beyond it.
        outputs: Number of positions.
    """

    size: int
    kernel: int
    stride: int
    dilation: int
    begin: int
    end: int
    outputs: int

    @property
    def span(self) -> int:
        """The span of a window, gaps included."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def overhang(self) -> int:
        """The overhang of the last window behind the input."""
        return (self.outputs - 1) * self.stride + self.span - self.size - self.begin

    def taps_within(self, position: int, padded: bool) -> int:
        """Count the taps of one window that fall on the input, or on the input and its padding."""
        first = position * self.stride - self.begin
        low, high = (-self.begin, self.size + self.end) if padded else (0, self.size)
        return sum(low <= first + tap * self.dilation < high for tap in range(self.kernel))


def windows_of(node: gs.Node, kernel: list[int]) -> list[Window]:
    """Work out the windows of a Conv or pool, one per spatial axis.

    Args:
        node: The node; its input's spatial sizes must be known.
        kernel: Taps per spatial axis.

    Raises:
        Untrainable: A size is not known.
    """
    axes = len(kernel)
    strides = node.attrs.get("strides") or [1] * axes
    dilations = node.attrs.get("dilations") or [1] * axes
    pads = node.attrs.get("pads") or [0] * (2 * axes)
    auto_pad = node.attrs.get("auto_pad", "NOTSET")
    ceil_mode = bool(node.attrs.get("ceil_mode", 0))
    windows = []
    for axis, size in enumerate(sizes_of(node.inputs[0], 2)):
        geometry = (size, kernel[axis], strides[axis], dilations[axis])
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            windows.append(_same(*geometry, upper=auto_pad == "SAME_UPPER"))
        else:
            begin, end = (0, 0) if auto_pad == "VALID" else (pads[axis], pads[axis + axes])
            windows.append(_explicit(*geometry, begin, end, ceil_mode))
    return windows


def layout_of(windows: list[Window]) -> Array:
    """Return which tap leads from which position to which output, ``[taps, positions, outputs]``."""
    axes = len(windows)
    apart = functools.reduce(np.multiply.outer, map(_along, windows))
    order = [3 * axis + part for part in range(3) for axis in range(axes)]
    sizes = [math.prod(apart.shape[part::3]) for part in range(3)]
    return np.asarray(np.transpose(apart, order).reshape(sizes))


def _along(window: Window) -> Array:
    """Return the same along one axis."""
    tap, position, output = np.ogrid[: window.kernel, : window.size, : window.outputs]
    reached = output * window.stride - window.begin + tap * window.dilation == position
    return np.asarray(reached, np.float32)


def _same(size: int, kernel: int, stride: int, dilation: int, upper: bool) -> Window:
    """One output per stride; an odd padding goes behind (upper) or in front."""
    outputs = math.ceil(size / stride)
    total = max((outputs - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    begin = total // 2 if upper else total - total // 2
    return Window(size, kernel, stride, dilation, begin, total - begin, outputs)


def _explicit(
    size: int, kernel: int, stride: int, dilation: int, begin: int, end: int, ceil_mode: bool
) -> Window:
    """Windows that fit, or with `ceil_mode` that start before the padding behind ends the input."""
    room = size + begin + end - (kernel - 1) * dilation - 1
    outputs = (math.ceil(room / stride) if ceil_mode else room // stride) + 1
    if ceil_mode and (outputs - 1) * stride >= size + begin:
        outputs -= 1
    return Window(size, kernel, stride, dilation, begin, end, outputs)
