"""Normalisation: whole groups go, root mean squares are rescaled, deviations only change on request."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, half_of_each, prune_exactly
from onnx import TensorProto, helper

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.ir import Model
from onnxprune.passes.prune import Prune
from onnxprune.passes.transform import Transform

MICROSOFT = "com.microsoft"


def assert_halves(model: Model, *widths: int) -> None:
    """Half the channels of every group go, exactly; the groups are as expected."""
    channels = find_channels(model)
    assert sorted(g.size for g in channels.groups) == sorted(widths), channels.blocked
    outcome = prune_exactly(model, half_of_each(channels, optional=True), channels)
    assert outcome.error <= 1e-5
    assert outcome.change > 1e-3


def contrib(
    net: Net, kind: str, *operands: str, like: str, outputs: int = 1, **attributes: object
) -> list[str]:
    """Add an operator of onnxruntime's own whose results are shaped as one of its operands."""
    made = net.ops(kind, *operands, outputs=outputs, domain=MICROSOFT, **attributes)
    net.types |= dict.fromkeys(made, net.types[like])
    return made


def rms(net: Net, x: str, kind: str) -> str:
    """Divide by the root mean square over the last axis, and scale."""
    width = net.shape(x)[-1]
    scale = net.vector(width, 0.7, 1.3)
    if kind == "spelled out":
        mean = net.reduce("ReduceMean", net.op("Pow", x, net.const(2.0)), [-1])
        root = net.op("Sqrt", net.add(mean, net.const(0.05)))
        return net.mul(net.op("Div", x, root), scale)
    if kind == "RMSNormalization":
        return net.op(kind, x, scale, epsilon=0.05)
    if kind == "SimplifiedLayerNormalization":
        net.nodes.append(helper.make_node(kind, [x, scale], [made := f"simplified{len(net.nodes)}"]))
        net.types[made] = net.types[x]
        return made
    return contrib(net, "SkipSimplifiedLayerNormalization", x, x, scale, net.vector(width), like=x)[0]


@pytest.mark.parametrize(
    "kind", ["spelled out", "RMSNormalization", "SimplifiedLayerNormalization", "SkipSimplified"]
)
def test_residual_width_through_root_mean_squares(kind: str) -> None:
    """A transformer's width: embedding, normalised branches, sums, and a head; epsilon is large."""
    net = Net(opset=23 if kind == "RMSNormalization" else 17)
    tokens = net.input("tokens", [2, 5], kind=7)
    x = net.op("Gather", net.weight(11, 12, fan=4), tokens)
    for _ in range(2):
        branch = net.silu(net.linear(rms(net, x, kind), 20, bias=False))
        x = net.add(x, net.linear(branch, 12))
    assert_halves(net.model(net.linear(rms(net, x, kind), 7)), 12, 20, 20)


@pytest.mark.parametrize("kind", ["spelled out", "RMSNormalization", "SkipSimplified"])
def test_root_mean_squares_of_nonzero_values_block(kind: str) -> None:
    net = Net(opset=23 if kind == "RMSNormalization" else 17)
    x = net.op("Sigmoid", net.linear(net.input("x", [2, 5, 6]), 12))
    channels = find_channels(net.model(net.linear(rms(net, x, kind), 7)))
    assert not channels.groups
    reasons = [r.reason for b in channels.blocked for r in b.reasons]
    assert any("no operand is zero" in r and "--allow-inexact" in r for r in reasons)


def test_a_mean_over_channels_is_rescaled() -> None:
    """Squeeze over channels instead of pixels: the mean counts the removed zeros."""
    net = Net()
    x = net.relu(net.conv(net.input("x", [2, 3, 6, 6]), 16))
    attention = net.op("Sigmoid", net.conv(net.reduce("ReduceMean", x, [1]), 1))
    assert_halves(net.model(net.conv(net.mul(x, attention), 4)), 16)


def test_a_mean_over_channels_that_are_not_zero_blocks() -> None:
    net = Net()
    x = net.op("Sigmoid", net.conv(net.input("x", [2, 3, 6, 6]), 16))
    mean = net.reduce("ReduceMean", x, [1])
    channels = find_channels(net.model(net.conv(net.mul(x, mean), 4)))
    assert not channels.groups
    assert any("no operand is zero" in r.reason for b in channels.blocked for r in b.reasons)


def test_skip_sum_is_handed_on() -> None:
    """The sum that the fused operator also returns is the next residual."""
    net = Net()
    tokens = net.input("tokens", [2, 5], kind=7)
    x = net.op("Gather", net.weight(11, 12, fan=4), tokens)
    branch = net.linear(net.relu(net.linear(x, 20)), 12)
    operands = [x, branch, net.vector(12, 0.7, 1.3), net.vector(12)]
    normal, _, _, total = contrib(net, "SkipSimplifiedLayerNormalization", *operands, like=x, outputs=4)
    assert_halves(net.model(net.linear(net.add(normal, total), 7)), 12, 20)


def test_whole_groups_of_a_group_normalization() -> None:
    net = Net(opset=21)
    x = net.conv(net.input("x", [2, 3, 6, 6]), 24)
    y = net.op("GroupNormalization", x, net.vector(24, 0.7, 1.3), net.vector(24), num_groups=6)
    net.types[y] = net.types[x]
    model = net.model(net.conv(net.relu(y), 4))
    assert_halves(model, 6)
    assert sorted(g.size for g in find_channels(model, allow_inexact=True).groups) == [4, 6]


def test_lp_normalization_adds_zeros() -> None:
    for p in (1, 2):
        net = Net()
        x = net.relu(net.linear(net.input("x", [4, 6]), 16))
        assert_halves(net.model(net.gemm(net.op("LpNormalization", x, axis=-1, p=p), 3)), 16)


