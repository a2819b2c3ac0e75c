"""Every architectural idea is pruned as far as it can be, and computes the same afterwards."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from helpers import FLOATS, feeds_for, params
from pruned_ideas import IDEAS, half

from onnxprune.algebra.axes import Dim, Factor, Sum, resolve
from onnxprune.analysis.groups.channels import find_channels
from onnxprune.decisions.channels.masks import keep_masks
from onnxprune.decisions.channels.planned import planned_channels, stored_plan
from onnxprune.decisions.plan import PLAN_KEY
from onnxprune.errors import NothingToDoError
from onnxprune.ir.canonical.canonicalise import canonicalise
from onnxprune.passes import Prune, Transform
from onnxprune.runtime import Session, compare

each_idea = pytest.mark.parametrize("name", sorted(IDEAS))


@cache
def sessions(name: str) -> list[Session]:
    pruned = half(name)
    return [Session(m.proto, optimize=False) for m in (pruned.model, pruned.sparse.model, pruned.dense.model)]


@each_idea
def test_sparse_and_dense_agree(name: str) -> None:
    idea, pruned = IDEAS[name], half(name)
    _, sparse, dense = sessions(name)
    feeds = [f for seed in (1, 2) for f in feeds_for(pruned.model, find_channels(pruned.model), seed)]
    assert compare(sparse, dense, feeds).max_rel_error <= idea.tolerance


@each_idea
def test_the_comparison_means_something(name: str) -> None:
    """Outputs depend on the input and on the removed channels, and are neither tiny nor saturated."""
    model = half(name).model
    feeds = [feeds_for(model, find_channels(model), seed)[0] for seed in (1, 2)]
    original, sparse, _ = sessions(name)
    for output in original.run(feeds[0]):
        one, two = (sparse.run(f)[output].astype(np.float64) for f in feeds)
        size = np.abs(one).max()
        assert 0.02 < size < 100
        assert np.abs(one - two).max() > 0.02 * size
        assert np.abs(one - original.run(feeds[0])[output]).max() > 0.05 * size
        assert np.unique(one.round(4)).size > 1


@each_idea
def test_reach(name: str) -> None:
    pruned = half(name)
    assert params(pruned.dense.model) / params(pruned.model) <= IDEAS[name].reach
    plan = stored_plan(pruned.sparse.model)
    assert plan is not None
    for group in find_channels(pruned.model, allow_inexact=IDEAS[name].inexact).groups:
        if not group.optional:
            assert abs(len(plan.removed[group.name]) - group.size / 2) <= 1  # budgets are met, not nearly


def halved(dim: Dim) -> float:
    """The size of an axis half of which is gone, as far as no input, output or blocked factor lies on it."""
    dim = resolve(dim)
    if isinstance(dim, Factor):
        return dim.size / 2 if dim.free else dim.size
    if isinstance(dim, Sum):
        return sum(map(halved, dim.parts))
    ways = [dim.size * halved(p) / p.size for p in dict.fromkeys(dim.parts) if halved(p) < p.size]
    return max(ways, default=dim.size)  # one factor of a product is enough


@each_idea
def test_parameters_kept(name: str) -> None:
    """The parameters that remain are those left after halving every axis that may be halved."""
    idea, pruned = IDEAS[name], half(name)
    channels = find_channels(pruned.model, allow_inexact=idea.inexact)
    expected = 0.0
    for tensor, constant in channels.model.constants.items():
        if constant.data_type in FLOATS:
            axes = channels.typing.axes.get(tensor)
            expected += math.prod(map(halved, axes) if axes is not None else constant.dims)
    assert abs(params(pruned.dense.model) - expected) / params(pruned.model) <= 0.02


@each_idea
def test_the_figures_are_those_of_the_files(name: str) -> None:
    pruned = half(name)
    folded, _ = canonicalise(pruned.dense.model)
    added = params(folded, [n for n in folded.constants if n.endswith("__scale")])
    assert pruned.dense.facts["params"] == params(folded) - added
    assert pruned.sparse.facts["params"] == pruned.dense.facts["params"]


@each_idea
def test_nothing_is_left_to_remove(name: str) -> None:
    with pytest.raises(NothingToDoError, match="nothing to remove"):
        Transform()(half(name).dense.model)


@each_idea
def test_unpruned_parts_stay(name: str) -> None:
    model, sparse, dense = half(name)
    for after in (sparse.model, dense.model):
        assert after.metadata()["author"] == "someone"
        assert after.proto.doc_string == "what it is for"
        assert [
            i for i in after.proto.graph.input if i.name in {v.name for v in model.inputs}
        ] == model.inputs
        assert after.outputs == model.outputs
        assert after.proto.opset_import == model.proto.opset_import
    kept = [n.name for n in dense.model.nodes if not n.name.endswith(("__choice", "__rescaled"))]
    known = [n.name for n in find_channels(sparse.model, allow_inexact=IDEAS[name].inexact).model.nodes]
    assert [n for n in kept if n in set(known)] == known
    assert PLAN_KEY not in dense.model.metadata()


@each_idea
def test_groups_are_stable(name: str) -> None:
    model, sparse, _ = half(name)
    found = [find_channels(m, allow_inexact=IDEAS[name].inexact) for m in (model, model, sparse.model)]
    described = [[(g.name, g.size, g.nodes, g.optional) for g in c.groups] for c in found]
    assert described[0] == described[1] == described[2]
    places = [[g.places for g in c.groups] for c in found]
    assert places[0] == places[1]
    kinds = [[sorted((p.axis, p.weight) for p in each) for each in listed] for listed in places]
    assert kinds[0] == kinds[2]  # copies of one constant may have changed names


@each_idea
def test_zeros_exactly_at_the_channels_of_the_plan(name: str) -> None:
    model, sparse, _ = half(name)
    plan = stored_plan(sparse.model)
    assert plan is not None
    planned = planned_channels(sparse.model, plan)
    masks = keep_masks(planned, plan.removed)
    canonical = find_channels(model).model
    for tensor in planned.model.constants:
        before, after = canonical.array(tensor), planned.model.array(tensor)
        mask = masks.get(tensor, np.ones(before.shape, bool))
        assert not after[~mask].any()
        assert np.array_equal(after[mask], before[mask])


@each_idea
def test_a_budget_of_parameters(name: str) -> None:
    idea = IDEAS[name]
    model = half(name).model
    sparse = Prune(reduce_params=0.4, round_to=1, allow_inexact=idea.inexact)(model)
    dense = Transform()(sparse).model
    assert abs(params(dense) / params(model) - 0.6) <= 0.03
