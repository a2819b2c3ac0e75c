"""Kernels of low rank: one product as two or three smaller ones, with the least error on the inputs seen.

The kernel axes of the first product are a part of all; the second has the others. All of them make a plain
rank (X. Zhang et al., "Accelerating very deep convolutional networks for classification and detection", 2015;
for language models P. Chen et al., "DRONE: data-aware low-rank compression", 2021), one of two the spatial
form (M. Jaderberg et al., "Speeding up convolutional neural networks with low rank expansions", 2014), none
Tucker-2 (Y.-D. Kim et al., "Compression of deep convolutional neural networks for fast and low power mobile
applications", 2016), where a third product follows.

With G = E[x xᵀ] the error of W′ is ``tr (W − W′) G (W − W′)ᵀ``. For a plain rank the singular values of
``W G^½`` give the least one there is. Otherwise they choose the directions of the first product, with the
places of the second one taken as uncorrelated; the second product is then fitted by least squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.runtime import Array
from onnxprune.scoring.layerwise.ridge import scipy_linalg

DAMPING = 1e-3
"""Added to the diagonal of G, in units of its mean: directions that few samples show are not lost for it."""
_RIDGE = 1e-9
"""The same for the features of the second product, whose directions are the strongest ones."""
_NOTHING = 1e-12
"""An energy below this part of the largest one is rounding."""

Kernels = tuple[Array, ...]
"""Kernels of a chain of products, the first to run first, each ``[groups, outputs, inputs, *kernel]``."""


@dataclass(frozen=True)
class LowRank:
    """A kernel in two or three parts.

    Attributes:
        kernels: The parts.
        error: The squared error of the result, over all groups, in the units of G.
    """

    kernels: Kernels
    error: float


def composed(kernels: Kernels) -> Array:
    """Return the kernel that a chain of products stands for, ``[groups, outputs, inputs, *kernel]``.

    Along each axis of the kernel all parts but one have the size 1.
    """
    first, *others = (np.moveaxis(k, (1, 2), (-2, -1)) for k in kernels)
    for kernel in others:
        first = kernel @ first
    return np.asarray(np.moveaxis(first, (-2, -1), (1, 2)))


def power(kernel: Array, gram: Array) -> float:
    """Return the mean square of a result, ``tr W G Wᵀ`` over all groups.

    Args:
        kernel: ``[groups, outputs, inputs, *kernel]``.
        gram: ``[groups, inputs × kernel, inputs × kernel]``.
    """
    flat = kernel.reshape(*kernel.shape[:2], -1)
    return float(((flat @ gram) * flat).sum())


def damped(gram: Array) -> Array:
    """Return Gram matrices with a small multiple of the identity added, ``[groups, inputs, inputs]``."""
    scale = np.trace(gram, axis1=1, axis2=2) / gram.shape[1]
    scale = np.where(scale > 0, DAMPING * scale, 1.0)
    return np.asarray(gram + scale[:, None, None] * np.eye(gram.shape[1]))


class Unfolding:
    """A kernel laid out for one choice of the first product's axes; it is factored at any rank.

    Args:
        kernel: ``[groups, outputs, inputs, *kernel]``.
        gram: G of the inputs at all places of the kernel, ``[groups, inputs × kernel, inputs × kernel]``.
        first: The axes of the kernel, from 0, that the first product has.
        most: The largest rank that is asked for.
    """

    def __init__(self, kernel: Array, gram: Array, first: Sequence[int], most: int) -> None:
        self.shape, self._first = kernel.shape, tuple(first)
        self._groups = [_Group(k, g, self._first, most) for k, g in zip(kernel, gram, strict=True)]
        self.most = min(group.rank for group in self._groups)

    def factored(self, rank: int, outer: int | None = None) -> LowRank:
        """Return the kernel with some number of channels between its parts.

        Args:
            rank: Channels between the first and the second product, for each group; no more than ``most``.
            outer: Channels behind the second product, where a third one follows.
        """
        parts = [group.factored(rank, outer) for group in self._groups]
        error = sum(error for _, error in parts)
        kernels = zip(*(kernels for kernels, _ in parts), strict=True)
        return LowRank(tuple(np.stack(k) for k in kernels), error)

    def error(self, rank: int) -> float:
        """Return the squared error at a rank, of two products."""
        return float(sum(group.error(rank) for group in self._groups))

    def errors(self, rank: int) -> Array:
        """Return the squared error at a rank for each number of channels behind, ``[outputs + 1]``."""
        return np.asarray(sum(group.errors(rank) for group in self._groups))


class _Group:
    """One group of an unfolding."""

    def __init__(self, kernel: Array, gram: Array, first: tuple[int, ...], most: int) -> None:
        outputs, inputs, *places = kernel.shape
        own = [k for k in range(len(places)) if k in first]
        later = [k for k in range(len(places)) if k not in first]
        self._own, self._places = own, places
        width = inputs * int(np.prod([places[k] for k in own], dtype=int))
        order = [*(1 + k for k in later), 0, *(1 + k for k in own)]
        listed = np.arange(inputs * int(np.prod(places, dtype=int))).reshape(inputs, *places)
        listed = listed.transpose(order).ravel()
        self._kernel = kernel.reshape(outputs, -1)[:, listed]  # [outputs, later places × width]
        gram = gram[np.ix_(listed, listed)]
        self._later = len(listed) // width
        blocks = gram.reshape(self._later, width, self._later, width)
        matrix = self._kernel.reshape(outputs * self._later, width).T
        self._directions = _directions(matrix, np.einsum("saSb,sS->ab", blocks, np.eye(self._later)), most)
        self.rank = len(self._directions)
        features = np.tensordot(self._directions, blocks, (1, 1))  # [rank, places, places, width]
        self._features = np.tensordot(features, self._directions, (3, 1)).transpose(0, 1, 3, 2)
        self._cross = (self._kernel @ features.reshape(-1, len(listed)).T).reshape(outputs, -1, self._later)
        self._power = float(((self._kernel @ gram) * self._kernel).sum())
        self._width = width

    def _second(self, rank: int) -> tuple[Array, Array]:
        """Return the second kernel and the products it is to have, ``[outputs, rank × places]`` each."""
        linalg, size = scipy_linalg(), rank * self._later
        products = self._features[:rank, :, :rank].reshape(size, size)
        cross = self._cross[:, :rank].reshape(-1, size)
        ridge = _RIDGE * max(np.trace(products) / size, np.finfo(np.float64).tiny)
        factor = linalg.cho_factor(products + ridge * np.eye(size), check_finite=False)
        kernel = linalg.cho_solve(factor, cross.T, check_finite=False).T
        return kernel, cross

    def error(self, rank: int) -> float:
        kernel, cross = self._second(rank)
        return max(self._power - float(np.vdot(kernel, cross)), 0.0)

    def errors(self, rank: int) -> Array:
        kernel, cross = self._second(rank)
        explained = kernel @ cross.T
        energies = np.linalg.eigvalsh((explained + explained.T) / 2)[::-1]
        kept = np.concatenate([[0.0], np.cumsum(np.maximum(energies, 0))])
        return np.asarray(np.maximum(self._power - kept, 0))

    def factored(self, rank: int, outer: int | None) -> tuple[Kernels, float]:
        kernel, cross = self._second(rank)
        own = [size if k in self._own else 1 for k, size in enumerate(self._places)]
        later = [1 if k in self._own else size for k, size in enumerate(self._places)]
        inputs = self._width // int(np.prod([self._places[k] for k in self._own], dtype=int))
        first = self._directions[:rank].reshape(rank, inputs, *own)
        if outer is None:
            error = max(self._power - float(np.vdot(kernel, cross)), 0.0)
            return (first, kernel.reshape(-1, rank, *later)), error
        explained = kernel @ cross.T
        energies, vectors = np.linalg.eigh((explained + explained.T) / 2)
        basis = vectors[:, ::-1][:, :outer]
        error = max(self._power - float(energies[::-1][:outer].sum()), 0.0)
        third = basis.reshape(*basis.shape, *[1] * len(self._places))
        return (first, (basis.T @ kernel).reshape(-1, rank, *later), third), error


def _directions(matrix: Array, gram: Array, most: int) -> Array:
    """Return the rows of the first product, the best ones first, each of length 1, ``[rank, inputs]``.

    Of the singular vectors of ``G^½ matrix`` the right ones lie in the space of the results, so no inverse of
    G is needed. The smaller of the two eigenvalue problems is solved.

    Args:
        matrix: ``[inputs, outputs]``.
        gram: ``[inputs, inputs]``.
        most: Number of rows.
    """
    if matrix.shape[1] <= matrix.shape[0]:
        energies, vectors = np.linalg.eigh(matrix.T @ gram @ matrix)
        rows = (matrix @ vectors).T
    else:
        values, axes = np.linalg.eigh(gram)
        root = (axes * np.sqrt(np.maximum(values, 0))) @ axes.T
        turned = root @ matrix
        energies, vectors = np.linalg.eigh(turned @ turned.T)
        rows = (matrix @ (turned.T @ vectors)).T
    order = np.argsort(-energies, kind="stable")[:most]
    kept = order[energies[order] > _NOTHING * max(float(energies.max()), 0)] if len(order) else order
    found = rows[kept] if len(kept) else rows[order[:1]]
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    return np.asarray(found / np.where(norms > 0, norms, 1))
