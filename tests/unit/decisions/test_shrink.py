"""Shrinking rewrites every number that counts channels, and nothing else.

Most of these networks were found by random search: each was once computed wrongly, or crashed.
"""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, half_of_each, prune_exactly

from onnxprune.analysis.evidence.liveness import find_evidence
from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.decisions.channels.channel_cut import shrunk
from onnxprune.decisions.channels.masks import check_zero, keep_masks, masked
from onnxprune.errors import PlanError
from onnxprune.ir import Model

OPSETS = (9, 11, 13, 21)


def start(**how: object) -> tuple[Net, str]:
    """A network and its first layer, of eight channels."""
    net = Net(**how)  # type: ignore[arg-type]
    return net, net.conv(net.input("x", ["N", 3, 4, 4]), 8)


def finish(net: Net, x: str) -> Model:
    return net.model(net.gemm(net.op("Flatten", x), 3))


def exactly(model: Model, removed: dict[str, list[int]]) -> Model:
    """Remove channels, check that it is exact, and return the dense model."""
    outcome = prune_exactly(model, removed)
    assert outcome.error <= 1e-5
    assert outcome.change > 1e-3
    return outcome.dense


def literal(model: Model, op_type: str, operand: int) -> list[int]:
    """The numbers a node reads from a constant."""
    node = next(n for n in model.nodes if n.op_type == op_type)
    return [int(v) for v in model.array(node.input[operand])]


def reasons(channels: Channels) -> set[str]:
    return {b.reason for axis in channels.blocked for b in axis.reasons}


# --- numbers that count channels ---------------------------------------------------------------------------


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(("first", "last"), [(0, 3), (3, 8), (3, 2**31), (-5, 8), (0, -5), (-5, -2), (2, 6)])
def test_bounds_of_slices(opset: int, first: int, last: int) -> None:
    """Counted from either end, or beyond it; the rest of the axis is used as well, so both parts shrink."""
    net, x = start(opset=opset)
    piece = net.slice(x, first, last)
    model = finish(net, net.concat(piece, net.relu(x)))
    groups = {g.name: g.size for g in find_channels(model).groups}
    assert sum(groups.values()) == 8
    exactly(model, {name: [0] for name, size in groups.items() if size > 1})


def test_a_bound_from_the_end_counts_later_elements() -> None:
    """``[-5:]`` of six channels, of which four go: −5 would then be the first one."""
    net = Net()
    x = net.conv(net.input("x", ["N", 3, 4, 4]), 6)
    model = finish(net, net.slice(x, -5, 2**31))
    (group,) = find_channels(model).groups
    assert group.size == 5
    dense = exactly(model, {group.name: [0, 1, 3, 4]})
    assert literal(dense, "Slice", 1) == [-1]


@pytest.mark.parametrize("bounds", [(0, 2**31), (1, 8), (0, -1)])
def test_every_other_channel(bounds: tuple[int, int]) -> None:
    net, x = start()
    model = finish(net, net.slice(x, *bounds, step=2))
    exactly(model, half_of_each(find_channels(model)))


@pytest.mark.parametrize("bounds", [(-7, 8), (2, 8), (0, 5), (5, 4)])
def test_single_channels_stay(bounds: tuple[int, int]) -> None:
    """Picked one by one, or from a place counted from the end, they would be others on a shorter axis."""
    net, x = start()
    both = net.concat(net.slice(x, *bounds, step=2), x)
    assert not find_channels(finish(net, both)).groups


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("sizes", [2, [4, 4], [3, 5]])
def test_sizes_of_pieces(opset: int, sizes: int | list[int]) -> None:
    net, x = start(opset=opset)
    a, b = net.split(x, sizes)
    model = finish(net, net.concat(net.relu(b), a))
    exactly(model, half_of_each(find_channels(model)))


def test_a_zero_that_copies_another_axis_of_the_same_size() -> None:
    """0 at place 2 of a Reshape target copies the height, here to where half the channels go."""
    net, x = start()
    y = net.reshape(x, 0, 2, 0, 2, 2, 4)
    model = finish(net, net.relu(y))
    removed = half_of_each(find_channels(model))
    assert removed
    exactly(model, removed)


