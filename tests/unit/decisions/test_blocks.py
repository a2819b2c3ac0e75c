"""Residual blocks: found by their uses, removed by a plan, with all that only they need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import Net

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.decisions.channels.channel_cut import shrunk
from onnxprune.decisions.channels.masks import masked
from onnxprune.decisions.channels.planned import stored_plan
from onnxprune.decisions.plan import Analysis
from onnxprune.errors import PlanError, UsageError
from onnxprune.ir import Model
from onnxprune.passes import Ana, Finetune, Prune, Recover, Transform
from onnxprune.runtime import Session, compare, sample_feeds
from onnxprune.search.evaluator import PlanEvaluator
from onnxprune.search.plan_files import PlanFile

WIDTH = 16


def names(model: Model) -> list[str]:
    return [block.name for block in find_channels(model).blocks.removable]


def reasons(model: Model) -> list[str]:
    return [block.reason for block in find_channels(model).blocks.refused]


def norm(net: Net, x: str) -> str:
    return net.op("LayerNormalization", x, net.vector(WIDTH, 0.5, 1.5), net.vector(WIDTH), axis=-1)


def attention(net: Net, h: str, heads: int = 4) -> str:
    q, k, v = (net.linear(h, WIDTH) for _ in range(3))
    q, k, v = (net.op("Reshape", t, net.ints(0, 0, heads, WIDTH // heads)) for t in (q, k, v))
    q, v = (net.op("Transpose", t, perm=[0, 2, 1, 3]) for t in (q, v))
    weights = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 3, 1])), axis=-1)
    o = net.op("Transpose", net.op("MatMul", weights, v), perm=[0, 2, 1, 3])
    return net.linear(net.op("Reshape", o, net.ints(0, 0, WIDTH)), WIDTH)


def mlp(net: Net, h: str) -> str:
    return net.linear(net.relu(net.linear(h, 24)), WIDTH)


def transformer(layers: int = 2) -> Model:
    net = Net()
    x = net.linear(net.input("rows", ["N", 5, 8]), WIDTH)
    for _ in range(layers):
        x = net.add(x, attention(net, norm(net, x)))
        x = net.add(x, mlp(net, norm(net, x)))
    return net.model(net.linear(norm(net, x), 3))


def residual_cnn() -> Model:
    net = Net()
    x = net.relu(net.conv(net.input("image", ["N", 3, 8, 8]), WIDTH))
    for _ in range(2):
        y = net.relu(net.conv(net.relu(net.conv(x, 8, 1)), 8))
        x = net.relu(net.add(net.conv(y, WIDTH, 1), x))
    return net.model(net.conv(x, 4))


def agree(one: Model, other: Model, **shapes: tuple[int, ...]) -> None:
    sessions = [Session(m.proto, optimize=False) for m in (one, other)]
    feeds = sample_feeds(sessions[0].inputs, shapes=shapes, samples=2, seed=0)
    assert compare(*sessions, feeds).max_rel_error <= 1e-5


def pruned(model: Model, *blocks: str, **widths: Any) -> Model:
    return Prune(plan=PlanFile(widths, blocks=blocks))(model).model


def test_attention_and_mlp_of_a_transformer_are_blocks() -> None:
    channels = find_channels(transformer())
    assert [len(b.nodes) for b in channels.blocks.removable] == [4, 2, 4, 2]
    assert not channels.blocks.refused
    for block in channels.blocks.removable:
        assert set(block.weights) <= set(channels.model.constants)
        assert block.stream != block.value


@pytest.mark.parametrize("make", [transformer, residual_cnn])
def test_every_choice_of_blocks_is_exact_and_costs_what_is_said(make: Callable[[], Model]) -> None:
    model = make()
    channels = find_channels(model)
    blocks = channels.blocks.removable
    for number in range(1, 2 ** len(blocks)):
        chosen = [b for k, b in enumerate(blocks) if number >> k & 1]
        removed = {b.name: [0] for b in chosen}
        dense = shrunk(channels, removed)
        agree(masked(channels, removed), dense)
        predicted = cost_of(channels).figures({b.factor: 0 for b in chosen})
        figures = cost_of(find_channels(dense)).figures()
        assert (figures["macs"], figures["params"]) == (predicted["macs"], predicted["params"])


@pytest.mark.parametrize("make", [transformer, residual_cnn])
def test_a_plan_removes_blocks_and_channels(make: Callable[[], Model]) -> None:
    model = make()
    last = names(model)[-1]
    sparse = Prune(reduce_macs=0.5, round_to=1)(pruned(model, last)).model
    plan = stored_plan(sparse)
    assert plan is not None
    assert plan.removed[last] == (0,)
    assert [n.op_type for n in sparse.nodes] == [n.op_type for n in model.nodes]
    again = PlanFile.from_json(PlanFile.of(plan).to_json())
    assert again.blocks == (last,)
    assert stored_plan(Prune(plan=again)(model).model) is not None
    result = Transform()(sparse)
    assert result.facts["blocks"] == [last]
    assert result.facts["certificate"]["certified"]
    assert result.facts["macs"] == cost_of(find_channels(result.model)).figures()["macs"]
    assert result.facts["macs_reduction"] >= 0.49
    assert last not in names(result.model)
    assert len(names(result.model)) == len(names(model)) - 1


def layer_scale(net: Net, y: str) -> str:
    return net.mul(y, net.vector(WIDTH, 0.1, 0.5))


def dropped_out(net: Net, y: str) -> str:
    return net.ops("Dropout", net.op("Identity", y), outputs=1)[0]


def normalised(net: Net, y: str) -> str:
    return norm(net, y)


def gemm(net: Net, y: str) -> str:
    rows = net.op("Reshape", y, net.ints(-1, WIDTH))
    made = net.op("Gemm", rows, net.weight(WIDTH, WIDTH), net.vector(WIDTH), alpha=0.5)
    return net.sized(net.op("Reshape", made, net.ints(-1, 5, WIDTH)), ["N", 5, WIDTH])


def activated(net: Net, y: str) -> str:
    return net.op("Tanh", y)


ENDS = [layer_scale, dropped_out, normalised, gemm, activated]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("order", ["last", "first", "subtracted", "sum"])
def test_ends(end: Callable[[Net, str], str], order: str) -> None:
    """Operators between the last projection and the sum, in any place of any sum."""
    net = Net()
    x = net.linear(net.input("rows", ["N", 5, 8]), WIDTH)
    y = end(net, mlp(net, norm(net, x)))
    operands = (y, x) if order == "first" else (x, y)
    total = net.op({"subtracted": "Sub", "sum": "Sum"}.get(order, "Add"), *operands)
    model = net.model(net.linear(norm(net, total), 3))
    assert len(names(model)) == 1
    result = Transform()(pruned(model, *names(model)))
    assert [n.op_type for n in result.model.nodes].count("MatMul") == 2
    assert result.facts["max_rel_error"] <= 1e-5
    assert result.facts["certificate"]["certified"]


@pytest.mark.parametrize("first", [False, True])
def test_parallel_branches(first: bool) -> None:
    """Attention and MLP of one normalised stream: each alone, and both."""
    net = Net()
    x = net.linear(net.input("rows", ["N", 5, 8]), WIDTH)
    h = norm(net, x)
    a, m = attention(net, h), mlp(net, h)
    total = net.add(net.add(x, a), m) if first else net.add(x, net.add(a, m))
    model = net.model(net.linear(norm(net, total), 3))
    one, two = names(model)
    for chosen in ((one,), (two,), (one, two)):
        result = Transform()(pruned(model, *chosen))
        assert result.facts["max_rel_error"] <= 1e-5
        assert result.facts["blocks"] == list(chosen)
    assert [n.op_type for n in result.model.nodes].count("MatMul") == 2


def test_a_branch_inside_a_branch() -> None:
    """The outer branch takes the inner one along, in the costs too."""
    net = Net()
    x = net.linear(net.input("rows", ["N", 5, 8]), WIDTH)
    y = net.linear(norm(net, x), WIDTH)
    y = net.add(y, mlp(net, norm(net, y)))
    model = net.model(net.linear(net.add(x, net.linear(y, WIDTH)), 3))
    channels = find_channels(model)
    inner, outer = sorted(channels.blocks.removable, key=lambda b: len(b.numbers))
    assert set(inner.numbers) < set(outer.numbers)
    macs = cost_of(channels).macs
    assert macs.value({outer.factor: 0}) == macs.value({outer.factor: 0, inner.factor: 0})
    for chosen in ((inner.name,), (outer.name,), (inner.name, outer.name)):
        result = Transform()(pruned(model, *chosen))
        assert result.facts["max_rel_error"] <= 1e-5
    assert [n.op_type for n in result.model.nodes].count("MatMul") == 2


def test_a_tensor_of_a_branch_that_is_an_output_stays() -> None:
    """Keys that the caller caches: the branch goes, the nodes that make the output stay."""
    net = Net()
    x = net.linear(net.input("rows", ["N", 5, 8]), WIDTH)
    h = norm(net, x)
    keys = net.linear(h, WIDTH)
    model = net.model(net.linear(net.add(x, net.linear(net.relu(keys), WIDTH)), 3), keys)
    (name,) = names(model)
    result = Transform()(pruned(model, name))
    assert [n.op_type for n in result.model.nodes].count("MatMul") == 3
    assert [o.name for o in result.model.outputs] == [o.name for o in model.outputs]
    assert result.facts["max_rel_error"] <= 1e-5


def test_a_sum_that_is_an_output_keeps_its_name() -> None:
    net = Net()
    x = net.relu(net.linear(net.input("rows", ["N", 8]), WIDTH))
    total = net.add(x, net.linear(net.relu(net.linear(x, 24)), WIDTH))
    model = net.model(total)
    result = Transform()(pruned(model, *names(model)))
    assert [o.name for o in result.model.outputs] == [total]


def test_a_shared_end_is_zero_in_one_place_only() -> None:
    """Two branches end in the same weights; the plan removes one of them."""
    net = Net()
    x = net.linear(net.input("rows", ["N", 5, 8]), WIDTH)
    shared = net.weight(24, WIDTH)
    for _ in range(2):
        x = net.add(x, net.op("MatMul", net.relu(net.linear(norm(net, x), 24)), shared))
    model = net.model(net.linear(x, 3))
    result = Transform()(pruned(model, names(model)[0]))
    assert result.facts["max_rel_error"] <= 1e-5
    assert len(names(result.model)) == 1


def refused_ends() -> dict[str, tuple[Model, str]]:
    found = {}
    net = Net()
    x = net.linear(net.input("rows", ["N", 5, 8]), WIDTH)
    y = mlp(net, x)
    found["read elsewhere"] = net.model(net.linear(net.mul(net.add(x, y), y), 3)), "read elsewhere"
    net = Net()
    x = net.linear(net.input("rows", ["N", 5, 8]), WIDTH)
    y = mlp(net, x)
    model = net.model(net.linear(net.add(x, net.op("Tanh", y)), 3), y)
    found["inner output"] = model, "read elsewhere"
    net = Net()
    x = net.linear(net.input("rows", ["N", 5, 8]), WIDTH)
    found["not zero"] = net.model(net.linear(net.add(x, net.op("Sigmoid", mlp(net, x))), 3)), "not zero"
    net = Net()
    x = net.linear(net.input("rows", ["N", 5, 8]), WIDTH)
    y = x
    for shape in ((WIDTH, 24), (24, WIDTH)):
        low = np.clip(np.random.default_rng(0).normal(size=shape) * 50, -127, 127).astype(np.int8)
        scale, zero = net.const(np.float32(0.01)), net.const(np.int8(0))
        y = net.op("MatMul", net.relu(y), net.op("DequantizeLinear", net.const(low), scale, zero))
    found["quantised"] = net.model(net.linear(net.add(x, y), 3)), "quantised"
    return found


@pytest.mark.parametrize("kind", list(refused_ends()))
def test_refusals(kind: str) -> None:
    model, reason = refused_ends()[kind]
    assert not names(model)
    assert any(reason in said for said in reasons(model))


def test_sums_without_weights_or_streams_are_no_blocks() -> None:
    """GELU spelled out, x − mean(x), a shortcut with weights, two towers."""
    net = Net()
    x = net.linear(net.input("rows", ["N", 5, 8]), WIDTH)
    cubic = net.mul(net.const(np.float32(0.044715)), net.op("Pow", x, net.const(np.float32(3))))
    y = net.op("Tanh", net.add(x, cubic))
    y = net.op("Sub", y, net.op("ReduceMean", y, axes=[-1]))
    y = net.add(net.linear(y, WIDTH), net.linear(net.relu(net.linear(y, 24)), WIDTH))
    model = net.model(net.linear(net.add(y, net.linear(net.input("others", ["N", 5, 8]), WIDTH)), 3))
    assert not names(model)
    assert not reasons(model)


def samples(model: Model, count: int = 48) -> dict[str, Any]:
    random = np.random.default_rng(1)
    inputs = Session(model.proto).inputs
    return {i.name: random.normal(size=(count, *i.shape[1:])).astype(np.float32) for i in inputs}


@pytest.mark.parametrize("make", [transformer, residual_cnn])
def test_recover_and_finetune_keep_the_zeros(make: Callable[[], Model]) -> None:
    """Both improve the rest, and neither brings the block back."""
    model = make()
    data = samples(model)
    block = find_channels(model).blocks.removable[1]
    sparse = pruned(model, block.name)
    recovered = Recover(original=model, data=data, samples=48)(sparse)
    assert not {layer["node"] for layer in recovered.facts["layers"]} & set(block.nodes)
    errors = recovered.facts["outputs"].values()
    assert all(e["mse_after"] < e["mse_before"] for e in errors)
    targets = Session(model.proto).run(data)
    step = Finetune(data=data | targets, loss="mse", epochs=1, batch_size=16, lr=1e-3)
    tuned = step(recovered.model)
    changed = {n for n in tuned.model.constants if not np.array_equal(tuned.model.array(n), sparse.array(n))}
    assert changed
    for result in (recovered, tuned):
        assert not any(result.model.array(name).any() for name in block.weights)
        assert Transform()(result.model).facts["blocks"] == [block.name]


def test_globs_and_wrong_plans() -> None:
    model = transformer()
    first = names(model)[0]
    with pytest.raises(PlanError, match="no block"):
        pruned(model, "block:nothing")
    with pytest.raises(PlanError, match="no block"):
        Prune(plan=PlanFile({}, blocks=(first,)), exclude=["block:*"])(model)
    with pytest.raises(PlanError, match="neither"):
        PlanFile.from_json(PlanFile({}, blocks=(first,)).to_json().replace('"removed"', '"gone"'))


@pytest.mark.parametrize("make", [transformer, residual_cnn])
def test_the_loss_without_a_block_is_that_of_the_masked_model(make: Callable[[], Model]) -> None:
    """Measured behind a cut, without the branch, among the groups of the same analysis."""
    model = make()
    data = samples(model)
    plain, repaired = (
        Ana(data=data, metric="cosine", ratios=(0.5,), repair=repair)(model).analysis
        for repair in (False, True)
    )
    assert plain is not None
    assert repaired is not None
    assert Analysis.from_json(plain.to_json()).blocks == plain.blocks
    assert list(plain.curves) == [g.name for g in find_channels(model).groups if not g.optional]
    channels = find_channels(model)
    for block in channels.blocks.removable:
        judge = PlanEvaluator.open(channels, data, "cosine")
        drop = judge.drop({block.name: [0]})
        losses = [a.drop(a.blocks[block.name].values[-1]) for a in (plain, repaired)]
        assert losses[0] == pytest.approx(max(drop, 0), abs=1e-5)
        assert losses[1] < losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("make", [transformer, residual_cnn])
def test_a_joint_plan_is_no_worse_than_one_of_channels(make: Callable[[], Model]) -> None:
    """With an analysis and samples both plans are repaired and measured, and the better one stays."""
    model = make()
    data = samples(model)
    analysis = Ana(data=data, metric="cosine", ratios=(0.25, 0.5, 0.75))(model).analysis
    step = Prune(analysis=analysis, data=data, reduce_macs=0.4, round_to=1)
    joint, alone = step(model), replace(step, blocks=0)(model)
    assert "blocks" not in alone.facts
    assert joint.facts["recovery"]["score"] >= alone.facts["recovery"]["score"]
    if choice := joint.facts.get("block_choice"):
        assert choice["kept"] == bool(joint.facts.get("blocks"))
    assert "blocks" not in replace(step, data=None)(model).facts


def test_a_number_of_blocks() -> None:
    """The blocks of least measured loss go, channels make up the rest of the budget."""
    model = transformer()
    data = samples(model)
    losses = {}
    for name in names(model):
        losses[name] = PlanEvaluator.open(find_channels(model), data, "cosine").drop({name: [0]})
    result = Prune(data=data, metric="cosine", blocks=2, reduce_macs=0.6, round_to=1)(model)
    assert set(result.facts["blocks"]) == set(sorted(losses, key=losses.__getitem__)[:2])
    assert result.facts["macs_reduction"] >= 0.599
    parts = result.facts["by_kind"]
    total = parts["blocks"]["macs"] + parts["channels"]["macs"]
    assert total == pytest.approx(result.facts["macs_reduction"], abs=1e-3)
    assert parts["channels"]["macs"] > 0
    small = Prune(data=data, blocks=2, reduce_macs=0.1)(model)
    assert len(small.facts["blocks"]) == 2
    assert not small.facts["groups"]
    with pytest.raises(UsageError, match="losses"):
        Prune(blocks=1, reduce_macs=0.3)(model)
    with pytest.raises(PlanError, match="to choose from"):
        Prune(blocks=9, data=data, reduce_macs=0.3)(model)


@pytest.mark.parametrize("operator", ["TopK", "Dropout"])
def test_positions_and_masks_end_no_branch(operator: str) -> None:
    """They are not zero where the numbers are, whose weights would end the branch."""
    net = Net()
    x = net.relu(net.conv(net.input("x", ["N", 3, 4]), WIDTH))
    operands = [net.conv(x, WIDTH)] + ([net.ints(4)] if operator == "TopK" else [])
    how = {"axis": 2} if operator == "TopK" else {}
    other = net.ops(operator, *operands, outputs=2, **how)[1]
    model = net.model(net.conv(net.add(x, net.op("Cast", other, to=1)), 4))
    assert names(model) == []
    assert reasons(model) == ["its result is not zero where its operands are"]