def test_lp_normalization_of_nonzero_values_blocks() -> None:
    net = Net()
    x = net.op("Sigmoid", net.linear(net.input("x", [4, 6]), 16))
    assert not find_channels(net.model(net.gemm(net.op("LpNormalization", x), 3))).groups


@pytest.mark.parametrize("axes", [[0, 2, 3], [0, 1, 2, 3]])
def test_deviations_without_epsilon_block(axes: list[int]) -> None:
    """The runtime makes NaN of a channel that is zero all over."""
    net = Net()
    x = net.conv(net.input("x", [2, 3, 6, 6]), 16)
    y = net.op("MeanVarianceNormalization", x, axes=axes)
    net.types[y] = net.types[x]
    channels = find_channels(net.model(net.conv(y, 4)))
    assert not channels.groups
    assert any(r.operator == "MeanVarianceNormalization" for b in channels.blocked for r in b.reasons)


def normalised(kind: str, width: int = 16) -> Net:
    """A residual stream through layer normalisation, fused in different ways or spelled out."""
    net = Net()
    tokens = net.input("tokens", [2, 5], kind=7)
    x = net.op("Gather", net.weight(11, width, fan=4), tokens)
    branch = net.linear(net.relu(net.linear(x, 32)), width)
    scale, shift = net.vector(width, 0.7, 1.3), net.vector(width)
    if kind == "SkipLayerNormalization":
        y = contrib(net, kind, x, branch, scale, shift, net.vector(width), like=x)[0]
    else:
        y = net.layer_norm(net.add(x, branch), spelled_out=kind == "spelled out")
    net.linear(y, 7)
    return net


@pytest.mark.parametrize("kind", ["LayerNormalization", "SkipLayerNormalization", "spelled out"])
def test_layer_normalization_keeps_the_width_unless_asked(kind: str) -> None:
    net = normalised(kind)
    model = net.model(net.nodes[-1].output[0])
    assert_halves(model, 32)
    opened = find_channels(model, allow_inexact=True)
    assert sorted(g.size for g in opened.groups) == [16, 32]
    blocked = [r.reason for b in find_channels(model).blocked for r in b.reasons]
    assert any("--allow-inexact opens it" in reason for reason in blocked)


def test_an_opened_axis_is_reported_and_not_far_off() -> None:
    """Zeros in a layer normalisation change only its mean: the error that remains is that of the mean."""
    net = normalised("SkipLayerNormalization", width=64)
    model = net.model(net.nodes[-1].output[0])
    sparse = Prune(reduce_params=0.5, allow_inexact=True)(model)
    facts = Transform()(sparse).facts
    assert facts["exact"] is False
    assert 1e-5 < facts["max_rel_error"] < 0.2


@pytest.mark.parametrize("kind", ["LayerNormalization", "spelled out"])
def test_an_opened_axis_is_one_function_in_the_sparse_and_the_dense_model(kind: str) -> None:
    net = normalised(kind, width=64)
    model = net.model(net.nodes[-1].output[0])
    facts = Transform()(Prune(reduce_params=0.5, allow_inexact=True)(model)).facts
    assert facts["exact"]
    assert facts["equal"]


def test_an_exact_plan_has_to_be_exact_even_if_the_user_allowed_otherwise() -> None:
    net = normalised("LayerNormalization")
    model = net.model(net.nodes[-1].output[0])
    widths = [g.name for g in find_channels(model).groups]
    sparse = Prune(reduce_params=0.2, allow_inexact=True, only=widths)(model)
    facts = Transform()(sparse).facts
    assert facts["exact"] is True
    assert facts["equal"] is True


def test_embedding_tables_of_a_fused_operator() -> None:
    net = Net()
    words, kinds = (net.input(n, [2, 5], kind=6) for n in ("words", "kinds"))
    tables = [net.weight(n, 16, fan=4) for n in (11, 8, 5)]
    operands = [words, kinds, *tables, net.vector(16, 0.7, 1.3), net.vector(16)]
    made = net.ops("EmbedLayerNormalization", *operands, outputs=2, domain=MICROSOFT)
    net.types[made[0]] = net.types[net.input("unused", [2, 5, 16])]
    net.inputs.pop()
    model = net.model(net.linear(made[0], 7))
    assert not find_channels(model).groups
    assert [g.size for g in find_channels(model, allow_inexact=True).groups] == [16]
    facts = Transform()(Prune(reduce_params=0.4, allow_inexact=True, round_to=1)(model)).facts
    assert facts["max_rel_error"] < 0.5
    assert np.isfinite(facts["max_rel_error"])


@pytest.mark.parametrize("kind", [TensorProto.INT32, TensorProto.INT64])
def test_means_of_integers_keep_their_channels(kind: int) -> None:
    """The mean is rounded: a mean over fewer channels is no multiple of it."""
    net = Net()
    x = net.relu(net.conv(net.input("x", ["N", 3, 8, 8]), 8))
    steps = net.op("Cast", net.mul(x, net.const(100.0)), to=kind)
    mean = net.op("Cast", net.reduce("ReduceMean", steps, [1]), to=TensorProto.FLOAT)
    channels = find_channels(net.model(net.add(net.conv(x, 4), mean)))
    assert not channels.groups
    reasons = {reason.reason for axis in channels.blocked for reason in axis.reasons}
    assert "its result depends on this size, and is no float" in reasons


def test_pictures_of_text_keep_their_channels() -> None:
    """No runtime takes such a network; a mean of texts has no multiple either."""
    net = Net()
    model = net.model(net.conv(net.reduce("ReduceMean", net.conv(net.input("x", ["N", 3, 8, 8]), 8), [1]), 4))
    model.proto.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    model.edited()
    assert not find_channels(model).groups
