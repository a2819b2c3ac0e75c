"""Groups: coupled axes, axes set back, blocked axes, and the names of all of them."""

from __future__ import annotations

import numpy as np
from helpers import Net, half_of_each, prune_exactly
from onnx import TensorProto

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.analysis.groups.selection import why_blocked
from onnxprune.ir import Model


def sizes(channels: Channels, optional: bool = False) -> list[int]:
    return [g.size for g in channels.groups if g.optional == optional]


def reasons(channels: Channels) -> set[str]:
    return {b.reason for axis in channels.blocked for b in axis.reasons}


# --- places ------------------------------------------------------------------------------------------------


def test_the_places_of_a_group() -> None:
    net = Net()
    w, v = net.weight(8, 3, 3, 3), net.weight(4, 8, 1, 1)
    x = net.conv(net.input("x", ["N", 3, 4, 4]), 8, w=w, bias=False)
    x = net.conv(net.bn(x), 4, 1, w=v, bias=False)
    (group,) = find_channels(net.model(x)).groups
    scale, shift, mean, variance = net.nodes[1].input[1:]
    assert [(p.tensor, p.axis) for p in group.places] == [
        (w, 0), (scale, 0), (shift, 0), (mean, 0), (variance, 0), (v, 1)
    ]  # fmt: skip
    assert [p.weight for p in group.places] == [True, True, True, False, False, True]
    assert group.name == net.nodes[0].name
    assert group.nodes == tuple(n.name for n in net.nodes)


def test_one_channel_is_several_columns_after_flatten() -> None:
    net = Net()
    x = net.conv(net.input("x", ["N", 3, 4, 4]), 8)
    channels = find_channels(net.model(net.gemm(net.op("Flatten", x), 3)))
    kept = channels.kept({channels.groups[0].name: [0, 2, 3, 4, 5, 6, 7]})
    columns = channels.cuts(kept)[channels.groups[0].places[-1].tensor][1]
    assert columns.tolist() == list(range(16, 32))


def test_parts_beside_one_of_open_size_stay() -> None:
    """A cut that an input decides comes before half of the channels: their place is not known."""
    net = Net()
    x = net.relu(net.conv(net.input("x", ["N", 3, 4, 4]), 8, 1, bias=False))
    cut = net.input("cut", [1], kind=TensorProto.INT64)
    first, second = net.ops("Split", x, axis=1, outputs=2)
    ends, axis = net.const(np.array([4])), net.const(np.array([1]))
    start = net.op("Slice", first, net.const(np.array([0])), cut, axis)
    rest = net.op("Slice", net.relu(first), cut, ends, axis)
    y = net.conv(net.op("Concat", start, rest, second, axis=1), 5, 1, bias=False, w=net.weight(5, 8, 1, 1))
    channels = find_channels(net.model(y))
    assert not channels.groups
    assert "the size of a part beside it follows the input" in reasons(channels)


def test_cuts_of_a_fused_projection() -> None:
    """One removed head takes its queries, keys and values along."""
    net = Net()
    y = net.linear(net.input("x", ["N", 5, 6]), 24, bias=False)
    y = net.transpose(net.reshape(y, 0, 5, 3, 2, 4), 2, 0, 3, 1, 4)
    q, k, v = (net.op("Gather", y, net.const(np.asarray(i)), axis=0) for i in range(3))
    scores = net.op("Softmax", net.op("MatMul", q, net.transpose(k, 0, 1, 3, 2)), axis=-1)
    y = net.transpose(net.op("MatMul", scores, v), 0, 2, 1, 3)
    channels = find_channels(net.model(net.linear(net.reshape(y, 0, 5, 8), 6)))
    heads = next(g for g in channels.groups if not g.optional)
    cuts = channels.cuts(channels.kept({heads.name: [0]}))
    assert heads.size == 2
    assert cuts[heads.places[0].tensor][1].tolist() == [*range(4, 8), *range(12, 16), *range(20, 24)]


# --- names -------------------------------------------------------------------------------------------------


def two_towers(second: bool) -> Model:
    net = Net()
    x = net.relu(net.conv(net.input("x", ["N", 3, 4, 4]), 8))
    outputs = [net.conv(x, 2)]
    if second:
        outputs.append(net.conv(net.relu(net.conv(x, 6)), 2))
    return net.model(*outputs)


def test_names_do_not_change_with_unrelated_parts() -> None:
    alone, both = (find_channels(two_towers(second)) for second in (False, True))
    assert [g.name for g in alone.groups] == [g.name for g in both.groups][:1]


def test_names_are_unique() -> None:
    net = Net()
    x = net.conv(net.input("x", ["N", 3, 4, 4]), 8)
    a, b = net.split(x, [3, 5])
    model = net.model(net.gemm(net.op("Flatten", a), 2), net.gemm(net.op("Flatten", b), 2))
    names = [g.name for g in find_channels(model).groups]
    assert names == [net.nodes[0].name, f"{net.nodes[0].name}#2"]


def test_nodes_without_names_are_named_by_their_results() -> None:
    net = Net()
    x = net.conv(net.input("x", ["N", 3, 4, 4]), 8)
    model = net.model(net.conv(net.relu(x), 2))
    for node in model.proto.graph.node:
        node.name = ""
    assert [g.name for g in find_channels(model).groups] == [x]


