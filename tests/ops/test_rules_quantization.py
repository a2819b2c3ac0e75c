"""Quantised networks: a zero is the zero point, scales for each channel are cut along."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np
import pytest
from helpers import Net, half_of_each, prune_exactly
from onnx import TensorProto, helper

from onnxprune.analysis.evidence.liveness import find_evidence
from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.analysis.groups.weight_values import real_values
from onnxprune.decisions.channels.masks import masked
from onnxprune.ir import Model
from onnxprune.passes.prune import Prune
from onnxprune.passes.transform import Transform

KINDS = {"int8": (np.int8, 0), "uint8": (np.uint8, 131)}


def assert_halves(model: Model, *widths: int, tolerance: float = 0.0) -> Channels:
    """Half the channels of every group go; integers come out the same bit by bit."""
    channels = find_channels(model)
    assert sorted(g.size for g in channels.groups) == sorted(widths), channels.blocked
    removed = half_of_each(channels, optional=True)
    outcome = prune_exactly(model, removed, channels)
    assert outcome.error <= tolerance
    assert outcome.change > 1e-3
    assert find_evidence(find_channels(masked(channels, removed))).removed == removed
    return channels


def quantised(net: Net, shape: Sequence[int], kind: str, axis: int | None = 0) -> list[str]:
    """Return a quantised weight, its scale and its zero point, for the whole or for each place on an axis.

    Signed ones have 7 bits: sums of products of 8 unsigned and 8 signed bits saturate on older processors.
    """
    dtype, zero = KINDS[kind]
    info = np.iinfo(dtype)
    low, high = (-64, 64) if kind == "int8" else (info.min, info.max)
    weight = net.const(net.random.integers(low, high, shape, dtype=dtype))
    count = () if axis is None else (shape[axis],)
    zeros = net.const(
        np.full(count, zero, dtype) + (net.random.integers(0, 3, count).astype(dtype) if zero else 0)
    )
    return [weight, net.const(net.random.uniform(0.005, 0.02, count)), zeros]


def parameters(net: Net, scale: float = 0.05, zero: int = 120) -> list[str]:
    """Return scale and zero point of an activation."""
    return [net.const(np.asarray(scale)), net.const(np.asarray(zero, np.uint8))]


def quantise(net: Net, x: str) -> list[str]:
    how = parameters(net)
    return [net.op("QuantizeLinear", x, *how), *how]


def both(net: Net, x: str) -> str:
    """Quantise an activation and read it back."""
    q, *how = quantise(net, x)
    return net.op("DequantizeLinear", q, *how)


def qdq_conv(net: Net, x: str, out: int, kind: str, axis: int | None) -> str:
    weight = net.op("DequantizeLinear", *quantised(net, (out, net.shape(x)[1], 3, 3), kind, axis), axis=0)
    bias = net.op(
        "DequantizeLinear",
        net.const(net.random.integers(-900, 900, out, dtype=np.int32)),
        net.const(np.asarray(1e-3)),
    )
    return net.op("Conv", x, weight, bias, kernel_shape=[3, 3], pads=[1] * 4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axis", [None, 0])
def test_convolutions_between_quantise_and_dequantise(kind: str, axis: int | None) -> None:
    """Sums of floats may round to the neighbouring integer; none does here."""
    net = Net()
    x = both(net, net.input("x", [2, 3, 8, 8]))
    x = both(net, net.relu(qdq_conv(net, x, 16, kind, axis)))
    x = both(net, net.add(x, qdq_conv(net, x, 16, kind, axis)))
    assert_halves(net.model(qdq_conv(net, x, 4, kind, axis)), 16, tolerance=1e-5)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_weight_that_is_transposed_after_dequantising(transposed: bool) -> None:
    net = Net()
    x = both(net, net.input("x", [4, 6]))
    shape, axis = ((16, 6), 0) if transposed else ((6, 16), 1)
    weight = net.op("DequantizeLinear", *quantised(net, shape, "int8", axis), axis=axis)
    weight = net.transpose(weight, 1, 0) if transposed else weight
    y = net.relu(net.op("MatMul", x, weight))
    assert_halves(net.model(net.gemm(y, 3)), 16, tolerance=1e-5)


def test_float_weights_quantised_while_running() -> None:
    net = Net()
    x = both(net, net.input("x", [2, 3, 8, 8]))
    weight = both(net, net.weight(16, 3, 3, 3))
    y = net.op("Conv", x, weight, kernel_shape=[3, 3])
    assert_halves(net.model(net.conv(both(net, net.relu(y)), 4)), 16, tolerance=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axis", [None, 0])
def test_qlinear_convolutions(kind: str, axis: int | None) -> None:
    """Padding is with the zero point, and so is a masked channel."""
    net = Net()
    x = quantise(net, net.input("x", [2, 3, 8, 8]))
    for out in (16, 12, 4):
        weight = quantised(net, (out, net.shape(x[0])[1], 3, 3), kind, axis)
        bias = net.const(net.random.integers(-900, 900, out, dtype=np.int32))
        how = parameters(net, 0.3)
        x = [net.op("QLinearConv", *x, *weight, *how, bias, kernel_shape=[3, 3], pads=[1] * 4), *how]
    assert_halves(net.model(net.op("DequantizeLinear", *x)), 16, 12)


@pytest.mark.parametrize("axis", [None, 0])
def test_qlinear_convolutions_in_groups(axis: int | None) -> None:
    """Four groups of four channels: of each group, and of the groups themselves, half may go."""
    net = Net()
    x = quantise(net, net.input("x", [2, 3, 8, 8]))
    for out, groups in ((16, 1), (16, 4), (4, 1)):
        weight = quantised(net, (out, net.shape(x[0])[1] // groups, 3, 3), "int8", axis)
        how = parameters(net, 0.3)
        sizes = {"kernel_shape": [3, 3], "pads": [1] * 4, "group": groups}
        x = [net.op("QLinearConv", *x, *weight, *how, **sizes), *how]
    assert_halves(net.model(net.op("DequantizeLinear", *x)), 4, 4, 4)


@pytest.mark.parametrize("axis", [None, 1])
def test_qlinear_matrix_products(axis: int | None) -> None:
    net = Net()
    x = quantise(net, net.input("x", [4, 6]))
    for out in (16, 12, 4):
        how = parameters(net, 0.3)
        weight = quantised(net, (net.shape(x[0])[1], out), "uint8", axis)
        x = [net.op("QLinearMatMul", *x, *weight, *how), *how]
    assert_halves(net.model(net.op("DequantizeLinear", *x)), 16, 12)


def dynamic(net: Net, x: str, out: int, kind: str = "uint8") -> str:
    """A dynamically quantised linear layer as onnxruntime writes it."""
    q, scale, zero = net.ops("DynamicQuantizeLinear", x, outputs=3)
    weight, weight_scale, weight_zero = quantised(net, (net.shape(x)[-1], out), kind, None)
    total = net.op("Cast", net.op("MatMulInteger", q, weight, zero, weight_zero), to=TensorProto.FLOAT)
    return net.add(net.mul(total, net.mul(scale, weight_scale)), net.vector(out))


@pytest.mark.parametrize("kind", KINDS)
def test_dynamic_quantisation_does_not_see_zeros(kind: str) -> None:
    net = Net()
    x = net.relu(dynamic(net, net.input("x", [4, 6]), 16, kind))
    x = net.relu(dynamic(net, x, 12, kind))
    assert_halves(net.model(dynamic(net, x, 3, kind)), 16, 12, tolerance=1e-6)


def test_dynamic_quantisation_of_nonzero_values_blocks() -> None:
    """The largest of all elements may be that of a masked channel."""
    net = Net()
    x = net.op("Sigmoid", dynamic(net, net.input("x", [4, 6]), 16))
    assert not find_channels(net.model(dynamic(net, x, 3))).groups


def test_integer_convolution() -> None:
    net = Net()
    q, scale, zero = net.ops("DynamicQuantizeLinear", net.input("x", [2, 3, 8, 8]), outputs=3)
    weight, _, weight_zero = quantised(net, (16, 3, 3, 3), "uint8", None)
    total = net.op("Cast", net.op("ConvInteger", q, weight, zero, weight_zero), to=TensorProto.FLOAT)
    y = net.relu(net.mul(net.mul(total, scale), net.const(np.asarray(0.01))))
    assert_halves(net.model(net.conv(y, 4)), 16, tolerance=1e-5)


def test_integer_convolution_in_groups() -> None:
    net = Net()
    x = net.relu(net.conv(net.input("x", [2, 3, 8, 8]), 8))
    q, scale, zero = net.ops("DynamicQuantizeLinear", x, outputs=3)
    weight, _, weight_zero = quantised(net, (12, 4, 3, 3), "uint8", None)
    total = net.op("Cast", net.op("ConvInteger", q, weight, zero, weight_zero, group=2), to=TensorProto.FLOAT)
    y = net.relu(net.mul(net.mul(total, scale), net.const(np.asarray(0.01))))
    assert_halves(net.model(net.conv(y, 4)), 2, 4, 6, tolerance=1e-5)


def test_a_weight_whose_zero_point_is_computed_is_cut_but_not_masked() -> None:
    """Masks of the channels' readers are enough."""
    net = Net()
    x = net.input("x", [4, 6])
    zero = net.input("zero", [], kind=TensorProto.UINT8)
    weight, scale, _ = quantised(net, (6, 16), "uint8", None)
    y = net.op("MatMul", x, net.op("DequantizeLinear", weight, scale, zero))
    channels = find_channels(net.model(net.gemm(y, 3)))
    assert [[p.weight for p in g.places] for g in channels.groups] == [[False, True]]
    assert prune_exactly(channels.model, half_of_each(channels), channels).error <= 1e-5


