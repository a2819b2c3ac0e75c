"""Bits of float16 numbers, all 65,536 of them."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.scoring.criteria.power_sums import _magnitudes
from onnxprune.support.mapped import has_nan, has_nonzero

HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
FINITE = HALVES[np.isfinite(HALVES)]


def test_magnitudes_are_exact() -> None:
    expected = np.abs(FINITE.astype(np.float32))
    assert np.array_equal(_magnitudes(FINITE), expected)
    assert np.array_equal(_magnitudes(FINITE.reshape(-1, 2)[:, 1:]), expected.reshape(-1, 2)[:, 1:])


def test_magnitudes_beyond_numbers_are_those_of_numpy() -> None:
    for value in (np.inf, -np.inf, np.nan):
        block = np.array([1.5, value, -0.0], np.float16)
        assert np.array_equal(_magnitudes(block), np.abs(block.astype(np.float32)), equal_nan=True)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_nan_and_nonzero(kind) -> None:
    for values in ([], [0.0, -0.0], [1.0, np.inf, -np.inf], [0.0, np.nan], [5.9e-8], [-1.0]):
        array = np.array(values, kind)
        assert has_nan(array) == bool(np.isnan(array).any())
        assert has_nonzero(array) == bool((array != 0).any())
    assert [bool(has_nan(HALVES[k : k + 1])) for k in range(1 << 16)] == np.isnan(HALVES).tolist()
