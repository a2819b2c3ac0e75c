"""Zeros of a tensor say nothing about positions, masks, statistics, or numbers from outside of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from helpers import Net, half_of_each, prune_exactly
from onnx import helper, numpy_helper

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.ir import Model
from onnxprune.passes.transform import Transform
from onnxprune.runtime import Session, compare, sample_feeds

WHOLE = np.asarray([0, 0, -0.5, -0.5, 1, 1, 1.5, 1.5], np.float32)
"""A region half as large again as the picture on each side."""


def zeroed(net: Net, weight: str, *filters: int) -> str:
    """Set filters of a weight to zero."""
    values = numpy_helper.to_array(net.values[weight]).copy()
    values[list(filters)] = 0
    net.values[weight].CopyFrom(numpy_helper.from_array(values, weight))
    return weight


def partly_zero(net: Net, x: str, out: int = 6) -> str:
    """A convolution half of whose channels are zero."""
    spatial = len(net.shape(x)) - 2
    weight = zeroed(net, net.weight(out, net.shape(x)[1], *[3] * spatial), *range(out // 2))
    return net.op("Conv", x, weight, pads=[1] * 2 * spatial)


def cropped(net: Net, x: str, outside: float) -> str:
    """A picture of one channel, and a number around it."""
    how = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": outside}
    sizes = net.ints(1, 1, 9, 9)
    return net.op(
        "Resize", x, net.const(WHOLE), net.const(np.zeros(0, np.float32)), sizes, mode="linear", **how
    )


def positions(net: Net) -> str:
    values = partly_zero(net, net.input("x", ["N", 3, 6]))
    places = net.ops("TopK", values, net.ints(4), outputs=2, axis=2)[1]
    return net.conv(net.op("Cast", places, to=onnx.TensorProto.FLOAT), 4, 1)


def mask(net: Net) -> str:
    kept = net.ops("Dropout", partly_zero(net, net.input("x", ["N", 3, 6])), outputs=2)[1]
    return net.conv(net.op("Cast", kept, to=onnx.TensorProto.FLOAT), 4, 1)


def deviations(net: Net) -> str:
    """The reciprocal of a root mean square of zeros is large."""
    rows = zeroed(net, net.weight(6, 8), 1, 4)
    scaled = net.mul(net.reduce("ReduceMean", net.input("x", ["N", 3, 8]), [1]), rows)
    node = helper.make_node(
        "SimplifiedLayerNormalization", [scaled, net.vector(8)], ["y", "inverse"], axis=-1
    )
    net.nodes.append(node)
    net.types["inverse"] = helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, ["N", 6, 1])
    return net.op("MatMul", net.transpose("inverse", 0, 2, 1), net.weight(6, 4))


def running_mean(net: Net) -> str:
    x = net.conv(net.input("x", ["N", 3, 6]), 6)
    scale, shift = zeroed(net, net.vector(6), 0, 1), zeroed(net, net.vector(6), 0, 1)
    stored = net.vector(6), net.vector(6, 0.5, 1)
    made = net.ops("BatchNormalization", x, scale, shift, *stored, outputs=3, training_mode=1)
    return net.op("MatMul", made[1], net.weight(6, 4))


def below_its_lower_bound(net: Net) -> str:
    """Of two bounds in the wrong order the upper one holds: all numbers are −1."""
    x = net.input("x", ["N", 3, 6])
    clipped = net.op("Clip", partly_zero(net, x), net.const(1.0), net.const(-1.0))
    return net.conv(net.reduce("ReduceMax", net.mul(clipped, net.relu(partly_zero(net, x))), [1]), 4, 1)


def negative_outside(net: Net) -> str:
    picture, other = net.input("x", [1, 3, 9, 9]), net.input("other", [1, 3, 6, 6])
    gate = cropped(net, net.relu(net.conv(other, 1)), -1.0)
    return net.conv(net.reduce("ReduceMax", net.mul(net.relu(partly_zero(net, picture)), gate), [1]), 4, 1)


def not_zero_outside(net: Net) -> str:
    picture, other = net.input("x", [1, 3, 9, 9]), net.input("other", [1, 3, 6, 6])
    gate = net.op("Conv", other, zeroed(net, net.weight(1, 3, 3, 3), 0), pads=[1] * 4)
    return net.conv(net.mul(net.relu(net.conv(picture, 6)), cropped(net, gate, 1.0)), 4, 1)


def another_number_outside(net: Net) -> str:
    picture, other = net.input("x", [1, 3, 9, 9]), net.input("other", [1, 3, 6, 6])
    gate = net.op("Conv", other, zeroed(net, net.weight(1, 3, 3, 3), 0), net.vector(1), pads=[1] * 4)
    return net.conv(net.add(net.relu(net.conv(picture, 6)), cropped(net, gate, 1.0)), 4, 1)


BY_EVIDENCE: list[Callable[[Net], str]] = [
    positions,
    mask,
    deviations,
    running_mean,
    below_its_lower_bound,
    negative_outside,
    not_zero_outside,
    another_number_outside,
]


@pytest.mark.parametrize("written", BY_EVIDENCE, ids=lambda f: f.__name__)
def test_evidence_follows_zeros_into_the_numbers_alone(written: Callable[[Net], str]) -> None:
    net = Net()
    model = net.model(written(net))
    dense = Transform(allow_unchanged=True)(model).model
    same(model, dense)


def same(one: Model, two: Model) -> None:
    before, after = (Session(m.proto, optimize=False) for m in (one, two))
    for size in (1, 3):
        shapes = {i.name: [size if isinstance(d, str) else d for d in i.shape] for i in before.inputs}
        feeds = sample_feeds(before.inputs, shapes=shapes, samples=1, seed=size)
        assert compare(before, after, feeds).max_rel_error <= 1e-5


def integer_positions(net: Net) -> str:
    x = net.mul(net.conv(net.input("x", ["N", 3, 6]), 6), net.const(10.0))
    whole = net.op("Cast", x, to=onnx.TensorProto.INT64)
    places = net.ops("TopK", whole, net.ints(4), outputs=2, axis=2)[1]
    return net.reduce("ReduceSum", net.op("Cast", places, to=onnx.TensorProto.FLOAT), [1])


def overflowing(net: Net) -> str:
    """The square of a large integer may be negative."""
    large = net.mul(net.conv(net.input("x", ["N", 3, 6]), 6), net.const(60000.0))
    whole = net.op("Abs", net.op("Cast", large, to=onnx.TensorProto.INT32))
    largest = net.reduce("ReduceMax", net.mul(whole, whole), [1])
    return net.conv(net.op("Cast", largest, to=onnx.TensorProto.FLOAT), 4, 1)


@pytest.mark.parametrize(
    "written",
    [integer_positions, overflowing, negative_outside, below_its_lower_bound],
    ids=lambda f: f.__name__,
)
def test_a_plan_follows_zeros_into_the_numbers_alone(written: Callable[[Net], str]) -> None:
    net = Net()
    model = net.model(written(net))
    channels = find_channels(model)
    assert prune_exactly(model, half_of_each(channels), channels).error <= 1e-5


def test_a_picture_of_the_same_size_hands_constants_on() -> None:
    net = Net()
    x = net.input("x", ["N", 3, 6, 6])
    weight = zeroed(net, net.weight(6, 3, 3, 3), 0, 2, 3, 5)
    made = net.double(net.op("Conv", x, weight, net.vector(6), pads=[1] * 4))
    model = net.model(net.conv(made, 4, 1))
    assert find_channels(Transform()(model).model).groups[0].size == 2


def test_a_scan_over_each_sample_on_its_own_stays() -> None:
    """Before opset 9 the first operand of Scan holds lengths, and its sequences have a batch in front."""
    net = Net(opset=8)
    rows = net.linear(net.input("x", ["N", 5, 3]), 6, bias=False)
    start = net.linear(net.input("start", ["N", 3]), 6, bias=False)
    kinds = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [6]) for n in ("sum", "row", "next")]
    node = helper.make_node("Add", ["sum", "row"], ["next"])
    body = helper.make_graph([node], "body", kinds[:2], kinds[2:])
    net.nodes.append(helper.make_node("Scan", ["", start, rows], ["last"], body=body, num_scan_inputs=1))
    net.types["last"] = helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, ["N", 6])
    y = net.linear(net.relu(net.linear("last", 8, bias=False)), 4, bias=False)
    model = net.model(y)
    channels = find_channels(model)
    assert [g.size for g in channels.groups] == [8]
    assert prune_exactly(model, half_of_each(channels), channels).error <= 1e-6