@pytest.mark.parametrize("target", ["0 8 -1", "-1 8 16", "0 4 2 4 4", "0 0 16", "0 -1", "3 -1 4 4"])
def test_targets_of_reshapes(target: str) -> None:
    net = Net()
    x = net.conv(net.input("x", [3, 3, 4, 4]), 8)
    model = finish(net, net.relu(net.reshape(x, *map(int, target.split()))))
    exactly(model, half_of_each(find_channels(model)))


def test_one_target_for_several_nodes() -> None:
    """Each node gets a target of its own: the channels they count may differ."""
    net, x = start()
    y = net.conv(x, 8)
    target = net.ints(0, 8, 16)
    model = finish(net, net.concat(net.op("Reshape", x, target), net.op("Reshape", y, target), axis=2))
    groups = find_channels(model).groups
    assert [g.size for g in groups] == [8]
    exactly(model, {groups[0].name: [1, 2]})
    net, x = start()
    y, target = net.conv(x, 8), net.ints(0, 8, 16)
    rows = [net.op("Flatten", net.op("Reshape", v, target)) for v in (x, y)]
    model = net.model(net.gemm(net.concat(*rows), 3))
    first, second = find_channels(model).groups
    dense = exactly(model, {first.name: [1], second.name: [0, 5, 6]})
    reshapes = [n for n in dense.nodes if n.op_type == "Reshape"]
    assert [dense.array(n.input[1]).tolist() for n in reshapes] == [[0, 7, 16], [0, 5, 16]]


def test_groups_of_a_depthwise_convolution() -> None:
    net, x = start()
    model = finish(net, net.depthwise(x))
    dense = exactly(model, half_of_each(find_channels(model)))
    assert [a.i for n in dense.nodes for a in n.attribute if a.name == "group"] == [1, 4]


@pytest.mark.parametrize("opset", OPSETS)
def test_channels_made_by_padding_go_as_well(opset: int) -> None:
    """The new channels lie beside others of the same width: CIFAR ResNets' shortcut."""
    net, x = start(opset=opset)
    padded = net.pad(x, [0, 4, 0, 0, 0, 4, 0, 0])
    model = finish(net, net.add(net.conv(x, 16), padded))
    groups = {g.name: g.size for g in find_channels(model).groups}
    assert sorted(groups.values()) == [4, 4, 8]
    exactly(model, {name: [0, 2] for name in groups})


def test_padding_of_axes_that_cannot_shrink_stays() -> None:
    net, x = start()
    model = finish(net, net.pad(x, [0, 0, 1, 1, 0, 0, 1, 1]))
    assert [g.size for g in find_channels(model).groups] == [8]


# --- sizes that are computed while the network runs --------------------------------------------------------


def test_a_mean_over_a_count_computed_at_run_time() -> None:
    """The sum may lose channels; its divisor may not follow them."""
    net, x = start()
    x = net.relu(x)
    shape = net.op("Shape", x)
    count = net.op("Cast", net.reduce("ReduceProd", shape, [0], keepdims=0), to=1)
    mean = net.op("Div", net.reduce("ReduceSum", x, [1, 2, 3], keepdims=0), net.op("Sqrt", count))
    rows = net.unsqueeze(mean, 1)
    model = net.model(net.gemm(rows, 3))
    exactly(model, half_of_each(find_channels(model)))


def test_a_count_of_all_elements_blocks() -> None:
    net, x = start()
    count = net.op("Cast", net.op("Size", x), to=1)
    model = finish(net, net.op("Div", x, net.op("Sqrt", count)))
    channels = find_channels(model)
    assert not channels.groups
    assert "it counts all elements while the network runs" in reasons(channels)


def test_channels_padded_with_other_numbers_than_zero_show_in_sums() -> None:
    net, x = start()
    padded = net.op("Pad", net.relu(x), net.ints(0, 3, 0, 0, 0, 2, 0, 0), net.const(np.float32(2)))
    total = net.reduce("ReduceSum", net.sized(padded, ["N", 13, 4, 4]), [1])
    channels = find_channels(net.model(net.sized(total, ["N", 1, 4, 4])))
    assert not channels.groups
    assert any("no operand is zero where a channel is removed" in reason for reason in reasons(channels))


