"""Elements taken by number: lists that are cuts and shuffles are renumbered, everything else stays."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, half_of_each, prune_exactly
from onnx import TensorProto, defs

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.ir import Model
from onnxprune.ops.axes.blocking import REASONS
from onnxprune.ops.spec import find_spec


def assert_halves(model: Model, *widths: int) -> Channels:
    """Half the channels of every group go, exactly; the groups are as expected."""
    channels = find_channels(model)
    assert sorted(g.size for g in channels.groups) == sorted(widths), channels.blocked
    for seed in range(3):
        outcome = prune_exactly(model, half_of_each(channels, seed, optional=True), channels)
        assert outcome.error <= 1e-5
        assert outcome.change > 1e-3
    return channels


def assert_blocked(model: Model, operator: str) -> None:
    channels = find_channels(model)
    assert not channels.groups
    assert any(r.operator == operator for b in channels.blocked for r in b.reasons)


def assert_blocked_for(model: Model, operator: str) -> None:
    """The filters that make the channels stay because of an operator."""
    blocked = [b for b in find_channels(model).blocked if b.tensor == "const_1" and b.axis == 1]
    assert any(r.operator == operator for b in blocked for r in b.reasons)


@pytest.mark.parametrize(
    ("picked", "widths"),
    [
        ([*range(8, 16), *range(8)], [8, 8]),  # halves change places
        ([*range(4, 16)], [4, 12]),  # one piece
        ([*range(-12, 0)], [4, 12]),  # the same, counted from the end
        ([*range(8), *range(8)], [8, 8]),  # a piece twice
        ([*range(0, 16, 2)], [8]),  # every second
        ([*range(1, 16, 4)], [4]),
        (np.arange(16).reshape(4, 4).T.ravel().tolist(), [4, 4]),  # a shuffle
        (np.arange(16).reshape(2, 8).T.ravel().tolist(), [2, 8]),
    ],
)
def test_regular_lists(picked: list[int], widths: list[int]) -> None:
    net = Net()
    x = net.relu(net.conv(net.input("x", [2, 3, 6, 6]), 16))
    y = net.op("Gather", x, net.ints(*picked), axis=1)
    assert_halves(net.model(net.conv(y, 4)), *widths)


def test_irregular_lists_keep_the_channels() -> None:
    """Picked elements may still be dropped by their reader."""
    net = Net()
    x = net.conv(net.input("x", [2, 3, 6, 6]), 16)
    y = net.op("Gather", x, net.ints(*np.random.default_rng(0).permutation(16).tolist()), axis=1)
    channels = find_channels(net.model(net.conv(y, 4)))
    assert any(b.tensor == "const_1" and b.axis == 0 for b in channels.blocked)
    outcome = prune_exactly(channels.model, half_of_each(channels), channels)
    assert outcome.error <= 1e-5


def test_lists_computed_at_run_time_block() -> None:
    net = Net()
    x = net.conv(net.input("x", [2, 3, 6, 6]), 16)
    y = net.op("Gather", x, net.input("list", [8], kind=TensorProto.INT64), axis=1)
    assert_blocked(net.model(net.conv(y, 4)), "Gather")


def test_slices_with_steps() -> None:
    """Rotary embeddings that turn neighbours: every second element of each head's width, put back between."""
    net = Net()
    x = net.input("x", [2, 5, 12])
    q, k = (net.transpose(net.reshape(net.linear(x, 32), 2, 5, 4, 8), 0, 2, 1, 3) for _ in range(2))
    cos, sin = (net.const(net.random.uniform(-1, 1, (5, 4))) for _ in range(2))
    turned = []
    for a in (q, k):
        even, odd = net.slice(a, 0, 8, axis=3, step=2), net.slice(a, 1, 8, axis=3, step=2)
        first = net.op("Sub", net.mul(even, cos), net.mul(odd, sin))
        second = net.add(net.mul(even, sin), net.mul(odd, cos))
        pairs = net.concat(net.unsqueeze(first, 4), net.unsqueeze(second, 4), axis=4)
        turned.append(net.reshape(pairs, 2, 4, 5, 8))
    scores = net.op("MatMul", turned[0], net.transpose(turned[1], 0, 1, 3, 2))
    assert_halves(net.model(net.linear(net.reshape(net.transpose(scores, 0, 2, 1, 3), 2, 5, 20), 3)), 4, 4)


def test_gather_elements() -> None:
    net = Net()
    x = net.relu(net.linear(net.input("x", [2, 5, 6]), 16))
    places = net.const(net.random.integers(0, 5, (2, 3, 16)))
    assert_halves(net.model(net.linear(net.op("GatherElements", x, places, axis=1), 3)), 16)


def test_gather_nd_passes_trailing_axes() -> None:
    net = Net()
    x = net.relu(net.linear(net.input("x", [2, 5, 6]), 16))
    places = net.const(np.asarray([[0, 1], [1, 4]]))
    assert_halves(net.model(net.linear(net.op("GatherND", x, places), 3)), 16)


def test_scatter_nd_passes_trailing_axes() -> None:
    net = Net()
    x = net.input("x", [2, 5, 6])
    table, rows = net.relu(net.linear(x, 16)), net.reduce("ReduceMean", net.linear(x, 16), [1], keepdims=0)
    y = net.op("ScatterND", table, net.const(np.asarray([[0, 1], [1, 4]])), rows)
    assert_halves(net.model(net.linear(y, 3)), 16)


