"""Parts of an axis that are replaced, or repeated: ``x[:, a:b] = y`` and Tile."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from helpers import Net, half_of_each, params, prune_exactly
from onnx import TensorProto
from places import CASES

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.ir import Model, load
from onnxprune.passes import Prune, Transform

SIZE = 4


@pytest.mark.parametrize(("file", "left"), [("tilech", 0.35), ("scatterassign", 0.4)])
def test_files(file: str, left: float) -> None:
    model = load(CASES / f"{file}.onnx")
    assert params(Transform()(Prune(reduce_channels=0.5, round_to=1)(model)).model) <= left * params(model)


def exact(model: Model, *widths: int) -> None:
    channels = find_channels(model)
    assert sorted(g.size for g in channels.groups) == sorted(widths), channels.blocked
    for seed in range(3):
        outcome = prune_exactly(model, half_of_each(channels, seed), channels, seed)
        assert outcome.error <= 1e-5
        assert outcome.change > 1e-3


def pictures(net: Net, width: int = 16) -> str:
    return net.relu(net.conv(net.input("image", [2, 3, SIZE, SIZE]), width))


def put_first(net: Net, x: str, y: str, places: Sequence[int]) -> str:
    """Slices of the first axis, by number."""
    x, y = (net.transpose(t, 1, 0, 2, 3) for t in (x, y))
    made = net.op("ScatterND", x, net.const(np.asarray(places)[:, None]), y)
    return net.transpose(made, 1, 0, 2, 3)


def put_everywhere(net: Net, x: str, y: str, places: Sequence[int]) -> str:
    """As torch writes an assignment of fixed shape: the coordinates of every element."""
    lines = np.meshgrid(range(2), places, range(SIZE), range(SIZE), indexing="ij")
    return net.op("ScatterND", x, net.const(np.stack(lines, -1)), y)


def put_columns(net: Net, x: str, y: str, places: Sequence[int]) -> str:
    """Two coordinates, then whole pictures."""
    lines = np.meshgrid(range(2), places, indexing="ij")
    return net.op("ScatterND", x, net.const(np.stack(lines, -1)), y)


def put_elements(net: Net, x: str, y: str, places: Sequence[int]) -> str:
    line = np.asarray(places).reshape(1, -1, 1, 1)
    return net.op("ScatterElements", x, net.const(np.broadcast_to(line, net.shape(y)).copy()), y, axis=1)


WAYS = [put_first, put_everywhere, put_columns, put_elements]
each_way = pytest.mark.parametrize("put", WAYS)


def assigned(put: object, places: Sequence[int]) -> Model:
    """Some channels go through a convolution of their own and back to their places."""
    net = Net()
    x = pictures(net)
    y = net.relu(net.conv(x, len(places)))
    x = put(net, x, y, places)  # type: ignore[operator]
    return net.model(net.conv(net.relu(net.conv(x, 12)), 5))


@each_way
@pytest.mark.parametrize("places", [range(4), range(4, 12), range(10, 16), range(16)])
def test_neighbours(put: object, places: range) -> None:
    rest = [n for n in (places.start, 16 - places.stop) if n]
    exact(assigned(put, places), len(places), *rest, 12)


@each_way
@pytest.mark.parametrize("start", [0, 1])
def test_every_other_channel(put: object, start: int) -> None:
    exact(assigned(put, range(start, 16, 2)), 8, 12)


@each_way
def test_numbers_counted_from_the_end(put: object) -> None:
    exact(assigned(put, range(-4, 0)), 4, 12, 12)


@pytest.mark.parametrize("put", [put_first, put_columns, put_elements])
def test_a_single_channel(put: object) -> None:
    exact(assigned(put, [5]), 5, 10, 12)


@each_way
def test_places_without_an_order_stay(put: object) -> None:
    channels = find_channels(assigned(put, [3, 7, 1, 12]))
    assert [g.size for g in channels.groups] == [12]
    assert any("by number" in r.reason for b in channels.blocked for r in b.reasons)


def test_places_known_at_run_time_stay() -> None:
    net = Net()
    x = pictures(net)
    y = net.relu(net.conv(x, 4))
    places = net.input("places", [4, 1], TensorProto.INT64)
    x, y = (net.transpose(t, 1, 0, 2, 3) for t in (x, y))
    x = net.transpose(net.op("ScatterND", x, places, y), 1, 0, 2, 3)
    assert [g.size for g in find_channels(net.model(net.conv(net.relu(net.conv(x, 12)), 5))).groups] == [12]


@pytest.mark.parametrize("reduction", ["add", "mul", "max"])
def test_updates_are_combined_with_present_elements(reduction: str) -> None:
    net = Net(opset=18)
    x = net.transpose(pictures(net), 1, 0, 2, 3)
    y = net.transpose(net.relu(net.conv(net.transpose(x, 1, 0, 2, 3), 6)), 1, 0, 2, 3)
    x = net.op("ScatterND", x, net.const(np.arange(2, 8)[:, None]), y, reduction=reduction)
    exact(net.model(net.conv(net.relu(net.conv(net.transpose(x, 1, 0, 2, 3), 12)), 5)), 2, 6, 8, 12)


def test_norms_depend_on_scattered_values() -> None:
    """Zeros travel through: a sum over the channels is exact without those that are removed."""
    net = Net()
    x = pictures(net)
    x = put_first(net, x, net.relu(net.conv(x, 4)), range(4))
    gate = net.op("Sigmoid", net.reduce("ReduceSum", x, [1]))
    exact(net.model(net.conv(net.mul(x, gate), 5)), 4, 12)


@pytest.mark.parametrize("opset", [9, 17])
def test_a_gate_repeated_over_channels(opset: int) -> None:
    net = Net(opset=opset)
    x = pictures(net)
    gate = net.op("Tile", net.op("Sigmoid", net.conv(x, 1)), net.ints(1, 16, 1, 1))
    exact(net.model(net.conv(net.mul(x, gate), 5)), 16)


def test_channels_repeated() -> None:
    net = Net()
    x = net.op("Tile", pictures(net), net.ints(1, 3, 1, 2))
    exact(net.model(net.conv(net.relu(net.conv(x, 12)), 5)), 16, 12)


def test_channels_repeated_and_cut() -> None:
    """A cut between two copies, and the sum with something laid end to end."""
    net = Net()
    x = pictures(net)
    y = net.add(net.op("Tile", x, net.ints(1, 2, 1, 1)), net.concat(x, net.relu(x)))
    exact(net.model(net.conv(net.relu(net.conv(net.slice(y, 16, 32), 12)), 5)), 16, 12)


@pytest.mark.parametrize("opset", [13, 18])
def test_heads_repeated_as_often_as_there_are_samples(opset: int) -> None:
    """Disentangled attention: scores of positions are tiled over the samples, counted from a shape."""
    net, width = Net(opset=opset), 8
    x = net.input("tokens", ["N", 6, 4 * width])

    def flat(y: str) -> str:
        apart = net.transpose(net.reshape(y, -1, 6, 4, width), 0, 2, 1, 3)
        return net.sized(net.reshape(apart, -1, 6, width), ["heads", 6, width])

    q, k, v = (flat(net.linear(x, 4 * width)) for _ in range(3))
    table = net.linear(net.reshape(net.weight(6, 4 * width, fan=1), 1, 6, 4 * width), 4 * width)
    places = net.transpose(net.reshape(table, 6, 4, width), 1, 0, 2)
    count = net.op("Div", net.op("Gather", net.op("Shape", q), net.ints(0), axis=0), net.ints(4))
    times = net.concat(count, net.ints(1), net.ints(1), axis=0)
    tiled = net.sized(net.op("Tile", places, times), ["heads", 6, width])
    scores = net.add(*(net.op("MatMul", q, net.transpose(y, 0, 2, 1)) for y in (k, tiled)))
    y = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    y = net.sized(net.reshape(y, -1, 4, 6, width), ["N", 4, 6, width])
    y = net.reshape(net.transpose(y, 0, 2, 1, 3), -1, 6, 4 * width)
    exact(net.model(net.linear(y, 10)), 4, width, width)
