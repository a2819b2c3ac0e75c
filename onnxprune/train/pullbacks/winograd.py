"""Convolutions of 3×3 in Winograd's form F(4×4, 3×3), spelled in matrix products.

Tiles of 6×6 of the data become 36 numbers each, which the channels are mixed for one by one; that takes a
quarter of the multiplications (Lavin and Gray 2016, "Fast algorithms for convolutional neural networks").
Weights that change with every step cannot be packed by the runtime, so that its own convolution is slow here,
where matrix products are not. The tensors transformed for the result serve both gradients. Positions come
first inside, so that every transformation is a product from the left. Relative error: 1e-5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxprune.train.pullbacks.geometry import Geometry
from onnxprune.train.pullbacks.tape import Gradient, Tape
from onnxprune.train.pullbacks.writer import Writer
from onnxprune.train.wire import Array

LEAST_CHANNELS = 32
"""Of data and result. With fewer the transformations cost more than they save."""
LEAST_GAIN = 1.5
"""Multiplications of the convolution for each one of this form: tiles may reach beyond small maps."""
SMALL = 49
"""Positions up to which both axes are transformed by one product."""
_TILE = 4

_DATA = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_KERNEL = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
_RESULT = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])


def pays(g: Geometry) -> bool:
    """Return whether a convolution is of 3×3 at every position, over enough channels and positions."""
    if g.kernel != (3, 3) or g.group != 1 or {*g.strides, *g.dilations} != {1}:
        return False
    tiles = math.prod(-(-outputs // _TILE) for outputs in g.outputs)
    saves = 36 * tiles * LEAST_GAIN <= 9 * math.prod(g.outputs)
    return saves and min(g.channels, g.made) >= LEAST_CHANNELS


def _into(size: int, outputs: int, begin: int) -> Array:
    """Return the matrix from an axis of the data to tiles, [6, tiles, size]."""
    tiles = -(-outputs // _TILE)
    matrix = np.zeros((6, tiles, size))
    for tile, tap in np.ndindex(tiles, 6):
        position = tile * _TILE + tap - begin
        if 0 <= position < size:
            matrix[:, tile, position] = _DATA[:, tap]
    return matrix


def _back(outputs: int) -> Array:
    """Return the matrix from tiles to an axis of the result, [outputs, 6, tiles]."""
    matrix = np.zeros((outputs, 6, -(-outputs // _TILE)))
    for row in range(outputs):
        matrix[row, :, row // _TILE] = _RESULT[row % _TILE]
    return matrix


class Winograd:
    """A convolution in this form.

    Args:
        write: Writer that appends nodes.
        g: Its sizes.
        weight: Its kernel.
    """

    def __init__(self, write: Writer, g: Geometry, weight: str) -> None:
        self._write, self._g = write, g
        into = [_into(g.size[k], g.outputs[k], g.begin[k]) for k in range(2)]
        back = [_back(outputs) for outputs in g.outputs]
        rows, columns = (matrix.shape[1] for matrix in into)
        self._whole = max(math.prod(g.size), math.prod(g.outputs)) <= SMALL
        if self._whole:
            tiles = 36 * rows * columns
            self._into = [np.einsum("ath,bsw->abtshw", *into).reshape(tiles, -1)]
            self._back = [np.einsum("hat,wbs->hwabts", *back).reshape(-1, tiles)]
        else:
            self._into = [matrix.reshape(-1, matrix.shape[2]) for matrix in into]
            self._back = [matrix.reshape(len(matrix), -1) for matrix in back]
        self._kernel = np.kron(_KERNEL, _KERNEL)
        by_tap = write.reshape(write.transpose(weight, [2, 3, 0, 1]), [9, g.made * g.channels])
        shape = [36] if self._whole else [6, 1, 6]
        self._transformed = write.reshape(write("MatMul", self._kernel, by_tap), [*shape, g.made, g.channels])
        self._tiles = [36, rows * columns * g.samples] if self._whole else [6, rows, 6, columns * g.samples]
        self._data = ""

    def result(self, x: str) -> str:
        """Return the convolution of the data, without bias."""
        g, write = self._g, self._write
        self._data = self._apply(self._into, x, g.size, g.channels)
        mixed = write("MatMul", self._data, self._swapped(self._transformed))
        return self._return(self._back, mixed, g.outputs, g.made)

    def give(self, tape: Tape, x: str, weight: str, arrived: Gradient) -> None:
        """Give data and kernel their gradients."""
        g, write = self._g, self._write
        found = self._apply([matrix.T for matrix in self._back], arrived.value, g.outputs, g.made)
        factor = write.reshape(arrived.factor, [g.made, 1]) if arrived.factor else ""
        if tape.wants(weight):
            products = write("MatMul", self._swapped(found), self._data)
            if not self._whole:
                products = write.total(products, [1])
            rows = write.reshape(products, [36, g.made * g.channels])
            by_tap = write.reshape(write("MatMul", self._kernel.T, rows), [9, g.made, g.channels])
            if factor:
                by_tap = write.mul(by_tap, factor)
            apart = write.reshape(by_tap, [3, 3, g.made, g.channels])
            tape.give(weight, write.transpose(apart, [2, 3, 0, 1]))
        if tape.wants(x):
            kernel = write.mul(self._transformed, factor) if factor else self._transformed
            mixed = write("MatMul", found, kernel)
            tape.give(x, self._return([matrix.T for matrix in self._into], mixed, g.size, g.channels))

    def _swapped(self, x: str) -> str:
        rank = len(self._tiles) + 1
        return self._write.transpose(x, [*range(rank - 2), rank - 1, rank - 2])

    def _apply(self, matrices: Sequence[Array], x: str, size: Sequence[int], channels: int) -> str:
        """Transform pictures to tiles: [36, tiles · samples, channels], or [6, rows, 6, columns · …, …]."""
        count = self._g.samples * channels
        first = self._write.transpose(self._write.reshape(x, [count, size[0] * size[1]]), [1, 0])
        return self._write.reshape(self._multiplied(matrices, first, count), [*self._tiles, channels])

    def _return(self, matrices: Sequence[Array], x: str, size: Sequence[int], channels: int) -> str:
        """Transform tiles to pictures."""
        count = self._g.samples * channels
        flat = self._write.reshape(self._multiplied(matrices, x, count), [size[0] * size[1], count])
        return self._write.reshape(self._write.transpose(flat, [1, 0]), [self._g.samples, channels, *size])

    def _multiplied(self, matrices: Sequence[Array], x: str, count: int) -> str:
        """Multiply the axes of [rows, columns, count] by their matrices, or both by one."""
        write = self._write
        if len(matrices) == 1:
            return write("MatMul", matrices[0], write.reshape(x, [matrices[0].shape[1], count]))
        (made, rows), (_, columns) = matrices[0].shape, matrices[1].shape
        first = write("MatMul", matrices[0], write.reshape(x, [rows, columns * count]))
        return write("MatMul", matrices[1], write.reshape(first, [made, columns, count]))