@pytest.mark.parametrize("opset", [7, 8, 9, 13, 21])
def test_targets_of_which_some_sizes_are_computed(opset: int) -> None:
    net, x = start(opset=opset)
    batch = net.op("Gather", net.op("Shape", net.inputs[0].name), net.ints(0))
    y = net.op("Reshape", x, net.concat(batch, net.ints(4, 2, 16), axis=0))
    model = finish(net, net.sized(net.relu(y), ["N", 4, 2, 16]))
    exactly(model, half_of_each(find_channels(model)))


def test_shapes_of_which_only_other_sizes_are_read_stay_as_they_are() -> None:
    net, x = start()
    batch = net.op("Gather", net.op("Shape", x), net.ints(0))
    y = net.op("Reshape", x, net.concat(batch, net.ints(8, 16), axis=0))
    model = finish(net, net.sized(y, ["N", 8, 16]))
    dense = exactly(model, half_of_each(find_channels(model)))
    assert not any(o.endswith("__dense") for n in dense.nodes for o in n.output)


@pytest.mark.parametrize("opset", [7, 8, 9, 13, 21])
def test_a_whole_shape_as_target(opset: int) -> None:
    net, x = start(opset=opset)
    y = net.reshape(net.relu(x), 0, 4, -1)
    model = finish(net, net.sized(net.op("Reshape", y, net.op("Shape", x)), net.shape(x)))
    exactly(model, half_of_each(find_channels(model)))


def test_zeros_of_another_tensors_shape() -> None:
    net, x = start()
    zeros = net.op("ConstantOfShape", net.op("Shape", x))
    model = finish(net, net.add(net.relu(x), zeros))
    exactly(model, half_of_each(find_channels(model)))


def test_a_product_of_batch_and_channels_is_followed() -> None:
    net, x = start()
    shape = net.op("Shape", x)
    both = net.mul(net.op("Gather", shape, net.ints(0)), net.op("Gather", shape, net.ints(1)))
    y = net.sized(net.op("Reshape", x, net.concat(both, net.ints(16), axis=0)), ["M", 16])
    model = net.model(net.gemm(net.reshape(net.linear(net.relu(y), 5), -1, 40), 3))
    channels = find_channels(model)
    assert "Conv_4" in {g.name for g in channels.groups}
    dense = exactly(model, half_of_each(channels))
    assert [n.op_type for n in dense.nodes] == [n.op_type for n in channels.model.nodes]


# --- images of zeros ---------------------------------------------------------------------------------------


INFINITE_AT_ZERO = ["Log", "Reciprocal", "Acosh", "Pow", "Div", "Clip", "below", "plus zeros", "half", "Relu"]
SPARED = {"Reciprocal", "Div", "half"}
"""Functions that are infinite at zero alone; the others have no finite number on a range of inputs."""


@pytest.mark.parametrize("function", INFINITE_AT_ZERO)
def test_functions_that_are_infinite_at_zero_spare_the_weights_before_them(function: str) -> None:
    """The readers alone are masked, so that no channel is infinite; or nothing is removed."""
    net, x = start()
    x = net.op("Abs", x)
    if function == "Pow":
        y = net.op("Pow", x, net.const(-0.5))
    elif function == "Div":
        y = net.op("Div", net.op("Sigmoid", x), x)
    elif function == "Clip":
        y = net.op("Log", net.op("Clip", x, net.const(0.0), net.const(9.0)))
    elif function == "below":
        y = net.op("Log", net.op("Sub", x, net.const(0.1)))
    elif function == "half":  # the sigmoid of zero, and as much again: the logarithm of one is zero
        one = net.add(net.op("Sigmoid", x), net.const(0.5))
        y = net.op("Reciprocal", net.op("Log", one))
    elif function == "Relu":
        y = net.op("Reciprocal", net.transpose(net.relu(net.op("Neg", x)), 0, 2, 3, 1))
    elif function == "plus zeros":
        y = net.op("Log", net.add(x, net.op("ConstantOfShape", net.op("Shape", x))))
    else:
        y = net.op(function, x)
    model = finish(net, net.op("Tanh", y))
    channels = find_channels(model)
    if function not in SPARED:
        assert not channels.groups
        assert "it has no finite value where a channel is removed" in reasons(channels)
        return
    (group,) = channels.groups
    assert [p.axis for p in group.places if p.weight] == [1]  # of the reader
    assert prune_exactly(model, half_of_each(channels)).error <= 1e-5


