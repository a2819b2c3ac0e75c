"""Weights that nodes compute from other constants."""

from __future__ import annotations

import numpy as np

from spellings.speller import Speller, weight


@weight
def weight_transposed(s: Speller, w: str) -> str:
    array = s.array(w)
    assert array is not None
    order = s.random.permutation(array.ndim)
    stored = s.const(array.transpose(order).copy())
    return s.op("Transpose", stored, perm=np.argsort(order).tolist())


@weight
def weight_scaled(s: Speller, w: str) -> str:
    array = s.array(w)
    assert array is not None
    factors = np.exp2(s.random.integers(-2, 3, (len(array), *[1] * (array.ndim - 1)))).astype(array.dtype)
    return s.op("Mul", s.const(array / factors), s.const(factors))


@weight
def weight_reshaped(s: Speller, w: str) -> str:
    array = s.array(w)
    assert array is not None
    return s.op("Reshape", s.const(array.ravel()), s.ints(*array.shape))


@weight
def weight_in_parts(s: Speller, w: str) -> str | None:
    array = s.array(w)
    if array is None or len(array) < 2:
        return None
    at = int(s.random.integers(1, len(array)))
    return s.op("Concat", s.const(array[:at].copy()), s.const(array[at:].copy()), axis=0)


@weight
def weight_as_sum(s: Speller, w: str) -> str:
    """A weight and a correction, as merged adapters leave it."""
    array = s.array(w)
    assert array is not None
    return s.op("Add", s.const(array), s.const(np.zeros_like(array)))


@weight
def weight_behind_identity(s: Speller, w: str) -> str:
    return s.op("Identity", w)
