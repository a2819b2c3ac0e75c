"""Numbers that a cut network computes by itself need no nodes that replace them."""

from __future__ import annotations

import pytest
from helpers import Net, half_of_each, prune_exactly

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.ir import Model


def dense_of(model: Model) -> Model:
    """Remove half the channels of every group, check that it is exact, and return the dense model."""
    outcome = prune_exactly(model, half_of_each(find_channels(model)))
    assert outcome.error <= 1e-5
    assert outcome.change > 1e-3
    return outcome.dense


def operators(model: Model) -> list[str]:
    return sorted(node.op_type for node in model.nodes)


def layer(net: Net, channels: int = 8) -> str:
    return net.relu(net.conv(net.input("x", ["N", 3, "H", "W"]), channels))


@pytest.mark.parametrize("opset", [8, 11, 13, 18, 21])
def test_a_gate_expanded_to_the_shape_of_the_features(opset: int) -> None:
    net = Net(opset)
    y = layer(net)
    gate = net.op(
        "Expand", net.op("Sigmoid", net.conv(net.op("GlobalAveragePool", y), 8, 1)), net.op("Shape", y)
    )
    model = net.model(net.conv(net.op("Mul", y, gate), 5))
    assert operators(dense_of(model)) == operators(model)


def test_sizes_picked_from_a_shape_and_joined_again() -> None:
    net = Net()
    y = layer(net)
    shape = net.op("Shape", y)
    sizes = net.concat(net.slice(shape, 0, 2, axis=0), net.ints(1, 1), axis=0)
    gate = net.op("Expand", net.conv(net.op("GlobalAveragePool", y), 8, 1), sizes)
    model = net.model(net.conv(net.op("Mul", y, gate), 5))
    assert operators(dense_of(model)) == operators(model)


def test_a_product_of_sizes() -> None:
    """``y.view(N, C * H, W)``: the target follows the channels."""
    net = Net()
    y = layer(net)
    shape = net.op("Shape", y)
    n, c, h, w = (net.op("Gather", shape, net.ints(k)) for k in range(4))
    merged = net.sized(net.op("Reshape", y, net.concat(n, net.op("Mul", c, h), w, axis=0)), ["N", "CH", "W"])
    back = net.sized(net.op("Reshape", net.op("Tanh", merged), shape), ["N", 8, "H", "W"])
    model = net.model(net.conv(back, 5))
    assert operators(dense_of(model)) == operators(find_channels(model).model)


def test_constants_behind_a_choice() -> None:
    """``x.expand(-1, 4, 8, -1)`` of some exporters: minus one stands for the size of the operand."""
    net = Net()
    x = net.input("x", ["N", 16])
    y = net.op("Unsqueeze", net.gemm(x, 8), net.ints(1))
    batch = net.op("Gather", net.op("Shape", x), net.ints(0))
    listed = net.op("Reshape", net.concat(batch, net.ints(4, 8), axis=0), net.ints(-1))
    ones = net.op("ConstantOfShape", net.op("Shape", listed))
    ones = net.op("Cast", ones, to=7)
    sizes = net.op("Where", net.op("Equal", listed, net.ints(-1)), ones, listed)
    wide = net.sized(net.op("Expand", y, sizes), ["N", 4, 8])
    model = net.model(net.op("MatMul", net.op("Relu", wide), net.weight(8, 3, fan=8)))
    dense = dense_of(model)
    assert len(dense.nodes) <= len(model.nodes)
    assert operators(dense).count("Where") <= 1


def test_a_number_that_scales_features_stays() -> None:
    """``y / sqrt(y.size(1))`` beside an expansion by the same size."""
    net = Net()
    y = layer(net)
    shape = net.op("Shape", y)
    scale = net.op("Sqrt", net.op("Cast", net.op("Gather", shape, net.ints(1)), to=1))
    gate = net.op("Expand", net.conv(net.op("GlobalAveragePool", y), 8, 1), shape)
    model = net.model(net.conv(net.op("Mul", net.op("Div", y, scale), gate), 5))
    dense_of(model)


