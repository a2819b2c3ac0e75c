"""Inputs and outputs that shrink: the caches of decoders, in every form attention has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from attention_networks import projections
from cached_networks import CACHES, attention_with_caches, decoder, renamed, samples
from click.testing import CliRunner
from helpers import Net, feeds_for, half_of_each, params

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.app.cli import program
from onnxprune.decisions.channels.adapted_inputs import fed_as_before
from onnxprune.decisions.channels.channel_cut import shrunk, shrunk_inside
from onnxprune.decisions.channels.dense_interface import Interface, NarrowedSession
from onnxprune.decisions.channels.masks import masked
from onnxprune.errors import ModelError, UsageError
from onnxprune.evaluate.equivalence import verify
from onnxprune.ir import OPEN_KEY, Model, opened
from onnxprune.passes import Ana, Finetune, Prune, Transform
from onnxprune.passes.base import check_valid
from onnxprune.runtime import Latency, Session, compare, measure_latency
from onnxprune.runtime.backends import local
from onnxprune.search.ties import equal_counts, tied_groups

pytestmark = pytest.mark.slow


MICROSOFT = "com.microsoft"


def sizes(channels: Channels) -> list[int]:
    return sorted(g.size for g in channels.groups)


def assert_shrinks(model: Model, *widths: int) -> Channels:
    """Half of every group goes, exactly, from inputs and outputs too; without permission none of it goes."""
    closed = find_channels(model)
    channels = find_channels(opened(model.copy(), CACHES))
    assert sizes(channels) == sorted(widths), channels.blocked
    assert len(closed.groups) < len(channels.groups)
    for optional in (False, True):
        removed = half_of_each(channels, optional=optional)
        sparse, dense = masked(channels, removed), shrunk(channels, removed)
        check_valid(dense, "shrink")
        assert_agree(model, channels, removed, sparse, dense)
    return channels


def assert_agree(model: Model, channels: Channels, removed: dict[str, list[int]], *both: Model) -> None:
    before, sparse, dense = (Session(m.proto, optimize=False) for m in (model, *both))
    names = [v.name for v in (*model.inputs, *model.outputs)]
    cuts = Interface.of(channels, removed, names)
    assert any(name.startswith("past") for name in cuts.cuts)
    feeds = feeds_for(model, channels, seed=3)
    reference = NarrowedSession(sparse, cuts, fed=False)
    assert compare(reference, NarrowedSession(dense, cuts, fed=True), feeds).max_rel_error <= 1e-5
    assert compare(before, sparse, feeds).max_rel_error > 1e-3
    declared = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in both[1].inputs}
    fed = NarrowedSession(dense, cuts, fed=True)._interface.narrowed(feeds[0])
    assert all(list(fed[n].shape) == shape for n, shape in declared.items() if all(shape))


@pytest.mark.parametrize("opset", [12, 17])
def test_a_cache_that_is_joined_with_new_keys(opset: int) -> None:
    """As transformers are exported: the scores, heads and caches are written out."""
    net = Net(opset=opset)
    x = net.input("x", [2, 5, 12])
    q, k, v = (net.transpose(net.reshape(a, 0, 0, 6, 8), 0, 2, 1, 3) for a in projections(net, x, 48, 48, 48))
    k, v = (
        net.concat(net.input(f"past.{n}", [2, 6, 3, 8]), a, axis=2) for n, a in (("key", k), ("value", v))
    )
    scores = net.op("Softmax", net.op("MatMul", q, net.transpose(k, 0, 1, 3, 2)), axis=-1)
    y = net.reshape(net.transpose(net.op("MatMul", scores, v), 0, 2, 1, 3), 0, 0, 48)
    y = net.linear(net.relu(net.linear(y, 20)), 12)
    assert_shrinks(renamed(net, {k: "present.key", v: "present.value"}, y), 6, 8, 8, 20)


def test_the_standard_operator() -> None:
    net = Net(opset=23)
    x = net.input("x", [2, 5, 12])
    past = [net.input(name, [2, 3, 4, w]) for name, w in (("past_k", 8), ("past_v", 10))]
    qkv = projections(net, x, 48, 24, 30)
    made = net.ops("Attention", *qkv, "", *past, outputs=3, q_num_heads=6, kv_num_heads=3)
    y = net.linear(made[0], 12)
    assert_shrinks(renamed(net, {made[1]: "present_k", made[2]: "present_v"}, y), 2, 3, 8, 10)


def test_multi_head_attention() -> None:
    net = Net()
    x = net.input("x", [2, 5, 12])
    past = [net.input(name, [2, 6, 3, 8]) for name in ("past_k", "past_v")]
    operands = [*projections(net, x, 48, 48, 48), net.vector(144), "", "", *past]
    made = net.ops("MultiHeadAttention", *operands, outputs=3, domain=MICROSOFT, num_heads=6)
    net.sized(made[0], [2, 5, 48])
    for name in made[1:]:
        net.sized(name, [2, 6, 8, 8])
    y = net.linear(made[0], 12)
    assert_shrinks(renamed(net, {made[1]: "present_k", made[2]: "present_v"}, y), 6, 8, 8)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("rotary", [0, 1])
def test_group_query_attention(packed: bool, rotary: int) -> None:
    net = Net()
    x = net.input("x", [1, 5, 12])
    past = [net.input(name, [1, 4, 3, 16]) for name in ("past_k", "past_v")]
    qkv = [net.linear(x, 256), "", ""] if packed else projections(net, x, 128, 64, 64)
    lengths = [net.const(np.asarray([7], np.int32)), net.const(np.asarray([8], np.int32))]
    angles = [net.const(net.random.uniform(-1, 1, (8, 8))) for _ in range(2)] if rotary else []
    how = {"num_heads": 8, "kv_num_heads": 4, "do_rotary": rotary}
    operands = [*qkv, *past, *lengths, *angles]
    made = net.ops("GroupQueryAttention", *operands, outputs=3, domain=MICROSOFT, **how)
    net.sized(made[0], [1, 5, 128])
    for name in made[1:]:
        net.sized(name, [1, 4, 8, 16])
    y = net.linear(made[0], 12)
    assert_shrinks(renamed(net, {made[1]: "present_k", made[2]: "present_v"}, y), 2, 4)


def test_projections_inside_the_node() -> None:
    channels = assert_shrinks(decoder(), 6, 6, 8, 8, 32, 32)
    assert [g.size for g in channels.groups if g.optional] == [8, 8]


def test_prune_and_transform_follow_the_caches() -> None:
    model = opened(decoder(), CACHES)
    sparse = Prune(reduce_channels=0.5, strategy="uniform", round_to=1)(model)
    dense = Transform()(sparse)
    assert dense.facts["equal"]
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*dense.model.inputs, *dense.model.outputs)
    }
    for layer in range(2):
        assert shapes[f"past_{layer}"] == shapes[f"present_{layer}"] == [2, 0, 3, 0, 8]
    assert OPEN_KEY not in dense.model.metadata()
    assert [i.name for i in sparse.model.inputs] == [i.name for i in model.inputs]
    assert verify(sparse.model, dense.model).equal


def test_a_wrong_dense_model_is_noticed() -> None:
    """The comparison would be worth nothing if cutting the inputs hid a difference."""
    sparse = Prune(reduce_channels=0.5, strategy="uniform", round_to=1)(opened(decoder(), CACHES))
    dense = Transform()(sparse).model
    weight = next(n.input[1] for n in dense.nodes if n.op_type == "Attention")
    dense.set_array(weight, dense.array(weight) * 1.1)
    with pytest.raises(Exception, match="do not compute the same"):
        verify(sparse.model, dense)


def test_zeros_alone_are_enough() -> None:
    """Without a plan: heads whose projections are zero."""
    model = opened(decoder(layers=1), CACHES)
    channels = find_channels(model)
    heads = next(g for g in channels.groups if g.size == 6)
    sparse = masked(channels, {heads.name: [0, 4]})
    dense = Transform()(sparse)
    assert dense.facts["equal"]
    assert [d.dim_value for d in dense.model.inputs[1].type.tensor_type.shape.dim] == [2, 0, 4, 0, 8]


def test_layers_keep_as_many_on_request() -> None:
    model = decoder(layers=3)
    first = next(n for n in model.nodes if n.op_type == "Attention")
    model.set_array(first.input[1], model.array(first.input[1]) * 1e-3)  # heads that hardly count
    model = opened(model, CACHES)

    def heads(equal: bool) -> list[int]:
        step = Prune(reduce_channels=0.3, strategy="global", round_to=1, equal_layers=equal)
        dense = Transform()(step(model)).model
        return [a.i for n in dense.nodes for a in n.attribute if a.name == "num_heads"]

    assert len(set(heads(False))) > 1
    assert len(set(heads(True))) == 1
    assert heads(True)[0] < 6


def test_ties_are_of_groups_on_the_same_axis() -> None:
    channels = find_channels(opened(decoder(), CACHES))
    ties = tied_groups(channels, channels.groups)
    assert sorted(g.size for tie in ties for g in tie) == [6, 6, 8, 8]
    (heads,) = (tie for tie in ties if tie[0].size == 6)
    removed = {heads[0].name: [0, 1, 2], heads[1].name: [0, 1]}
    assert set(equal_counts([heads], removed, {}).values()) == {3}
    assert set(equal_counts([heads], removed, {heads[1].name: [0, 1, 2, 3]}).values()) == {2}
    assert not equal_counts([heads], {heads[0].name: [0], heads[1].name: [5]}, {})


def test_axes_the_caller_chooses_stay() -> None:
    """Batch and length are no numbers in the file: they never shrink."""
    channels = find_channels(opened(decoder(layers=1), ("*",)))
    dims = channels.typing.axes["past_0"]
    assert [bool(getattr(d, "blocks", ())) for d in dims] == [True, True, False, True, False]


def test_a_pattern_that_names_nothing() -> None:
    with pytest.raises(UsageError, match="names no input or output"):
        opened(decoder(), ["caches*"])


def test_a_damaged_note() -> None:
    model = decoder()
    model.set_metadata(OPEN_KEY, "{")
    with pytest.raises(ModelError, match="damaged"):
        find_channels(model)


def test_names_with_brackets_are_names_first() -> None:
    net = Net()
    y = net.linear(net.relu(net.linear(net.input("past[0]", [4, 8]), 16)), 8)
    channels = find_channels(opened(net.model(y), ["past[0]"]))
    assert sizes(channels) == [8, 16]


def test_commands_take_patterns(tmp_path: Path) -> None:
    place = tmp_path / "decoder.onnx"
    onnx.save(decoder().proto, place)
    run = CliRunner().invoke

    def facts(*arguments: str) -> dict[str, object]:
        outcome = run(program, [*arguments, "--json"], catch_exceptions=False)
        assert outcome.exit_code == 0, outcome.output
        return json.loads(outcome.stdout)

    caches = [part for pattern in CACHES for part in ("--open-io", pattern)]
    found = facts("inspect", str(place), *caches)
    assert sorted(g["size"] for g in found["groups"]) == [6, 6, 8, 8, 32, 32]
    sparse, dense = str(tmp_path / "s.onnx"), str(tmp_path / "d.onnx")
    facts("prune", str(place), *caches, "--reduce-macs", "0.4", "--equal-layers", "-o", sparse)
    assert facts("transform", sparse, "-o", dense)["equal"]
    assert facts("verify", sparse, dense)["equal"]


def in_proportion(models: Sequence[onnx.ModelProto], feeds: Any, **how: Any) -> list[Latency]:
    """Run all models, and return times in proportion to their parameters."""
    measure_latency(models, feeds, **how)
    return [Latency(ms, ms, ms, ms, 1) for ms in (params(Model(m)) * 1e-4 for m in models)]


def test_data_of_the_whole_model_serve_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples have all heads: analysis, judged plans, timed plans and training take them as they are."""
    model, data = attention_with_caches(), samples()
    analysis = Ana(data=data, metric="mse", ratios=(0.5,))(model).analysis
    assert {c.size for c in analysis.curves.values()} >= {6, 20}
    judged = Prune(reduce_macs=0.4, analysis=analysis, data=data, evaluations=3, round_to=1)(model)
    monkeypatch.setattr(local, "measure_latency", in_proportion)
    timed = Prune(reduce_latency=0.1, round_to=1)(model)
    for sparse in (judged, timed):
        dense = Transform(data=data)(sparse)
        assert dense.facts["equal"]
    heads = next(n for n, w in judged.facts["groups"].items() if w["before"] == 6)
    assert judged.facts["groups"][heads]["after"] < 6


def test_masked_models_compute_the_same() -> None:
    channels = find_channels(attention_with_caches())
    removed = half_of_each(channels)
    feeds = feeds_for(channels.model, channels)
    sparse = Session(masked(channels, removed).proto, optimize=False)
    for made in (shrunk_inside(channels, removed), fed_as_before(channels, removed)):
        check_valid(made, "shrink")
        assert [i.type for i in made.inputs] == [i.type for i in channels.model.inputs]
        found = Session(made.proto, optimize=False).run(feeds[0], ["logits"])["logits"]
        assert np.abs(found - sparse.run(feeds[0])["logits"]).max() < 1e-5
    assert len(channels.shared) == 3


def test_training_takes_whole_samples() -> None:
    sparse = Prune(reduce_channels=0.5, strategy="uniform", round_to=1)(attention_with_caches())
    tuned = Finetune(data=samples(), loss="mse", epochs=1, batch_size=16)(sparse)
    dense = Transform()(tuned)
    assert dense.facts["equal"]
