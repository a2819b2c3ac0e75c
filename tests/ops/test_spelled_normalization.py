"""Normalisation in the ways exporters spell it out: opened on request, and exact all the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from helpers import Net, half_of_each, prune_exactly

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.ir import Model
from onnxprune.passes import Prune, Transform

WIDTH, HIDDEN, EPSILON = 24, 20, 1e-5
Spelling = Callable[[Net, str, "list[int]"], str]


def mean(net: Net, x: str, axes: list[int], keepdims: int = 1) -> str:
    return net.reduce("ReduceMean", x, axes, keepdims=keepdims)


def deviation(net: Net, variance: str) -> str:
    return net.op("Sqrt", net.add(variance, net.const(EPSILON)))


def by_power(net: Net, x: str, axes: list[int]) -> str:
    """PyTorch: a power of two, a division."""
    d = net.op("Sub", x, mean(net, x, axes))
    return net.op("Div", d, deviation(net, mean(net, net.op("Pow", d, net.const(2.0)), axes)))


def by_itself(net: Net, x: str, axes: list[int]) -> str:
    """TensorFlow: the difference is multiplied with itself, and with a reciprocal."""
    d = net.op("Sub", x, mean(net, x, axes))
    return net.mul(d, net.op("Reciprocal", deviation(net, mean(net, net.mul(d, d), axes))))


def by_two_differences(net: Net, x: str, axes: list[int]) -> str:
    one, two = (net.op("Sub", x, mean(net, x, axes)) for _ in range(2))
    variance = net.add(mean(net, net.mul(two, two), axes), net.const(EPSILON))
    return net.mul(one, net.op("Pow", variance, net.const(-0.5)))


def by_mean_of_squares(net: Net, x: str, axes: list[int]) -> str:
    """Flax: the mean of the squares less the square of the mean."""
    m = mean(net, x, axes)
    variance = net.op("Sub", mean(net, net.mul(x, x), axes), net.mul(m, m))
    return net.op("Div", net.op("Sub", x, m), deviation(net, net.relu(variance)))


def with_halves(net: Net, x: str, axes: list[int]) -> str:
    """The difference passes through other arithmetic before it is squared."""
    d = net.op("Neg", net.op("Sub", mean(net, x, axes), x))
    half = net.mul(net.add(d, d), net.const(0.5))
    return net.op("Div", half, deviation(net, mean(net, net.op("Pow", half, net.const(2.0)), axes)))


SPELLINGS = [by_power, by_itself, by_two_differences, by_mean_of_squares, with_halves]


def last_axis(spelling: Spelling, opset: int = 17) -> Model:
    """A layer, the normalisation, its scale and shift, two layers."""
    net = Net(opset=opset)
    x = net.linear(net.input("x", ["N", 6, 8]), WIDTH)
    y = net.sized(spelling(net, x, [-1]), ["N", 6, WIDTH])
    y = net.add(net.mul(y, net.vector(WIDTH, 0.7, 1.3)), net.vector(WIDTH))
    return net.model(net.linear(net.relu(net.linear(y, HIDDEN)), 5))


def assert_exact(model: Model, closed: list[int], opened: list[int]) -> Channels:
    """The groups without leave and with it; half of those goes, exactly."""
    assert sorted(g.size for g in find_channels(model).groups) == closed
    channels = find_channels(model, allow_inexact=True)
    assert sorted(g.size for g in channels.groups) == opened, channels.blocked
    for seed in range(2):
        outcome = prune_exactly(model, half_of_each(channels, seed), channels, seed)
        assert outcome.error <= max(1e-5, 4 * outcome.noise)
        assert outcome.change > 1e-2
    assert not channels.typing.inexact
    return channels


@pytest.mark.parametrize("opset", [11, 18])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_over_the_last_axis(spelling: Spelling, opset: int) -> None:
    closed = [HIDDEN, WIDTH] if spelling is by_mean_of_squares else [HIDDEN]
    assert_exact(last_axis(spelling, opset), closed, [HIDDEN, WIDTH])


@pytest.mark.parametrize("count", [WIDTH, WIDTH - 1])
@pytest.mark.parametrize("kind", ["ReduceSum", "ReduceSumSquare"])
def test_sums_that_are_divided_by_a_number(kind: str, count: int) -> None:
    """The number stays that of all channels: removed ones count as well."""

    def spelled(net: Net, x: str, axes: list[int]) -> str:
        total = net.reduce("ReduceSum", x, axes)
        d = net.op("Sub", x, net.op("Div", total, net.const(float(WIDTH))))
        squares = d if kind == "ReduceSumSquare" else net.mul(d, d)
        variance = net.op("Div", net.reduce(kind, squares, axes), net.const(float(count)))
        return net.op("Div", d, deviation(net, variance))

    assert_exact(last_axis(spelled), [HIDDEN], [HIDDEN, WIDTH])


def test_a_mean_that_is_put_back_by_hand() -> None:
    """keepdims is 0, and an axis is added later."""

    def spelled(net: Net, x: str, axes: list[int]) -> str:
        m = net.unsqueeze(mean(net, x, axes, 0), 2)
        d = net.op("Sub", net.sized(x, ["N", 6, WIDTH]), net.sized(m, ["N", 6, 1]))
        variance = net.sized(mean(net, net.mul(d, d), axes, 0), ["N", 6])
        return net.op("Div", d, net.sized(net.unsqueeze(deviation(net, variance), 2), ["N", 6, 1]))

    assert_exact(last_axis(spelled), [HIDDEN], [HIDDEN, WIDTH])


def test_a_difference_that_tensorflow_distributes() -> None:
    """x·a + (b − m·a): the difference is never divided itself."""
    net = Net()
    x = net.linear(net.input("x", ["N", 6, 8]), WIDTH)
    m = mean(net, x, [-1])
    d = net.op("Sub", x, m)
    inverse = net.op("Reciprocal", deviation(net, mean(net, net.mul(d, d), [-1])))
    a = net.mul(inverse, net.vector(WIDTH, 0.7, 1.3))
    y = net.add(net.mul(x, a), net.op("Sub", net.vector(WIDTH), net.mul(m, a)))
    model = net.model(net.linear(net.relu(net.linear(y, HIDDEN)), 5))
    assert_exact(model, [HIDDEN], [HIDDEN, WIDTH])


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_over_the_channels_of_pictures(spelling: Spelling) -> None:
    net = Net()
    x = net.conv(net.input("x", ["N", 3, 6, 6]), WIDTH)
    y = net.sized(spelling(net, x, [1]), ["N", WIDTH, 6, 6])
    scale, shift = (net.const(net.random.uniform(*s, (WIDTH, 1, 1))) for s in ((0.7, 1.3), (-0.5, 0.5)))
    y = net.add(net.mul(y, scale), shift)
    closed = [WIDTH] if spelling is by_mean_of_squares else []
    assert_exact(net.model(net.head(net.relu(y))), closed, [WIDTH])


def grouped(spelling: Spelling | None, flat: bool) -> Model:
    """Four groups of six channels, the pixels beside them or on one axis with them."""
    net = Net()
    x = net.conv(net.input("x", ["N", 3, 6, 6]), WIDTH)
    y = net.reshape(x, 0, 4, -1) if flat else net.reshape(x, 0, 4, 6, 6, 6)
    net.sized(y, ["N", 4, 216] if flat else ["N", 4, 6, 6, 6])
    if spelling is None:
        y = net.op("InstanceNormalization", y, net.const(np.ones(4)), net.const(np.zeros(4)))
    else:
        y = spelling(net, y, [2] if flat else [2, 3, 4])
    y = net.sized(net.reshape(y, -1, WIDTH, 6, 6), ["N", WIDTH, 6, 6])
    scale, shift = (net.const(net.random.uniform(*s, (WIDTH, 1, 1))) for s in ((0.7, 1.3), (-0.5, 0.5)))
    return net.model(net.head(net.relu(net.add(net.mul(y, scale), shift))))


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("spelling", [by_power, by_itself])
def test_in_groups(spelling: Spelling, flat: bool) -> None:
    assert_exact(grouped(spelling, flat), [4], [4, 6])


def test_in_groups_by_a_node_over_all_that_lies_on_an_axis() -> None:
    """As PyTorch exports GroupNorm: whole groups exactly, channels within them nearly."""
    model = grouped(None, flat=True)
    assert [g.size for g in find_channels(model).groups] == [4]
    channels = find_channels(model, allow_inexact=True)
    assert [(g.size, g.optional) for g in channels.groups] == [(4, False), (6, True)]
    exact = prune_exactly(model, half_of_each(channels), channels)
    near = prune_exactly(model, half_of_each(channels, optional=True), channels)
    assert exact.error <= 1e-5
    assert 1e-4 < near.error < 0.3
    assert near.error < near.change


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_over_the_pixels_alone(spelling: Spelling) -> None:
    """InstanceNorm: channels do not see each other, so nothing need be opened."""
    net = Net()
    x = net.conv(net.input("x", ["N", 3, 6, 6]), WIDTH)
    y = net.sized(spelling(net, x, [2, 3]), ["N", WIDTH, 6, 6])
    assert_exact(net.model(net.head(net.conv(net.relu(y), 12))), [12, WIDTH], [12, WIDTH])


def test_mean_and_variance_in_one_node() -> None:
    model = last_axis(lambda net, x, axes: net.op("MeanVarianceNormalization", x, axes=[2]))
    assert [g.size for g in find_channels(model).groups] == [HIDDEN]
    channels = find_channels(model, allow_inexact=True)
    outcome = prune_exactly(model, half_of_each(channels), channels)
    assert sorted(g.size for g in channels.groups) == [HIDDEN, WIDTH]
    assert outcome.error < 0.3 < outcome.change


def test_a_sum_of_unknown_values_stays() -> None:
    """A removed channel that depends on the input has no compensation."""
    net = Net()
    x, other = (net.input(name, ["N", 6, 8]) for name in ("x", "other"))
    a, b = net.linear(x, WIDTH), net.op("MatMul", other, net.op("Sigmoid", net.weight(8, WIDTH)))
    fed = net.add(a, net.sized(net.op("Softmax", net.add(a, b), axis=-1), ["N", 6, WIDTH]))
    total = net.reduce("ReduceSum", fed, [-1])
    model = net.model(net.op("Sigmoid", total), net.linear(a, 3))
    assert not [g for g in find_channels(model, allow_inexact=True).groups if g.size == WIDTH]


def test_prune_and_transform_call_it_exact() -> None:
    prune = Prune(reduce_channels=0.5, strategy="uniform", round_to=1, allow_inexact=True)
    result = Transform()(prune(last_axis(by_power)))
    assert result.facts["exact"]
    assert result.facts["equal"]


def test_twice_in_a_row() -> None:
    """A compensation made once is made again, from the model with zeros."""
    model = last_axis(by_power)
    first = Prune(reduce_channels=0.3, strategy="uniform", round_to=1, allow_inexact=True)(model)
    second = Prune(reduce_channels=0.6, strategy="uniform", round_to=1, allow_inexact=True)(first.model)
    assert Transform()(second).facts["equal"]
