"""Operators that onnxruntime's optimiser makes, and Einsum."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from helpers import Net, half_of_each, prune_exactly
from onnx import helper, load_model_from_string

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.ir import Model, check
from onnxprune.ops.axes.blocking import MICROSOFT_REASONS

MICROSOFT = "com.microsoft"


def assert_halves(model: Model, *widths: int) -> Channels:
    """Half the channels of every group go, optional ones included, exactly; the groups are as expected."""
    channels = find_channels(model)
    assert sorted(g.size for g in channels.groups) == sorted(widths), channels.blocked
    outcome = prune_exactly(model, half_of_each(channels, optional=True), channels)
    assert outcome.error <= 1e-5
    assert outcome.change > 1e-3
    return channels


def contrib(net: Net, kind: str, *operands: str, shape: list[int], **attributes: object) -> str:
    """Add an operator of onnxruntime's own whose result has a given shape."""
    made = net.op(kind, *operands, domain=MICROSOFT, **attributes)
    net.types[made] = helper.make_tensor_type_proto(net.kind, shape)
    return made


@pytest.mark.parametrize("kind", ["Gelu", "QuickGelu", "BiasGelu", "FastGelu"])
def test_activations(kind: str) -> None:
    """The scores between rows need the activation of zero to be zero."""
    net = Net()
    x = net.linear(net.input("x", [2, 5, 6]), 16)
    bias = [net.vector(16)] if kind in ("BiasGelu", "FastGelu") else []
    y = contrib(net, kind, x, *bias, shape=[2, 5, 16])
    assert_halves(net.model(net.op("MatMul", y, net.transpose(y, 0, 2, 1))), 16)


def test_gated_activation() -> None:
    """Newer than the runtime, so only the axes are looked at."""
    net = Net(opset=28)
    x = net.input("x", [2, 5, 6])
    y = net.op("SwiGLU", net.linear(x, 16), net.linear(x, 16))
    net.types[y] = helper.make_tensor_type_proto(net.kind, [2, 5, 16])
    assert len(find_channels(net.model(net.linear(y, 3))).groups) == 1


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid"])
def test_fused_convolution_and_sum(activation: str) -> None:
    net = Net()
    x = net.conv(net.input("x", [2, 3, 6, 6]), 8)
    operands = [x, net.weight(8, 8, 3, 3), net.vector(8), x]
    sizes = {"kernel_shape": [3, 3], "pads": [1] * 4}
    y = contrib(net, "FusedConv", *operands, shape=[2, 8, 6, 6], activation=activation, **sizes)
    z = net.conv(y, 4)
    assert_halves(net.model(z), 8)
    total = net.model(z, net.reduce("ReduceSum", y, [1]))
    if activation == "Relu":
        assert_halves(total, 8)
    else:
        assert not find_channels(total).groups


@pytest.mark.parametrize("swapped", [0, 1])
def test_fused_matrix_products(swapped: int) -> None:
    """A head-wise product whose second operand is swapped and scaled by the node itself."""
    net = Net()
    x = net.input("x", [2, 5, 6])
    q, k = (net.transpose(net.reshape(net.linear(x, 32), 2, 5, 4, 8), 0, 2, 1, 3) for _ in range(2))
    k = k if swapped else net.transpose(k, 0, 1, 3, 2)
    y = contrib(net, "FusedMatMul", q, k, shape=[2, 4, 5, 5], transB=swapped, alpha=0.3)
    assert_halves(net.model(net.linear(net.reshape(net.transpose(y, 0, 2, 1, 3), 2, 5, 20), 3)), 4, 8)


def test_fused_gemm() -> None:
    net = Net()
    x = net.input("x", [4, 6])
    operands = [x, net.weight(16, 6), net.vector(16)]
    y = contrib(net, "FusedGemm", *operands, shape=[4, 16], transB=1, activation="Relu")
    assert_halves(net.model(net.gemm(y, 3)), 16)


