"""Attention over packed operands, and over keys and values that were computed before."""

from __future__ import annotations

import numpy as np
import pytest
from attention_networks import assert_halves, contrib
from helpers import Net

from onnxprune.ir import Model
from onnxprune.passes.prune import Prune
from onnxprune.passes.transform import Transform
from onnxprune.runtime import Session


def packed(net: Net, x: str, heads: int, parts: int, width: int) -> str:
    """[batch, length, heads, parts, width]."""
    return net.reshape(net.linear(x, heads * parts * width), 0, 0, heads, parts, width)


@pytest.mark.parametrize("biased", [False, True])
def test_queries_keys_and_values_in_one_tensor(biased: bool) -> None:
    net = Net()
    x = net.input("x", [2, 5, 12])
    extra = ["", "", net.vector(3 * 48)] if biased else []
    y = contrib(net, "MultiHeadAttention", packed(net, x, 6, 3, 8), *extra, shape=[2, 5, 48], num_heads=6)
    assert_halves(net.model(net.linear(y, 12)), 6, 8)


def test_keys_and_values_in_one_tensor() -> None:
    net = Net()
    x, memory = net.input("x", [2, 5, 12]), net.input("memory", [2, 7, 10])
    operands = [net.linear(x, 48), packed(net, memory, 6, 2, 8)]
    y = contrib(net, "MultiHeadAttention", *operands, shape=[2, 5, 48], num_heads=6)
    assert_halves(net.model(net.linear(y, 12)), 6, 8)


def test_keys_and_values_of_another_sequence_head_by_head() -> None:
    net = Net()
    x, memory = net.input("x", [2, 5, 12]), net.input("memory", [2, 7, 10])
    apart = [net.transpose(net.reshape(net.linear(memory, 6 * w), 0, 0, 6, w), 0, 2, 1, 3) for w in (8, 8)]
    y = contrib(net, "MultiHeadAttention", net.linear(x, 48), *apart, shape=[2, 5, 48], num_heads=6)
    assert_halves(net.model(net.linear(y, 12)), 6, 8, 8)


def two_blocks(length: int | str = "length") -> Model:
    """Two blocks of attention over packed operands, and layers between them."""
    net = Net()
    x = net.input("x", ["batch", length, 16])
    for width in (48, 16):
        y = packed(net, x, 4, 3, 12)
        y = contrib(net, "MultiHeadAttention", y, shape=["batch", length, 48], num_heads=4)
        x = net.relu(net.linear(y, width))
    return net.model(x)


def test_prune_and_transform_where_the_runtime_has_no_packed_form() -> None:
    result = Transform()(Prune(reduce_channels=0.5, strategy="uniform", round_to=1)(two_blocks()))
    nodes = [n for n in result.model.nodes if n.op_type == "MultiHeadAttention"]
    assert [len([i for i in n.input if i]) for n in nodes] == [1, 1]  # as packed as before
    assert [a.i for n in nodes for a in n.attribute if a.name == "num_heads"] == [2, 2]
    assert result.facts["equal"]
    assert result.facts["params_reduction"] > 0.45


def test_the_expanded_form_computes_the_packed_one() -> None:
    """The same numbers by hand."""
    net = Net()
    y = contrib(net, "MultiHeadAttention", net.input("qkv", [2, 5, 3, 3, 4]), shape=[2, 5, 12], num_heads=3)
    fed = np.random.default_rng(1).normal(size=(2, 5, 3, 3, 4)).astype(np.float32)
    q, k, v = (fed[:, :, :, part].transpose(0, 2, 1, 3) for part in range(3))
    scores = np.exp(q @ k.swapaxes(2, 3) / 2)
    expected = (scores / scores.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(2, 5, 12)
    assert np.allclose(Session(net.proto(y)).run({"qkv": fed})[y], expected, atol=1e-5)