def test_scatter_elements() -> None:
    net = Net()
    x = net.input("x", [2, 5, 6])
    table, rows = net.linear(x, 16), net.linear(net.slice(x, 0, 2), 16)
    places = net.random.permuted(np.tile(np.arange(5)[:, None], (2, 1, 16)), axis=1)[:, :2]
    y = net.op("ScatterElements", table, net.const(places), rows, axis=1)
    assert_halves(net.model(net.linear(y, 3)), 16)


@pytest.mark.parametrize("kind", ["GatherElements", "ScatterElements", "Trilu", "CumSum", "TopK"])
def test_places_on_the_channel_axis_block(kind: str) -> None:
    net = Net()
    x = net.relu(net.linear(net.input("x", [2, 5, 6]), 16))
    places = net.const(net.random.integers(0, 16, (2, 5, 4)))
    operands = {
        "GatherElements": [places],
        "ScatterElements": [places, net.const(np.zeros((2, 5, 4)))],
        "Trilu": [],
        "CumSum": [net.const(np.asarray(2))],
        "TopK": [net.ints(4)],
    }
    how = {} if kind in ("Trilu", "CumSum") else {"axis": 2}
    outputs = 2 if kind == "TopK" else 1
    assert_blocked(net.model(net.ops(kind, x, *operands[kind], outputs=outputs, **how)[0]), kind)


@pytest.mark.parametrize("kind", ["GatherND", "ScatterND", "ReverseSequence", "TensorScatter"])
def test_places_on_a_leading_channel_axis_block(kind: str) -> None:
    """Channels are brought to the axis that is counted, and back afterwards."""
    net = Net(opset=24)
    x = net.relu(net.linear(net.input("x", [5, 3, 6]), 16))
    first = net.transpose(x, 2, 0, 1)
    places = net.const(np.asarray([[0], [7]]))
    if kind == "GatherND":
        y = net.op(kind, first, places)
    elif kind == "ScatterND":
        y = net.op(kind, first, places, net.const(net.random.normal(size=(2, 5, 3))))
    elif kind == "ReverseSequence":
        y = net.op(kind, first, net.ints(16, 9, 4, 16, 2), time_axis=0, batch_axis=1)
    else:
        rows = net.const(net.random.normal(size=(5, 2, 3)))
        y = net.op(kind, net.transpose(x, 0, 2, 1), rows, net.ints(0, 1, 2, 3, 4), axis=-2)
        y = net.transpose(y, 1, 0, 2)
    assert_blocked_for(net.model(net.linear(net.transpose(y, 1, 2, 0), 3)), kind)


def test_tables_of_rows_written_in_place_pass_the_channels() -> None:
    """Newer than the runtime, so only the axes are looked at."""
    net = Net(opset=24)
    x = net.input("x", [5, 3, 6])
    cache, rows = net.linear(x, 16), net.linear(net.slice(x, 0, 2), 16)
    y = net.op("TensorScatter", cache, rows, net.ints(0, 1, 0, 1, 0), axis=-2)
    assert [g.size for g in find_channels(net.model(net.linear(y, 3))).groups] == [16]


def test_reversals() -> None:
    net = Net()
    x = net.relu(net.linear(net.input("x", [5, 2, 6]), 16))
    lengths = net.const(np.asarray([3, 5]))
    backwards = net.op("ReverseSequence", x, lengths, time_axis=0, batch_axis=1)
    assert_halves(net.model(net.linear(net.add(x, backwards), 3)), 16)


@pytest.mark.parametrize("kind", ["GridSample", "RoiAlign"])
def test_sampled_channels(kind: str) -> None:
    net = Net()
    x = net.relu(net.conv(net.input("x", [2, 3, 6, 6]), 16))
    if kind == "GridSample":
        y = net.op(kind, x, net.input("grid", [2, 4, 4, 2]))
    else:
        boxes = net.const(np.asarray([[0.0, 0, 4, 4], [1, 1, 5, 5]]))
        y = net.op(kind, x, boxes, net.ints(0, 1), output_height=4, output_width=4)
    assert_halves(net.model(net.conv(y, 4)), 16)


def test_patches_put_together() -> None:
    net = Net(opset=18)
    x = net.transpose(net.relu(net.linear(net.input("x", [2, 9, 6]), 32)), 0, 2, 1)
    y = net.op("Col2Im", x, net.ints(6, 6), net.ints(2, 2), strides=[2, 2])
    assert_halves(net.model(net.conv(y, 4)), 8)


@pytest.mark.parametrize("offsets", [1, 2])
def test_deformable_convolutions(offsets: int) -> None:
    """Only the axes are looked at: runtimes for CPUs may lack the operator."""
    net = Net(opset=19)
    x = net.relu(net.conv(net.input("x", [2, 3, 6, 6]), 16))
    offset = net.conv(x, 18 * offsets)
    sizes = {"kernel_shape": [3, 3], "pads": [1] * 4, "offset_group": offsets}
    y = net.op("DeformConv", x, net.weight(8, 16, 3, 3), offset, net.vector(8), **sizes)
    groups = find_channels(net.model(net.conv(y, 4))).groups
    assert sorted(g.size for g in groups) == ([8, 16] if offsets == 1 else [])


def test_every_operator_of_the_standard_domain_has_an_entry() -> None:
    standard = {s.name for s in defs.get_all_schemas_with_history() if s.domain == ""}
    assert not sorted(n for n in standard if find_spec("", n).axes is None)


def test_no_reason_hides_a_rule() -> None:
    listed = [n for names in REASONS.values() for n in names.split()]
    assert len(listed) == len(set(listed))
    assert all(find_spec("", name).axes.__module__ == "onnxprune.ops.axes.blocking" for name in listed)
