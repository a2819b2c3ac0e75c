"""The moments of a layer's rows, from samples that stream past, within a bound of memory and of work."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from onnxprune.errors import DataError
from onnxprune.runtime import Array
from onnxprune.scoring.layerwise.linear_views import Linear
from onnxprune.scoring.layerwise.moments import Moments, check_finite

GRAM_BYTES = 1 << 29
"""Bytes a Gram matrix may take; a layer holds two of them, and a third while a ridge is tried."""
GRAM_WORK = 3e9
"""Multiplications that a Gram matrix may take: of more rows a random part is used."""
ROW_NUMBERS = 3e7
"""Elements that all rows together may have: beyond that a random part of the rows is used."""
ROWS_PER_INPUT = 10
"""Rows for each input that are used in any case, if there are that many."""
HELD_BACK = 5
"""Number of samples of which one is held back to choose the ridge by."""
CHUNK_BYTES = 1 << 25
"""Bytes of rows, operands and results, that are taken in at a time."""


def gram_bytes(groups: int, inputs: int) -> int:
    """Return the bytes that the Gram matrices of a layer take, in float64."""
    return groups * inputs**2 * 8


def gather(
    layer: Linear,
    arrivals: Iterable[tuple[Array, Array]],
    axes: tuple[Array, Array, Array],
    batches: int,
    seed: tuple[int, int],
    *,
    gram: bool = True,
) -> tuple[Moments, Moments]:
    """Go through the samples; return the moments of most of them, and of those held back.

    Args:
        layer: The layer.
        arrivals: For each batch the operand and the target result.
        axes: Groups, outputs and inputs that count; the others are left out.
        batches: Number of batches.
        seed: Seed of the rows that are drawn where there are too many; the outputs do not change the draw.
        gram: False to leave the Gram matrices out.

    Raises:
        DataError: Something is NaN or infinite, or there are no samples.
    """
    groups, outputs, columns = axes
    sizes = (len(groups), len(columns), len(outputs))
    both = Moments.empty(*sizes, gram=gram), Moments.empty(*sizes, gram=gram)
    random, samples = np.random.default_rng(seed), 0
    step = max(1, CHUNK_BYTES // (8 * (len(groups) * len(columns) + layer.groups * layer.outputs)))
    for x, y in arrivals:
        rows = layer.rows(y)
        picked = _picked(random, rows, len(groups), len(columns), batches)
        sample = picked * len(y) // max(rows, 1) + samples
        is_held = sample % HELD_BACK == HELD_BACK - 1
        for moments, chosen in zip(both, (picked[~is_held], picked[is_held]), strict=True):
            for piece in (chosen[start : start + step] for start in range(0, len(chosen), step)):
                inputs = layer.inputs(x, y, piece)[groups][:, :, columns]
                targets = layer.results(y, piece)[groups][:, :, outputs]
                moments.add(inputs.astype(np.float64, "C"), targets.astype(np.float64, "C"))
        samples += len(y)
    for moments in both:
        check_finite(moments.yy, f"the result of node '{layer.name}'")
        check_finite(np.einsum("gii->g", moments.xx), f"the operand of node '{layer.name}'")
    if not both[0].count:
        raise DataError("there are no samples to repair with", "give at least two")
    return both


def _picked(random: np.random.Generator, rows: int, groups: int, inputs: int, batches: int) -> Array:
    """Choose the used rows of a batch: all, or as many as the limits of work and memory allow."""
    row = max(groups * inputs, 1)
    count = min(GRAM_WORK / (row * max(inputs, 1)), ROW_NUMBERS / row)
    count = int(max(count, ROWS_PER_INPUT * inputs)) // batches + 1
    if count >= rows:
        return np.arange(rows)
    return np.sort(random.choice(rows, count, replace=False))
