"""Masks by whole lines of a weight: equal to masks element by element, on networks of every idea."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import half_of_each
from ideas import IDEAS

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.analysis.groups.weight_values import zero_value
from onnxprune.decisions.channels.masks import KeepMasks, check_zero, masked
from onnxprune.errors import PlanError
from onnxprune.ir import Model, check

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
