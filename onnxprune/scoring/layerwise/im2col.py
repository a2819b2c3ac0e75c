"""Convolutions as linear maps: their rows are windows, as listed by ``im2col``."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from onnxprune.ops.views import LinearView
from onnxprune.runtime import Array
from onnxprune.scoring.layerwise.linear_views import Linear


class Convolution(Linear):
    """Conv of any number of spatial axes: grouped, strided, dilated, padded on either side."""

    def __init__(self, node: onnx.NodeProto, shape: tuple[int, ...], view: LinearView) -> None:
        super().__init__(node, shape, view)
        self.groups = view.groups
        self.outputs = shape[0] // self.groups
        self._kernel = shape[2:]
        self._strides = self.attributes.get("strides") or [1] * len(self._kernel)
        self._dilations = self.attributes.get("dilations") or [1] * len(self._kernel)

    def matrices(self, weights: Array) -> Array:
        """Return ``[groups, outputs, channels × window]``."""
        return weights.reshape(self.groups, self.outputs, -1)

    def tensor(self, matrices: Array) -> Array:
        """Return the weights in the layout of the node."""
        return matrices.reshape(self.shape)

    def columns(self, y: Array) -> Array:
        """Return ``[samples, *positions, channels]``."""
        return np.moveaxis(y, 1, -1)

    def inputs(self, x: Array, y: Array, picked: Array) -> Array:
        """Return windows, channels first."""
        sample, *position = np.unravel_index(picked, (len(y), *y.shape[2:]))
        places: tuple[Any, ...] = (sample, slice(None), *position)
        windows = self._windows(x, y.shape[2:])[places]
        return np.asarray(windows.reshape(len(picked), self.groups, -1).transpose(1, 0, 2))

    @property
    def _reach(self) -> list[int]:
        """The extent of a window along each spatial axis."""
        return [d * (k - 1) + 1 for d, k in zip(self._dilations, self._kernel, strict=True)]

    def _windows(self, x: Array, made: tuple[int, ...]) -> Array:
        """Return a view ``[samples, channels, *positions, *window]`` of the padded input."""
        return self._sliding(np.pad(x, [(0, 0), (0, 0), *self._pads(x.shape[2:], made)]), self._strides)

    def _sliding(self, x: Array, strides: list[int]) -> Array:
        view = np.lib.stride_tricks.sliding_window_view(x, self._reach, tuple(range(2, x.ndim)))
        steps = (slice(None, None, step) for step in (*strides, *self._dilations))
        places: tuple[slice, ...] = (slice(None), slice(None), *steps)
        return np.asarray(view[places])

    def _pads(self, sizes: Any, made: tuple[int, ...]) -> list[tuple[int, int]]:
        """Return the padding before and after each spatial axis (Conv, attribute ``auto_pad``)."""
        kind, axes = self.attributes.get("auto_pad", "NOTSET"), len(made)
        if kind in ("NOTSET", ""):
            pads = self.attributes.get("pads") or [0] * (2 * axes)
            return list(zip(pads[:axes], pads[axes:], strict=True))
        found = []
        for size, count, stride, width in zip(sizes, made, self._strides, self._reach, strict=True):
            total = max((count - 1) * stride + width - size, 0) if kind.startswith("SAME") else 0
            small, large = total // 2, total - total // 2
            found.append((large, small) if kind == "SAME_LOWER" else (small, large))
        return found


class TransposedConvolution(Convolution):
    """ConvTranspose: a convolution of the input with zeros between its elements, the window turned around."""

    def __init__(self, node: onnx.NodeProto, shape: tuple[int, ...], view: LinearView) -> None:
        super().__init__(node, shape, view)
        self.outputs = shape[1]

    def matrices(self, weights: Array) -> Array:
        """Return ``[groups, outputs, channels × window]``, the window turned around."""
        turned = np.flip(weights, tuple(range(2, weights.ndim)))
        split = turned.reshape(self.groups, -1, self.outputs, *self._kernel).swapaxes(1, 2)
        return np.asarray(split.reshape(self.groups, self.outputs, -1))

    def tensor(self, matrices: Array) -> Array:
        """Return the weights in the layout of the node."""
        split = matrices.reshape(self.groups, self.outputs, -1, *self._kernel).swapaxes(1, 2)
        return np.asarray(np.flip(split.reshape(self.shape), tuple(range(2, len(self.shape)))))

    def _windows(self, x: Array, made: tuple[int, ...]) -> Array:
        """Return windows of the spread-out input, beginning where the result begins."""
        strides, edges = self._strides, [width - 1 for width in self._reach]
        sizes = [(size - 1) * stride + 1 for size, stride in zip(x.shape[2:], strides, strict=True)]
        firsts = self._firsts(x.shape[2:], made)
        ends = [max(edge, f + m - s) for edge, f, m, s in zip(edges, firsts, made, sizes, strict=True)]
        wide = [e + s + end for e, s, end in zip(edges, sizes, ends, strict=True)]
        spread = np.zeros((*x.shape[:2], *wide), x.dtype)
        inner = (slice(e, e + s, stride) for e, s, stride in zip(edges, sizes, strides, strict=True))
        inside: tuple[slice, ...] = (slice(None), slice(None), *inner)
        spread[inside] = x
        begun = (slice(f, f + m) for f, m in zip(firsts, made, strict=True))
        places: tuple[slice, ...] = (slice(None), slice(None), *begun)
        return np.asarray(self._sliding(spread, [1] * len(made))[places])

    def _firsts(self, sizes: Any, made: tuple[int, ...]) -> list[int]:
        """Return how much is cut off before the result along each spatial axis (ConvTranspose, ``pads``)."""
        kind, axes = self.attributes.get("auto_pad", "NOTSET"), len(made)
        if kind in ("NOTSET", "", "VALID") and not self.attributes.get("output_shape"):
            return list((self.attributes.get("pads") or [0] * axes)[:axes])
        more = self.attributes.get("output_padding") or [0] * axes
        parts = zip(sizes, made, self._strides, self._reach, more, strict=True)
        totals = [
            max(stride * (size - 1) + add + width - count, 0) for size, count, stride, width, add in parts
        ]
        return [total // 2 if kind == "SAME_UPPER" else total - total // 2 for total in totals]
