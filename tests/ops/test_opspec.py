"""One statement an operator: its spec is true of the operator, and all rooms read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import Net, feeds_for
from ideas import IDEAS
from onnx import helper

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.ir import attributes
from onnxprune.ops.spec import SPECS, OpSpec, find_spec, load, spec_of
from onnxprune.ops.views import INNER, LinearView, Operands
from onnxprune.runtime import Session
from onnxprune.scoring.criteria import score
from onnxprune.scoring.criteria.activations import observe
from onnxprune.scoring.criteria.readers import reading_places
from onnxprune.scoring.layerwise.layer_recognition import linear_of
from onnxprune.scoring.layerwise.shifts import find_shift
from onnxprune.search.latency_model import costs_by_kind
from onnxprune.train.tuning.unfold import foldable

MICROSOFT = "com.microsoft"
Array = np.ndarray[Any, np.dtype[Any]]


def floats(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def bytes_of(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).integers(1, 250, shape).astype(np.uint8)


ONE, POINT = np.float32(0.05), np.uint8(3)
LEFT_OUT = np.zeros(0, np.float32)


@dataclass(frozen=True)
class Case:
    """A node: its operator, its operands, and the zero of those that are integers."""

    operator: str
    operands: tuple[Array, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""
    zeros: Mapping[int, int] = field(default_factory=dict)

    @property
    def node(self) -> onnx.NodeProto:
        names = ["" if a is LEFT_OUT else f"i{k}" for k, a in enumerate(self.operands)]
        return helper.make_node(
            self.operator, names, ["y"], domain=self.domain, name="node", **self.attributes
        )

    @property
    def spec(self) -> OpSpec:
        return find_spec(self.domain, self.operator)

    def views(self) -> tuple[LinearView, ...]:
        shapes = [None if a is LEFT_OUT else np.shape(a) for a in self.operands]
        return self.spec.views(Operands(attributes(self.node), shapes))

    def run(self, operands: list[Array]) -> Array:
        given = {f"i{k}": np.asarray(a) for k, a in enumerate(operands) if a is not LEFT_OUT}
        inputs = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in given.items()
        ]
        graph = helper.make_graph([self.node], "one", inputs, [onnx.ValueInfoProto(name="y")])
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
        return Session(helper.make_model(graph, opset_imports=opsets, ir_version=8)).run(given)["y"]


def fused(operator: str, *operands: Array, zeros: Mapping[int, int] | None = None, **how: Any) -> Case:
    return Case(operator, operands, how, MICROSOFT, zeros or {})


def plain(operator: str, *operands: Array, zeros: Mapping[int, int] | None = None, **how: Any) -> Case:
    return Case(operator, operands, how, "", zeros or {})


X, W = floats(2, 6, 5, 5), floats(8, 6, 3, 3)
CASES = {
    "Conv": plain("Conv", X, W, floats(8), pads=[1, 1, 1, 1]),
    "Conv in groups": plain("Conv", X, floats(8, 3, 3, 3), group=2),
    "ConvTranspose": plain("ConvTranspose", X, floats(6, 4, 3, 3), floats(4)),
    "ConvTranspose in groups": plain("ConvTranspose", X, floats(6, 4, 3, 3), group=2),
    "FusedConv": fused("FusedConv", X, W, floats(8), activation="Relu"),
    "FusedConv and a sum": fused("FusedConv", X, W, floats(8), floats(2, 8, 3, 3), activation="Relu"),
    "Gemm": plain("Gemm", floats(4, 6), floats(6, 8), floats(8)),
    "Gemm turned": plain("Gemm", floats(6, 4), floats(8, 6), floats(8), transA=1, transB=1, alpha=0.5),
    "MatMul": plain("MatMul", floats(2, 4, 6), floats(6, 8)),
    "MatMul by a stack": plain("MatMul", floats(3, 4, 6), floats(3, 6, 8)),
    "MatMul from the left": plain("MatMul", floats(4, 6), floats(2, 6, 8)),
    "FusedGemm": fused("FusedGemm", floats(4, 6), floats(8, 6), floats(8), transB=1, activation="Relu"),
    "FusedMatMul": fused("FusedMatMul", floats(4, 6), floats(8, 6), transB=1, alpha=0.5),
    "FusedMatMul turned": fused("FusedMatMul", floats(6, 4), floats(6, 8), transA=1),
    "FusedMatMul by a stack": fused("FusedMatMul", floats(2, 4, 6), floats(2, 8, 6), transB=1),
    "Einsum": plain("Einsum", floats(2, 4, 6), floats(6, 8), equation="btk,kn->btn"),
    "Einsum of heads": plain("Einsum", floats(2, 4, 6), floats(6, 3, 5), equation="btk,khd->bhtd"),
    "Einsum of dots": plain("Einsum", floats(2, 4, 6), floats(8, 6), equation="...k,nk->...n"),
    "LSTM": plain("LSTM", floats(3, 2, 6), floats(1, 16, 6), floats(1, 16, 4), hidden_size=4),
    "GRU": plain("GRU", floats(3, 2, 6), floats(1, 12, 6), floats(1, 12, 4), hidden_size=4),
    "RNN": plain("RNN", floats(3, 2, 6), floats(1, 4, 6), floats(1, 4, 4), hidden_size=4),
    "Attention": fused("Attention", floats(2, 4, 6), floats(6, 24), floats(24), num_heads=2),
    "QLinearConv": plain(
        "QLinearConv", bytes_of(2, 6, 5, 5), ONE, POINT, bytes_of(8, 6, 3, 3), ONE, POINT, np.float32(4),
        POINT,
        zeros={0: 3, 3: 3},
    ),
    "ConvInteger": plain(
        "ConvInteger", bytes_of(2, 6, 5, 5), bytes_of(8, 6, 3, 3), POINT, POINT, zeros={0: 3, 1: 3}
    ),
    "QLinearMatMul": plain(
        "QLinearMatMul", bytes_of(4, 6), ONE, POINT, bytes_of(6, 8), ONE, POINT, np.float32(1),
        POINT,
        zeros={0: 3, 3: 3},
    ),
    "MatMulInteger": plain("MatMulInteger", bytes_of(4, 6), bytes_of(6, 8), POINT, POINT, zeros={0: 3, 1: 3}),
    "MatMulIntegerToFloat": fused(
        "MatMulIntegerToFloat", bytes_of(4, 6), bytes_of(6, 8), ONE, ONE, POINT, POINT, zeros={0: 3, 1: 3}
    ),
    "QGemm": fused(
        "QGemm", bytes_of(4, 6), ONE, POINT, bytes_of(8, 6), ONE, POINT, zeros={0: 3, 3: 3}, transB=1
    ),
    "MoE": fused("MoE", floats(4, 6), floats(4, 3), floats(3, 8, 6), LEFT_OUT, floats(3, 6, 8), k=2),
    "DeformConv": Case(
        "DeformConv", (X, W, np.zeros((2, 18, 3, 3), np.float32)), {"kernel_shape": [3, 3]}, "", {}
    ),
}  # fmt: skip
NOT_RUN = {"DeformConv"}
"""Not every onnxruntime has it."""


def without(case: Case, operand: int, axis: int, place: int) -> list[Array]:
    """Return the operands of a case, one of them zero at a place of an axis."""
    changed = case.operands[operand].copy()
    np.moveaxis(changed, axis, 0)[place] = case.zeros.get(operand, 0)
    return [changed if k == operand else a for k, a in enumerate(case.operands)]


@pytest.mark.parametrize("name", sorted(set(CASES) - NOT_RUN))
def test_a_view_sums_over_one_axis_of_data_and_weights(name: str) -> None:
    """The product is the same whether the data are zero at a place of the sum, or the weights are."""
    case = CASES[name]
    views = [v for v in case.views() if v.data != INNER]
    assert views
    for view in views:
        weights = case.operands[view.weights]
        axis = view.summed_axis(weights.ndim)
        of_data, of_weights = case.operands[view.data].shape[view.axis], weights.shape[axis]
        assert of_data == of_weights * (1 if view.inputs_first else view.groups)
        if view.groups > 1 and not view.inputs_first:
            continue  # a place of the weights is one of each group
        whole = case.run(list(case.operands))
        for place in range(of_data):
            one = case.run(without(case, view.data, view.axis, place))
            other = case.run(without(case, view.weights, axis, place))
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
            if not view.integers:
                assert np.abs(one - whole).max() > 1e-3


@pytest.mark.parametrize("name", [n for n in CASES if n not in NOT_RUN])
def test_a_final_view_is_all_of_the_result(name: str) -> None:
    """Twice the weights are twice the result where nothing follows the product, biases aside."""
    case = CASES[name]
    for view in case.views():
        if view.data == INNER or view.integers or view.after == "mixing":
            continue
        zero = [np.zeros_like(a) if k == view.bias else a for k, a in enumerate(case.operands)]
        twice = [a * np.float32(-2) if k == view.weights else a for k, a in enumerate(zero)]
        doubled = np.allclose(case.run(twice), -2 * case.run(zero), rtol=1e-4, atol=1e-4)
        others = case.operands[2:] and view.bias is None
        assert doubled == view.final or (others and not view.final)


@pytest.mark.parametrize("name", sorted({c.operator for c in CASES.values()}))
def test_weighted_operators_state_all_facts(name: str) -> None:
    spec = next(c for c in CASES.values() if c.operator == name).spec
    assert spec.axes is not None
    assert spec.sizes is not None or name == "DeformConv"
    assert spec.mixes
    views = [v for c in CASES.values() if c.operator == name for v in c.views()]
    assert {v.weights for v in views} <= set(spec.parameters)


def test_all_linear_operators_have_a_case() -> None:
    load()
    known = {c.operator for c in CASES.values()}
    missing = {name for (_, name), spec in SPECS.items() if spec.mixes} - known
    # their weights are packed, and the runtime that is installed may not have them
    assert missing == {"DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulNBits", "QAttention", "QMoE",
                       "TransposeMatMul"}  # fmt: skip


def test_weights_that_masking_may_change_are_parameters() -> None:
    """The axes rules and the specs agree about operands that are weights."""
    for name in IDEAS:
        typing = find_channels(checked(name)).typing
        for index, operand in {place for places in typing.weight_uses.values() for place in places}:
            spec = spec_of(typing.nodes[index])
            if spec.mixes or spec.normalises:
                states = spec.name in ("LSTM", "GRU", "RNN") and operand >= 5
                assert operand in spec.parameters or states, (name, spec.name, operand)


def checked(name: str) -> Any:
    from onnxprune.ir import Model, check

    return check(Model(IDEAS[name].build(), name))


# --- the rooms ---------------------------------------------------------------------------------------------


def pair(fused_: bool, kind: str = "conv") -> Any:
    """Two layers, each a product, a bias and Relu, fused or not."""
    net = Net()
    if kind == "conv":
        x = net.input("x", ["N", 4, 6, 6])
        for out in (8, 6):
            w, b = net.weight(out, net.shape(x)[1], 3, 3), net.vector(out)
            if fused_:
                x = net.op("FusedConv", x, w, b, domain=MICROSOFT, activation="Relu")
                net.sized(x, ["N", out, *([4, 4] if out == 8 else [2, 2])])
            else:
                x = net.op("Relu", net.op("Conv", x, w, b))
    else:
        x = net.input("x", [5, 4])
        for out in (8, 6):
            w, b = net.weight(net.shape(x)[1], out), net.vector(out)
            if fused_:
                x = net.op("FusedGemm", x, w, b, domain=MICROSOFT, activation="Relu")
                net.sized(x, [5, out])
            else:
                x = net.op("Relu", net.op("Gemm", x, w, b))
    return net.model(x)


@pytest.mark.parametrize("kind", ["conv", "gemm"])
def test_fused_layers_are_scored_as_their_parts(kind: str) -> None:
    found = []
    for is_fused in (False, True):
        channels = find_channels(pair(is_fused, kind))
        (group,) = channels.groups
        seen = observe(channels, feeds_for(channels.model, channels))
        assert len(seen.norms) == 2
        places = {(p.tensor, p.axis) for p in reading_places(channels, group)}
        layer = linear_of(
            channels.model, next(n for n in channels.model.nodes if n.op_type != "Relu"), before=True
        )
        assert not isinstance(layer, str)
        found.append((score(channels, group, "activation", 0, seen), len(places)))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)
    assert found[0][1] == found[1][1] == 1


def test_layers_with_an_activation_inside_are_not_repaired() -> None:
    model = pair(fused_=True)
    node = model.nodes[0]
    assert linear_of(model, node) == "more is done to the product within the node"
    assert find_shift(model, node, 8) is None
    assert not foldable(model, "always")


def test_fused_convolutions_are_timed_by_kind() -> None:
    assert "FusedConv k×k" in costs_by_kind(find_channels(pair(fused_=True)))
