"""Least squares of a layer in blocks of outputs: the same weights, less memory, and the memory it states."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from helpers import Net

from onnxprune.decisions.channels.masks import KeepMasks, keep_masks
from onnxprune.decisions.channels.planned import removed_channels, stored_plan
from onnxprune.errors import ModelError
from onnxprune.passes import Prune, Recover, Sparsify
from onnxprune.repair import layer_fit
from onnxprune.repair.layer_fit import fit_bytes
from onnxprune.repair.model_pair import ModelPair
from onnxprune.scoring.layerwise import ridge
from onnxprune.support.memory import limited

ROWS = np.random.default_rng(0).standard_normal((400, 24)).astype(np.float32)


def network(kind: str = "Gemm", width: int = 40, outputs: int = 30):
    """Return ``x [N 24] → y [N outputs]`` by way of ``width`` features."""
    net = Net()
    x = net.relu(net.gemm(net.input("x", ["N", 24]), width))
    if kind == "Gemm":
        return net.model(net.gemm(x, outputs))
    if kind == "alpha":
        weight = net.weight(width, outputs, fan=width)
        return net.model(net.op("Gemm", x, weight, net.vector(outputs), alpha=0.25))
    return net.model(net.op("MatMul", x, net.weight(width, outputs, fan=width)))


@pytest.mark.parametrize("kind", ["Gemm", "alpha", "MatMul"])
@pytest.mark.parametrize("elements", [False, True], ids=["channels", "elements"])
def test_blocks_of_outputs_get_the_weights_of_one_fit(kind, elements, monkeypatch):
    monkeypatch.setattr(ridge, "STRENGTHS", (1e-3,))
    model = network(kind)
    sparse = Prune(reduce_params=0.3)(model).model
    if elements:
        sparse = Sparsify(pattern="2:4", data={"x": ROWS}, recover=())(sparse).model
    whole = Recover(model, data={"x": ROWS})(sparse)
    monkeypatch.setattr(layer_fit, "OUTPUT_BYTES", 8 * 40 * 7)
    parts = Recover(model, data={"x": ROWS})(sparse)
    assert [f["node"] for f in parts.facts["layers"]] == [f["node"] for f in whole.facts["layers"]] != []
    for name in whole.model.constants:
        one, other = whole.model.array(name), parts.model.array(name)
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)
        assert ((one == 0) == (other == 0)).all()


def test_masks_are_made_when_they_are_asked_for():
    sparse = Prune(reduce_params=0.3)(network()).model
    channels, removed = removed_channels(sparse, stored_plan(sparse))
    made, whole = KeepMasks(channels, removed), keep_masks(channels, removed)
    assert len(made) == len(whole) > 2
    assert list(made) == list(whole)
    assert all(np.array_equal(made[name], mask) for name, mask in whole.items())
    assert made[next(iter(made))] is not made[next(iter(made))]


def peak_of(model, sparse, feeds) -> int:
    """Return the largest number of bytes that a recovery allocates beyond those before it."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        Recover(model, data=feeds)(sparse)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_a_layer_of_many_outputs_takes_the_stated_memory(monkeypatch):
    model, feeds, outputs = network("MatMul", width=96, outputs=6000), {"x": ROWS[:40]}, 6000
    sparse = Prune(reduce_params=0.3)(model).model
    whole = peak_of(model, sparse, feeds)
    monkeypatch.setattr(layer_fit, "OUTPUT_BYTES", 1 << 18)
    channels, removed = removed_channels(sparse, stored_plan(sparse))
    results = 6 * 4 * len(feeds["x"]) * outputs  # those of both models, and their differences
    stated = fit_bytes(ModelPair.of(channels, removed, model, stored_plan(sparse)))[0]
    parts = peak_of(model, sparse, feeds)
    assert parts < stated + results
    assert parts < whole / 2


def test_too_little_memory_is_refused_before_the_work():
    model = network()
    sparse = Prune(reduce_params=0.3)(model).model
    with limited(1 << 10), pytest.raises(ModelError, match=r"the repair of node '.*', the largest, needs"):
        Recover(model, data={"x": ROWS})(sparse)
