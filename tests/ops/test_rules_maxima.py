"""The largest of some channels: exact without those that are zero, where none is negative."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, half_of_each, prune_exactly
from onnx import TensorProto, numpy_helper, parser
from places import CASES

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.ir import Model, check, load
from onnxprune.passes import Prune, Transform


def gated(net: Net, x: str, largest: str) -> Model:
    return net.model(net.conv(net.mul(x, net.op("Sigmoid", net.conv(largest, 1))), 4))


def image(net: Net) -> str:
    return net.input("image", ["N", 3, 8, 8])


def test_file() -> None:
    sparse = Prune(reduce_channels=0.5, round_to=1)(load(CASES / "cbam_max.onnx"))
    assert Transform()(sparse).facts["params_reduction"] >= 0.45


def same(net: Net, x: str) -> str:
    return net.relu(net.conv(x, 16))


NEVER_NEGATIVE = {
    "relu": lambda n, x: n.relu(x),
    "transposed": lambda n, x: n.transpose(n.transpose(n.relu(x), 0, 2, 3, 1), 0, 3, 1, 2),
    "root": lambda n, x: n.op("Sqrt", n.mul(x, x)),
    "even power": lambda n, x: n.op("Pow", x, n.const(4.0)),
    "root of any number": lambda n, x: n.op("Pow", n.relu(x), n.const(1.5)),
    "square of a copy": lambda n, x: n.mul(n.op("Identity", x), n.op("Dropout", n.op("Identity", x))),
    "sum": lambda n, x: n.add(n.relu(x), n.op("Abs", x)),
    "pooled": lambda n, x: n.pool(n.relu(x), "AveragePool", 3, 1, 1),
    "bounded": lambda n, x: n.op("Clip", n.relu(x), "", n.const(2.0)),
    "clipped": lambda n, x: n.op("Clip", x, n.const(0.0)),
    "maximum": lambda n, x: n.op("Max", x, n.const(0.0)),
    "chosen": lambda n, x: n.op("Where", n.op("Less", x, n.const(0.0)), n.op("Abs", x), n.relu(x)),
    "enlarged": lambda n, x: n.slice(n.slice(n.double(n.relu(x)), 0, 8, 2), 0, 8, 3),
    "padded": lambda n, x: n.slice(n.pad(n.relu(x), [0, 0, 1, 0, 0, 0, 1, 0]), 0, 8, 2),
    "recast": lambda n, x: n.op("Cast", n.op("Cast", n.relu(x), to=TensorProto.DOUBLE), to=n.kind),
    "leaky twice": lambda n, x: n.op("LeakyRelu", n.relu(x), alpha=0.3),
    "quantised": lambda n, x: requantised(n, n.relu(x)),
}
MAYBE_NEGATIVE = {
    "plain": lambda n, x: x,
    "leaky": lambda n, x: n.op("LeakyRelu", x, alpha=0.3),
    "difference": lambda n, x: n.op("Sub", n.relu(x), n.op("Abs", x)),
    "odd power": lambda n, x: n.op("Pow", x, n.const(3.0)),
    "clipped below zero": lambda n, x: n.op("Clip", n.relu(x), n.const(-2.0), n.const(-1.0)),
    "minimum": lambda n, x: n.op("Min", n.relu(x), x),
    "cubic": lambda n, x: n.op("Resize", n.relu(x), "", "", n.ints(0, 16, 8, 8), mode="cubic"),
    "scaled": lambda n, x: n.mul(n.relu(x), n.const(np.full((16, 1, 1), -1.0))),
    "chosen": lambda n, x: n.op("Where", n.op("Less", x, n.const(0.0)), x, n.relu(x)),
}


def requantised(net: Net, x: str) -> str:
    how = net.const(0.01), net.const(np.uint8(7))
    return net.op("DequantizeLinear", net.op("QuantizeLinear", x, *how), *how)


@pytest.mark.parametrize("how", NEVER_NEGATIVE)
def test_maxima_of_nonnegative_values(how: str) -> None:
    net = Net()
    x = NEVER_NEGATIVE[how](net, net.conv(image(net), 16))
    model = gated(net, x, net.reduce("ReduceMax", x, [1]))
    channels = find_channels(model)
    assert [g.size for g in channels.groups] == [16], channels.blocked
    for seed in range(3):
        assert prune_exactly(model, half_of_each(channels, seed), channels, seed).error <= 1e-5


@pytest.mark.parametrize("how", sorted(set(MAYBE_NEGATIVE) - {"cubic"}))
def test_maxima_of_values_of_any_sign(how: str) -> None:
    net = Net()
    x = MAYBE_NEGATIVE[how](net, net.conv(image(net), 16))
    channels = find_channels(gated(net, x, net.reduce("ReduceMax", x, [1])))
    assert not channels.groups
    assert any("may be negative" in r.reason for b in channels.blocked for r in b.reasons)


FLOORED = {
    "relu": lambda n, x: n.relu(x),
    "maximum": lambda n, x: n.op("Max", n.const(0.0), x),
    "clip": lambda n, x: n.op("Clip", x, n.const(0.5), n.const(2.0)),
    "moved": lambda n, x: n.relu(n.transpose(n.squeeze(x, 1), 0, 2, 1)),
    "two readers": lambda n, x: n.add(n.relu(x), n.op("Clip", x, n.const(0.0), n.const(1.0))),
    "larger still": lambda n, x: n.relu(n.reduce("ReduceMax", x, [2])),
}
NOT_FLOORED = {
    "not at all": lambda n, x: n.op("Tanh", x),
    "clip below": lambda n, x: n.op("Clip", x, n.const(-0.5), n.const(2.0)),
    "one of two readers": lambda n, x: n.add(n.relu(x), x),
    "maximum below": lambda n, x: n.op("Max", x, n.const(-1.0)),
}


@pytest.mark.parametrize("how", [*FLOORED, *NOT_FLOORED])
def test_readers_decide(how: str) -> None:
    net = Net()
    x = net.op("Sub", net.op("Tanh", net.conv(image(net), 16)), net.const(0.0))
    largest = (FLOORED | NOT_FLOORED)[how](net, net.reduce("ReduceMax", x, [1]))
    model = net.model(net.conv(net.relu(x), 4), largest)
    channels = find_channels(model)
    if how in NOT_FLOORED:
        assert not channels.groups
        return
    assert [g.size for g in channels.groups] == [16], channels.blocked
    for seed in range(3):
        assert prune_exactly(model, half_of_each(channels, seed), channels, seed).error <= 1e-5


def test_the_smallest_stays() -> None:
    net = Net()
    x = net.relu(net.conv(image(net), 16))
    assert not find_channels(gated(net, x, net.reduce("ReduceMin", x, [1]))).groups


def test_channels_that_are_not_zero_stay() -> None:
    """Sigmoid of nothing is a half."""
    net = Net()
    x = net.op("Sigmoid", net.conv(image(net), 16))
    assert not find_channels(gated(net, x, net.reduce("ReduceMax", x, [1]))).groups


@pytest.mark.slow
def test_a_deep_network() -> None:
    """Signs are followed in a loop, however many nodes there are."""
    net = Net()
    x = net.relu(net.conv(image(net), 16))
    for _ in range(1500):
        x = net.op("Identity", x)
    assert [g.size for g in find_channels(gated(net, x, net.reduce("ReduceMax", x, [1]))).groups] == [16]


def unpooled(net: Net, *, size: list[int] | None = None, gone: bool = False, read: bool = False) -> Model:
    """A pool and its reverse; perhaps into another size, or with indices that have another reader too."""
    how = {"kernel_shape": [2, 2], "strides": [2, 2]}
    x, indices = net.ops("MaxPool", net.relu(net.conv(image(net), 16)), outputs=2, **how)
    operands = [net.relu(net.conv(x, 16)), indices, *([net.ints(*size)] if size else [])]
    y = net.conv(net.sized(net.op("MaxUnpool", *operands, **how), size or ["N", 16, 8, 8]), 4)
    return net.model(y, indices) if gone else net.model(y, net.op("Abs", indices)) if read else net.model(y)


def test_places_of_maxima_are_put_back() -> None:
    model = unpooled(Net())
    channels = find_channels(model)
    assert [g.size for g in channels.groups] == [16]
    for seed in range(3):
        assert prune_exactly(model, half_of_each(channels, seed), channels, seed).error <= 1e-5


@pytest.mark.parametrize("how", [{"size": [1, 16, 10, 8]}, {"gone": True}, {"read": True}])
def test_places_that_mean_something_else_stay(how: dict[str, object]) -> None:
    """Into a larger picture an element of one channel may come into another one."""
    channels = find_channels(unpooled(Net(), **how))  # type: ignore[arg-type]
    assert not channels.groups
    assert any("through all channels" in r.reason for b in channels.blocked for r in b.reasons)


def test_a_bound_of_clip_that_is_no_single_number_bounds_nothing() -> None:
    """Runtimes refuse it; the analysis does not end in a failing rule."""
    net = Net()
    x = net.conv(net.input("x", ["N", 3, 4, 4]), 8, 1)
    x = net.op("Clip", x, net.const(np.zeros(8)))
    channels = find_channels(net.model(net.head(net.op("ReduceMax", x, axes=[1], keepdims=1))))
    assert not [group for group in channels.groups if group.size == 8]


PLACES = {
    "places of a table": "g = Gather<axis = 0>(table, whole)  y = Relu(g)",
    "places of elements": "f = Flatten(whole)  g = GatherElements<axis = 0>(table, f)  y = Relu(g)",
    "bounds of a slice": "f = Reshape(whole, one)  g = Slice(table, f, end)  y = Relu(g)",
    "a shape": "f = Reshape(whole, one)  g = Expand(single, f)  y = Relu(g)",
    "places of a pool": "p, q = MaxPool<kernel_shape = [2, 2]>(wide)  g = Cast<to = 1>(q)  o = Relu(g)"
    "  s = Relu(p)  y = Add(o, s)",
}


@pytest.mark.parametrize("behind", PLACES)
def test_a_maximum_that_is_a_place_is_not_clipped(behind: str) -> None:
    """A later Relu clips the elements, and not the places where they were taken from."""
    proto = parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[n, 3, 4, 4] x) => (float[a] y) {{
            c = Conv(x, w, b)  r = Round(c)  k = Cast<to = 7>(r)
            wide = ReduceMax<axes = [1], keepdims = 1>(c)
            whole = ReduceMax<axes = [1, 2, 3], keepdims = 0>(k)
            {PLACES[behind]}
        }}""")
    random = np.random.default_rng(0)
    tensors = {
        "w": random.normal(0, 0.1, (8, 3, 1, 1)).astype(np.float32),
        "b": np.full(8, -6, np.float32),
        "table": random.normal(size=64).astype(np.float32),
        "single": np.ones(1, np.float32),
        "one": np.asarray([1]),
        "end": np.asarray([64]),
    }
    proto.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in tensors.items())
    channels = find_channels(check(Model(proto)))
    assert not channels.groups
