"""Ridge regression on moments, with the strength of the ridge chosen on samples held back."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from onnxprune.runtime import Array
from onnxprune.scoring.layerwise.moments import Moments, centred

STRENGTHS = (1e-5, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridges that are tried, in units of the mean of the Gram matrix's diagonal."""
USUAL_STRENGTH = 1e-2
"""Ridge where there are too few samples to hold any back, in the same units."""
OUTPUTS_TRIED = 32
"""Outputs that a ridge is chosen on where each of them is solved for by itself."""
OUTPUTS_TRIED_TOGETHER = 128
"""Outputs that it is chosen on where they share one factored matrix."""


def scipy_linalg() -> ModuleType:
    """Import scipy's solvers; no command that solves nothing waits for them."""
    import scipy.linalg

    module: ModuleType = scipy.linalg
    return module


def ridge(
    moments: Moments,
    weights: Array,
    bias: Array,
    strength: float,
    shift: bool,
    allowed: Array | None = None,
) -> tuple[Array, Array]:
    """Return the weights and bias with the least squared error, regularised towards the given ones.

    The minimum of ``Σ‖W x + b − y‖² + λ‖W − W₀‖²``: A. E. Hoerl and R. W. Kennard, "Ridge regression", 1970.
    Directions without samples keep their weights.

    Args:
        moments: Moments of inputs and target outputs.
        weights: W₀, ``[groups, outputs, inputs]``.
        bias: The bias there is, ``[groups, outputs]``.
        strength: λ in units of the mean of the Gram matrix's diagonal.
        shift: True if the bias may change.
        allowed: Mask of the weights that may be non-zero, ``[groups, outputs, inputs]``; by default all.

    Returns:
        W and b, shaped like the ones given.
    """
    return NormalEquations(moments, strength, shift, dense=allowed is None).solve(
        moments, weights, bias, allowed
    )


class NormalEquations:
    """The equations of `ridge` for one strength, factored once and solved for any number of outputs.

    Args:
        moments: Moments of the inputs.
        strength: λ in units of the mean of the Gram matrix's diagonal.
        shift: True if the bias may change.
        dense: True if all weights may be non-zero; otherwise every output is a system of its own.
        in_place: True to overwrite the Gram matrices of the moments.
    """

    def __init__(
        self, moments: Moments, strength: float, shift: bool, *, dense: bool = True, in_place: bool = False
    ) -> None:
        self._shift, self._sums, self._mean = shift, moments.x, moments.x / moments.count
        self._idle: list[Array] = []
        self._added: list[float] = []
        self._matrices: list[Array] = []
        for xx, x in zip(moments.xx, moments.x, strict=True):
            if shift:
                gram, varies = centred(xx, x, moments.count, in_place=in_place)
            else:
                gram = xx if in_place else xx.copy()
                varies = np.diag(gram) > 0
            added = strength * float(np.trace(gram)) / len(gram)
            gram[np.diag_indices_from(gram)] += added
            if dense and added > 0:  # symmetric: the transposed matrix is in LAPACK's order
                gram, _ = scipy_linalg().cho_factor(gram.T, lower=True, overwrite_a=True, check_finite=False)
            self._idle.append(~varies)
            self._added.append(added)
            self._matrices.append(gram)

    def solve(
        self, moments: Moments, weights: Array, bias: Array, allowed: Array | None = None
    ) -> tuple[Array, Array]:
        """Solve for some outputs.

        Args:
            moments: Sums of the outputs, and of their products with the inputs, over the rows of the Gram
                matrices.
            weights: W₀, ``[groups, outputs, inputs]``.
            bias: The bias there is, ``[groups, outputs]``.
            allowed: As for `ridge`; there must be one if the equations are not dense.

        Returns:
            W and b, shaped like the ones given.
        """
        solved, mean_y = weights.copy(), moments.y / moments.count
        for group, start in enumerate(weights):
            added, matrix = self._added[group], self._matrices[group]
            if added <= 0:
                continue  # its inputs are all zero
            products = moments.xy[group] - np.outer(
                self._sums[group], (mean_y if self._shift else bias)[group]
            )
            products[self._idle[group]] = 0
            products += added * start.T
            if allowed is not None:
                products -= matrix @ start.T
                solved[group] += _row_by_row(matrix, products, allowed[group])
                continue
            found = scipy_linalg().cho_solve((matrix, True), products, overwrite_b=True, check_finite=False).T
            solved[group] = np.where(self._idle[group], start, found)
        if not self._shift:
            return solved, bias
        return solved, mean_y - np.einsum("goi,gi->go", solved, self._mean)


def _row_by_row(gram: Array, products: Array, allowed: Array) -> Array:
    """Solve for each output with the inputs that it may read, ``[outputs, inputs]``.

    Args:
        gram: ``[inputs, inputs]``, positive definite.
        products: Right sides, ``[inputs, outputs]``.
        allowed: ``[outputs, inputs]``.
    """
    linalg, found = scipy_linalg(), np.zeros(allowed.shape)
    for row, free in enumerate(allowed):
        columns = np.flatnonzero(free)
        if len(columns):
            factor = linalg.cho_factor(gram[np.ix_(columns, columns)], overwrite_a=True, check_finite=False)
            found[row, columns] = linalg.cho_solve(factor, products[columns, row], check_finite=False)
    return found


def fit(
    seen: Moments,
    held: Moments,
    weights: Array,
    bias: Array,
    mask: Array,
    shift: bool,
    allowed: Array | None = None,
) -> tuple[Array, Array, float | None]:
    """Choose the ridge with the least error on the held-back samples, then solve with all samples.

    Args:
        seen: Moments to solve with; the others are added to them.
        held: Moments to choose by; may be empty.
        weights: As for `ridge`.
        bias: As for `ridge`.
        mask: Mask of the outputs that count, ``[groups, outputs]``.
        shift: As for `ridge`.
        allowed: As for `ridge`.

    Returns:
        Weights, bias and the strength; the given ones and ``None`` where no fit has a smaller error.
    """
    strength = best_strength(seen, held, weights, bias, mask, shift, allowed)
    if strength is None:
        return weights, bias, None
    return *ridge(seen.absorb(held), weights, bias, strength, shift, allowed), strength


def best_strength(
    seen: Moments,
    held: Moments,
    weights: Array,
    bias: Array,
    mask: Array,
    shift: bool,
    allowed: Array | None = None,
) -> float | None:
    """Return the ridge with the least error on the held-back samples; the arguments are those of `fit`.

    Of many outputs it is chosen on some, spread over all.

    Returns:
        The strength; ``None`` if the old weights are better.
    """
    if not (held.count and seen.count):
        return USUAL_STRENGTH
    most = OUTPUTS_TRIED_TOGETHER if allowed is None else OUTPUTS_TRIED
    if weights.shape[1] > most:
        some = np.unique(np.linspace(0, weights.shape[1] - 1, most).astype(int))
        seen, held = seen.of_outputs(some), held.of_outputs(some)
        weights, bias, mask = weights[:, some], bias[:, some], mask[:, some]
        allowed = None if allowed is None else allowed[:, some]
    best, strength = held.errors(weights, bias)[mask].sum(), None
    for candidate in STRENGTHS:
        error = held.errors(*ridge(seen, weights, bias, candidate, shift, allowed))[mask].sum()
        if error < best:
            best, strength = error, candidate
    return strength