@pytest.mark.parametrize("function", ["Log", "Reciprocal", "Pow", "Clip", "Square"])
def test_functions_that_stay_finite_do_not(function: str) -> None:
    net, x = start()
    x = net.op("Abs", x)
    if function == "Pow":
        y = net.op("Pow", net.add(x, net.const(0.5)), net.const(-0.5))
    elif function == "Square":
        y = net.op("Pow", x, net.const(2.0))
    elif function == "Clip":
        y = net.op("Log", net.op("Clip", x, net.const(0.1), net.const(9.0)))
    else:
        y = net.op(function, net.add(x, net.const(0.5)))
    model = finish(net, y)
    exactly(model, half_of_each(find_channels(model)))


def test_a_factor_on_both_axes_of_a_gram_matrix() -> None:
    """Zero along its columns, the matrix is not zero along its rows: the sum over those has to stay."""
    net = Net()
    x = net.linear(net.input("x", ["N", 5, 4]), 8, bias=False)
    gram = net.op("Sigmoid", net.op("MatMul", net.transpose(x, 0, 2, 1), x))
    y = net.op("MatMul", gram, net.transpose(x, 0, 2, 1))
    model = finish(net, net.reduce("ReduceSum", net.op("Abs", y), [1], keepdims=0))
    channels = find_channels(model)
    outcome = prune_exactly(model, half_of_each(channels), channels)
    assert outcome.error <= 1e-5
    assert not channels.groups


def test_queries_and_keys_with_a_sigmoid_between() -> None:
    """The sum over the width is not shorter by nothing where a removed channel is one half."""
    net = Net()
    x = net.input("x", ["N", 5, 4])
    q, k = (net.op("Sigmoid", net.linear(x, 8)) for _ in range(2))
    model = finish(net, net.op("MatMul", q, net.transpose(k, 0, 2, 1)))
    channels = find_channels(model)
    assert not channels.groups
    assert "it sums over this axis, and no operand is zero where a channel is removed" in reasons(channels)


# --- masks -------------------------------------------------------------------------------------------------


def test_masks_are_zero_in_every_weight_and_nowhere_else() -> None:
    net, x = start()
    model = finish(net, net.relu(net.bn(x)))
    channels = find_channels(model)
    (group,) = channels.groups
    masks = keep_masks(channels, {group.name: [1, 6]})
    assert {p.tensor for p in group.places if p.weight} == set(masks)
    for place in group.places:
        if place.weight:
            mask = np.moveaxis(masks[place.tensor], place.axis, 0)
            step = len(mask) // 8
            gone = [i for c in (1, 6) for i in range(c * step, (c + 1) * step)]
            assert not mask[gone].any()
            assert np.delete(mask, gone, 0).all()


def test_running_statistics_are_cut_but_not_masked() -> None:
    net, x = start()
    model = finish(net, net.bn(x))
    channels = find_channels(model)
    removed = {channels.groups[0].name: [0, 1, 2]}
    norm = next(n for n in model.nodes if n.op_type == "BatchNormalization")
    sparse, dense = masked(channels, removed), shrunk(channels, removed)
    for operand in (3, 4):
        assert np.array_equal(sparse.array(norm.input[operand]), model.array(norm.input[operand]))
        assert np.array_equal(dense.array(norm.input[operand]), model.array(norm.input[operand])[3:])


def test_a_plan_whose_channels_are_not_zero() -> None:
    net, x = start()
    model = finish(net, x)
    channels = find_channels(model)
    with pytest.raises(PlanError, match="not zero"):
        check_zero(channels, {channels.groups[0].name: [0]})


def test_dead_channels_are_those_that_are_zero_everywhere() -> None:
    net, x = start()
    model = finish(net, net.relu(net.bn(x)))
    name = find_channels(model).groups[0].name
    assert find_evidence(find_channels(model)).removed == {}
    sparse = masked(find_channels(model), {name: [2, 5]})
    assert find_evidence(find_channels(sparse)).removed == {name: [2, 5]}


def test_one_channel_always_stays() -> None:
    net, x = start()
    model = finish(net, x)
    name = find_channels(model).groups[0].name
    sparse = masked(find_channels(model), {name: list(range(8))})
    assert find_evidence(find_channels(sparse)).removed == {name: list(range(1, 8))}
