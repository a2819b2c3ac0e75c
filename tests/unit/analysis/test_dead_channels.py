"""Channels made dead by hand in every idea are found in the weights and removed, and nothing else changes.

Three ways to be dead: all weights are zero; the filters are, but biases and shifts are not, so that a channel
is a constant; the columns that read a channel are zero. Where a constant cannot be moved elsewhere the
channel stays, and the program says why.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest
from helpers import Net, feeds_for
from ideas import IDEAS

from onnxprune.algebra.axes import factors
from onnxprune.algebra.kept_axes import channel_of
from onnxprune.analysis.evidence.folding import folded
from onnxprune.analysis.evidence.liveness import (
    ABSORBING,
    LOST,
    NO_BIAS,
    PATTERN,
    SHARED,
    LivenessEvidence,
    find_evidence,
)
from onnxprune.analysis.evidence.precomputed import precomputed
from onnxprune.analysis.groups.channels import AxisRef, Channels, find_channels
from onnxprune.analysis.groups.slots import lined_up
from onnxprune.decisions.channels.channel_cut import shrunk
from onnxprune.decisions.channels.masks import masked
from onnxprune.errors import NothingToDoError
from onnxprune.ir import Model, check
from onnxprune.passes import Transform
from onnxprune.passes.base import check_valid
from onnxprune.runtime import Session, compare

each_idea = pytest.mark.parametrize("name", sorted(IDEAS))
STAYS = {
    "group_normalization_of_whole_groups": LOST,
    "group_norm": LOST,  # a group of channels that are constants is not constant after its statistics
    "lstm": LOST,  # a state with nothing but a bias changes from step to step
    "lstm_both_ways": LOST,
    "gru": LOST,
    "gru_both_ways": LOST,
    "rnn": LOST,
    "pixel_shuffle": PATTERN,  # four constants, one for each pixel of a block
    "pixel_shuffle_columns": PATTERN,
    "pixel_shuffle_spelled_out": PATTERN,
    "feature_pyramid": SHARED,  # one convolution reads several pictures, each with other constants
    "shared_convolution": SHARED,
    "segnet": LOST,  # unpooled values have zeros around them
    "segnet_with_sizes": LOST,
    # means, maxima and norms see constants, and have no bias that could hold them
    **{name: NO_BIAS for name in IDEAS if name.startswith(("cbam", "pooled_widths", "rms_by", "rms_exp"))},
}
"""Ideas some of whose constant channels stay, besides one of each group for the others, and why."""

READERS = {"Conv": 1, "DeformConv": 1, "ConvTranspose": 0, "MatMul": 0, "LSTM": 2, "GRU": 2, "RNN": 2}
"""The axis of the weights along which an operator sums."""


@cache
def network(name: str) -> Channels:
    return find_channels(check(Model(IDEAS[name].build())))


def quarter(channels: Channels) -> dict[str, list[int]]:
    random = np.random.default_rng(0)
    return {
        g.name: sorted(random.permutation(g.size)[: max(1, g.size // 4)].tolist())
        for g in channels.groups
        if not g.optional
    }


def reads(channels: Channels, place: AxisRef) -> bool | None:
    """Return whether a node sums over an axis of its weights; ``None`` for a vector, which has no others."""
    model = channels.model
    if sum(size > 1 for size in model.constants[place.tensor].dims) < 2:
        return None
    name, axis = place.tensor, place.axis
    while True:
        node = next(n for n in model.all_nodes if name in n.input)
        if node.op_type != "Transpose":
            break
        axis, name = list(node.attribute[0].ints).index(axis), node.output[0]
    if node.op_type == "Gemm":
        return axis == (1 if any(a.name == "transB" and a.i for a in node.attribute) else 0)
    return axis == READERS.get(node.op_type, -1)


def killed(channels: Channels, removed: dict[str, list[int]], readers: bool) -> Model:
    """Set the filters of channels to zero, or the columns that read them."""
    model = channels.model.copy()
    for group in channels.groups:
        for place in (p for p in group.places if p.weight and reads(channels, p) is readers):
            values = model.array(place.tensor).copy()
            dim = channels.typing.axes[place.tensor][place.axis]
            gone = np.isin(channel_of(dim, group.factor), removed.get(group.name, ()))
            np.moveaxis(values, place.axis, 0)[gone] = 0
            model.set_array(place.tensor, values)
    return model


def error_without(sparse: Model, evidence: LivenessEvidence) -> float:
    """Remove the channels found, and return the error of the results."""
    dense = shrunk(find_channels(folded(evidence)), evidence.removed)
    check_valid(dense, "shrink")
    sessions = [Session(m.proto, optimize=False) for m in (sparse, dense)]
    return compare(*sessions, feeds_for(sparse, evidence.channels)).max_rel_error


def check_error(name: str, sparse: Model, evidence: LivenessEvidence) -> None:
    half = "half" in name
    assert error_without(sparse, evidence) <= (1e-3 if half else 1e-6)


@each_idea
def test_channels_of_zeros(name: str) -> None:
    channels = network(name)
    removed = quarter(channels)
    sparse = masked(channels, removed)
    evidence = find_evidence(find_channels(sparse))
    assert evidence.removed == removed
    check_error(name, sparse, evidence)


@each_idea
def test_unread_channels(name: str) -> None:
    channels = network(name)
    removed = quarter(channels)
    sparse = killed(channels, removed, readers=True)
    evidence = find_evidence(find_channels(sparse))
    if name in ("tied_embedding", "rms_by_sum"):  # its table is read in another way too: by itself, by a sum
        del removed["Gather_3"]
    for group in channels.groups:  # a norm reads all channels of its axis, columns or not
        sums = [c for c in channels.typing.contractions if group.factor in factors(c.dim)]
        kinds = {channels.typing.nodes[c.node].op_type for c in sums}
        if any(c.statistic for c in sums) or kinds & {"ReduceMax", "GlobalMaxPool", "GlobalLpPool"}:
            removed.pop(group.name, None)
    assert evidence.removed == removed
    check_error(name, sparse, evidence)


@each_idea
def test_channels_that_are_constants(name: str) -> None:
    """All of them go but the absorbers, unless a reason is stated above."""
    channels = network(name)
    removed = quarter(channels)
    sparse = killed(channels, removed, readers=False)
    evidence = find_evidence(find_channels(sparse))
    check_error(name, sparse, evidence)
    left = {g: set(r) - set(evidence.removed.get(g, ())) for g, r in removed.items()}
    reasons = {r.reason for r in evidence.left}
    assert sum(map(len, left.values())) == sum(r.channels for r in evidence.left)
    assert all(set(gone) <= set(removed[g]) for g, gone in evidence.removed.items())
    if name in STAYS:
        assert STAYS[name] in reasons
    else:
        assert all(
            len(stay) <= 2 for stay in left.values()
        )  # a channel that is zero in one place may not be in another
        assert reasons <= {ABSORBING} | {
            r for r in reasons if "pads" in r or "lays its kernel" in r or "beside" in r
        }


def grouped() -> tuple[Model, str, str]:
    """A grouped convolution between two others, and the names of its weights and shifts."""
    net = Net()
    x = net.relu(net.conv(net.input("x", ["N", 3, 6, 6]), 16))
    weights = net.weight(16, 4, 3, 3)
    y = net.op("Conv", x, weights, group=4, kernel_shape=[3, 3], pads=[1] * 4)
    shift = net.vector(16, 0.1, 0.5)
    ones = net.vector(16, 0.7, 1.3)
    y = net.op("BatchNormalization", y, ones, shift, net.vector(16), net.vector(16, 0.5, 1.5))
    return net.model(net.conv(net.relu(y), 5, 1)), weights, shift


@pytest.mark.parametrize("constant", [False, True])
def test_each_group_of_a_convolution_has_other_dead_channels(constant: bool) -> None:
    model, weights, shift = grouped()
    filters, added = model.array(weights).copy(), model.array(shift).copy()
    dead = [0, 1, 5, 7, 8, 11, 14, 15]
    filters[dead] = 0
    means = next(n for n in model.nodes if n.op_type == "BatchNormalization").input[3]
    if not constant:
        added[dead] = 0
        statistics = model.array(means).copy()
        statistics[dead] = 0
        model.set_array(means, statistics)
    model.set_array(weights, filters)
    model.set_array(shift, added)
    evidence = find_evidence(find_channels(lined_up(find_channels(model))))
    assert sorted(map(len, evidence.removed.values())) == [2]
    assert error_without(model, evidence) <= 1e-6


def masked_twice(opset: int) -> tuple[Model, str]:
    """A convolution whose filters are multiplied by a mask when the network runs, as torch exports them."""
    net = Net(opset=opset)
    mask = np.ones((8, 1, 1, 1))
    mask[[2, 3, 6]] = 0
    weights = net.mul(net.weight(8, 3, 3, 3), net.const(np.broadcast_to(mask, (8, 3, 3, 3)).copy()))
    x = net.relu(net.bn(net.conv(net.input("x", ["N", 3, 6, 6]), 8, w=weights)))
    y = net.mul(net.weight(4, 8, 3, 3), net.const(np.ones((4, 8, 3, 3))))
    return net.model(net.conv(x, 4, w=y)), weights


@pytest.mark.parametrize("opset", [9, 17])
def test_masks_that_are_multiplied_when_the_network_runs(opset: int) -> None:
    model, _ = masked_twice(opset)
    result = Transform()(model)
    assert [w["after"] for w in result.facts["groups"].values()] == [6]
    assert {n.op_type for n in result.model.nodes} == {"Conv", "BatchNormalization", "Relu"}
    assert [r["reason"] for r in result.facts["left"]] == [ABSORBING]
    assert result.facts["max_rel_error"] <= 1e-6


def test_a_quantised_weight_stays_quantised() -> None:
    net = Net()
    levels = net.const(net.random.integers(-9, 9, (8, 3, 1, 1)).astype(np.int8))
    weights = net.op(
        "DequantizeLinear", levels, net.const(np.asarray(0.1)), net.const(np.asarray(0, np.int8))
    )
    model = net.model(net.conv(net.conv(net.input("x", ["N", 3, 6, 6]), 8, 1, w=weights), 4))
    assert precomputed(model) is model


def test_kept_dead_channels_are_reported_and_removed_ones_explained() -> None:
    """One constant channel that nothing can inherit from is nothing to remove, and the error says so."""
    net = Net()
    filters = net.weight(4, 3, 3, 3)
    x = net.conv(net.input("x", ["N", 3, 6, 6]), 4, w=filters)
    model = net.model(net.conv(x, 5))
    values = model.array(filters).copy()
    values[1] = 0
    model.set_array(filters, values)
    with pytest.raises(NothingToDoError) as caught:
        Transform()(model)
    assert ABSORBING in caught.value.hint
    result = Transform(allow_unchanged=True)(model)
    assert result.facts["left"][0]["channels"] == 1


@pytest.mark.parametrize("follows", ["Add", "nothing", "Relu"])
def test_constants_go_into_the_sum_after_a_matrix_product(follows: str) -> None:
    """Into the sum that follows, or a new one."""
    net = Net()
    weights, shift = net.weight(5, 8), net.vector(8)
    x = net.relu(net.add(net.op("MatMul", net.input("x", ["N", 3, 5]), weights), shift))
    y = net.op("MatMul", x, net.weight(8, 6))
    y = {"Add": lambda: net.add(net.vector(6), y), "Relu": lambda: net.relu(y), "nothing": lambda: y}[
        follows
    ]()
    model = net.model(y)
    values = model.array(weights).copy()
    values[:, [0, 4, 5]] = 0
    model.set_array(weights, values)
    result = Transform()(model)
    assert [w["after"] for w in result.facts["groups"].values()] == [5]
    assert result.facts["max_rel_error"] <= 1e-6
    assert sum(n.op_type == "Add" for n in result.model.nodes) == 2
    assert result.model.outputs == model.outputs


@pytest.mark.parametrize("attributes", [{}, {"alpha": 0.5, "beta": 2.0}, {"alpha": 3.0, "beta": 0.0}])
@pytest.mark.parametrize("bias", ["none", "vector", "number", "row"])
def test_constants_go_into_the_bias_of_a_gemm(attributes: dict[str, float], bias: str) -> None:
    net = Net()
    weights = net.weight(5, 8)
    x = net.relu(net.op("Gemm", net.input("x", ["N", 5]), weights, net.vector(8)))
    shape = {"vector": (6,), "number": (), "row": (1, 6)}.get(bias)
    rest = [] if shape is None else [net.const(net.random.uniform(0.1, 0.5, shape))]
    model = net.model(net.op("Gemm", x, net.weight(8, 6), *rest, **attributes))
    values = model.array(weights).copy()
    values[:, [0, 4, 5]] = 0
    model.set_array(weights, values)
    result = Transform()(model)
    assert [w["after"] for w in result.facts["groups"].values()] == [5]
    assert result.facts["max_rel_error"] <= 1e-6


@pytest.mark.parametrize(
    ("pool", "stays"),
    [
        ({"kind": "MaxPool", "pad": 1, "k": 3}, False),
        ({"kind": "AveragePool", "pad": 1, "k": 3}, False),
        ({"kind": "AveragePool", "pad": 1, "k": 3, "count_include_pad": 1}, True),
    ],
)
def test_constants_in_pools(pool: dict[str, int], stays: bool) -> None:
    """Padding that counts as zeros makes a frame of a value that was the same everywhere."""
    net = Net()
    filters = net.weight(4, 3, 3, 3)
    x = net.conv(net.input("x", ["N", 3, 6, 6]), 4, w=filters)
    how = {"kernel_shape": [pool.pop("k")] * 2, "pads": [pool.pop("pad")] * 4}
    x = net.op(str(pool.pop("kind")), x, **how, **pool)
    model = net.model(net.conv(x, 5, 1))
    values = model.array(filters).copy()
    values[[1, 2]] = 0
    model.set_array(filters, values)
    evidence = find_evidence(find_channels(model))
    assert sum(map(len, evidence.removed.values())) == (0 if stays else 2)
    assert {r.reason for r in evidence.left} == ({LOST} if stays else set())
    assert error_without(model, evidence) <= 1e-6


def test_channels_nested_with_themselves() -> None:
    """A matrix of products of all pairs of channels, flattened: each lies in a row and in a column."""
    net = Net()
    x = net.linear(net.input("x", ["N", 5, 4]), 3)
    gram = net.op("MatMul", net.transpose(x, 0, 2, 1), x)
    columns = net.weight(2, 9)
    model = net.model(net.op("Gemm", net.op("Flatten", gram), columns, net.vector(2), transB=1))
    values = model.array(columns).copy().reshape(2, 3, 3)
    values[:, :, 2] = 0
    model.set_array(columns, values.reshape(2, 9))
    assert not find_evidence(find_channels(model)).removed
    values[:, 2, :] = 0
    model.set_array(columns, values.reshape(2, 9))
    evidence = find_evidence(find_channels(model))
    assert list(evidence.removed.values()) == [[2]]
    assert error_without(model, evidence) <= 1e-6


def test_constants_that_an_operator_without_a_suitable_bias_reads() -> None:
    """An LSTM that is fed a constant channel keeps it, and so the report says."""
    net = Net()
    weights = net.weight(4, 8)
    x = net.relu(net.add(net.op("MatMul", net.input("x", [5, 2, 4]), weights), net.vector(8, 0.1, 0.5)))
    w, r = net.weight(1, 12, 8, fan=8), net.weight(1, 12, 3, fan=3)
    y = net.op("LSTM", x, w, r, net.const(np.zeros((1, 24))), hidden_size=3)
    model = net.model(y)
    values = model.array(weights).copy()
    values[:, [1, 6]] = 0
    model.set_array(weights, values)
    evidence = find_evidence(find_channels(model))
    assert not evidence.removed
    assert [(r.channels, r.operator, r.reason) for r in evidence.left] == [(2, "LSTM", NO_BIAS)]


def test_an_absorber_keeps_all_channels_it_lies_on() -> None:
    """Groups of a convolution and the channels within them may both go, not both of an absorber."""
    net = Net()
    x = net.conv(net.input("x", ["N", 3, 4, 4]), 8)
    filters = net.weight(12, 2, 1, 1)
    x = net.op("Conv", x, filters, net.vector(12), group=4, kernel_shape=[1, 1])
    x = net.op("Tile", net.bn(x), net.ints(1, 2, 1, 1))
    model = net.model(net.up(x, 3))
    model.set_array(filters, np.zeros((12, 2, 1, 1), np.float32))
    evidence = find_evidence(find_channels(model))
    assert len(evidence.removed) > 1
    assert error_without(model, evidence) <= 1e-6


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_constants_of_nodes_that_have_no_name(channel: int) -> None:
    """A group is named after the result of a node; the constant that is added there gets that name."""
    net = Net()
    x = net.linear(net.input("x", [2, 3]), 3)
    picked = net.op("Gather", x, net.ints(1, 2, 0, 2), axis=1)
    model = net.model(net.op("MatMul", picked, net.weight(4, 5)))
    for node in model.nodes:
        node.ClearField("name")
    values = model.array(model.nodes[0].input[1]).copy()
    values[:, channel] = 0
    model.set_array(model.nodes[0].input[1], values)
    assert Transform()(model).facts["equal"]


def test_one_channel_stays_when_the_others_go_one_after_the_other() -> None:
    """The last channel of an axis dies only because a channel of another axis has gone after the first."""
    weights = np.zeros((3, 2, 2), np.float32)
    weights[:, 1, 1] = (1.0, 2.0, -1.0)  # nothing needs the rows of 1; all of row 0, and column 0, is zero
    net = Net(opset=13)
    x = net.input("x", ["N", 3])
    x = net.op(
        "Reshape", net.op("MatMul", x, net.const(weights.reshape(3, 4))), net.const(np.array([0, 2, 2]))
    )
    x = net.op("ReduceSumSquare", x, axes=[2], keepdims=0)
    x = net.op("MatMul", x, net.const(np.array([[1.0, -2.0], [0.0, 0.0]], np.float32)))
    model = net.model(net.op("Relu", x))
    evidence = find_evidence(find_channels(model))
    sizes = {g.name: g.size for g in evidence.channels.groups}
    assert {name: len(gone) for name, gone in evidence.removed.items()} == dict.fromkeys(sizes, 1)
    assert error_without(model, evidence) <= 1e-6


def test_a_product_of_two_constants_keeps_its_channels() -> None:
    """The folded product is a constant without a group."""
    net = Net()
    table = net.const(net.random.normal(size=(7, 5)).astype(np.float32))
    row = net.const(net.random.normal(size=5).astype(np.float32))
    weights = net.const(np.zeros((5, 4), np.float32))
    looked_up = net.op("MatMul", net.relu(net.op("MatMul", net.input("x", (2, 7)), table)), weights)
    still = net.op("MatMul", row, net.op("Transpose", table, perm=[1, 0]))
    given = net.model(looked_up, still)
    dense = Transform(allow_unchanged=True)(given).model
    feeds = {"x": np.random.default_rng(3).normal(size=(2, 7)).astype(np.float32)}
    for expected, made in zip(
        Session(given.proto).run(feeds).values(), Session(dense.proto).run(feeds).values(), strict=True
    ):
        np.testing.assert_allclose(made, expected, rtol=1e-5)


def test_constants_stay_before_an_axis_that_parts_of_open_size_make_up() -> None:
    """The products are contracted with old and new rows: six together, how many of each is open."""
    net = Net()
    columns, biases = net.random.normal(size=(5, 4)).astype(np.float32), np.full(4, 0.5, np.float32)
    columns[:, 1] = 0
    x = net.op("MatMul", net.input("x", ["b", 5]), net.const(columns))
    x = net.relu(net.op("Add", x, net.const(biases)))
    rows = net.op("Concat", net.input("old", ["p", 3]), net.input("new", ["s", 3]), axis=0)
    x = net.op("MatMul", x, net.weight(4, 6))
    model = net.model(net.op("MatMul", net.op("Add", x, net.vector(6)), rows))
    evidence = find_evidence(find_channels(model))
    assert not evidence.removed
    folded(evidence)


def test_long_axes_without_channels_are_not_listed() -> None:
    net = Net()
    columns = net.random.normal(size=(5, 4)).astype(np.float32)
    columns[:, 1] = 0
    x = net.relu(net.op("MatMul", net.input("x", ["N", 2**40, 5]), net.const(columns)))
    evidence = find_evidence(find_channels(net.model(net.linear(x, 3))))
    assert list(evidence.removed.values()) == [[1]]


def test_a_product_of_a_branch_that_never_fits_is_left_alone() -> None:
    """Nothing is known of it: the branch does not run, and no condition says so beforehand."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[n, 2] x, bool c) => (float[n, 3] y)
        <float[2, 4] w = {1, 0, 2, 3, 4, 0, 5, 6}, float[4] b = {0, 1, 0, 0},
         float[3, 3] wrong = {1, 2, 3, 4, 5, 6, 7, 8, 9},
         float[4, 3] right = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3}> {
        p = MatMul (x, w)
        s = Add (p, b)
        h = Relu (s)
        y = If (c) <then_branch = one () => (float[n, 3] a) { a = MatMul (h, wrong) },
                    else_branch = two () => (float[n, 3] d) { d = MatMul (h, right) }>
    }"""
    channels = find_channels(check(Model(onnx.parser.parse_model(text))))
    evidence = find_evidence(channels)
    folded(evidence)