def test_prune_and_transform() -> None:
    net = Net()
    x = both(net, net.input("x", ["batch", 3, 8, 8]))
    x = both(net, net.relu(qdq_conv(net, x, 32, "int8", 0)))
    x = both(net, net.relu(qdq_conv(net, x, 32, "uint8", 0)))
    facts = Transform()(Prune(reduce_macs=0.5)(net.model(net.head(x)))).facts
    assert facts["macs"] < 0.6 * facts["macs_before"]


def contrib(net: Net, kind: str, *operands: str, shape: list[int], dtype: int, **attributes: object) -> str:
    """Add an operator of onnxruntime's own whose result has a given shape and type."""
    made = net.op(kind, *operands, domain="com.microsoft", **attributes)
    net.types[made] = helper.make_tensor_type_proto(dtype, shape)
    return made


def test_integer_operators_of_the_runtime() -> None:
    """Operators of onnxruntime's quantiser: sums, products, activations, pooling and Concat of integers."""
    net = Net()
    image = quantise(net, net.input("x", [2, 3, 8, 8]))

    def conv(x: list[str], out: int) -> list[str]:
        weight = quantised(net, (out, net.shape(x[0])[1], 3, 3), "uint8", 0)
        bias = net.const(net.random.integers(-900, 900, out, dtype=np.int32))
        how = parameters(net, 0.3)
        return [net.op("QLinearConv", *x, *weight, *how, bias, kernel_shape=[3, 3], pads=[1] * 4), *how]

    def step(kind: str, *operands: str, shape: list[int], **attributes: object) -> list[str]:
        how = parameters(net, 0.3)
        made = contrib(net, kind, *operands, *how, shape=shape, dtype=TensorProto.UINT8, **attributes)
        return [made, *how]

    shape = [2, 16, 8, 8]
    a, b = conv(image, 16), conv(image, 16)
    total = step("QLinearAdd", *a, *b, shape=shape)
    total = step("QLinearLeakyRelu", *total, shape=shape, alpha=0.1)
    gate = step("QLinearSigmoid", *conv(total, 16), shape=shape)
    gated = step("QLinearMul", *total, *gate, shape=shape)
    how = parameters(net, 0.3)
    operands = [*how, *gated, *conv(gated, 12)]
    joined = contrib(net, "QLinearConcat", *operands, shape=[2, 28, 8, 8], dtype=TensorProto.UINT8, axis=1)
    pooled = step("QLinearGlobalAveragePool", joined, *how, shape=[2, 28, 1, 1])
    assert_halves(net.model(net.op("DequantizeLinear", *conv(pooled, 4))), 16, 12)


