"""Single elements of a matrix: which of them go, and how the others of a row make up for it.

Wanda: |w| · ‖x‖ against the elements of the same row (M. Sun et al., "A simple and effective pruning approach
for large language models", 2024). SparseGPT: the optimal brain surgeon column by column, with one inverse for
all rows (E. Frantar and D. Alistarh, "SparseGPT: massive language models can be accurately pruned in
one-shot", 2023).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxprune.runtime import Array
from onnxprune.scoring.layerwise.obs import DAMPING
from onnxprune.scoring.layerwise.ridge import scipy_linalg

COLUMNS = 128
"""Number of columns thinned before the columns behind them are updated."""

Largest = Callable[[Array], Array]
"""Function from scores ``[blocks, length]`` to the elements that stay."""


def wanda_scores(weights: Array, gram: Array) -> Array:
    """Return the score of every element, ``[outputs, inputs]``.

    Args:
        weights: ``[outputs, inputs]``.
        gram: Σ x xᵀ, ``[inputs, inputs]``.
    """
    return np.asarray(np.abs(weights) * np.sqrt(np.maximum(np.diag(gram), 0)))


def surgeon(weights: Array, gram: Array, block: int, largest: Largest) -> tuple[Array, Array]:
    """Remove elements column by column, with compensation by those of later columns.

    Args:
        weights: ``[outputs, inputs]``, the inputs of a block side by side.
        gram: Σ x xᵀ of the inputs, in the same order.
        block: Number of neighbours in a block of the pattern; 0 for no blocks, where the elements of
            ``COLUMNS`` columns compete.
        largest: The choice within blocks.

    Returns:
        The weights, zero where elements went, and which stay; both ``[outputs, inputs]``.
    """
    factor, weights = _inverse_factor(gram), weights.astype(np.float64)
    mask = np.zeros(weights.shape, bool)
    step = block * max(1, COLUMNS // block) if block else COLUMNS
    for start in range(0, weights.shape[1], step):
        piece, behind = slice(start, start + step), slice(start + step, None)
        made, mask[:, piece], errors = _piece(weights[:, piece], factor[piece, piece], block, largest)
        weights[:, piece] = np.where(mask[:, piece], made, 0)
        weights[:, behind] -= errors @ factor[piece, behind]
    return weights, mask


def _piece(weights: Array, factor: Array, block: int, largest: Largest) -> tuple[Array, Array, Array]:
    """Go through some columns; return weights, mask, and the errors that those behind make up for."""
    weights, scale = weights.copy(), np.diag(factor)
    mask, errors = np.ones(weights.shape, bool), np.zeros(weights.shape)
    if not block:
        scores = np.square(weights / scale)
        mask = largest(scores.reshape(1, -1)).reshape(scores.shape)
    for column in range(weights.shape[1]):
        if block and column % block == 0:
            part = slice(column, column + block)
            mask[:, part] = largest(np.square(weights[:, part] / scale[part]))
        errors[:, column] = np.where(mask[:, column], 0, weights[:, column]) / scale[column]
        weights[:, column:] -= np.outer(errors[:, column], factor[column, column:])
    return weights, mask, errors


def _inverse_factor(gram: Array) -> Array:
    """Return U with ``UᵀU`` the inverse of the damped Gram matrix, ``[inputs, inputs]``, upper triangular."""
    linalg, damped = scipy_linalg(), gram.copy()
    damped[np.diag_indices_from(damped)] += DAMPING * np.trace(gram) / len(gram) or 1.0
    lower = linalg.cho_factor(damped, overwrite_a=True, check_finite=False)
    inverse = linalg.cho_solve(lower, np.eye(len(gram)), overwrite_b=True, check_finite=False)
    return np.asarray(linalg.cholesky((inverse + inverse.T) / 2, overwrite_a=True, check_finite=False))
