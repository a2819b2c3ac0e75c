"""The optimal brain surgeon on channels: the loss of a layer after optimal compensation.

With the Gram matrix H of a layer's inputs as the Hessian of its squared error, taking the columns B out of
the weights W costs least if the others change by ``−W_B (H⁻¹_BB)⁻¹ H⁻¹_B``, and then costs
``tr W_B (H⁻¹_BB)⁻¹ W_Bᵀ``. B. Hassibi and D. G. Stork, "Second order derivatives for network pruning: optimal
brain surgeon", 1993; layer by layer E. Frantar and D. Alistarh, "Optimal brain compression", 2022; over all
the layers that lose a channel together X. Wang et al., "Structurally prune anything" (OBSPA), 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxprune.runtime import Array
from onnxprune.scoring.layerwise.ridge import scipy_linalg

DAMPING = 1e-2
"""Added to the diagonal of H, in units of its mean, as in SparseGPT (E. Frantar and D. Alistarh, 2023)."""


@dataclass
class ObsLayer:
    """One matrix that reads channels, in its state after the removals so far.

    The inverse of H without some inputs is ``M − Σ UᵀU``, M the inverse with all of them, U one block of
    rows for each removal. Neither the costs nor a removal needs more of it than a few rows and the blocks on
    the diagonal, so the sum is never formed. The rows of M that a removal has used make room for its U.

    Attributes:
        weights: ``[outputs, inputs]``; those of channels that have gone are zero.
        columns: The inputs of every channel, ``[channels, width]``; all −1 for channels it does not read.
        rows: First the blocks U, then the rows of M of the inputs that are left, ``[inputs, inputs]``.
        places: The place of each input's row among them, ``[inputs]``.
        blocks: The blocks of every channel on the diagonal of the inverse, ``[channels, width, width]``.
        removed: Number of the inputs that have gone.
    """

    weights: Array
    columns: Array
    rows: Array
    places: Array
    blocks: Array
    removed: int = field(default=0)

    @classmethod
    def admit(cls, weights: Array, gram: Array, columns: Array) -> ObsLayer:
        """Invert the Gram matrix.

        Args:
            weights: ``[outputs, inputs]``.
            gram: Σ x xᵀ, ``[inputs, inputs]``.
            columns: The inputs of every channel, ``[channels, width]``, or −1.
        """
        linalg = scipy_linalg()
        damped = gram.copy()
        damped[np.diag_indices_from(damped)] += DAMPING * np.trace(gram) / len(gram) or 1.0
        factor = linalg.cho_factor(damped, overwrite_a=True, check_finite=False)
        inverse = np.ascontiguousarray(
            linalg.cho_solve(factor, np.eye(len(gram)), overwrite_b=True, check_finite=False)
        )
        blocks = inverse[columns[:, :, None], columns[:, None, :]]
        return cls(weights.astype(np.float64), columns, inverse, np.arange(len(gram)), blocks)

    def costs(self, channels: Array) -> Array:
        """Return by how much the squared error grows if one of some channels goes, ``[channels]``."""
        columns, found = self.columns[channels], np.zeros(len(channels))
        read = columns[:, 0] >= 0
        columns, blocks = columns[read], self.blocks[channels[read]]
        if columns.shape[1] == 1:
            found[read] = np.square(self.weights).sum(0)[columns[:, 0]] / blocks[:, 0, 0]
            return found
        lost = self.weights[:, columns].transpose(1, 2, 0)
        powers = lost @ lost.transpose(0, 2, 1)
        found[read] = np.trace(np.linalg.solve(blocks, powers), axis1=1, axis2=2)
        return found

    def remove(self, channels: Array) -> None:
        """Take channels out, all at once, and let the others make up for them."""
        linalg, gone = scipy_linalg(), self.columns[channels].ravel()
        gone = gone[gone >= 0]
        if not len(gone):
            return
        before = self.rows[: self.removed]
        present = self.rows[self.places[gone]] - before[:, gone].T @ before
        root = linalg.cholesky(present[:, gone], lower=True, check_finite=False)
        made = linalg.solve_triangular(root, present, lower=True, overwrite_b=True, check_finite=False)
        self.weights -= linalg.solve_triangular(root, self.weights[:, gone].T, lower=True).T @ made
        self.weights[:, gone] = 0
        each = made[:, self.columns].transpose(1, 2, 0)  # [channels, width, rows]
        self.blocks -= each @ each.transpose(0, 2, 1)
        self._store(made, gone)

    def _store(self, made: Array, gone: Array) -> None:
        """Put rows behind those of earlier removals; rows of inputs that are left give way to gone ones'."""
        start, stop = self.removed, self.removed + len(gone)
        within = (self.places >= start) & (self.places < stop)
        within[gone] = False
        staying = np.flatnonzero(within)
        free = self.places[gone]
        free = free[free >= stop]
        self.rows[free] = self.rows[self.places[staying]]
        self.places[staying] = free
        self.rows[start:stop] = made
        self.places[gone] = -1
        self.removed = stop


def elimination_costs(layers: Sequence[ObsLayer], scales: Sequence[float], size: int, rounds: int) -> Array:
    """Take channels out of all their readers, always the cheapest, until one is left.

    Args:
        layers: All that read the channels; they are changed in place.
        scales: Divisors of the squared errors of each.
        size: Number of channels.
        rounds: Number of rounds: in each as many go, by their costs at its beginning.

    Returns:
        Cost of each channel when it was removed, never less than those before it, ``[channels]``.
    """
    left, costs, paid = np.arange(size), np.zeros(size), 0.0
    many = -(-size // rounds)
    while len(left) > 1:
        found = sum(p.costs(left) / scale for p, scale in zip(layers, scales, strict=True))
        order = np.argsort(found, kind="stable")[: min(many, len(left) - 1)]
        for which in order:
            paid = max(paid, float(np.asarray(found)[which]))
            costs[left[which]] = paid
        for layer in layers:
            layer.remove(left[order])
        left = np.delete(left, order)
    costs[left] = max(paid, float(sum(p.costs(left)[0] / s for p, s in zip(layers, scales, strict=True))))
    return costs