@pytest.mark.parametrize("axis", [None, 1])
def test_fused_dynamic_matrix_products(axis: int | None) -> None:
    net = Net()
    x = net.relu(net.linear(net.input("x", [4, 6]), 24))
    weight, scale, zero = quantised(net, (24, 16), "uint8", axis)
    operands = [x, weight, scale, zero, net.vector(16)]
    y = net.relu(contrib(net, "DynamicQuantizeMatMul", *operands, shape=[4, 16], dtype=net.kind))
    q, q_scale, q_zero = net.ops("DynamicQuantizeLinear", y, outputs=3)
    weight, scale, zero = quantised(net, (16, 12), "uint8", axis)
    operands = [q, weight, q_scale, scale, q_zero, zero, net.vector(12)]
    z = net.relu(contrib(net, "MatMulIntegerToFloat", *operands, shape=[4, 12], dtype=net.kind))
    assert_halves(net.model(net.gemm(z, 3)), 24, 16, 12, tolerance=1e-5)


def test_dynamic_products_of_nonzero_values_block() -> None:
    net = Net()
    x = net.op("Sigmoid", net.linear(net.input("x", [4, 6]), 24))
    operands = [x, *quantised(net, (24, 3), "uint8", None)]
    y = contrib(net, "DynamicQuantizeMatMul", *operands, shape=[4, 3], dtype=net.kind)
    assert not find_channels(net.model(y)).groups


