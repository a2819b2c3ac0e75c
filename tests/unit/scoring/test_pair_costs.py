"""Saliency of queries and keys: errors of their products, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import Net
from numpy.typing import NDArray

from onnxprune.analysis.groups.channels import Channels, Group, find_channels
from onnxprune.errors import DataError
from onnxprune.ir import Model
from onnxprune.passes import Ana, Prune, Transform
from onnxprune.scoring.criteria import score
from onnxprune.scoring.criteria.eliminations import operate
from onnxprune.scoring.criteria.pair_costs import pair_costs

Array = NDArray[Any]
TOKENS, FEATURES, HEADS, WIDTH = 5, 6, 2, 4
RANDOM = np.random.default_rng(3)
SAMPLES = RANDOM.standard_normal((40, TOKENS, FEATURES)).astype(np.float32)


def attention(queries: Array, keys: Array, shift: Array) -> Model:
    """Attention whose queries and keys are products with given weights, ``[features, heads · width]``."""
    net = Net(opset=17)
    x = net.input("x", ["N", TOKENS, FEATURES])
    parts = [
        net.op("MatMul", x, net.const(queries)),
        net.add(net.op("MatMul", x, net.const(keys)), net.const(shift)),
        net.op("MatMul", x, net.weight(FEATURES, HEADS * WIDTH)),
    ]
    q, k, v = (
        net.transpose(net.op("Reshape", p, net.const(np.array([0, 0, HEADS, WIDTH]))), 0, 2, 1, 3)
        for p in parts
    )
    weights = net.op("Softmax", net.op("MatMul", q, net.transpose(k, 0, 1, 3, 2)), axis=-1)
    heads = net.transpose(net.op("MatMul", weights, v), 0, 2, 1, 3)
    merged = net.op("Reshape", heads, net.const(np.array([0, 0, HEADS * WIDTH])))
    return net.model(net.op("MatMul", merged, net.weight(HEADS * WIDTH, 3)))


def weights() -> tuple[Array, Array, Array]:
    shape = FEATURES, HEADS * WIDTH
    return RANDOM.standard_normal(shape), RANDOM.standard_normal(shape), RANDOM.standard_normal(shape[1])


def paired(channels: Channels) -> tuple[Group, Array]:
    ((name, costs),) = pair_costs(channels, [{"x": SAMPLES[:25]}, {"x": SAMPLES[25:]}]).items()
    return next(g for g in channels.groups if g.name == name), costs


def test_costs_are_errors_of_products_with_independent_keys() -> None:
    queries, keys, shift = weights()
    group, costs = paired(find_channels(attention(queries, keys, shift)))
    assert group.size == WIDTH
    rows = SAMPLES.reshape(-1, FEATURES).astype(np.float64)
    q, k = ((rows @ w).reshape(-1, HEADS, WIDTH) for w in (queries, keys))
    k = k - k.mean(0)  # a constant of all keys, the shift included, is the same for every key
    terms = np.einsum("nhd,mhd->hdnm", q, k)
    power = np.square(terms.sum(1)).mean((1, 2)).sum()
    assert costs == pytest.approx(np.square(terms).mean((2, 3)).ravel() / power, rel=1e-4)


def test_channels_that_all_keys_share_go_first() -> None:
    """Large weights are no saliency: a change of no effect on the softmax is no loss."""
    queries, keys, shift = weights()
    alike = [1, WIDTH + 2]  # one channel of each head
    queries[:, alike] *= 10
    keys[:, alike], shift[alike] = 0, 50
    model = attention(queries, keys, shift)
    channels = find_channels(model)
    group, _ = paired(channels)
    found = score(channels, channels.apart(group), "obs", 0, operate(channels, [{"x": SAMPLES}]))
    assert sorted(np.argsort(found)[:HEADS].tolist()) == alike
    options: dict[str, Any] = {"data": {"x": SAMPLES}, "only": [group.name], "round_to": 1}
    result = Prune(reduce_params=0.05, **options)(model)
    assert result.facts["drop"] == pytest.approx(0, abs=1e-6)
    assert Transform()(result).facts["max_rel_error"] < 1e-4


def test_curves_are_measured_in_that_order() -> None:
    model = attention(*weights())
    group, _ = paired(find_channels(model))
    options: dict[str, Any] = {"metric": "cosine", "ratios": [0.25, 0.75], "only": [group.name]}
    found = Ana(data={"x": SAMPLES}, **options)(model)
    values = found.facts["groups"][group.name]["drops"]
    assert 0 < values[0] < values[1]


def test_no_samples() -> None:
    channels = find_channels(attention(*weights()))
    with pytest.raises(DataError, match="no"):
        pair_costs(channels, [])
    assert not pair_costs(find_channels(_without_pairs()), [])


def _without_pairs() -> Model:
    net = Net()
    return net.model(net.linear(net.relu(net.linear(net.input("x", ["N", 3]), 5)), 2))
