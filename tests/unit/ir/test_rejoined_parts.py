"""Tensors cut and joined again along one axis are read whole: the cut limits no axis."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from helpers import Net, feeds_for, half_of_each, prune_exactly

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.ir import Model
from onnxprune.runtime import Session, compare


def features(net: Net) -> str:
    """Eight channels of pictures of open height: ``[N, 8, H, 6]``."""
    return net.relu(net.conv(net.input("x", ["N", 3, "H", 6]), 8))


def closed(net: Net, y: str, channels: int = 8) -> Model:
    return net.model(net.sized(net.op("Conv", y, net.weight(4, channels, 3, 1)), ["N", 4, "h", "w"]))


def joins(model: Model) -> int:
    return sum(node.op_type in ("Concat", "Slice", "Split") for node in find_channels(model).model.nodes)


def is_whole(model: Model) -> bool:
    """Return whether the channels are one group, no join is left, and half of them can go exactly."""
    channels = find_channels(model)
    same = compare(
        Session(model.proto, optimize=False),
        Session(channels.model.proto, optimize=False),
        feeds_for(model, channels),
    )
    outcome = prune_exactly(model, half_of_each(channels), channels)
    one = [group.size for group in channels.groups] == [8]
    return (
        one
        and not joins(model)
        and same.max_rel_error == 0
        and outcome.change > 1e-3
        and outcome.error < 1e-5
    )


@pytest.mark.parametrize("opset", [9, 10, 13, 18])
@pytest.mark.parametrize(
    ("axis", "cuts"), [(1, (3,)), (1, (-5, 4)), (2, (3,)), (2, (1, 4)), (2, (-4, -2)), (3, (2, 2))]
)
def test_slices_in_a_row(opset: int, axis: int, cuts: tuple[int, ...]) -> None:
    net = Net(opset)
    x = features(net)
    bounds = [0, *cuts, 2**31 - 1]
    parts = [net.slice(x, a, b, axis=axis) for a, b in pairwise(bounds)]
    assert is_whole(closed(net, net.concat(*parts, axis=axis - 4 * (axis == 2))))


@pytest.mark.parametrize("opset", [9, 13, 18])
@pytest.mark.parametrize(("axis", "sizes"), [(1, (3, 5)), (1, (2, 2, 2, 2)), (3, (1, 5))])
def test_all_parts_of_a_split(opset: int, axis: int, sizes: tuple[int, ...]) -> None:
    net = Net(opset)
    assert is_whole(closed(net, net.concat(*net.split(features(net), sizes, axis=axis), axis=axis)))


def test_parts_cut_again() -> None:
    net = Net()
    first, second = net.split(features(net), (5, 3))
    again = net.concat(net.slice(first, 0, 2), net.slice(first, 2, 5), axis=1)
    assert is_whole(closed(net, net.concat(again, second, axis=1)))
    net = Net()
    first, second = net.split(features(net), (5, 3))
    parts = net.slice(first, 0, 2), net.slice(first, 2, 5), second
    assert is_whole(closed(net, net.concat(*parts, axis=1)))


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_elements_stacked_again(opset: int) -> None:
    net = Net(opset)
    x = features(net)
    rows = [net.op("Gather", x, net.const(np.int64(k)), axis=3) for k in (0, 1, -4, -3, 4, 5)]
    assert is_whole(closed(net, net.concat(*[net.unsqueeze(row, 3) for row in rows], axis=3)))


@pytest.mark.parametrize("opset", [11, 13])
def test_parts_of_a_split_without_their_axis(opset: int) -> None:
    net = Net(opset)
    rows = [net.squeeze(part, 3) for part in net.split(features(net), (1,) * 6, axis=3)]
    assert is_whole(closed(net, net.concat(*[net.unsqueeze(row, 3) for row in rows], axis=3)))


def test_a_cut_at_a_computed_place() -> None:
    """Half of the open height, rounded down."""
    net = Net()
    x = features(net)
    height = net.op("Gather", net.op("Shape", x), net.ints(2))
    half = net.op("Div", height, net.ints(2))
    upper = net.op("Slice", x, net.ints(0), half, net.ints(2))
    lower = net.op("Slice", x, half, height, net.ints(2))
    assert is_whole(closed(net, net.concat(upper, lower, axis=2)))


def test_a_cut_within_a_head() -> None:
    """The flattened channels are cut between two places of one channel."""
    net = Net()
    x = net.relu(net.conv(net.input("x", ["N", 3, 4, 4]), 8))
    flat = net.reshape(x, -1, 128)
    assert is_whole(net.model(net.gemm(net.concat(net.slice(flat, 0, 37), net.slice(flat, 37, 128)), 5)))


def test_a_whole_among_other_operands() -> None:
    net = Net()
    x = features(net)
    model = net.model(net.concat(x, net.slice(x, 0, 3), net.slice(x, 3, 8), net.slice(x, 0, 2), axis=1))
    (join,) = [n for n in find_channels(model).model.nodes if n.op_type == "Concat"]
    assert list(join.input[:2]) == [x, x]
    assert len(join.input) == 3


def test_a_rejoined_tensor_that_is_returned() -> None:
    net = Net()
    x = features(net)
    whole = net.concat(net.slice(x, 0, 3, axis=3), net.slice(x, 3, 6, axis=3), axis=3)
    model = net.model(whole, net.op("Conv", whole, net.weight(4, 8, 3, 1)))
    assert joins(model) == 0
    assert [o.name for o in find_channels(model).model.outputs] == [o.name for o in model.outputs]


@pytest.mark.parametrize(
    ("axis", "bounds"),
    [
        (1, [(3, 8), (0, 3)]),
        (1, [(0, 3), (4, 8)]),
        (1, [(0, 4), (3, 8)]),
        (1, [(0, 3), (3, 7)]),
        (2, [(0, 2), (2, -1), (-1, 99)]),
        (2, [(0, 1), (1, -2), (-2, 2**31)]),
        (2, [(0, -3), (-3, -4), (-4, 2**31)]),
        (2, [(0, 4), (4, 2), (2, 2**31)]),
        (2, [(1, 3), (3, 2**31)]),
    ],
)
def test_parts_that_are_not_the_whole(axis: int, bounds: list[tuple[int, int]]) -> None:
    """Two mixed cuts of an open axis repeat elements where it is short."""
    net = Net()
    x = features(net)
    parts = [net.slice(x, a, b, axis=axis) for a, b in bounds]
    channels = sum(b - a for a, b in bounds) if axis == 1 else 8
    model = closed(net, net.concat(*parts, axis=axis), channels)
    assert joins(model) > len(bounds)


def test_parts_joined_along_another_axis() -> None:
    net = Net()
    x = net.relu(net.conv(net.input("x", ["N", 3, 6, 6]), 8))
    model = closed(net, net.concat(net.slice(x, 0, 3, axis=2), net.slice(x, 3, 6, axis=2), axis=3))
    assert joins(model) == 3
