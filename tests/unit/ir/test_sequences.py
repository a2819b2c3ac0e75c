"""Sequences whose parts are known by number are the tensors they hold."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import Array, Net, half_of_each, prune_exactly
from onnx import TensorProto, helper

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.errors import ModelError
from onnxprune.ir import Model


def number(net: Net, value: int) -> str:
    return net.const(np.asarray(value, np.int64))


def part(net: Net, sequence: str, place: int, shape: list[int]) -> str:
    return net.sized(net.op("SequenceAt", sequence, number(net, place)), shape)


def assert_halves(model: Model, *widths: int) -> Channels:
    """Half of each group goes, exactly, and no sequence is left of those that were known."""
    channels = find_channels(model)
    assert sorted(g.size for g in channels.groups) == sorted(widths), channels.blocked
    outcome = prune_exactly(model, half_of_each(channels), channels)
    assert outcome.error <= 1e-5
    assert outcome.change > 1e-3
    assert not [n for n in outcome.dense.nodes if "Sequence" in n.op_type]
    return channels


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_queries_keys_and_values_unbound(opset: int, keepdims: int) -> None:
    """One projection, split along an axis of three, as `unbind` is written."""
    net = Net(opset=opset)
    x = net.relu(net.linear(net.input("x", [2, 6, 8]), 20))
    y = net.reshape(net.linear(x, 3 * 4 * 5), 0, 0, 3, 4, 5)
    s = net.op("SplitToSequence", y, axis=2, keepdims=keepdims)
    shape = [2, 6, 1, 4, 5] if keepdims else [2, 6, 4, 5]
    q, k, v = (part(net, s, place, shape) for place in (0, -2, 2))
    if keepdims:
        q, k, v = (net.squeeze(a, 2) for a in (q, k, v))
    q, k, v = (net.transpose(a, 0, 2, 1, 3) for a in (q, k, v))
    scores = net.op("Softmax", net.op("MatMul", q, net.transpose(k, 0, 1, 3, 2)), axis=-1)
    y = net.reshape(net.transpose(net.op("MatMul", scores, v), 0, 2, 1, 3), 0, 0, 20)
    assert_halves(net.model(net.linear(net.relu(net.linear(y, 24)), 7)), 20, 4, 5, 24)


@pytest.mark.parametrize("lengths", [12, (12, 4, 16)])
def test_chunks(lengths: int | tuple[int, ...]) -> None:
    """Equal ones, the last of which is shorter, or as a list says."""
    net = Net()
    x = net.linear(net.input("x", [5, 8]), 32)
    split = number(net, lengths) if isinstance(lengths, int) else net.ints(*lengths)
    s = net.op("SplitToSequence", x, split, axis=-1)
    sizes = [12, 12, 8] if isinstance(lengths, int) else list(lengths)
    parts = [net.relu(part(net, s, k, [5, size])) for k, size in enumerate(sizes)]
    model = net.model(*(net.linear(a, 3) for a in parts))
    assert_halves(model, *sizes)


@pytest.mark.parametrize("new_axis", [0, 1])
def test_lists_put_together(new_axis: int) -> None:
    net = Net()
    x = net.input("x", [5, 8])
    a, b, c = (net.relu(net.linear(x, 16)) for _ in range(3))
    s = net.op("SequenceConstruct", a, b)
    s = net.op("SequenceInsert", s, c, number(net, 1))
    s = net.op("SequenceErase", s, number(net, 0))
    s = net.op("SequenceInsert", s, net.relu(net.linear(x, 16)))
    y = net.op("ConcatFromSequence", s, axis=1, new_axis=new_axis)
    net.sized(y, [5, 3, 16] if new_axis else [5, 48])
    assert_halves(
        net.model(net.linear(net.relu(net.linear(y, 20)), 4)), *([16] if new_axis else [16] * 3), 20
    )


def test_an_empty_list_that_is_filled() -> None:
    net = Net()
    x = net.input("x", [5, 8])
    s = net.op("SequenceEmpty", dtype=TensorProto.FLOAT)
    for _ in range(2):
        s = net.op("SequenceInsert", s, net.relu(net.linear(x, 16)))
    length = net.op("Cast", net.op("SequenceLength", s), to=TensorProto.FLOAT)
    y = net.sized(net.op("ConcatFromSequence", s, axis=1), [5, 32])
    assert_halves(net.model(net.linear(net.op("Div", y, length), 4)), 16, 16)


def test_places_that_are_computed_keep_the_sequence() -> None:
    """The caller selects the part: nothing is guessed."""
    net = Net()
    x = net.linear(net.input("x", [5, 8]), 32)
    s = net.op("SplitToSequence", x, number(net, 16), axis=1)
    taken = net.sized(net.op("SequenceAt", s, net.input("place", [], kind=TensorProto.INT64)), [5, 16])
    channels = find_channels(net.model(net.linear(net.relu(net.linear(taken, 20)), 3)))
    assert [g.size for g in channels.groups] == [20]
    assert any(
        b.operator in ("SequenceAt", "SplitToSequence") for axis in channels.blocked for b in axis.reasons
    )


def test_an_open_axis_is_not_cut_into_a_number_of_parts() -> None:
    net = Net()
    x = net.input("x", ["batch", "length", 8])
    s = net.op("SplitToSequence", net.relu(net.linear(x, 16)), number(net, 4), axis=1)
    first = net.sized(net.op("SequenceAt", s, number(net, 0)), ["batch", 4, 16])
    model = net.model(net.linear(first, 3))
    channels = find_channels(model)
    assert any(n.op_type == "SplitToSequence" for n in channels.model.nodes)


def test_a_part_that_is_returned() -> None:
    net = Net()
    x = net.relu(net.linear(net.relu(net.linear(net.input("x", [5, 8]), 24)), 16))
    s = net.op("SplitToSequence", x, number(net, 8), axis=1)
    first, second = (part(net, s, k, [5, 8]) for k in range(2))
    model = net.model(first, net.linear(second, 3))
    channels = assert_halves(model, 24, 8)
    assert [o.name for o in channels.model.outputs] == [o.name for o in model.outputs]


def test_sequences_in_a_branch() -> None:
    """A body cuts a captured tensor."""
    net = Net()
    x = net.linear(net.input("x", [5, 8]), 16)

    def branch(sign: float) -> onnx.GraphProto:
        taken = net._fresh("taken")
        names = [net._fresh(n) for n in ("lengths", "place", "parts")]
        values = [np.asarray(8, np.int64), np.asarray(1, np.int64), np.asarray(sign, np.float32)]
        fixed = [
            onnx.numpy_helper.from_array(v, n) for v, n in zip(values, (*names[:2], "s" + taken), strict=True)
        ]
        nodes = [
            helper.make_node("SplitToSequence", [x, names[0]], [names[2]], name=names[2], axis=1),
            helper.make_node("SequenceAt", [names[2], names[1]], [taken], name=taken),
            helper.make_node("Mul", [taken, "s" + taken], ["y" + taken], name="y" + taken),
        ]
        made = helper.make_tensor_value_info("y" + taken, TensorProto.FLOAT, [5, 8])
        return helper.make_graph(nodes, "branch", [], [made], fixed)

    choice = net.input("choice", [], kind=TensorProto.BOOL)
    y = net.op("If", choice, then_branch=branch(1.0), else_branch=branch(-2.0))
    net.sized(y, [5, 8])
    model = net.model(net.linear(net.relu(y), 3))
    channels = find_channels(model)
    assert 8 in [g.size for g in channels.groups]
    feeds: list[dict[str, Array]] = [
        {"x": np.random.default_rng(k).normal(size=(5, 8)).astype(np.float32), "choice": np.asarray(bool(k))}
        for k in range(2)
    ]
    outcome = prune_exactly(model, half_of_each(channels), channels, feeds=feeds)
    assert outcome.error <= 1e-5
    assert outcome.change > 1e-3


@pytest.mark.parametrize("lengths", [[[2, 4], [5, 5]], [20, -4], [0, 16]], ids=str)
def test_lengths_of_no_parts_are_told(lengths: list[int]) -> None:
    net = Net()
    x = net.relu(net.linear(net.input("x", [5, 8]), 16))
    s = net.op("SplitToSequence", x, net.const(np.asarray(lengths, np.int64)), axis=1)
    taken = net.sized(net.op("SequenceAt", s, number(net, 0)), [5, 16])
    with pytest.raises(ModelError):
        find_channels(net.model(net.linear(taken, 3)))
