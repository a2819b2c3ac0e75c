"""Operators that rearrange elements, by their specs and by onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net

from onnxprune.ops.spec import SPECS, load
from onnxprune.runtime import Session

load()
REARRANGING = {spec.name: spec.rearranges for spec in SPECS.values() if spec.rearranges}
OPERANDS = {"Reshape": (6, 4), "Squeeze": (0,), "Unsqueeze": (1,)}
ATTRIBUTES = {"Transpose": {"perm": [2, 0, 1, 3]}, "Flatten": {"axis": 2}}
X = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)


@pytest.mark.parametrize("name", REARRANGING)
def test_elements_are_kept_in_the_order_that_the_spec_states(name: str) -> None:
    net = Net()
    operands = [net.ints(*OPERANDS[name])] if name in OPERANDS else []
    y = net.op(name, net.input("x", X.shape), *operands, **ATTRIBUTES.get(name, {}))
    (result,) = Session(net.model(y).proto).run({"x": X}).values()
    assert sorted(result.ravel()) == sorted(X.ravel())
    assert np.array_equal(result.ravel(), X.ravel()) == (REARRANGING[name] == "shape")


def test_random_operators_and_those_of_sizes_are_marked() -> None:
    drawn = {spec.name for spec in SPECS.values() if spec.random == "always"}
    assert {name for name in drawn if "Random" in name} | {"Bernoulli", "Multinomial"} == drawn
    assert {spec.name for spec in SPECS.values() if spec.sizes_only} == {"Shape", "Size"}