def test_a_weight_read_with_two_zero_points_is_not_masked() -> None:
    """Zero for one reader is not zero for the other; columns of the sum's readers can be masked."""
    net = Net()
    x = net.input("x", [4, 6])
    weight, scale, zero = quantised(net, (6, 16), "uint8", None)
    first = net.op("MatMul", x, net.op("DequantizeLinear", weight, scale, zero))
    other = net.const(np.asarray(7, np.uint8))
    second = net.op("MatMul", x, net.op("DequantizeLinear", weight, scale, other))
    model = net.model(net.gemm(net.relu(net.add(first, second)), 3))
    channels = find_channels(model)
    (group,) = channels.groups
    assert weight not in {p.tensor for p in group.places if p.weight}
    assert prune_exactly(model, half_of_each(channels), channels).error <= 1e-5


def runtime_op(net: Net, kind: str, *operands: str, shape: Sequence[int], of: int = 0, **how: object) -> str:
    """Add an operator of onnxruntime's own; ``of`` is its element type where that is not float."""
    made = net.op(kind, *operands, domain="com.microsoft", **how)
    net.types[made] = helper.make_tensor_type_proto(of or net.kind, shape)
    return made


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("axis", [None, 0])
def test_quantised_gemm(transposed: int, axis: int | None) -> None:
    net = Net()
    x = quantise(net, net.input("x", [4, 6]))
    for out in (16, 12):
        shape = (out, net.shape(x[0])[1]) if transposed else (net.shape(x[0])[1], out)
        weight = quantised(net, shape, "int8", None if axis is None else 1 - transposed)
        bias = net.const(net.random.integers(-90, 90, out, dtype=np.int32))
        how = parameters(net, 0.3)
        y = runtime_op(
            net, "QGemm", *x, *weight, bias, *how, shape=[4, out], of=TensorProto.UINT8, transB=transposed
        )
        x = [y, *how]
    y = net.op("DequantizeLinear", *x)
    assert_halves(net.model(net.gemm(y, 3)), 16, 12, tolerance=1e-5)


