"""The linear view of a weighted node: input rows times a matrix give output rows.

A layer is ``groups`` such maps side by side: the groups of a convolution, the matrices of a stack.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import onnx

from onnxprune.ir import attributes, label
from onnxprune.ops.views import LinearView
from onnxprune.runtime import Array


class Linear(ABC):
    """A node that multiplies an operand by another one, which is constant.

    Args:
        node: The node.
        shape: Shape of its weights.
        view: Place and layout of its weights.

    Attributes:
        name: Name of the node in messages.
        weight: The name of its weights.
        flow: The name of the operand they are multiplied with.
        groups: Number of maps side by side.
        outputs: Number of outputs of each map.
    """

    groups: int = 1
    outputs: int

    def __init__(self, node: onnx.NodeProto, shape: tuple[int, ...], view: LinearView) -> None:
        self.node, self.shape, self.view = node, shape, view
        self.name, self.attributes = label(node), attributes(node)
        self.weight: str = node.input[view.weights]
        self.flow: str = node.input[view.data]

    @abstractmethod
    def matrices(self, weights: Array) -> Array:
        """Return a tensor shaped like the weights as ``[groups, outputs, inputs]``."""

    @abstractmethod
    def tensor(self, matrices: Array) -> Array:
        """Return matrices as a tensor shaped like the weights."""

    def lines(self, weights: Array) -> Array | None:
        """Return a view of a tensor shaped like the weights as ``[groups, outputs, inputs]``.

        Its elements are those of `matrices` divided by `factor`. ``None`` where no view has this layout.
        """
        return None

    @property
    def factor(self) -> float:
        """The number that the node multiplies the weights with."""
        return 1.0

    @abstractmethod
    def columns(self, y: Array) -> Array:
        """Return a result with its channels, the outputs of all groups in turn, on the last axis."""

    def rows(self, y: Array) -> int:
        """Return how many rows a result has."""
        return int(y.size // (self.groups * self.outputs))

    @abstractmethod
    def inputs(self, x: Array, y: Array, picked: Array) -> Array:
        """Return the picked rows of the operand, ``[groups, rows, inputs]``, in its own type."""

    def results(self, y: Array, picked: Array) -> Array:
        """Return the same rows of a result, ``[groups, rows, outputs]``."""
        rows = self.columns(y).reshape(-1, self.groups, self.outputs)
        return np.asarray(rows[picked].transpose(1, 0, 2))


class MatrixProduct(Linear):
    """Gemm, and MatMul by a matrix from either side."""

    def __init__(self, node: onnx.NodeProto, shape: tuple[int, ...], view: LinearView) -> None:
        super().__init__(node, shape, view)
        self._left = view.result_axis in (0, -2)
        self._outputs_first = not view.inputs_first
        self._rows_last = view.axis in (0, -2)
        self._factor = view.alpha
        self.outputs = shape[0 if self._outputs_first else 1]

    def matrices(self, weights: Array) -> Array:
        """Return ``[1, outputs, inputs]``; real numbers times a Gemm's factor ``alpha``."""
        matrix = self.lines(weights)
        return np.asarray(matrix if matrix.dtype.kind in "bi" else matrix.astype(np.float64) * self._factor)

    def tensor(self, matrices: Array) -> Array:
        """Return the weights in the layout of the node."""
        matrix = matrices[0] if matrices.dtype == bool else matrices[0] / self._factor
        return np.asarray(matrix if self._outputs_first else matrix.T)

    def lines(self, weights: Array) -> Array:
        """Return ``[1, outputs, inputs]``."""
        return (weights if self._outputs_first else weights.T)[None]

    @property
    def factor(self) -> float:
        """A Gemm's factor ``alpha``."""
        return self._factor

    def columns(self, y: Array) -> Array:
        """Return the result; transposed where the weights stand on the left."""
        return np.asarray(y.swapaxes(-1, -2) if self._left else y)

    def inputs(self, x: Array, y: Array, picked: Array) -> Array:
        """Return rows of the other matrix."""
        if self._rows_last:
            x = x.swapaxes(-1, -2)
        return np.asarray(x.reshape(-1, x.shape[-1])[picked][None])


class Stack(Linear):
    """MatMul by a stack of matrices, ``[*stack, inputs, outputs]``, each with rows of its own."""

    def __init__(self, node: onnx.NodeProto, shape: tuple[int, ...], view: LinearView) -> None:
        super().__init__(node, shape, view)
        self._stack = shape[:-2]
        self.groups, self.outputs = int(np.prod(self._stack)), shape[-1]

    def matrices(self, weights: Array) -> Array:
        """Return ``[matrices of the stack, outputs, inputs]``."""
        return np.asarray(weights.reshape(self.groups, *self.shape[-2:]).swapaxes(1, 2))

    def tensor(self, matrices: Array) -> Array:
        """Return the weights in the layout of the node."""
        return np.asarray(matrices.swapaxes(1, 2).reshape(self.shape))

    def columns(self, y: Array) -> Array:
        """Return ``[…, rows, matrices · outputs]``; matrices that stand for several are one."""
        first = y.ndim - len(self.shape)
        own = [first + axis for axis, size in enumerate(self._stack) if size > 1]
        rest = [axis for axis in range(y.ndim - 1) if axis not in own]
        moved = y.transpose(*rest, *own, y.ndim - 1)
        return np.asarray(moved.reshape(*moved.shape[: len(rest)], -1))

    def inputs(self, x: Array, y: Array, picked: Array) -> Array:
        """Return the rows of the operand of each matrix, repeated where matrices share an operand."""
        x = np.broadcast_to(x, (*y.shape[:-1], x.shape[-1]))
        rows = self.columns(x).reshape(-1, self.groups, x.shape[-1])
        return np.asarray(rows[picked].transpose(1, 0, 2))
