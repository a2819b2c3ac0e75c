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
    linalg = scipy_linalg()
    xx, xy = moments.xx, moments.xy
    mean_x, mean_y = moments.x / moments.count, moments.y / moments.count
    solved = weights.copy()
    for group, start in enumerate(weights):
        if shift:
            gram, varies = centred(xx[group], moments.x[group], moments.count)
            wanted = xy[group] - np.outer(moments.x[group], mean_y[group])
            wanted[~varies] = 0
        else:
            gram = xx[group].copy()
            wanted = xy[group] - np.outer(moments.x[group], bias[group])
        scale = np.trace(gram) / len(gram)
        if scale <= 0:
            continue  # its inputs are all zero
        wanted = wanted - gram @ start.T
        gram[np.diag_indices_from(gram)] += strength * scale
        if allowed is not None:
            solved[group] += _row_by_row(gram, wanted, allowed[group])
            continue
        factor = linalg.cho_factor(gram, overwrite_a=True, check_finite=False)
        solved[group] += linalg.cho_solve(factor, wanted, overwrite_b=True, check_finite=False).T
    if not shift:
        return solved, bias
    return solved, mean_y - np.einsum("goi,gi->go", solved, mean_x)


def _row_by_row(gram: Array, wanted: Array, allowed: Array) -> Array:
    """Solve for each output with the inputs that it may read, ``[outputs, inputs]``.

    Args:
        gram: ``[inputs, inputs]``, positive definite.
        wanted: Right sides, ``[inputs, outputs]``.
        allowed: ``[outputs, inputs]``.
    """
    linalg, found = scipy_linalg(), np.zeros(allowed.shape)
    for row, free in enumerate(allowed):
        columns = np.flatnonzero(free)
        if len(columns):
            factor = linalg.cho_factor(gram[np.ix_(columns, columns)], overwrite_a=True, check_finite=False)
            found[row, columns] = linalg.cho_solve(factor, wanted[columns, row], check_finite=False)
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
        seen: Moments to solve with.
        held: Moments to choose by; may be empty.
        weights: As for `ridge`.
        bias: As for `ridge`.
        mask: Mask of the outputs that count, ``[groups, outputs]``.
        shift: As for `ridge`.
        allowed: As for `ridge`; then the ridge is chosen on some of the outputs.

    Returns:
        Weights, bias and the strength; the given ones and ``None`` where no fit has a smaller error.
    """
    strength: float | None = USUAL_STRENGTH
    if held.count and seen.count:
        strength = _strength(seen, held, weights, bias, mask, shift, allowed)
    if strength is None:
        return weights, bias, None
    return *ridge(seen + held, weights, bias, strength, shift, allowed), strength


def _strength(
    seen: Moments,
    held: Moments,
    weights: Array,
    bias: Array,
    mask: Array,
    shift: bool,
    allowed: Array | None,
) -> float | None:
    """Return the ridge with the least error on held-back samples; ``None`` if the old weights are better."""
    if allowed is not None:  # every output is a system of its own
        some = np.unique(np.linspace(0, weights.shape[1] - 1, OUTPUTS_TRIED).astype(int))
        seen, held = seen.of_outputs(some), held.of_outputs(some)
        weights, bias, mask, allowed = weights[:, some], bias[:, some], mask[:, some], allowed[:, some]
    best, strength = held.errors(weights, bias)[mask].sum(), None
    for candidate in STRENGTHS:
        error = held.errors(*ridge(seen, weights, bias, candidate, shift, allowed))[mask].sum()
        if error < best:
            best, strength = error, candidate
    return strength
