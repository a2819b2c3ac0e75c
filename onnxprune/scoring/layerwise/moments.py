"""Sums over calibration samples, in float64: they stream, and they add up.

A layer is seen as ``groups`` independent linear maps from ``inputs`` to ``outputs`` numbers, applied to
``rows`` (see ``layerwise.linear``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxprune.errors import DataError
from onnxprune.runtime import Array

_ROUNDING = 1e-12
"""A variance below this part of the mean square is rounding."""
_LINES = 256
"""Lines of a Gram matrix that are worked on at a time."""
_SMALL_PRODUCT = 200_000
"""Multiplications below which OpenBLAS uses one thread."""


@dataclass
class Moments:
    """First and second moments of a layer's inputs and the outputs it should have.

    Attributes:
        count: Number of rows summed up.
        x: Sums of the inputs, ``[groups, inputs]``.
        y: Sums of the outputs, ``[groups, outputs]``.
        xx: The Gram matrices, ``[groups, inputs, inputs]``: all but the whole of the memory this takes.
        xy: Products of inputs and outputs, ``[groups, inputs, outputs]``.
        yy: Squares of the outputs, ``[groups, outputs]``.
    """

    count: int
    x: Array
    y: Array
    xx: Array
    xy: Array
    yy: Array

    @classmethod
    def empty(cls, groups: int, inputs: int, outputs: int, *, gram: bool = True) -> Moments:
        """Return the moments of no rows.

        Args:
            groups: Number of maps.
            inputs: Inputs of each.
            outputs: Outputs of each.
            gram: False to leave the Gram matrices out, ``[groups, 0, 0]``.
        """
        square = (inputs, inputs) if gram else (0, 0)
        shapes = ((inputs,), (outputs,), square, (inputs, outputs), (outputs,))
        return cls(0, *(np.zeros((groups, *shape)) for shape in shapes))

    def add(self, x: Array, y: Array) -> None:
        """Take in rows.

        Args:
            x: Inputs, ``[groups, rows, inputs]``.
            y: The outputs they should give, ``[groups, rows, outputs]``.
        """
        self.count += x.shape[1]
        self.x += x.sum(1)
        self.y += y.sum(1)
        self.yy += np.square(y).sum(1)
        if self.xx.size:
            _add_products(self.xx, x, x)
        _add_products(self.xy, x, y)

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.count + other.count,
            self.x + other.x,
            self.y + other.y,
            self.xx + other.xx,
            self.xy + other.xy,
            self.yy + other.yy,
        )

    def absorb(self, other: Moments) -> Moments:
        """Add other moments in place, and return these."""
        self.count += other.count
        for mine, theirs in ((self.x, other.x), (self.y, other.y), (self.xx, other.xx)):
            mine += theirs
        self.xy += other.xy
        self.yy += other.yy
        return self

    def of_outputs(self, chosen: Array) -> Moments:
        """Return the moments of some of the outputs, given by their numbers."""
        y, xy, yy = self.y[:, chosen], self.xy[:, :, chosen], self.yy[:, chosen]
        return Moments(self.count, self.x, y, self.xx, xy, yy)

    def errors(self, weights: Array, bias: Array) -> Array:
        """Return the sums of squared errors of ``weights · x + bias``, ``[groups, outputs]``.

        Args:
            weights: ``[groups, outputs, inputs]``.
            bias: ``[groups, outputs]``.
        """
        cross = np.einsum("goi,gio->go", weights, self.xy) + bias * self.y
        linear = np.einsum("goi,gi->go", weights, self.x)
        square = np.einsum("goi,goi->go", weights @ self.xx, weights)
        predicted = square + 2 * bias * linear + self.count * bias**2
        return np.asarray(np.maximum(self.yy - 2 * cross + predicted, 0))


def centred(xx: Array, x: Array, count: int, *, in_place: bool = False) -> tuple[Array, Array]:
    """Return a Gram matrix about the mean, and which inputs vary.

    The variance of an input that does not vary is rounding, as often negative as positive; it counts as zero.

    Args:
        xx: Sums of products of inputs, ``[inputs, inputs]``.
        x: Sums of inputs, ``[inputs]``.
        count: Number of rows summed up.
        in_place: True to overwrite the sums of products.
    """
    gram, means = xx if in_place else xx.copy(), x / count
    for start in range(0, len(gram), _LINES):
        gram[start : start + _LINES] -= np.outer(x[start : start + _LINES], means)
    varies = np.diag(gram) > _ROUNDING * np.diag(xx)
    gram[~varies] = 0
    gram[:, ~varies] = 0
    return np.asarray(gram), varies


def _add_products(sums: Array, a: Array, b: Array) -> None:
    """Add ``aᵀ b`` of every group.

    Many small products are cut so short that BLAS does not hand them to its threads: waking those takes far
    longer than the work, on a busy machine above all.
    """
    rows = a.shape[1] if len(a) == 1 else max(1, _SMALL_PRODUCT // (a.shape[2] * b.shape[2]))
    for start in range(0, a.shape[1], rows):
        piece = slice(start, start + rows)
        sums += np.matmul(a[:, piece].transpose(0, 2, 1), b[:, piece])


class ChannelMoments:
    """Mean and biased variance of each channel, merged batch by batch without cancellation.

    The update of T. F. Chan, G. H. Golub and R. J. LeVeque, "Updating formulae and a pairwise algorithm for
    computing sample variances", 1979.

    Args:
        channels: Number of channels.
    """

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean = np.zeros(channels)
        self._squares = np.zeros(channels)

    @property
    def variance(self) -> Array:
        """The biased variance, ``[channels]``, as BatchNormalization's specification has it."""
        return self._squares / max(self.count, 1)

    def add(self, values: Array, where: str) -> None:
        """Take in a tensor.

        Args:
            values: ``[…, channels]``.
            where: Origin of the tensor, for the message.

        Raises:
            DataError: It holds NaN or infinity.
        """
        axes, count = tuple(range(values.ndim - 1)), values.size // len(self.mean)
        if not count:
            return
        mean = values.mean(axes, dtype=np.float64)
        check_finite(mean, where)
        apart = np.square(values - mean).sum(axes)
        delta, total = mean - self.mean, self.count + count
        self._squares += apart + delta**2 * self.count * count / total
        self.mean += delta * count / total
        self.count = total


def check_finite(values: Array, where: str) -> None:
    """Refuse values that are not finite.

    Raises:
        DataError: Some are NaN or infinite.
    """
    if not np.isfinite(values).all():
        raise DataError(
            f"{where} is NaN or infinite on these samples",
            "are the samples scaled as the model expects them?",
        )
