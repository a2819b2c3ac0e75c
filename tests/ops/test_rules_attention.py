"""Attention in one node: whole heads, and the width of a head where its scale can be kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
from attention_networks import MICROSOFT, assert_halves, contrib, projections
from helpers import Net, half_of_each, prune_exactly
from onnx import TensorProto

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.passes.prune import Prune
from onnxprune.passes.transform import Transform


def optional(channels: Channels) -> list[int]:
    return sorted(g.size for g in channels.groups if g.optional)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_heads_of_a_standard_attention(scale: float | None) -> None:
    """Six heads; queries and keys are 8 wide, values 10: heads go first, the widths on request."""
    net = Net(opset=23)
    x = net.input("x", [2, 5, 12])
    how = {} if scale is None else {"scale": scale}
    y = net.op("Attention", *projections(net, x, 48, 48, 60), q_num_heads=6, kv_num_heads=6, **how)
    channels = assert_halves(net.model(net.linear(y, 12)), 6, 8, 10)
    assert optional(channels) == [8, 10]


def test_heads_as_an_axis() -> None:
    net = Net(opset=23)
    x = net.input("x", [2, 5, 12])
    q, k, v = projections(net, x, 48, 48, 48)
    split = [net.transpose(net.reshape(a, 0, 0, 6, 8), 0, 2, 1, 3) for a in (q, k, v)]
    y = net.op("Attention", *split)
    model = net.model(net.linear(net.reshape(net.transpose(y, 0, 2, 1, 3), 0, 0, 48), 12))
    assert_halves(model, 6, 8, 8)


@pytest.mark.parametrize("groups", [1, 4])
def test_grouped_queries(groups: int) -> None:
    """Query heads stand beside those they share a key head with: as many go of each."""
    net = Net(opset=23)
    x = net.input("x", [2, 5, 12])
    q, k, v = projections(net, x, groups * 2 * 8, groups * 8, groups * 8)
    y = net.op("Attention", q, k, v, q_num_heads=groups * 2, kv_num_heads=groups)
    widths = [groups] if groups > 1 else []
    assert_halves(net.model(net.linear(y, 12)), 2, 8, 8, *widths)


def test_a_bias_for_each_head_follows() -> None:
    net = Net(opset=23)
    x = net.input("x", [2, 5, 12])
    bias = net.const(net.random.normal(size=(1, 6, 5, 5)))
    y = net.op(
        "Attention", *projections(net, x, 48, 48, 48), bias, q_num_heads=6, kv_num_heads=6, is_causal=1
    )
    assert_halves(net.model(net.linear(y, 12)), 6, 8, 8)


def test_keys_and_values_of_earlier_steps_that_the_caller_feeds() -> None:
    net = Net(opset=23)
    x = net.input("x", [2, 5, 12])
    past = [net.input(name, [2, 6, 3, 8]) for name in ("past_k", "past_v")]
    qkv = projections(net, x, 48, 48, 48)
    made = net.ops("Attention", *qkv, "", *past, outputs=3, q_num_heads=6, kv_num_heads=6)
    assert not find_channels(net.model(net.linear(made[0], 12), *made[1:])).groups


def test_cross_attention() -> None:
    net = Net(opset=23)
    x, memory = net.input("x", [2, 5, 12]), net.input("memory", [2, 7, 10])
    y = net.op("Attention", *projections(net, x, 48, 48, 48, memory), q_num_heads=6, kv_num_heads=6)
    assert_halves(net.model(net.linear(y, 12)), 6, 8, 8)


def test_learned_keys_stay() -> None:
    """The scores are normalised over them, so a key that is zero still takes its share."""
    net = Net(opset=23)
    x, memory = net.input("x", [1, 5, 12]), net.const(net.random.normal(size=(1, 16, 10)))
    keys, values = (net.linear(memory, 48, bias=False) for _ in range(2))
    y = net.op("Attention", net.linear(x, 48), keys, values, q_num_heads=6, kv_num_heads=6)
    channels = find_channels(net.model(net.linear(y, 12)))
    assert 16 not in [g.size for g in channels.groups]
    assert prune_exactly(channels.model, half_of_each(channels), channels).error <= 1e-5


@pytest.mark.parametrize("biased", [False, True])
def test_multi_head_attention(biased: bool) -> None:
    net = Net()
    x = net.input("x", [2, 5, 12])
    qkv = projections(net, x, 48, 48, 60)
    extra = [net.vector(156), "", net.const(net.random.normal(size=(1, 6, 5, 5)))] if biased else []
    y = contrib(net, "MultiHeadAttention", *qkv, *extra, shape=[2, 5, 60], num_heads=6)
    assert_halves(net.model(net.linear(y, 12)), 6, 8, 10)


def test_a_scale_of_zero_means_the_default_and_keeps_the_width() -> None:
    net = Net()
    x = net.input("x", [2, 5, 12])
    y = contrib(
        net, "MultiHeadAttention", *projections(net, x, 48, 48, 48), shape=[2, 5, 48], num_heads=6, scale=0.0
    )
    assert sorted(g.size for g in find_channels(net.model(net.linear(y, 12))).groups) == [6, 8]


@pytest.mark.parametrize("sizes", [None, [48, 48, 60]])
def test_projections_inside_the_node(sizes: list[int] | None) -> None:
    net = Net()
    x = net.linear(net.input("x", [2, 5, 12]), 16)
    total, values = (156, 60) if sizes else (144, 48)
    how = {"qkv_hidden_sizes": sizes} if sizes else {}
    operands = [x, net.weight(16, total, fan=16), net.vector(total)]
    y = contrib(net, "Attention", *operands, shape=[2, 5, values], num_heads=6, **how)
    assert_halves(net.model(net.linear(y, 12)), 16, 6, 8, *([10] if sizes else []))


@pytest.mark.parametrize("rotary", [0, 1])
def test_group_query_attention(rotary: int) -> None:
    net = Net()
    x = net.input("x", [2, 5, 12])
    qkv = projections(net, x, 128, 64, 64)
    lengths = [net.const(np.asarray([4, 4], np.int32)), net.const(np.asarray([5], np.int32))]
    angles = [net.const(net.random.uniform(-1, 1, (8, 8))) for _ in range(2)] if rotary else []
    operands = [*qkv, "", "", *lengths, *angles]
    heads = {"num_heads": 8, "kv_num_heads": 4, "do_rotary": rotary}
    y = contrib(net, "GroupQueryAttention", *operands, shape=[2, 5, 128], outputs=3, **heads)
    assert_halves(net.model(net.linear(y, 12)), 4, 2)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("domain", ["", MICROSOFT])
def test_turned_pairs_go_together_with_their_angles(interleaved: int, domain: str) -> None:
    """Heads, pairs of a query or key, width of a value."""
    net = Net(opset=23)
    x = net.input("x", [2, 5, 12])
    places = net.input("places", [2, 5], kind=TensorProto.INT64)
    q, k, v = projections(net, x, 48, 48, 48)
    cos, sin = (net.const(net.random.uniform(-1, 1, (11, 4))) for _ in range(2))
    how = {"num_heads": 6, "interleaved": interleaved}
    if domain:
        q, k = (contrib(net, "RotaryEmbedding", a, places, cos, sin, shape=[2, 5, 48], **how) for a in (q, k))
    else:
        q, k = (net.op("RotaryEmbedding", a, cos, sin, places, **how) for a in (q, k))
    y = net.op("Attention", q, k, v, q_num_heads=6, kv_num_heads=6)
    assert_halves(net.model(net.linear(y, 12)), 6, 4, 8)


def test_partly_turned_heads_keep_their_width() -> None:
    net = Net(opset=23)
    x = net.input("x", [2, 5, 12])
    q, k, v = projections(net, x, 48, 48, 48)
    cos, sin = (net.const(net.random.uniform(-1, 1, (2, 5, 2))) for _ in range(2))
    q, k = (net.op("RotaryEmbedding", a, cos, sin, num_heads=6, rotary_embedding_dim=4) for a in (q, k))
    y = net.op("Attention", q, k, v, q_num_heads=6, kv_num_heads=6)
    assert_halves(net.model(net.linear(y, 12)), 6, 8)


def test_prune_and_transform() -> None:
    net = Net(opset=23)
    x = net.input("x", ["batch", 5, 64])
    y = net.op("Attention", *projections(net, x, 64, 64, 64), q_num_heads=8, kv_num_heads=8)
    result = Transform()(Prune(reduce_macs=0.5)(net.model(net.linear(y, 64))))
    node = next(n for n in result.model.nodes if n.op_type == "Attention")
    heads = {a.name: a.i for a in node.attribute}
    assert heads["q_num_heads"] == heads["kv_num_heads"] == 4
    assert math.isclose(result.facts["macs"], result.facts["macs_before"] / 2, rel_tol=0.1)


def test_queries_keys_and_values_side_by_side() -> None:
    """Eight heads of queries, four of keys and four of values on one axis."""
    net = Net()
    packed = net.linear(net.input("x", [2, 5, 12]), 16 * 16)
    lengths = [net.const(np.asarray([4, 4], np.int32)), net.const(np.asarray([5], np.int32))]
    heads = {"num_heads": 8, "kv_num_heads": 4}
    operands = [packed, "", "", "", "", *lengths]
    y = contrib(net, "GroupQueryAttention", *operands, shape=[2, 5, 128], outputs=3, **heads)
    assert_halves(net.model(net.linear(y, 12)), 4, 2)


def test_a_bias_of_the_scores_beside_projections_within_the_node() -> None:
    net = Net()
    x = net.input("x", [2, 5, 12])
    bias = net.const(net.random.normal(size=(1, 6, 5, 5)))
    operands = [x, net.weight(12, 3 * 48), net.vector(3 * 48), "", "", bias]
    y = contrib(net, "Attention", *operands, shape=[2, 5, 48], num_heads=6)
    assert_halves(net.model(net.linear(y, 12)), 6, 8)
