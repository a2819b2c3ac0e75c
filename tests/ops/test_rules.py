"""The table of rules: its coverage, that layers keep their order, and each operator on its own."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import single_nodes
from helpers import Net, half_of_each, prune_exactly
from onnx import defs, numpy_helper
from single_node_checks import (
    check_example,
)

from onnxprune.algebra.axes import factors
from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.ir import Model, check
from onnxprune.ops.spec import SPECS, find_spec, load

RETIRED = {"Upsample", "Scatter"}
load()
STANDARD = sorted(op for (domain, op), spec in SPECS.items() if domain == "" and spec.axes is not None)


# --- coverage of the table ---------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", STANDARD)
def test_rules_are_of_real_operators(operator: str) -> None:
    assert defs.has(operator) or operator in RETIRED or operator == "SimplifiedLayerNormalization"


def test_every_standard_operator_has_a_rule() -> None:
    """Operators without inputs or outputs of their own, and those of other domains, left aside."""
    newest = {s.name for s in defs.get_all_schemas() if s.domain == "" and not s.deprecated}
    training = {s.name for s in defs.get_all_schemas() if "training" in s.domain}
    assert newest - training - set(STANDARD) == set()


def test_the_standard_domain_has_two_names() -> None:
    assert find_spec("ai.onnx", "Conv") is find_spec("", "Conv")
    assert find_spec("somewhere.else", "Conv").axes is None


# --- each operator on its own ------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", single_nodes.operators())
def test_examples(operator: str) -> None:
    """The rule gives results their sizes, and all channels that it leaves free can be removed exactly."""
    for case in single_nodes.examples_of(operator):
        check_example(case)


@pytest.mark.parametrize("operator", single_nodes.operators())
def test_examples_that_need_zeros(operator: str) -> None:
    """Sums without weights of their own, of results that are zero at a removed channel, or of operands."""
    for case in single_nodes.examples_of(operator)[:6]:
        check_example(case, weighed=False)
        check_example(case, shifted=0.25)


@pytest.mark.slow
def test_no_example_is_left_out() -> None:
    """Examples of one operator are found in the modules that name it."""
    found = {operator: len(single_nodes.examples_of(operator)) for operator in single_nodes.operators()}
    assert {op: count for op, count in found.items() if count} == {
        operator: len(cases) for operator, cases in single_nodes.examples().items()
    }


# --- unknown operators ------------------------------------------------------------------------------------


def reasons(channels: Channels, tensor: str) -> set[str]:
    return {b.reason for axis in channels.blocked if axis.tensor == tensor for b in axis.reasons}


def test_an_operator_without_a_rule_blocks_all_it_touches() -> None:
    net = Net()
    w = net.weight(8, 3, 3, 3)
    x = net.conv(net.input("x", ["N", 3, 4, 4]), 8, w=w)
    other = net.weight(1, 8, 4, 4)
    y = net.sized(net.op("Mystery", net.relu(x), other, domain="somewhere.else"), ["N", 8, 4, 4])
    channels = find_channels(net.model(net.gemm(net.op("Flatten", y), 3)))
    why = "no rule for operator somewhere.else.Mystery: its effect on axes is not known"
    assert not channels.groups
    assert why in reasons(channels, w)
    touched = {f for d in (*channels.typing.axes[other], *channels.typing.axes[x]) for f in factors(d)}
    assert not any(f.free for f in touched)
    blocks = [b for f in touched for b in f.blocks]
    assert {b.operator for b in blocks if b.reason == why} == {"Mystery"}


def test_inputs_and_outputs_stay() -> None:
    net = Net()
    w = net.weight(8, 3, 1, 1)
    y = net.conv(net.input("x", ["N", 3, 4, 4]), 8, 1, w=w, bias=False)
    channels = find_channels(net.model(y))
    assert not channels.groups
    assert reasons(channels, w) >= {
        f"the caller {does} it (--open-io opens it)" for does in ("feeds", "reads")
    }
    assert {(b.tensor, b.axis, b.size) for b in channels.blocked} == {(w, 0, 8), (w, 1, 3)}


def test_operands_of_a_rank_the_operator_does_not_have() -> None:
    """Before opset 9 a BatchNormalization could have a scale for each pixel."""
    net = Net(opset=8)
    x = net.conv(net.input("x", ["N", 3, 4, 4]), 8)
    parameters = [net.const(np.ones((8, 4, 4))) for _ in range(4)]
    y = net.sized("normed", ["N", 8, 4, 4])
    node = onnx.helper.make_node("BatchNormalization", [x, *parameters], [y], name="norm", spatial=0)
    net.nodes.append(node)
    model = Model(net.proto(net.gemm(net.op("Flatten", y), 3)))
    assert not find_channels(model).groups


def test_a_squeeze_of_all_axes_of_one_element() -> None:
    """Its rank depends on the input; where no open axis may be 1 it does not."""
    text = """<ir_version: 9, opset_import: ["" : 18]> g (float[n, 6] x) => (float y) {
        a = MatMul (x, w1) b = Relu (a) c = Unsqueeze (b, one)
        d = Squeeze (c) e = Transpose <perm = [1, 0]> (d) f = Reshape (e, target) y = MatMul (w2, f) }"""
    for rows, sizes in (("n", []), ("3", [8])):
        proto = onnx.parser.parse_model(text.replace("float[n,", f"float[{rows},"))
        for name, values in {
            "w1": np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32),
            "w2": np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32),
            "one": np.asarray([1]),
            "target": np.asarray([0, 0]),
        }.items():
            proto.graph.initializer.append(numpy_helper.from_array(values, name))
        model = check(Model(proto))
        channels = find_channels(model)
        assert [g.size for g in channels.groups] == sizes
        if sizes:
            assert prune_exactly(model, {channels.groups[0].name: [1, 5]}, channels).error < 1e-6
        else:
            assert "it depends on the input which axes have one element" in {
                b.reason for a in channels.blocked for b in a.reasons
            }


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 1.0])
def test_shrink_keeps_zeros_within_its_threshold(threshold: float) -> None:
    """Below a threshold under zero the bias is added to zeros too."""
    net = Net()
    x = net.conv(net.input("image", ["N", 3, 5, 5]), 8)
    shrunk = net.reduce("ReduceSum", net.op("Shrink", x, lambd=threshold, bias=0.7), [1])
    model = net.model(net.add(shrunk, net.conv(net.relu(x), 4)))
    channels = find_channels(model)
    assert bool(channels.groups) == (threshold >= 0)
    assert prune_exactly(model, half_of_each(channels), channels).error <= 1e-5
