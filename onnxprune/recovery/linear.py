"""Convolutions and matrix products as one thing: rows of inputs, times a matrix for each group, give rows.

A convolution's rows are its windows (what ``im2col`` lists), and a grouped one is as many maps side by side;
Gemm and MatMul have a single group, and their rows are the rows of the left matrix.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import onnx

from onnxprune.graph import Model, attributes
from onnxprune.runtime import Array


class Linear(ABC):
    """A node that multiplies its first operand by constant weights.

    Args:
        node: The node.
        shape: Of its weights.

    Attributes:
        weight: The name of its weights.
        groups: How many maps lie side by side.
        outputs: How many numbers each one makes.
    """

    groups: int = 1
    outputs: int

    def __init__(self, node: onnx.NodeProto, shape: tuple[int, ...]) -> None:
        self.node, self.shape = node, shape
        self.attributes = attributes(node)
        self.weight: str = node.input[1]

    @property
    def channel_axis(self) -> int:
        """The axis of the result that counts the channels."""
        return 1

    @abstractmethod
    def matrices(self, weights: Array) -> Array:
        """Return a tensor shaped like the weights as ``[groups, outputs, inputs]``."""

    @abstractmethod
    def tensor(self, matrices: Array) -> Array:
        """Return matrices as a tensor shaped like the weights."""

    def rows_per_sample(self, x: Array, y: Array) -> int:
        """Return how many rows one entry of the first axis has."""
        return int(y[:1].size // (self.groups * self.outputs))

    @abstractmethod
    def inputs(self, x: Array, y: Array, picked: Array) -> Array:
        """Return the picked rows of the first operand, ``[groups, rows, inputs]``, in its own type."""

    @abstractmethod
    def results(self, y: Array, picked: Array) -> Array:
        """Return the same rows of a result, ``[groups, rows, outputs]``."""


class Product(Linear):
    """Gemm, and MatMul by a matrix."""

    def __init__(self, node: onnx.NodeProto, shape: tuple[int, ...]) -> None:
        super().__init__(node, shape)
        self._transposed = bool(self.attributes.get("transB", 0))
        self._factor = float(self.attributes.get("alpha", 1.0))
        self.outputs = shape[0] if self._transposed else shape[1]

    @property
    def channel_axis(self) -> int:
        """The last one."""
        return -1

    def matrices(self, weights: Array) -> Array:
        """Return ``[1, outputs, inputs]``, a Gemm's factor ``alpha`` included where there are numbers."""
        matrix = (weights if self._transposed else weights.T)[None]
        return np.asarray(matrix if matrix.dtype == bool else matrix.astype(np.float64) * self._factor)

    def tensor(self, matrices: Array) -> Array:
        """Return the weights as the node wants them."""
        matrix = matrices[0] if matrices.dtype == bool else matrices[0] / self._factor
        return np.asarray(matrix if self._transposed else matrix.T)

    def inputs(self, x: Array, y: Array, picked: Array) -> Array:
        """Return rows of the left matrix."""
        if self.attributes.get("transA"):
            x = x.T
        return np.asarray(x.reshape(-1, x.shape[-1])[picked][None])

    def results(self, y: Array, picked: Array) -> Array:
        """Return rows of the result."""
        return np.asarray(y.reshape(-1, y.shape[-1])[picked][None])


class Convolution(Linear):
    """Conv of any number of spatial axes: grouped, strided, dilated, padded on either side."""

    def __init__(self, node: onnx.NodeProto, shape: tuple[int, ...]) -> None:
        super().__init__(node, shape)
        self.groups = int(self.attributes.get("group", 1))
        self.outputs = shape[0] // self.groups
        self._kernel = shape[2:]
        self._strides = self.attributes.get("strides") or [1] * len(self._kernel)
        self._dilations = self.attributes.get("dilations") or [1] * len(self._kernel)

    def matrices(self, weights: Array) -> Array:
        """Return ``[groups, outputs, channels × window]``."""
        return weights.reshape(self.groups, self.outputs, -1)

    def tensor(self, matrices: Array) -> Array:
        """Return the weights as the node wants them."""
        return matrices.reshape(self.shape)

    def inputs(self, x: Array, y: Array, picked: Array) -> Array:
        """Return windows, channels first."""
        return self._rows(self._windows(x, y.shape[2:]), y, picked)

    def results(self, y: Array, picked: Array) -> Array:
        """Return what the convolution made at the picked windows."""
        return self._rows(y, y, picked)

    def _rows(self, values: Array, y: Array, picked: Array) -> Array:
        """Return ``[groups, rows, …]`` of a tensor with the samples, channels and positions of the result."""
        sample, *position = np.unravel_index(picked, (len(y), *y.shape[2:]))
        places: tuple[Any, ...] = (sample, slice(None), *position)
        return np.asarray(values[places].reshape(len(picked), self.groups, -1).transpose(1, 0, 2))

    def _windows(self, x: Array, made: tuple[int, ...]) -> Array:
        """Return a view ``[samples, channels, *positions, *window]`` of the padded input."""
        reach = [d * (k - 1) + 1 for d, k in zip(self._dilations, self._kernel, strict=True)]
        x = np.pad(x, [(0, 0), (0, 0), *self._pads(x.shape[2:], made, reach)])
        view = np.lib.stride_tricks.sliding_window_view(x, reach, tuple(range(2, x.ndim)))
        steps = (slice(None, None, step) for step in (*self._strides, *self._dilations))
        places: tuple[slice, ...] = (slice(None), slice(None), *steps)
        return np.asarray(view[places])

    def _pads(self, sizes: Any, made: tuple[int, ...], reach: list[int]) -> list[tuple[int, int]]:
        """Return what is added before and after each spatial axis (Conv, attribute ``auto_pad``)."""
        kind = self.attributes.get("auto_pad", "NOTSET")
        if kind in ("NOTSET", ""):
            pads = self.attributes.get("pads") or [0] * (2 * len(reach))
            return list(zip(pads[: len(reach)], pads[len(reach) :], strict=True))
        found = []
        for size, count, stride, width in zip(sizes, made, self._strides, reach, strict=True):
            total = max((count - 1) * stride + width - size, 0) if kind.startswith("SAME") else 0
            small, large = total // 2, total - total // 2
            found.append((large, small) if kind == "SAME_LOWER" else (small, large))
        return found


_KINDS: dict[str, type[Linear]] = {"Conv": Convolution, "Gemm": Product, "MatMul": Product}


def linear_of(model: Model, node: onnx.NodeProto) -> Linear | str:
    """Return a node as a linear map, or the reason why it cannot be treated as one."""
    kind = _KINDS.get(node.op_type)
    if kind is None or node.domain not in ("", "ai.onnx"):
        return f"{node.op_type} is not a linear map with weights of its own"
    weight = model.constants.get(node.input[1])
    if weight is None or node.input[0] in model.constants:
        return "its weights are not a constant"
    if sum(node.input[1] in n.input for n in model.nodes) > 1:
        return "other nodes share its weights"
    if kind is Product and len(weight.dims) != 2:
        return "its weights are not one matrix"
    return kind(node, tuple(weight.dims))
