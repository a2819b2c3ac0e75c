"""Masks by whole lines of a weight: equal to masks element by element, on networks of every idea."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import half_of_each
from ideas import IDEAS

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.analysis.groups.weight_values import zero_value
from onnxprune.decisions.channels.masks import KeepMasks, _removed_elements, _without, check_zero, masked
from onnxprune.errors import PlanError
from onnxprune.ir import Model, check
from onnxprune.support import mapped

CHOSEN = sorted(IDEAS)[::6]


@pytest.mark.parametrize("name", CHOSEN)
def test_lines_are_the_masks(name: str) -> None:
    channels = find_channels(check(Model(IDEAS[name].build())))
    removed = half_of_each(channels)
    sparse = masked(channels, removed)
    again = find_channels(sparse)
    check_zero(again, removed)
    for tensor, mask in KeepMasks(channels, removed).items():
        before, after = channels.model.array(tensor), sparse.array(tensor)
        assert np.array_equal(after, np.where(mask, before, zero_value(channels.typing, tensor)))
    assert len(KeepMasks(channels, removed)), "no weight is masked"


class Lines(KeepMasks):
    """The removed elements of one weight, without a network."""

    def __init__(self, gone):
        self.gone = gone

    def lines(self, _):
        return self.gone


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8])
@pytest.mark.parametrize("part", [..., slice(4, 8)])
@pytest.mark.parametrize("zero", [0, 5])
def test_lines_of_any_values_become_zero(dtype, part, zero):
    values = np.arange(1, 241).astype(dtype).reshape(8, 6, 5)
    if np.dtype(dtype).kind == "f":
        values[:, ::2] = [np.nan, -np.inf, np.inf, -0.0, np.finfo(dtype).smallest_subnormal]
    values.flags.writeable = False
    gone = {0: np.array([1, 5, 6]), 1: np.array([0, 4]), 2: np.array([2])}
    wanted = values.copy()
    wanted[gone[0]] = wanted[:, gone[1]] = wanted[:, :, gone[2]] = zero
    found = _without(gone, np.asarray(zero, dtype), part, values[part])
    assert found.tobytes() == wanted[part].tobytes()
    assert _without({0: gone[0]}, np.asarray(zero, dtype), part, values[part]).shape == values[part].shape


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, -np.inf, "least"])
@pytest.mark.parametrize("block", [1 << 22, 64])
def test_a_removed_value_is_found_on_any_axis(monkeypatch, dtype, value, block):
    monkeypatch.setattr(mapped, "BLOCK", block)
    gone = Lines({0: np.array([1, 5]), 1: np.array([3]), 2: np.array([2, 4])})
    clean = np.ones((8, 6, 5), dtype)
    clean[gone.gone[0]], clean[:, gone.gone[1]], clean[:, :, gone.gone[2]] = 0, -0.0, -0.0
    assert not any(map(mapped.has_nonzero, _removed_elements(gone, "w", mapped.placed(clean))))
    for place in [(5, 0, 0), (7, 3, 1), (0, 0, 4)]:
        values = clean.copy()
        values[place] = -np.finfo(dtype).smallest_subnormal if value == "least" else value
        assert any(map(mapped.has_nonzero, _removed_elements(gone, "w", mapped.placed(values))))


@pytest.mark.parametrize("name", CHOSEN)
def test_one_element_that_is_not_zero_is_found(name: str) -> None:
    channels = find_channels(check(Model(IDEAS[name].build())))
    removed = half_of_each(channels)
    sparse = masked(channels, removed)
    for tensor, mask in KeepMasks(channels, removed).items():
        values = np.array(sparse.array(tensor))
        places = np.flatnonzero(~mask)
        if values.dtype.kind != "f" or not len(places):
            continue
        changed = sparse.copy()
        changed_values = values.copy()
        changed_values.reshape(-1)[places[len(places) // 2]] = 1e-4
        changed.set_array(tensor, changed_values)
        with pytest.raises(PlanError, match="they are not zero"):
            check_zero(find_channels(changed), removed)
