"""Channels chosen apart in each group of a convolution, in each head: exact where it is offered at all."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from helpers import Net, chosen_apart, half_of_each, prune_exactly
from ideas import IDEAS

from onnxprune.analysis.groups.arrangement import order_of
from onnxprune.analysis.groups.channels import Channels, Group, find_channels
from onnxprune.analysis.groups.slots import dead_slots, ranked, removed_rows
from onnxprune.decisions.channels.channel_cut import shrunk
from onnxprune.decisions.channels.masks import dead_channels, keep_masks, masked
from onnxprune.decisions.channels.planned import removed_channels, stored_plan
from onnxprune.decisions.plan import PLAN_KEY
from onnxprune.errors import PlanError
from onnxprune.ir import Model, check
from onnxprune.passes import Finetune, Prune, Recover, Transform
from onnxprune.passes.finetune import _put_back
from onnxprune.scoring.criteria import score

FREE = (
    "resnext depthwise_multiplier vit_exact attention_numbers attention_shape_chain grouped_query_attention "
    "rotary_embedding cross_attention"
).split()


def grouped(groups: int = 3, width: int = 12, normalised: bool = True, **how: int) -> Net:
    """Three convolutions, the one in the middle in groups."""
    net = Net(**how)
    x = net.relu(net.conv(net.input("x", ["N", 3, 6, 6]), width, bias=not normalised))
    y = net.conv(net.bn(x) if normalised else x, 2 * width, group=groups)
    net.op("Identity", net.conv(net.relu(net.bn(y) if normalised else y), 4))
    return net


def model_of(net: Net) -> Model:
    return net.model(net.nodes[-1].output[0])


def within(channels: Channels) -> dict[int, list[int]]:
    """Return the sizes of the outer factors of groups, by the size of the group."""
    sizes = {g.name: g.size for g in channels.groups}
    return {sizes[name]: [f.size for f in outer] for name, outer in channels.freedoms.items()}


def one(channels: Channels, size: int) -> Group:
    (found,) = (g for g in channels.groups if g.size == size)
    return found


# --- free choices ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalised", [True, False])
def test_channels_within_the_groups_of_a_convolution(normalised: bool) -> None:
    channels = find_channels(model_of(grouped(normalised=normalised)))
    assert within(channels) == {4: [3], 8: [3]}
    assert not any(g.name in channels.freedoms for g in channels.groups if g.optional)


def test_heads_projected_apart() -> None:
    """Queries and keys share the width of a head, values and the output have their own."""
    idea = check(Model(IDEAS["cross_attention"].build()))
    channels = find_channels(idea)
    assert [[f.size for f in outer] for outer in channels.freedoms.values()] == [[4], [4]]


def test_angles_that_all_heads_share_keep_them_alike() -> None:
    channels = find_channels(check(Model(IDEAS["rotary_embedding"].build())))
    assert len(channels.freedoms) == 1  # the values alone


def test_filters_of_one_channel() -> None:
    net = Net()
    x = net.depthwise(net.relu(net.conv(net.input("x", ["N", 3, 6, 6]), 10)), multiplier=4)
    channels = find_channels(net.model(net.conv(net.relu(x), 2)))
    assert within(channels) == {4: [10]}
    outcome = prune_exactly(
        channels.model, *reversed(chosen_apart(channels, half_of_each(channels, optional=True)))
    )
    assert outcome.error <= 1e-5


def test_plain_convolutions_have_no_outer_factors() -> None:
    assert not find_channels(check(Model(IDEAS["residual"].build()))).freedoms


@pytest.mark.parametrize("mixing", ["Softmax", "CumSum", "MatMul", "ReduceMax", "shared"])
def test_not_free_where_the_parts_are_mixed(mixing: str) -> None:
    """All tensors carry both factors, but a node mixes along the outer one."""
    net = Net()
    x = net.reshape(net.linear(net.input("x", [2, 6]), 32), 2, 4, 8)
    if mixing == "Softmax":
        x = net.op("Softmax", x, axis=1)
    elif mixing == "CumSum":
        x = net.op("CumSum", x, net.const(np.asarray(1)))
    elif mixing == "MatMul":
        x = net.add(x, net.op("MatMul", net.weight(4, 4), x))
    elif mixing == "ReduceMax":
        x = net.add(x, net.reduce("ReduceMax", x, [1]))
    else:
        x = net.add(x, net.vector(8))
    model = net.model(net.linear(net.reshape(x, 2, 32), 3))
    channels = find_channels(model)
    assert one(channels, 8).name not in channels.freedoms
    assert prune_exactly(model, half_of_each(channels, optional=True), channels).error <= 1e-5


def test_free_where_they_are_not_mixed() -> None:
    """The same network without the mixing: the mixing of the test above makes the difference."""
    net = Net()
    x = net.op("Tanh", net.reshape(net.linear(net.input("x", [2, 6]), 32), 2, 4, 8))
    model = net.model(net.linear(net.reshape(x, 2, 32), 3))
    channels = find_channels(model)
    assert within(channels) in ({8: [4]}, {4: [8]})  # one of the two, not both
    chosen, removed = chosen_apart(channels, half_of_each(channels, optional=True))
    assert prune_exactly(model, removed, chosen).error <= 1e-5


def test_weights_shared_with_another_role_are_not_free() -> None:
    net = Net()
    x = net.conv(net.input("x", ["N", 12, 6, 6]), 12, 1)
    w = net.weight(12, 4, 3, 3)
    x = net.conv(net.relu(x), 12, group=3, w=w)
    x = net.conv(net.relu(x), 12, group=3, w=w)
    model = net.model(net.conv(net.relu(x), 2))
    channels = find_channels(model)
    chosen, removed = chosen_apart(channels, half_of_each(channels, optional=True))
    assert prune_exactly(model, removed, chosen).error <= 1e-5


# --- exactness ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FREE)
def test_ideas_pruned_apart_are_exact(name: str) -> None:
    idea = IDEAS[name]
    channels = find_channels(check(Model(idea.build())))
    assert channels.freedoms
    removed = half_of_each(channels, optional=True)
    chosen, removed = chosen_apart(channels, removed, seed=3)
    outcome = prune_exactly(channels.model, removed, chosen)
    assert outcome.error <= idea.tolerance
    assert outcome.change > 1e-3


def test_one_channel_is_several_columns_after_flatten() -> None:
    net = Net()
    x = net.relu(net.conv(net.input("x", ["N", 3, 4, 4]), 12))
    x = net.op("Flatten", net.relu(net.conv(x, 12, group=3)))
    model = net.model(net.gemm(x, 5))
    channels = find_channels(model)
    assert len(channels.freedoms) == 2
    chosen, removed = chosen_apart(channels, half_of_each(channels, optional=True))
    assert prune_exactly(model, removed, chosen).error <= 1e-5


@pytest.mark.parametrize("pruned", [4, 8])
def test_groups_that_are_arranged_but_lose_nothing(pruned: int) -> None:
    """They stay as they are: another tensor of theirs may not be cut at all."""
    channels = find_channels(model_of(grouped()))
    group = one(channels, pruned)
    arranged, removed = chosen_apart(channels, half_of_each(channels))
    outcome = prune_exactly(channels.model, {group.name: removed[group.name]}, arranged)
    assert outcome.change > 1e-3
    assert outcome.error <= 1e-5


def test_transposed_convolutions_in_groups() -> None:
    net = Net()
    x = net.relu(net.conv(net.input("x", ["N", 3, 4, 4]), 12))
    model = net.model(net.conv(net.relu(net.up(x, 24, group=3)), 2))
    channels = find_channels(model)
    assert within(channels) == {4: [3], 8: [3]}
    chosen, removed = chosen_apart(channels, half_of_each(channels, optional=True))
    assert prune_exactly(model, removed, chosen).error <= 1e-5


def test_slots_of_a_group_alone() -> None:
    """The tensors that are cut hold, row by row, the channels that stay."""
    channels = find_channels(model_of(grouped()))
    group = one(channels, 4)
    rows = [[0, 1], [2, 3], [1, 2]]
    arranged = channels.without({group.name: rows})
    first = channels.model.nodes[0].input[1]
    dense = shrunk(arranged, {group.name: rows[0]}).array(first)
    staying = [2, 3, 4 + 0, 4 + 1, 8 + 0, 8 + 3]
    assert np.array_equal(dense, channels.model.array(first)[staying])
    assert removed_rows(arranged, {group.name: rows[0]}) == {group.name: rows}


def test_orders_are_permutations() -> None:
    order = order_of([[1, 4], [0, 2], [3, 4]], 5)
    assert np.array_equal(np.sort(order, axis=1), np.tile(np.arange(5), (3, 1)))
    assert order[0].tolist() == [0, 1, 2, 3, 4]
    assert order[:, [1, 4]].tolist() == [[1, 4], [0, 2], [3, 4]]


def test_putting_in_order_and_back() -> None:
    channels = find_channels(model_of(grouped()))
    arranged, _ = chosen_apart(channels, half_of_each(channels))
    for name in channels.weight_tensors():
        values = channels.model.array(name)
        moved = arranged.put_in_order(name, values)
        assert np.array_equal(arranged.put_back(name, moved), values)
    assert any(not np.array_equal(arranged.put_in_order(n, channels.model.array(n)), channels.model.array(n))
               for n in channels.weight_tensors())  # fmt: skip


# --- passes ------------------------------------------------------------------------------------------------


def test_better_channels_are_kept() -> None:
    """Kept weights have at least the magnitude of one choice for all groups, and more in general."""
    model = model_of(grouped())
    sparse = Prune(reduce_channels=0.5, strategy="uniform", round_to=1)(model).model
    plan = stored_plan(sparse)
    assert plan is not None
    channels = find_channels(model)
    for name, rows in plan.within.items():
        group = next(g for g in channels.groups if g.name == name)
        scores = score(channels, channels.apart(group), "l2").reshape(len(rows), group.size)
        lost = np.take_along_axis(scores, np.asarray(rows), axis=1).sum()
        alike = np.sort(scores.sum(axis=0))[: len(rows[0])].sum()
        assert lost < alike
    assert len(plan.within) == 2


def test_the_plan_is_readable_and_survives() -> None:
    sparse = Prune(reduce_channels=0.5, strategy="uniform", round_to=1)(model_of(grouped())).model
    written = json.loads(sparse.metadata()[PLAN_KEY])
    for name, rows in written["within"].items():
        assert rows[0] == written["removed"][name]
        assert {len(row) for row in rows} == {written["sizes"][name] // 2}
        assert all(row == sorted(row) for row in rows)
    dense = Transform()(sparse)
    assert dense.facts["equal"]
    assert dense.facts["max_rel_error"] <= 1e-5


def test_the_sparse_model_is_the_original_with_zeros() -> None:
    model = model_of(grouped())
    sparse = Prune(reduce_channels=0.5, strategy="uniform", round_to=1)(model).model
    channels, removed = removed_channels(sparse, stored_plan(sparse))
    masks = keep_masks(channels, removed)
    for name in model.constants:
        before, after = model.array(name), sparse.array(name)
        mask = masks.get(name, np.ones(before.shape, bool))
        assert np.array_equal(after, np.where(mask, before, 0))


def test_a_rising_reduction_keeps_removed_channels_removed() -> None:
    model = model_of(grouped(width=24))
    sparse, before = model, {}
    for reduction in (0.2, 0.4, 0.7):
        sparse = Prune(reduce_params=reduction, round_to=1)(sparse).model
        plan = stored_plan(sparse)
        assert plan is not None
        for name, rows in before.items():
            later = plan.within.get(name) or [plan.removed[name]] * len(rows)
            assert all(set(row) <= set(other) for row, other in zip(rows, later, strict=True))
        before = dict(plan.within)
    assert before
    assert Transform()(sparse).facts["equal"]


def test_whole_groups_go_as_well() -> None:
    model = model_of(grouped(groups=4, width=16))
    sparse = Prune(reduce_channels=0.5, strategy="uniform", round_to=1, only=["*"])(model).model
    plan = stored_plan(sparse)
    assert plan is not None
    optional = {g.name for g in find_channels(model).groups if g.optional}
    assert plan.within
    assert optional & set(plan.removed)
    assert Transform()(sparse).facts["equal"]


def test_trained_weights_return_to_their_places() -> None:
    channels, removed = chosen_apart(c := find_channels(model_of(grouped())), half_of_each(c))
    dense = shrunk(channels, removed)
    restored = channels.model.copy()
    _put_back(
        channels,
        restored,
        removed,
        {n: dense.array(n) for n in dense.constants if n in channels.model.constants},
    )
    sparse, masks = masked(channels, removed), keep_masks(channels, removed)
    for name, mask in masks.items():
        assert np.array_equal(restored.array(name)[mask], sparse.array(name)[mask])


def test_a_plan_whose_rows_make_no_sense_is_refused() -> None:
    sparse = Prune(reduce_channels=0.5, strategy="uniform", round_to=1)(model_of(grouped())).model
    written = json.loads(sparse.metadata()[PLAN_KEY])
    name, rows = next(iter(written["within"].items()))
    for damaged in (rows[:1], [rows[0], *([[99] * len(rows[0])] * 2)], [rows[1], rows[0], rows[2]]):
        text = json.dumps(written | {"within": {name: damaged}})
        sparse.set_metadata(PLAN_KEY, text)
        with pytest.raises(PlanError):
            Transform()(sparse)


def pictures() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {"x": random.normal(size=(48, 3, 6, 6)).astype(np.float32), "labels": random.integers(0, 5, 48)}


def classifier() -> Model:
    net = Net()
    x = net.relu(net.conv(net.input("x", ["N", 3, 6, 6]), 12))
    return net.model(net.head(net.relu(net.conv(x, 12, group=3)), 5))


def test_recovery_knows_the_channels_of_each_group() -> None:
    model = classifier()
    sparse = Prune(reduce_channels=0.5, strategy="uniform", round_to=1)(model).model
    repaired = Recover(original=model, data=pictures())(sparse)
    (error,) = repaired.facts["outputs"].values()
    assert error["mse_after"] < 0.5 * error["mse_before"]
    assert Transform()(repaired.model).facts["equal"]


def test_finetuning_in_rounds() -> None:
    sparse = classifier()
    for reduction in (0.3, 0.6):
        sparse = Prune(reduce_params=reduction, round_to=1)(sparse).model
        sparse = Finetune(data=pictures(), epochs=1, batch_size=16)(sparse).model
    plan = stored_plan(sparse)
    assert plan is not None
    assert plan.within
    assert Transform()(sparse).facts["max_rel_error"] <= 1e-5


# --- evidence ----------------------------------------------------------------------------------------------


def test_dead_channels_need_not_lie_in_the_same_place_of_each_group() -> None:
    model = model_of(grouped())
    channels, removed = chosen_apart(c := find_channels(model), half_of_each(c))
    sparse = masked(channels, removed)
    found, dead = dead_channels(find_channels(sparse))
    assert {n: len(d) for n, d in dead.items()} == {n: len(r) for n, r in removed.items()}
    assert len(found.arrangements) == 2
    outcome = Transform()(sparse)
    assert outcome.facts["max_rel_error"] <= 1e-6
    widths = {n: w["before"] - w["after"] for n, w in outcome.facts["groups"].items()}
    assert widths == {n: len(r) for n, r in removed.items()}


def test_unread_channels_may_lie_in_other_places_too() -> None:
    """Only the columns of the readers are zero: no plan, and no zero in the weights of the layer itself."""
    model = model_of(grouped(groups=2, width=8, normalised=False))
    last = model.nodes[-2].input[1]
    weights = model.array(last).copy()
    weights[:, [0, 3, 9, 15]] = 0
    model.set_array(last, weights)
    outcome = Transform()(model)
    assert outcome.facts["max_rel_error"] <= 1e-6
    assert [w["after"] for w in outcome.facts["groups"].values()] == [6]


def test_as_many_slots_as_every_row_can_fill() -> None:
    channels = find_channels(model_of(grouped()))
    group = one(channels, 4)
    dead = np.asarray([[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0]], bool)
    arranged, removed = dead_slots(channels, {group.name: dead.ravel()})
    assert removed == {group.name: [1]}
    assert removed_rows(arranged, removed) == {group.name: [[1], [3], [2]]}


def test_a_row_that_is_dead_as_a_whole_asks_for_nothing() -> None:
    channels = find_channels(model_of(grouped()))
    group = one(channels, 4)
    dead = np.asarray([[1, 1, 1, 1], [0, 1, 0, 1], [1, 0, 1, 0]], bool)
    _, removed = dead_slots(channels, {group.name: dead.ravel()})
    assert len(removed[group.name]) == 2


def test_scores_that_do_not_tell_the_parts_apart() -> None:
    """A criterion that knows one number a channel removes the same ones everywhere."""
    channels = find_channels(model_of(grouped()))
    group = one(channels, 4)
    arranged, scores = ranked(channels, {group.name: np.asarray([3.0, 1.0, 2.0, 4.0])})
    assert not arranged.arrangements
    assert scores[group.name].tolist() == [3.0, 1.0, 2.0, 4.0]


def test_scores_sum_up_to_those_of_all_parts_together() -> None:
    channels = find_channels(model_of(grouped()))
    for group in channels.groups:
        apart = channels.apart(group)
        if apart.outer:
            parts = score(channels, apart, "l1").reshape(-1, group.size)
            assert math.prod(parts.shape) == apart.size
            assert np.allclose(parts.mean(axis=0), score(channels, group, "l1"), rtol=1e-6)