@pytest.mark.parametrize(
    "equation", ["bti,io->bto", "...i,io->...o", "b t i, o i -> b t o", "bti,io->bot", "bti,io"]
)
def test_einsum_as_a_linear_layer(equation: str) -> None:
    net = Net()
    x = net.input("x", [2, 5, 6])
    weight = net.weight(16, 6) if ", o i" in equation else net.weight(6, 16, fan=6)
    y = net.relu(net.op("Einsum", x, weight, equation=equation))
    y = net.transpose(y, 0, 2, 1) if equation in ("bti,io->bot", "bti,io") else y
    assert_halves(net.model(net.linear(y, 3)), 16)


def test_einsum_attention() -> None:
    """Heads and widths are letters; the width is summed over two activations and comes second."""
    net = Net()
    x = net.input("x", [2, 5, 6])
    q, k, v = (net.op("Einsum", x, net.weight(6, 4, 8, fan=6), equation="bti,ihd->bthd") for _ in range(3))
    scores = net.op("Softmax", net.op("Einsum", q, k, equation="bqhd,bkhd->bhqk"), axis=-1)
    y = net.op("Einsum", scores, v, equation="bhqk,bkhd->bqhd")
    z = net.op("Einsum", y, net.weight(4, 8, 6, fan=32), equation="bthd,hdo->bto")
    assert_halves(net.model(z), 4, 8, 8)


def test_einsum_sum_over_nonzero_values_blocks() -> None:
    net = Net()
    x = net.op("Sigmoid", net.linear(net.input("x", [2, 5, 6]), 16))
    assert not find_channels(net.model(net.op("Einsum", x, equation="btc->bt"))).groups
    y = net.relu(net.linear("x", 16))
    assert_halves(net.model(net.op("Einsum", y, equation="btc->bt")), 16)


def test_einsum_diagonals_are_left_alone() -> None:
    net = Net()
    square = net.op("MatMul", net.weight(16, 6), net.transpose(net.input("x", [16, 6]), 1, 0))
    channels = find_channels(net.model(net.op("Einsum", square, equation="ii->i")))
    assert not channels.groups


def test_a_transformer_as_the_optimiser_leaves_it() -> None:
    """Models that onnxruntime writes at its extended level are read and pruned exactly."""
    net = Net()
    x = net.input("x", ["batch", 5, 16])
    gelu = net.linear(x, 32)
    erf = net.op("Erf", net.op("Div", gelu, net.const(np.sqrt(2.0))))
    gelu = net.mul(net.mul(gelu, net.add(erf, net.const(1.0))), net.const(0.5))
    h = net.layer_norm(net.add(x, net.linear(gelu, 16)))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    model = optimised(net.model(net.linear(h, 4)), options)
    assert {"LayerNormalization", "SkipLayerNormalization"} & {n.op_type for n in model.nodes}
    assert {"Gelu", "BiasGelu"} & {n.op_type for n in model.nodes}
    assert_halves(model, 32)


def optimised(model: Model, options: onnxruntime.SessionOptions) -> Model:
    """Return the model as onnxruntime rewrites it."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(
            model.proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return check(Model(load_model_from_string(path.read_bytes())))


def test_older_names_of_standard_operators() -> None:
    """Padded, warped: each is read as the operator of the standard that took its place."""
    net = Net()
    x = net.conv(net.input("x", [2, 3, 6, 6]), 8)
    x = contrib(net, "Pad", x, net.ints(0, 0, 1, 1, 0, 0, 1, 1), shape=[2, 8, 8, 8])
    grid = net.const(net.random.uniform(-1, 1, (2, 5, 5, 2)))
    x = contrib(net, "GridSample", x, grid, shape=[2, 8, 5, 5])
    assert_halves(net.model(net.conv(x, 4)), 8)


@pytest.mark.parametrize("kind", ["NhwcConv", "GroupNorm", "SkipGroupNorm", "MatMulBnb4"])
def test_refused_operators_have_a_reason(kind: str) -> None:
    net = Net()
    x = net.conv(net.input("x", [2, 3, 6, 6]), 8)
    weight = net.weight(6, 1, 1, 6) if kind == "NhwcConv" else net.weight(8, 8)
    y = contrib(net, kind, x, weight, shape=[2, 8, 6, 6])
    reasons = {b.reason for a in find_channels(net.model(net.conv(y, 4))).blocked for b in a.reasons}
    assert not any("no rule" in reason for reason in reasons)
    assert reasons & set(MICROSOFT_REASONS)
