"""Tolerances: when a difference is rounding, and when it is not."""

from __future__ import annotations

import numpy as np

from onnxprune.evaluate.equivalence.measure import AxisErrors, Record
from onnxprune.evaluate.equivalence.noise import LAST_PLACE
from onnxprune.runtime import Array

TOLERANCES = {2: 1e-2, 4: 1e-5, 8: 1e-10}
"""Largest relative error by the size, in bytes, of the narrowest float type on the way to a tensor."""
LARGEST_MARGIN = 100
"""The tolerance is never stretched by more than this."""
NOISE_MARGIN = 10
"""Sums in another order may differ by so many times the effect of one last place of the operands."""
ONE_STEP = 1e-2
"""Tolerance of activations rounded to 256 steps: some end at the next one, and a few of those add up."""
FEW_PLACES = 2
"""Last places of the largest number of a tensor that any of its channels may be off by, if that is little."""
FEW = 1e-3
"""Mean relative error that a few such steps make, where nothing else differs."""


def allowed(record: Record, noise: Record | None = None, saturates: bool = False) -> float:
    """Return the largest relative error of a whole tensor that passes as rounding.

    Args:
        record: The differences between reference and candidate.
        noise: Those between the reference and itself, changed by one last place.
        saturates: The tensor is good to the last place of 1.0 only: numbers far below may be off by more.
    """
    usual, floor, worst = TOLERANCES[record.width], _floor(record), record.worst
    if record.rounded:
        return ONE_STEP
    if saturates and 0 < worst.max_abs_error <= floor:
        usual = max(usual, worst.max_rel_error * floor / worst.max_abs_error)
    return usual if noise is None else min(max(usual, NOISE_MARGIN * _size(noise)), usual * LARGEST_MARGIN)


def _floor(record: Record) -> float:
    """Return two last places of 1.0."""
    return 2 * LAST_PLACE[record.width]


def passes(record: Record, noise: Record | None = None, saturates: bool = False, gated: bool = False) -> bool:
    """Return true if all differences between two tensors are rounding.

    Args:
        record: The differences between reference and candidate.
        noise: Those between the reference and itself, changed by one last place, on the same inputs.
        saturates: The tensor is the direct result of a function that is good to the last place of 1.0 only,
            and the operands of that function are judged as well.
        gated: The tensor is multiplied by such functions of large sums: each channel is good to a few last
            places of the largest number of the tensor only.
    """
    if record.worst.reason:
        return False
    usual = TOLERANCES[record.width]
    floor = _floor(record) if saturates else 0.0
    if saturates and record.worst.max_abs_error <= floor:
        return True
    if record.worst.max_rel_error > allowed(record, noise):
        return False
    if record.rounded:
        few = max(FEW, NOISE_MARGIN * noise.mean_rel_error if noise is not None else 0.0)
        return record.worst.max_rel_error <= usual or record.mean_rel_error <= few
    place = LAST_PLACE[record.width]
    return all(
        _line_passes(
            line, _line(noise, axis), usual, np.maximum(floor, _few_places(line, place, usual, gated))
        )
        for axis, line in record.known_lines().items()
    )


def is_beyond_measure(record: Record, noise: Record | None) -> bool:
    """Return true if the effect of one last place is so large that rounding could explain any difference.

    Of integers, such as the places of elements of nearly the same size, the changed fraction is compared.
    """
    if noise is None or record.rounded:
        return False
    if record.worst.unequal:
        return NOISE_MARGIN * noise.worst.unequal >= record.worst.unequal
    return NOISE_MARGIN * _size(noise) > TOLERANCES[record.width] * LARGEST_MARGIN


def passes_by_flips(record: Record, noise: Record) -> bool:
    """Return true if a rounded tensor differs by no more than the reference from itself, changed slightly.

    A step of the last rounding may be a large part of a small output. The tensor has to agree without the
    rounding too, where nothing but the usual tolerance is allowed.
    """
    if not record.rounded or record.worst.reason or noise.worst.reason:
        return False
    few = max(FEW, NOISE_MARGIN * noise.mean_rel_error)
    return record.worst.max_rel_error <= noise.worst.max_rel_error and record.mean_rel_error <= few


def _size(noise: Record) -> float:
    """Return the relative size of noise; none where the changed reference cannot be compared at all."""
    return noise.worst.max_rel_error if np.isfinite(noise.worst.max_rel_error) else 0.0


def _few_places(line: AxisErrors, place: float, usual: float, gated: bool) -> Array:
    """Return the size of a few last places of the tensor, limited by a multiple of each channel's scale."""
    few = FEW_PLACES * place * line.scale.max(initial=0)
    if gated:
        return np.full(line.scale.shape, few)
    return np.asarray(np.minimum(few, LARGEST_MARGIN * usual * line.scale))


def _line_passes(line: AxisErrors, noise: AxisErrors | None, usual: float, floor: Array) -> bool:
    within = np.maximum(usual * line.scale, floor)
    if noise is not None and noise.error.shape == line.error.shape:
        within = np.maximum(within, NOISE_MARGIN * noise.error)
    return bool((line.error <= within).all())


def _line(noise: Record | None, axis: int) -> AxisErrors | None:
    return noise.known_lines().get(axis) if noise is not None else None
