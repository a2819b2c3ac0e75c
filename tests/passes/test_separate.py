"""Matrices that an exporter merged: parts are pruned apart, those of one layout once separated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from helpers import Net, half_of_each, prune_exactly
from onnx import helper

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.app.cli import program
from onnxprune.errors import NothingToDoError, UsageError
from onnxprune.evaluate.equivalence import verify
from onnxprune.ir import Model
from onnxprune.passes import Prune, Separate, Transform

HEADS, WIDTH = 4, 6


def sizes(model: Model) -> list[int]:
    return sorted(g.size for g in find_channels(model).groups)


def assert_prunes(model: Model) -> None:
    channels = find_channels(model)
    for optional in (False, True):
        outcome = prune_exactly(model, half_of_each(channels, optional=optional), channels)
        assert outcome.error <= 1e-5
        assert outcome.change > 1e-3


def in_pieces(how: str) -> Model:
    """One product, cut along its channels into three parts of other sizes, each with a layer of its own."""
    net = Net()
    y = net.gemm(net.input("x", [2, 12]), 24)
    bounds = ((0, 8), (8, 18), (18, 24))
    if how == "Split":
        parts = net.split(y, [8, 10, 6])
    elif how == "Slice":
        parts = [net.slice(y, *b) for b in bounds]
    else:
        parts = [
            net.sized(net.op("Gather", y, net.const(np.arange(*b)), axis=1), [2, b[1] - b[0]]) for b in bounds
        ]
    made = [net.gemm(net.op(f, p), 5) for f, p in zip(("Relu", "Sigmoid", "Tanh"), parts, strict=True)]
    return net.model(net.add(net.add(made[0], made[1]), made[2]))


@pytest.mark.parametrize("how", ["Split", "Slice", "Gather"])
def test_parts_cut_along_channels_are_groups_of_their_own(how: str) -> None:
    model = in_pieces(how)
    assert sizes(model) == [6, 8, 10]
    assert_prunes(model)
    with pytest.raises(NothingToDoError, match="read in parts"):
        Separate()(model)


def test_stacked_classifiers_share_their_operands() -> None:
    """Scores of two kinds from one matrix: the layer before it shrinks for both."""
    net = Net()
    z = net.gemm(net.relu(net.gemm(net.input("x", [2, 12]), 24)), 10)
    model = net.model(net.op("Softmax", net.slice(z, 0, 4)), net.slice(z, 4, 10))
    assert sizes(model) == [24]
    assert_prunes(model)


def test_heads_that_are_laid_out_before_the_parts() -> None:
    """``[…, heads, 3 × width]``, as GPT-NeoX has it: widths of queries and keys, and of values."""
    net = Net()
    x = net.input("x", [2, 5, 12])
    y = net.reshape(net.linear(x, 3 * HEADS * WIDTH), 2, 5, HEADS, 3 * WIDTH)
    q, k, v = (net.transpose(p, 0, 2, 1, 3) for p in net.split(y, 3, axis=3))
    model = attended(net, q, k, v)
    assert sizes(model) == [HEADS, WIDTH, WIDTH]
    assert_prunes(model)


def attended(net: Net, q: str, k: str, v: str) -> Model:
    scores = net.op("Softmax", net.op("MatMul", q, net.transpose(k, 0, 1, 3, 2)), axis=-1)
    y = net.transpose(net.op("MatMul", scores, v), 0, 2, 1, 3)
    return net.model(net.linear(net.reshape(y, 2, 5, HEADS * WIDTH), 12))


def laid_out(picked: str = "Gather", parts: int = 3, bias: bool = True, product: str = "MatMul") -> Model:
    """``[…, parts, heads, width]``: queries, keys and values, or the last two beside queries of their own."""
    net = Net()
    x = net.input("x", [2, 5, 12])
    if product == "MatMul":
        y = net.linear(x, parts * HEADS * WIDTH, bias=bias)
    else:
        y = net.gemm(net.reshape(x, 10, 12), parts * HEADS * WIDTH)
    y = net.transpose(net.reshape(y, 2, 5, parts, HEADS, WIDTH), 2, 0, 3, 1, 4)
    if picked == "Gather":
        shape = [2, HEADS, 5, WIDTH]
        made = [
            net.sized(net.op("Gather", y, net.const(np.asarray(k - parts)), axis=0), shape)
            for k in range(parts)
        ]
    else:
        made = [net.squeeze(p, 0) for p in net.split(y, parts, axis=0)]
    if parts == 2:
        q = net.reshape(net.linear(x, HEADS * WIDTH), 2, 5, HEADS, WIDTH)
        made.insert(0, net.transpose(q, 0, 2, 1, 3))
    return attended(net, *made)


@pytest.mark.parametrize("picked", ["Gather", "Split"])
@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("product", ["MatMul", "Gemm"])
@pytest.mark.parametrize("bias", [True, False])
def test_parts_of_one_layout(picked: str, parts: int, product: str, bias: bool) -> None:
    """The width of values leaves that of queries and keys alone, once each has a matrix."""
    model = laid_out(picked, parts, bias, product)
    assert sizes(model) == [HEADS, WIDTH]
    result = Separate()(model)
    assert [p["parts"] for p in result.facts["products"]] == [parts]
    assert sizes(result.model) == [HEADS, WIDTH, WIDTH]
    assert verify(model, result.model).equal
    assert_prunes(result.model)
    assert {n.op_type for n in result.model.nodes}.isdisjoint({"Gather", "Split"})


def test_sizes_that_are_computed() -> None:
    """The target of the layout is joined at run time, of an open batch and an open length."""
    net = Net()
    x = net.input("x", ["N", "L", 12])
    y = net.sized(net.linear(x, 3 * HEADS * WIDTH), ["N", "L", 3 * HEADS * WIDTH])
    lead = [net.op("Gather", net.op("Shape", x), net.ints(k)) for k in (0, 1)]
    y = net.op("Reshape", y, net.concat(*lead, net.ints(3, HEADS, WIDTH), axis=0))
    y = net.transpose(net.sized(y, ["N", "L", 3, HEADS, WIDTH]), 2, 0, 3, 1, 4)
    shape = ["N", HEADS, "L", WIDTH]
    q, k, v = (net.sized(net.op("Gather", y, net.const(np.asarray(n)), axis=0), shape) for n in range(3))
    keys = net.sized(net.transpose(k, 0, 1, 3, 2), ["N", HEADS, WIDTH, "L"])
    scores = net.sized(net.op("MatMul", q, keys), ["N", HEADS, "L", "L"])
    z = net.sized(net.op("MatMul", net.op("Softmax", scores, axis=-1), v), shape)
    z = net.sized(net.transpose(z, 0, 2, 1, 3), ["N", "L", HEADS, WIDTH])
    z = net.op("Reshape", z, net.concat(*lead, net.ints(-1), axis=0))
    model = net.model(net.linear(net.sized(z, ["N", "L", HEADS * WIDTH]), 12))
    result = Separate()(model).model
    assert sizes(result) == [HEADS, WIDTH, WIDTH]
    only = [g.name for g in find_channels(result).groups if g.size == WIDTH][1:]
    sparse = Prune(reduce_params=0.1, only=only, round_to=1)(result)
    assert Transform()(sparse).facts["equal"]


def test_layouts_that_are_read_in_another_way_stay() -> None:
    model = laid_out()
    whole = next(n for n in model.nodes if n.op_type == "Transpose")
    model.proto.graph.node.append(helper.make_node("Neg", [whole.output[0]], ["all"]))
    model.proto.graph.output.append(helper.make_empty_tensor_value_info("all"))
    model.edited()
    with pytest.raises(NothingToDoError):
        Separate()(model)
    assert not Separate(allow_unchanged=True)(model).modified


def test_a_pruned_model_is_refused() -> None:
    sparse = Prune(reduce_channels=0.5, round_to=1, strategy="uniform")(laid_out())
    with pytest.raises(UsageError, match="pruned already"):
        Separate()(sparse)


def test_the_command(tmp_path: Path) -> None:
    place, output = tmp_path / "merged.onnx", tmp_path / "apart.onnx"
    onnx.save(laid_out().proto, place)
    outcome = CliRunner().invoke(program, ["separate", str(place), "-o", str(output)], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    assert "3" in outcome.stdout
    assert sizes(Model(onnx.load(output))) == [HEADS, WIDTH, WIDTH]


class TestFreedOutputs:
    """Outputs that are the residual stream itself: blocked as they are, free behind an identity."""

    @staticmethod
    def stream(spatial: bool = False) -> Model:
        net = Net()
        if spatial:
            x = net.conv(net.input("x", [2, 3, 6, 6]), 16)
            for _ in range(2):
                x = net.add(x, net.conv(net.op("Relu", net.conv(x, 8)), 16))
            return net.model(x)
        x = net.gemm(net.input("x", [2, 12]), 16)
        for _ in range(2):
            x = net.add(x, net.gemm(net.op("Relu", net.gemm(x, 24)), 16))
        return net.model(x)

    @pytest.mark.parametrize("spatial", [False, True])
    def test_the_stream_becomes_a_group(self, spatial: bool) -> None:
        model = self.stream(spatial)
        name = model.outputs[0].name
        assert 16 not in sizes(model)
        result = Separate(free_output=[name])(model)
        assert result.facts["max_rel_error"] == 0
        opened = result.model
        assert sorted([*sizes(model), 16]) == sizes(opened)
        assert [o.name for o in opened.outputs] == [name]
        dense = Transform()(Prune(reduce_macs=0.5)(opened)).model
        assert verify(Prune(reduce_macs=0.5)(opened).model, dense).equal
        assert [d.dim_value for d in dense.outputs[0].type.tensor_type.shape.dim][1] == 16

    def test_an_output_that_is_read_inside_too(self) -> None:
        net = Net()
        hidden = net.gemm(net.input("x", [2, 12]), 16)
        model = net.model(hidden, net.gemm(net.op("Relu", hidden), 5))
        result = Separate(free_output=[hidden])(model)
        assert result.facts["max_rel_error"] == 0
        assert 16 in sizes(result.model)

    def test_outputs_that_cannot_be_freed(self) -> None:
        with pytest.raises(UsageError, match="has no output 'nothing'"):
            Separate(free_output=["nothing"])(self.stream())
        net = Net()
        x = net.gemm(net.input("x", [2, 12]), 16)
        model = net.model(net.op("ReduceSum", x, keepdims=0))
        with pytest.raises(UsageError, match="has no axis of channels"):
            Separate(free_output=[model.outputs[0].name])(model)