def test_unread_nodes_neither_block_nor_count() -> None:
    net = Net()
    x = net.relu(net.conv(net.input("x", ["N", 3, 4, 4]), 8))
    net.op("Softmax", x, axis=1)
    net.conv(net.conv(x, 6), 5)
    model = net.model(net.conv(x, 2))
    channels = find_channels(model)
    assert sizes(channels) == [8]
    assert {n.op_type for n in channels.model.nodes} == {"Conv", "Relu"}
    assert len(channels.model.constants) == 4
    assert len(model.nodes) == 6
    assert prune_exactly(model, half_of_each(channels), channels).error <= 1e-5


# --- channels that are set back ----------------------------------------------------------------------------


def test_channels_within_the_groups_of_a_convolution_come_first() -> None:
    net = Net()
    x = net.conv(net.relu(net.conv(net.input("x", ["N", 3, 4, 4]), 12)), 12, group=3)
    channels = find_channels(net.model(net.conv(x, 2)))
    assert sizes(channels) == [4, 4]
    assert sizes(channels, optional=True) == [3]


def test_channels_of_a_depthwise_convolution_come_before_its_filters() -> None:
    net = Net()
    x = net.depthwise(net.relu(net.conv(net.input("x", ["N", 3, 4, 4]), 12)), multiplier=2)
    channels = find_channels(net.model(net.conv(x, 2)))
    assert sizes(channels) == [12]
    assert sizes(channels, optional=True) == [2]


def attention(heads: int, key_heads: int, width: int = 4, length: int = 5) -> Channels:
    net = Net()
    x = net.input("x", ["N", length, 6])
    share = heads // key_heads

    def split(count: int) -> str:
        y = net.reshape(net.linear(x, count * width), -1, length, count, width)
        return net.transpose(y, 0, 2, 1, 3)

    def repeated(y: str) -> str:
        y = net.op("Expand", net.unsqueeze(y, 2), net.ints(1, 1, share, 1, 1))
        return net.reshape(y, -1, heads, length, width)

    q, k, v = split(heads), split(key_heads), split(key_heads)
    if share > 1:
        k, v = repeated(k), repeated(v)
    scores = net.op("Softmax", net.op("MatMul", q, net.transpose(k, 0, 1, 3, 2)), axis=-1)
    y = net.transpose(net.op("MatMul", scores, v), 0, 2, 1, 3)
    model = net.model(net.linear(net.reshape(y, -1, length, heads * width), 6))
    channels = find_channels(model)
    everything = half_of_each(channels, optional=True)
    assert prune_exactly(model, everything, channels).error <= 1e-5
    return channels


def test_heads_come_before_their_width() -> None:
    channels = attention(heads=4, key_heads=4)
    assert sizes(channels) == [4]
    assert sorted(sizes(channels, optional=True)) == [4, 4]


def test_key_heads_come_before_the_query_heads_that_share_them() -> None:
    channels = attention(heads=6, key_heads=2)
    assert sizes(channels) == [2]
    assert sorted(sizes(channels, optional=True)) == [3, 4, 4]


def test_one_key_head_for_all_queries() -> None:
    channels = attention(heads=4, key_heads=1)
    assert sizes(channels) == [4]


# --- blocked channels --------------------------------------------------------------------------------------


def test_softmax_over_the_channels() -> None:
    net = Net()
    x = net.op("Softmax", net.conv(net.input("x", ["N", 3, 4, 4]), 8), axis=1)
    channels = find_channels(net.model(net.conv(x, 2)))
    assert not channels.groups
    assert "it normalises over this axis" in reasons(channels)
    assert "Softmax" in why_blocked(channels)


def test_softmax_of_older_opsets_takes_all_axes_from_one_on() -> None:
    for opset, prunable in ((11, 0), (13, 1)):
        net = Net(opset=opset)
        x = net.op("Softmax", net.conv(net.input("x", ["N", 3, 4, 4]), 8), axis=-1 if opset > 11 else 1)
        assert len(find_channels(net.model(net.conv(x, 2))).groups) == prunable


def test_a_shuffle_that_does_not_fit_the_groups() -> None:
    """Three groups of sixteen, shuffled, then again three groups: no channel can go from each alike."""
    net = Net()
    x = net.conv(net.input("x", ["N", 3, 4, 4]), 48)
    x = net.conv(x, 48, 1, group=3)
    x = net.reshape(net.transpose(net.reshape(x, -1, 3, 16, 4, 4), 0, 2, 1, 3, 4), -1, 48, 4, 4)
    channels = find_channels(net.model(net.conv(net.conv(x, 48, 1, group=3), 2)))
    assert "its axes cannot be lined up channel by channel" in reasons(channels)


def test_every_axis_of_a_weight_is_free_or_has_a_reason() -> None:
    net = Net()
    x = net.conv(net.input("x", ["N", 3, 4, 4]), 8)
    gate = net.op("Softmax", net.conv(x, 6, 1), axis=1)
    channels = find_channels(net.model(net.conv(net.concat(x, gate), 2)))
    grouped = {(p.tensor, p.axis) for g in channels.groups for p in g.places}
    blocked = {(b.tensor, b.axis) for b in channels.blocked}
    for name, tensor in channels.model.constants.items():
        for axis, size in enumerate(tensor.dims):
            assert size == 1 or (name, axis) in grouped | blocked
    for axis in channels.blocked:
        assert all(b.node and b.operator and b.reason for b in axis.reasons)


def test_only_proven_equal_axes_are_coupled() -> None:
    """Two towers of equal width, end to end, are two groups; their sum is one."""
    for join, groups in ((Net.concat, 2), (Net.add, 1)):
        net = Net()
        image = net.input("x", ["N", 3, 4, 4])
        both = join(net, net.conv(image, 8), net.conv(image, 8))
        assert len(find_channels(net.model(net.conv(both, 2))).groups) == groups