def n_bits(net: Net, x: str, out: int, *, bits: int = 4, flat: bool = True, zeros: str = "none") -> str:
    """A matrix product with a few bits an element, a scale for each sixteen of them."""
    width = net.shape(x)[-1]
    blocks = -(-width // 16)
    shape = (out, blocks, 2 * bits)
    packed = net.const(net.random.integers(0, 256, shape).astype(np.uint8))
    scales = net.random.uniform(0.01, 0.05, (out, blocks)) * (8 if bits == 4 else 1)
    operands = [packed, net.const(scales.ravel() if flat else scales)]
    if zeros == "packed":
        each = -(-blocks * bits // 8)
        points = net.random.integers(0, 256, (out, each)).astype(np.uint8)
        operands.append(net.const(points.ravel() if flat else points))
    how = {"K": width, "N": out, "bits": bits, "block_size": 16}
    return runtime_op(net, "MatMulNBits", x, *operands, shape=[4, out], **how)


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize(("bits", "zeros"), [(4, "none"), (8, "none"), (8, "packed")])
def test_products_of_a_few_bits_an_element(flat: bool, bits: int, zeros: str) -> None:
    """Along the sum whole blocks of sixteen go; a bias is added and cut with the columns."""
    net = Net()
    x = net.relu(net.linear(net.input("x", [4, 6]), 64))
    x = net.relu(n_bits(net, x, 32, bits=bits, flat=flat, zeros=zeros))
    x = net.relu(n_bits(net, x, 8, bits=bits, flat=flat, zeros=zeros))
    assert_halves(net.model(net.linear(x, 3)), 4, 2, 8, tolerance=1e-5)


def test_zero_points_that_share_a_byte_keep_the_blocks() -> None:
    net = Net()
    x = net.relu(net.linear(net.input("x", [4, 6]), 64))
    x = net.relu(n_bits(net, x, 8, zeros="packed"))
    assert_halves(net.model(net.linear(x, 3)), 8, tolerance=1e-5)


def test_a_last_block_that_is_not_full_keeps_the_sum() -> None:
    net = Net()
    x = net.relu(net.linear(net.input("x", [4, 6]), 40))
    x = net.relu(n_bits(net, x, 8))
    channels = assert_halves(net.model(net.linear(x, 3)), 8, tolerance=1e-5)
    assert "its last block is not full" in {b.reason for a in channels.blocked for b in a.reasons}


@pytest.mark.parametrize("axis", [None, 1])
def test_quantised_attention(axis: int | None) -> None:
    net = Net()
    x, scale, zero = quantise(net, net.input("x", [2, 5, 12]))
    weight, weight_scale, weight_zero = quantised(net, (12, 3 * 48), "int8", axis)
    scales = [scale, weight_scale, "", zero, weight_zero]
    y = runtime_op(net, "QAttention", x, weight, net.vector(144), *scales, shape=[2, 5, 48], num_heads=6)
    assert_halves(net.model(net.linear(y, 3)), 6, 8, tolerance=1e-5)


def test_channels_on_the_last_axis() -> None:
    net = Net()
    x = quantise(net, net.input("x", [2, 8, 8, 3]))
    for out in (16, 12):
        weight = quantised(net, (out, net.shape(x[0])[3], 3, 3), "int8", 0)
        bias = net.const(net.random.integers(-90, 90, out, dtype=np.int32))
        how, sizes = parameters(net, 0.3), {"kernel_shape": [3, 3], "pads": [1] * 4, "channels_last": 1}
        made = [2, 8, 8, out]
        y = runtime_op(net, "QLinearConv", *x, *weight, *how, bias, shape=made, of=TensorProto.UINT8, **sizes)
        y = runtime_op(net, "NhwcMaxPool", y, shape=made, of=TensorProto.UINT8, kernel_shape=[1, 1])
        x = [y, *how]
    y = net.transpose(net.op("DequantizeLinear", *x), 0, 3, 1, 2)
    assert_halves(net.model(net.conv(y, 3)), 16, 12, tolerance=1e-5)


def test_a_choice_between_quantised_operands() -> None:
    net = Net()
    x = net.linear(net.input("x", [4, 6]), 16)
    a, b = quantise(net, net.relu(x)), quantise(net, net.op("Neg", x))
    which = net.const(net.random.integers(0, 2, (4, 1)).astype(bool))
    how = parameters(net)
    y = runtime_op(net, "QLinearWhere", which, *a, *b, *how, shape=[4, 16], of=TensorProto.UINT8)
    assert_halves(net.model(net.linear(net.op("DequantizeLinear", y, *how), 3)), 16, tolerance=1e-5)


def test_a_quantised_softmax_keeps_its_normalised_axis() -> None:
    net = Net()
    x = quantise(net, net.linear(net.input("x", [4, 6]), 16))
    how = [net.const(np.asarray(1 / 256)), net.const(np.asarray(0, np.uint8))]
    y = runtime_op(net, "QLinearSoftmax", *x, *how, shape=[4, 16], of=TensorProto.UINT8, axis=1, opset=13)
    channels = find_channels(net.model(net.linear(net.op("DequantizeLinear", y, *how), 3)))
    assert not channels.groups
    assert "it normalises over this axis" in {b.reason for a in channels.blocked for b in a.reasons}


@pytest.mark.parametrize("packing", ["uint4", "int4", "packed", "bytes"])
@pytest.mark.parametrize("zeros", [False, True])
def test_tables_in_blocks(packing: str, zeros: bool) -> None:
    """Rows are picked and dequantised; along them whole blocks can go, unless zero points share bytes."""
    net = Net(opset=21, ir=10)
    rows, width, size = 20, 128, 16
    dtype = {"uint4": ml_dtypes.uint4, "int4": ml_dtypes.int4}.get(packing, np.uint8)
    each, high = {"packed": (2, 256), "bytes": (1, 256)}.get(packing, (1, 8))
    table = net.const(net.random.integers(0, high, (rows, width // each)).astype(dtype))
    blocks = width // size
    operands = [table, net.input("ids", ["n", 5], TensorProto.INT64)]
    operands.append(net.const(net.random.uniform(0.01, 0.02, (rows, blocks))))
    if zeros:
        operands.append(net.const(net.random.integers(0, high, (rows, blocks // each)).astype(dtype)))
    how = {"block_size": size, "bits": 8 if packing == "bytes" else 4, "gather_axis": 0, "quantize_axis": 1}
    x = runtime_op(net, "GatherBlockQuantized", *operands, shape=[0, 5, width], **how)
    model = net.model(net.linear(net.relu(x), 6))
    if packing == "packed" and zeros:
        assert not find_channels(model).groups
    else:
        assert_halves(model, blocks, tolerance=1e-5)


def test_tables_in_blocks_along_the_other_axis() -> None:
    net = Net(opset=21, ir=10)
    table = net.const(net.random.integers(0, 8, (64, 20)).astype(ml_dtypes.uint4))
    operands = [
        table,
        net.input("ids", ["n"], TensorProto.INT64),
        net.const(net.random.uniform(0.1, 0.2, (4, 20))),
    ]
    how = {"block_size": 16, "gather_axis": 1, "quantize_axis": 0}
    x = net.transpose(runtime_op(net, "GatherBlockQuantized", *operands, shape=[64, 0], **how), 1, 0)
    net.types[x] = helper.make_tensor_type_proto(net.kind, [None, 64])
    assert_halves(net.model(net.linear(x, 6)), 4, tolerance=1e-5)


def test_zero_points_that_are_equal_are_shared_by_accident() -> None:
    """An exporter writes equal zero points once, those of vectors and those of blocks."""
    net = Net(opset=21, ir=10)
    x = net.input("x", ["n", 32])
    vector, blocks = net.const(np.full(32, 3, np.uint8)), net.const(np.full((4, 32), 5, np.uint8))
    for _ in range(2):
        q = net.const(net.random.integers(0, 255, (32, 32), dtype=np.uint8))
        w = net.op("DequantizeLinear", q, net.const(net.random.uniform(0.002, 0.004, 32)), vector, axis=1)
        x = net.op("MatMul", x, w)
        q = net.const(net.random.integers(0, 255, (32, 32), dtype=np.uint8))
        scale = net.const(net.random.uniform(0.002, 0.004, (4, 32)))
        x = net.op("MatMul", x, net.op("DequantizeLinear", q, scale, blocks, axis=0, block_size=8))
    assert_halves(net.model(net.linear(x, 6)), 4, 4, 32, 32, tolerance=1e-5)


def test_biases_of_integers_that_are_equal() -> None:
    net = Net()
    x = quantise(net, net.input("x", [2, 3, 8, 8]))
    bias = net.const(np.arange(16).astype(np.int32))
    for _ in range(2):
        weight = quantised(net, (16, net.shape(x[0])[1], 3, 3), "int8", 0)
        how = parameters(net)
        x = [net.op("QLinearConv", *x, *weight, *how, bias, kernel_shape=[3, 3], pads=[1] * 4), *how]
    weight = quantised(net, (4, 16, 3, 3), "int8", 0)
    y = net.op("QLinearConv", *x, *weight, *parameters(net), kernel_shape=[3, 3])
    assert_halves(net.model(y), 16, 16, tolerance=0.0)


def test_a_last_block_that_is_not_full_is_read() -> None:
    """Ten rows in blocks of four have three scales."""
    net = Net(opset=21)
    weight = net.const(net.random.integers(-7, 8, (10, 8), dtype=np.int8))
    scale = net.const(net.random.uniform(0.01, 0.02, (3, 8)))
    x = net.relu(net.linear(net.input("x", [2, 6]), 10))
    y = net.op("MatMul", x, net.op("DequantizeLinear", weight, scale, axis=0, block_size=4))
    model = net.model(net.head(net.relu(y)))
    channels = find_channels(model)
    assert real_values(channels.typing, weight).shape == (10, 8)
    assert find_evidence(channels).removed == {}


@pytest.mark.parametrize("shape", [(5,), (2, 8), (2, 10, 8)])
@pytest.mark.parametrize("block", [0, 4])
def test_a_scale_that_does_not_fit_is_reported(shape: tuple[int, ...], block: int) -> None:
    """The checker accepts it, no runtime does."""
    net = Net(opset=21)
    weight = net.const(net.random.integers(-7, 8, (10, 8), dtype=np.int8))
    scale = net.const(np.ones(shape))
    x = net.relu(net.linear(net.input("x", [2, 6]), 10))
    how = {"axis": 0, "block_size": block} if block else {"axis": 0}
    y = net.op("MatMul", x, net.op("DequantizeLinear", weight, scale, **how))
    channels = find_channels(net.model(net.sized(y, [2, 8])))
    reasons = {b.reason for a in channels.blocked for b in a.reasons}
    assert "its operand 1 does not fit the quantised tensor" in reasons
    find_evidence(channels)
