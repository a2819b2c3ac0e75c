"""Channels behind a division: masking leaves the weights of the divisor if others make the channel zero."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, half_of_each, prune_exactly

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.decisions.channels.masks import keep_masks
from onnxprune.ir import Model


def weighted_mean(net: Net, *, shift: bool = True) -> Model:
    """``out(r · Σ k v / Σ k)`` with ``k = exp(W x + u)``, summed over time."""
    x = net.input("x", ["N", 6, 12])
    r, v, keys = (net.linear(x, 8) for _ in range(3))
    if shift:
        keys = net.add(keys, net.vector(8))
    k = net.op("Exp", keys)
    scale = net.vector(8, 0.5, 1.5)
    total = net.op("ReduceSum", net.mul(k, scale), net.ints(1))
    mean = net.op("Div", net.op("ReduceSum", net.mul(net.mul(k, scale), v), net.ints(1)), total)
    return net.model(net.linear(net.mul(net.op("Sigmoid", r), mean), 5))


@pytest.mark.parametrize("shift", [True, False])
def test_channels_of_a_weighted_mean(shift: bool) -> None:
    model = weighted_mean(Net(), shift=shift)
    channels = find_channels(model)
    assert sum(g.size for g in channels.groups) == 8
    outcome = prune_exactly(model, half_of_each(channels))
    assert outcome.error <= 1e-5
    assert outcome.change > 1e-3


def test_weights_of_the_divisor_keep_their_numbers() -> None:
    model = weighted_mean(Net())
    channels = find_channels(model)
    masks = keep_masks(channels, half_of_each(channels))
    divisor = [p.tensor for g in channels.groups for p in g.places if not p.weight]
    assert divisor
    assert not set(divisor) & masks.keys()
    assert all(not np.all(mask) for mask in masks.values())


def test_no_channel_goes_that_only_the_divisor_has() -> None:
    """``out(1 / (1 + W x))``: no other weight makes the channel zero in the sum but that of the reader."""
    net = Net()
    x = net.input("x", ["N", 12])
    y = net.op("Exp", net.linear(x, 8))
    model = net.model(net.op("ReduceSum", net.op("Reciprocal", y), net.ints(1)))
    assert not find_channels(model).groups


def linear_attention(net: Net) -> Model:
    """Two heads of four: φ(q) Σ φ(k) vᵀ / φ(q) Σ φ(k), where φ is never zero."""
    x = net.input("x", ["N", 6, 12])

    def heads(y: str) -> str:
        return net.op("Transpose", net.reshape(y, 0, 6, 4, 4), perm=[0, 2, 1, 3])

    q, k, v = (heads(net.linear(x, 16)) for _ in range(3))
    q, k = (net.add(net.op("Elu", y), net.const(np.float32(1.0))) for y in (q, k))
    context = net.op("MatMul", net.op("Transpose", k, perm=[0, 1, 3, 2]), v)
    norm = net.op(
        "MatMul", q, net.op("Unsqueeze", net.op("ReduceSum", k, net.ints(2), keepdims=0), net.ints(3))
    )
    y = net.op("Div", net.op("MatMul", q, context), norm)
    return net.model(net.linear(net.reshape(net.op("Transpose", y, perm=[0, 2, 1, 3]), 0, 6, 16), 5))


def test_heads_of_linear_attention() -> None:
    model = linear_attention(Net())
    channels = find_channels(model)
    sizes = sorted(g.size for g in channels.groups)
    assert sizes == [4, 4]  # the heads, and the width of their values
    for group in channels.groups:
        outcome = prune_exactly(model, {group.name: [1, 2]})
        assert outcome.error <= 1e-5
        assert outcome.change > 1e-3


def test_a_second_divisor_that_masking_would_change() -> None:
    """``1 / (W x)`` is the original's if ``W`` stays; ``1 / exp(W x + V x)`` then is no known number."""
    net = Net()
    x = net.input("x", ["N", 12])
    first, second, v = (net.linear(x, 8) for _ in range(3))
    both = net.op("Sin", net.add(first, second))
    y = net.op("Div", net.op("Div", v, first), net.add(both, net.const(np.float32(2.0))))
    model = net.model(net.linear(y, 5))
    channels = find_channels(model)
    assert all(outcome_is_exact(model, {g.name: [0, 3]}) for g in channels.groups)


def outcome_is_exact(model: Model, removed: dict[str, list[int]]) -> bool:
    return prune_exactly(model, removed).error <= 1e-5


@pytest.mark.parametrize("function", ["Identity", "Clip", "Relu", "Tanh"])
def test_sums_of_numbers_whose_weights_stay(function: str) -> None:
    """The divisor is summed up as well: with its weights as they are, a removed channel would show there."""
    net = Net()
    x = net.input("x", ["N", 12])
    v, k = (net.linear(x, 8) for _ in range(2))
    bounds = [net.const(-1.0), net.const(1.0)] if function == "Clip" else []
    total = net.op("ReduceSum", net.op(function, k, *bounds), net.ints(1))
    assert not find_channels(net.model(net.linear(net.op("Div", v, k), 5), total)).groups
