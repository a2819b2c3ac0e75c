"""Zero is the zero point: in every constant that is masked, behind any nodes and for any readers."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from helpers import Net, half_of_each, prune_exactly
from onnx import TensorProto
from places import CASES

from onnxprune.analysis.evidence.liveness import find_evidence
from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.decisions.channels.masks import masked
from onnxprune.ir import Model, load
from onnxprune.passes import Prune, Transform

WIDTH, ROWS = 16, 24
TYPES = {
    "uint8": (np.uint8, 127),
    "int8": (np.int8, -3),
    "uint4": (ml_dtypes.uint4, 8),
    "int4": (ml_dtypes.int4, 2),
}

each_type = pytest.mark.parametrize("kind", TYPES)


def exact(model: Model, widths: list[int], seed: int = 0) -> Channels:
    """Half of all channels go: exactly, and found again in the weights alone."""
    channels = find_channels(model)
    assert sorted(g.size for g in channels.groups) == sorted(widths), channels.blocked
    removed = half_of_each(channels, seed)
    outcome = prune_exactly(model, removed, channels)
    assert outcome.error <= 1e-5
    found = find_evidence(find_channels(masked(channels, removed))).removed
    assert {n: r for n, r in found.items() if n in removed} == removed
    return channels


def whole(net: Net, shape: tuple[int, ...], kind: str) -> str:
    dtype, _ = TYPES[kind]
    low, high = (-8, 8) if kind == "int4" else (0, 16) if kind == "uint4" else (-100, 100)
    if kind == "uint8":
        low, high = 0, 255
    return net.const(net.random.integers(low, high, shape).astype(dtype))


def parameters(net: Net, kind: str, count: int | None = None) -> tuple[str, str]:
    """Return scale and zero point: one number, or one for each of so many places."""
    dtype, zero = TYPES[kind]
    shape = () if count is None else (count,)
    zeros = np.full(shape, zero) + (np.arange(count) % 3 if count is not None else 0)
    return net.const(net.random.uniform(0.01, 0.03, shape)), net.const(np.asarray(zeros).astype(dtype))


def rms(net: Net, x: str) -> str:
    """Normalise over the last axis: removed channels have to be zero there."""
    mean = net.reduce("ReduceMean", net.mul(x, x), [-1])
    y = net.op("Div", x, net.op("Sqrt", net.add(mean, net.const(1e-5))))
    return net.mul(y, net.vector(net.shape(x)[-1], 0.7, 1.3))


def ids(net: Net) -> str:
    return net.input("ids", ["n", 5], TensorProto.INT64)


def looked_up(net: Net, kind: str, axis: int | None) -> tuple[str, str, str, int]:
    table = whole(net, (ROWS, WIDTH), kind)
    return net.op("Gather", table, ids(net)), *parameters(net, kind, None if axis is None else WIDTH), 2


def looked_up_transposed(net: Net, kind: str, axis: int | None) -> tuple[str, str, str, int]:
    table = net.transpose(whole(net, (WIDTH, ROWS), kind), 1, 0)
    return net.op("Gather", table, ids(net)), *parameters(net, kind, None if axis is None else WIDTH), 2


def looked_up_in_pieces(net: Net, kind: str, axis: int | None) -> tuple[str, str, str, int]:
    """Two tables laid end to end, cut again, and picked from."""
    rows = ROWS // 2
    table = net.concat(whole(net, (rows, WIDTH), kind), whole(net, (rows, WIDTH), kind), axis=0)
    table = net.slice(table, 1, 2**31, axis=0)
    return net.op("Gather", table, ids(net)), *parameters(net, kind, None if axis is None else WIDTH), 2


def looked_up_reshaped(net: Net, kind: str, axis: int | None) -> tuple[str, str, str, int]:
    table = net.reshape(whole(net, (1, ROWS, WIDTH, 1), kind), ROWS, WIDTH)
    picked = net.unsqueeze(net.op("Gather", table, ids(net)), 0)
    return net.squeeze(picked, 0), *parameters(net, kind, None if axis is None else WIDTH), 2


TABLES = [looked_up, looked_up_transposed, looked_up_in_pieces, looked_up_reshaped]


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize("axis", [None, -1])
@pytest.mark.parametrize("table", TABLES)
def test_tables(table: Callable[..., tuple[str, str, str, int]], kind: str, axis: int | None) -> None:
    """Rows of a quantised table, dequantised after they are picked, then normalised."""
    net = Net(opset=21, ir=10)
    picked, scale, zero, place = table(net, kind, axis)
    x = net.op("DequantizeLinear", picked, scale, zero, axis=place)
    exact(net.model(net.linear(rms(net, x), 6)), [WIDTH])


@each_type
@pytest.mark.parametrize("axis", [None, 1])
def test_a_matrix_turned_before_it_is_dequantised(kind: str, axis: int | None) -> None:
    net = Net(opset=21, ir=10)
    q = net.transpose(whole(net, (WIDTH, 8), kind), 1, 0)
    w = net.op("DequantizeLinear", q, *parameters(net, kind, None if axis is None else WIDTH), axis=1)
    x = net.op("MatMul", net.input("x", ["n", 8]), w)
    exact(net.model(net.linear(rms(net, x), 6)), [WIDTH])


@pytest.mark.parametrize("zero", [None, 3])
def test_products_of_integers_behind_a_transpose(zero: int | None) -> None:
    net = Net(opset=21, ir=10)
    q, scale, x_zero = net.ops("DynamicQuantizeLinear", net.input("x", [4, 8]), outputs=3)
    w = net.transpose(whole(net, (WIDTH, 8), "int8"), 1, 0)
    operands = [q, w, x_zero, *([net.const(np.int8(zero))] if zero is not None else [])]
    y = net.op("Cast", net.op("MatMulInteger", *operands), to=TensorProto.FLOAT)
    y = net.mul(y, net.mul(scale, net.const(0.02)))
    exact(net.model(net.linear(rms(net, y), 6)), [WIDTH])


@pytest.mark.parametrize("fill", [None, 127, 5])
def test_padding_of_integers(fill: int | None) -> None:
    """Padding with anything but the zero point leaves a frame of other numbers around a removed channel."""
    net = Net(opset=21, ir=10)
    x = net.relu(net.conv(net.input("x", [1, 3, 6, 6]), WIDTH))
    how = parameters(net, "uint8")
    q = net.op("QuantizeLinear", x, *how)
    value = [net.const(np.uint8(fill))] if fill is not None else []
    q = net.op("Pad", q, net.ints(0, 0, 1, 1, 0, 0, 1, 1), *value)
    y = net.op("DequantizeLinear", q, *how)
    y = net.reduce("ReduceL2", y, [1])
    model = net.model(net.conv(y, 4))
    if fill == 127:
        exact(model, [WIDTH])
    else:
        assert not find_channels(model).groups


def test_two_zero_points_on_the_way() -> None:
    """Integers made with one zero point and read with another are not zero where they were made so."""
    net = Net(opset=21, ir=10)
    x = net.relu(net.linear(net.input("x", [4, 6]), WIDTH))
    q = net.op("QuantizeLinear", x, net.const(0.02), net.const(np.uint8(10)))
    y = net.op("DequantizeLinear", q, net.const(0.02), net.const(np.uint8(20)))
    assert not find_channels(net.model(net.linear(rms(net, y), 6))).groups


def test_float_weights_quantised_with_another_zero_point() -> None:
    net = Net(opset=21, ir=10)
    w = net.op("QuantizeLinear", net.weight(6, WIDTH, fan=6), net.const(0.02), net.const(np.uint8(10)))
    w = net.op("DequantizeLinear", w, net.const(0.02), net.const(np.uint8(20)))
    y = net.op("MatMul", net.input("x", [4, 6]), w)
    assert not find_channels(net.model(net.linear(rms(net, y), 6))).groups


def test_dequantising_spelled_out() -> None:
    """Cast, Sub, Mul: the zero point is subtracted, so that masking with 0 would not do."""
    net = Net(opset=21, ir=10)
    q = net.op("Gather", whole(net, (ROWS, WIDTH), "uint8"), ids(net))
    x = net.op("Sub", net.op("Cast", q, to=net.kind), net.const(127.0))
    x = net.mul(x, net.const(0.02))
    assert not find_channels(net.model(net.linear(rms(net, x), 6))).groups


def test_symmetric_dequantising_spelled_out() -> None:
    net = Net(opset=21, ir=10)
    q = net.op("Gather", whole(net, (ROWS, WIDTH), "int8"), ids(net))
    x = net.mul(net.op("Cast", q, to=net.kind), net.const(0.02))
    exact(net.model(net.linear(rms(net, x), 6)), [WIDTH])


def test_tables_of_indices_are_no_groups() -> None:
    """Indices of the bias for each pair of places, as in attention over windows."""
    net = Net()
    table = net.const(net.random.integers(0, 9, (6, 6)).astype(np.int64))
    picked = net.op("Gather", table, net.input("rows", ["n"], TensorProto.INT64))
    bias = net.op("Gather", net.weight(9, 8, fan=1), picked)
    x = net.add(net.linear(net.input("x", ["n", 6, 4]), 8), bias)
    channels = find_channels(net.model(net.linear(x, 3)))
    assert [g.size for g in channels.groups] == [8]
    assert table not in {p.tensor for g in channels.groups for p in g.places}


@pytest.mark.parametrize("kind", ["int4", "uint4", "int8"])
@pytest.mark.parametrize("axis", [0, 1])
def test_blocks(kind: str, axis: int) -> None:
    """Along the axis of the blocks they go whole, along the other one channel by channel."""
    net = Net(opset=21, ir=10)
    x, widths = net.input("x", ["n", 16]), (32, 48, 8)
    for out in widths:
        shape = (net.shape(x)[-1], out)
        sizes = tuple(s // 8 if k == axis else s for k, s in enumerate(shape))
        dtype, zero = TYPES[kind]
        zeros = (zero + net.random.integers(0, 3, sizes)).astype(dtype)
        scales = net.const(net.random.uniform(0.02, 0.05, sizes))
        w = net.op(
            "DequantizeLinear", whole(net, shape, kind), scales, net.const(zeros), axis=axis, block_size=8
        )
        x = net.op("MatMul", x, w) if out == 8 else net.relu(net.op("MatMul", x, w))
    exact(net.model(x), [4, 6])


def test_blocks_that_are_not_full() -> None:
    net = Net(opset=21, ir=10)
    x = net.relu(net.linear(net.input("x", ["n", 16]), 20))
    scales = net.const(net.random.uniform(0.02, 0.05, (3, 8)))
    w = net.op("DequantizeLinear", whole(net, (20, 8), "int8"), scales, axis=0, block_size=8)
    channels = find_channels(net.model(net.op("MatMul", x, w)))
    assert not channels.groups
    assert any("not full" in r.reason for b in channels.blocked for r in b.reasons)


@pytest.mark.parametrize("file", ["q_embed_rms", "int4"])
def test_files(file: str) -> None:
    sparse = Prune(reduce_channels=0.5, round_to=1)(load(CASES / f"{file}.onnx"))
    facts = Transform()(sparse).facts
    assert facts["max_rel_error"] <= 1e-5
    assert facts["params_reduction"] >= 0.49


def test_scales_that_differ_from_reader_to_reader() -> None:
    """The zero is the same, so it can be masked; the real values of the numbers differ."""
    net = Net(opset=21, ir=10)
    q, zero = whole(net, (6, WIDTH), "uint8"), net.const(np.uint8(127))
    x = net.input("x", [4, 6])
    a, b = (net.op("MatMul", x, net.op("DequantizeLinear", q, net.const(s), zero)) for s in (0.01, 0.02))
    model = net.model(net.linear(rms(net, net.add(a, b)), 6))
    channels = exact(model, [WIDTH])
    assert q in {p.tensor for p in channels.groups[0].places if p.weight}