def test_a_size_given_to_the_caller_stays() -> None:
    net = Net()
    y = layer(net)
    shape = net.op("Shape", y)
    gate = net.op("Expand", net.conv(net.op("GlobalAveragePool", y), 8, 1), shape)
    model = net.model(net.conv(net.op("Mul", y, gate), 5), shape)
    dense_of(model)


def test_readers_of_one_list_that_need_different_numbers() -> None:
    """Heads of keys and values by one list: a second list for the values."""
    net = Net()
    x = net.input("x", ["N", "T", 12])
    batch, length = (net.op("Gather", net.op("Shape", x), net.ints(k)) for k in (0, 1))
    listed = net.concat(batch, length, net.ints(4), net.ints(8), axis=0)

    def heads(y: str) -> str:
        return net.op(
            "Transpose", net.sized(net.op("Reshape", y, listed), ["N", "T", 4, 8]), perm=[0, 2, 1, 3]
        )

    q, k, v = (heads(net.linear(x, 32)) for _ in range(3))
    scores = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    y = net.op("Transpose", net.op("MatMul", scores, v), perm=[0, 2, 1, 3])
    model = net.model(net.linear(net.sized(net.op("Reshape", y, net.ints(0, 0, 32)), ["N", "T", 32]), 5))
    removed = {g.name: list(range(g.size // 2 - (k == 1))) for k, g in enumerate(find_channels(model).groups)}
    assert len(removed) > 1
    dense = prune_exactly(model, removed).dense
    read = {i for node in dense.nodes for i in node.input} | {o.name for o in dense.outputs}
    assert all(read.intersection(node.output) for node in dense.nodes)
    assert operators(dense).count("Concat") == 2


def repeated_for_each_head(net: Net, heads: int = 4) -> Model:
    """Heads merged with the batch; the batch is found again as their product over the number of heads."""
    x = net.input("x", ["N", "S", 6])
    keys = net.op("Transpose", net.reshape(net.linear(x, 12), 0, 0, heads, 3), perm=[0, 2, 1, 3])
    shape = net.op("Shape", x)
    length = net.op("Gather", shape, net.ints(1))
    merged = net.op("Reshape", keys, net.concat(net.ints(-1), length, net.ints(3), axis=0))
    merged = net.sized(merged, ["NH", "S", 3])
    rows = net.op("Gather", net.op("Shape", merged), net.ints(0))
    batch = net.op("Div", rows, net.ints(heads))
    table = net.sized(
        net.op("Tile", net.weight(heads, 3, 5), net.concat(batch, net.ints(1, 1), axis=0)), ["NH", 3, 5]
    )
    scores = net.sized(net.op("MatMul", merged, table), ["NH", "S", 5])
    zeros = net.op("ConstantOfShape", net.concat(rows, length, net.ints(5), axis=0))
    scores = net.sized(net.op("Add", scores, zeros), ["NH", "S", 5])
    back = net.concat(net.ints(-1, heads), length, net.ints(5), axis=0)
    apart = net.sized(net.op("Reshape", scores, back), ["N", heads, "S", 5])
    return net.model(
        net.linear(net.reshape(net.op("Transpose", apart, perm=[0, 2, 1, 3]), 0, 0, heads * 5), 3)
    )


def test_a_divisor_of_merged_heads_follows_them() -> None:
    """The quotient, the batch, is as before: the divisor has the remaining heads."""
    model = repeated_for_each_head(Net())
    channels = find_channels(model)
    assert 4 in {group.size for group in channels.groups}
    removed = {g.name: [1] if g.size == 4 else [] for g in channels.groups}
    outcome = prune_exactly(model, removed, channels)
    assert outcome.error <= 1e-5
    (divisor,) = (outcome.dense.array(n.input[1]) for n in outcome.dense.nodes if n.op_type == "Div")
    assert divisor.tolist() == [3]
    assert operators(outcome.dense) == operators(channels.model)
