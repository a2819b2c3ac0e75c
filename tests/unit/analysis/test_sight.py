"""Nothing is lost from sight: weights that no group has, work that no rule counts, names that tell."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from attention_networks import contrib
from helpers import Net
from onnx import TensorProto, helper

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.analysis.groups.reach import reach_of, unfollowed_weights
from onnxprune.analysis.groups.selection import why_blocked
from onnxprune.ir import Model


def listed(channels: Channels) -> dict[str, set[str]]:
    """The reasons given for each tensor that has an axis that stays."""
    found: dict[str, set[str]] = {}
    for axis in (*channels.blocked, *unfollowed_weights(channels)):
        found.setdefault(axis.tensor, set()).update(b.reason for b in axis.reasons)
    return found


def behind(operator: str, domain: str = "nobody.knows") -> tuple[Net, list[str]]:
    """Two layers, an operator, three layers; and the weights behind it."""
    net = Net()
    x = net.relu(net.linear(net.relu(net.linear(net.input("x", [4, 8]), 16)), 12))
    y = net.ops(operator, x, domain=domain)[0]
    net.sized(y, [4, 12])
    weights = [net.weight(12, 20, name="first"), net.weight(20, 5, name="second")]
    for weight in weights:
        y = net.sized(net.op("MatMul", y, weight), [4, net.shape(weight)[1]])
    net.nodes.append(helper.make_node("Identity", [y], ["y"]))
    net.types["y"] = net.types[y]
    return net, weights


def test_weights_behind_an_unknown_operator_are_listed() -> None:
    net, weights = behind("Strange")
    channels = find_channels(Model(net.proto("y")))
    found = listed(channels)
    for weight in weights:
        assert any("the shape of" in reason for reason in found[weight]), found
    reach = reach_of(channels)
    assert 0 < reach.params < 0.7
    assert [b.operator for b in reach.uncounted] == ["MatMul", "MatMul"]


@pytest.mark.parametrize("known", [True, False])
def test_every_weight_is_on_a_group_or_on_the_list(known: bool) -> None:
    net, _ = behind("Relu", "") if known else behind("Strange")
    channels = find_channels(Model(net.proto("y")))
    seen = {p.tensor for g in channels.groups for p in g.places} | set(listed(channels))
    floats = {n for n, t in channels.model.constants.items() if t.data_type == TensorProto.FLOAT}
    assert floats <= seen


def test_reach_is_the_share_of_all_groups() -> None:
    """Of 8·16 + 16 + 16·6 + 6 parameters all but the last six lie on the one group."""
    net = Net()
    x = net.relu(net.linear(net.input("x", [4, 8]), 16))
    reach = reach_of(find_channels(net.model(net.linear(x, 6))))
    assert reach.params == 1 - 6 / (8 * 16 + 16 + 16 * 6 + 6)
    assert reach.macs == 1.0
    assert not reach.uncounted


def test_networks_without_reachable_weights() -> None:
    net = Net()
    reach = reach_of(find_channels(net.model(net.relu(net.input("x", [4, 8])))))
    assert (reach.params, reach.macs) == (0.0, 0.0)


# --- work ---------------------------------------------------------------------------------------------------


def macs(model: Model) -> int:
    return cost_of(find_channels(model)).figures()["macs"]


def test_attention_that_no_rule_describes_is_counted() -> None:
    """Keys that are quantised in the cache: all axes stay, the work does not vanish."""
    net = Net()
    x = net.input("x", [1, 5, 128])
    qkv = [x, net.input("k", [1, 5, 64]), net.input("v", [1, 5, 64])]
    lengths = [net.const(np.asarray([4], np.int32)), net.const(np.asarray([5], np.int32))]
    heads = {"num_heads": 8, "kv_num_heads": 4}
    counted, refused = (
        contrib(net, "GroupQueryAttention", *qkv, "", "", *lengths, shape=[1, 5, 128], **heads, **how)
        for how in ({}, {"kv_cache_bit_width": 8})
    )
    both = [Model(Net.proto(net, y)) for y in (counted, refused)]
    assert macs(both[0]) == macs(both[1]) == 2 * 5 * 5 * 128


def test_products_of_packed_weights_are_counted() -> None:
    net = Net()
    x = net.input("x", [4, 64])
    packed = net.const(np.zeros(64 * 32 // 2, np.uint8))
    y = contrib(
        net, "MatMulBnb4", x, packed, net.vector(32), shape=[4, 32], K=64, N=32, block_size=64, quant_type=1
    )
    assert macs(Model(net.proto(y))) == 4 * 64 * 32


def test_convolutions_of_other_devices_are_counted() -> None:
    net = Net()
    x = net.input("x", [1, 8, 8, 3])
    y = contrib(net, "NhwcConv", x, net.weight(16, 3, 3, 3), shape=[1, 6, 6, 16])
    model = Model(net.proto(y))
    known = find_channels(model).typing.shapes.sizes.get(y)
    if known is not None:
        assert macs(model) == 6 * 6 * 16 * 27
    else:
        assert [b.operator for b in reach_of(find_channels(model)).uncounted] == ["NhwcConv"]


# --- names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mover", ["Identity", "Transpose", "Cast"])
def test_groups_are_named_after_their_products(mover: str) -> None:
    """Not after a node that only moves the weights there."""
    net = Net()
    weight = net.weight(16, 8) if mover == "Transpose" else net.weight(8, 16, fan=8)
    how = {"Identity": {}, "Transpose": {"perm": [1, 0]}, "Cast": {"to": TensorProto.FLOAT}}[mover]
    moved = net.op(mover, weight, **how)
    x = net.relu(net.op("MatMul", net.input("x", [4, 8]), moved))
    channels = find_channels(net.model(net.linear(x, 5)))
    (group,) = channels.groups
    maker = next(n for n in channels.model.nodes if n.name == group.name)
    assert maker.op_type == "MatMul"


def test_a_table_of_numbers_of_rows_is_no_group() -> None:
    """A table of integers selects the rows that are added up: none of them can be pruned."""
    net = Net()
    which = net.const(net.random.integers(0, 30, (12, 6)))
    table = net.weight(30, 16, fan=1)
    ids = net.op("Gather", which, net.input("ids", ["N", 4], TensorProto.INT64))
    x = net.reduce("ReduceMean", net.op("Gather", table, ids), [1, 2], keepdims=0)
    channels = find_channels(net.model(net.linear(x, 5)))
    assert [(g.size, [p.tensor for p in g.places][:1]) for g in channels.groups] == [(16, [table])]
    onnx.checker.check_model(channels.model.proto)


def test_the_reason_given_where_nothing_can_go_is_that_of_lost_weights_too() -> None:
    net = Net()
    y = net.ops("Strange", net.input("x", [4, 8]), net.weight(8, 6), domain="nobody.knows")[0]
    channels = find_channels(Model(net.proto(net.sized(y, [4, 6]))))
    assert not channels.groups
    assert "no rule for operator nobody.knows.Strange" in why_blocked(channels)


def test_work_beyond_the_range_of_floating_point_numbers() -> None:
    net = Net()
    huge = 2**62
    hidden = net.linear(net.input("x", (*[huge] * 20, 4)), 6)
    model = net.model(net.linear(net.relu(hidden), 2))
    assert reach_of(find_channels(model)).macs > 0.99
