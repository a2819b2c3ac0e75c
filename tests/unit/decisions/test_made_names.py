"""Names of tensors and nodes that a pass adds: never one that the network has already."""

from __future__ import annotations

import random
from collections.abc import Callable

import onnx
import pytest
from many_networks import branched, opened
from meeting_networks import check_evidence, check_plan, damaged

from onnxprune.analysis.evidence.folding import folded
from onnxprune.analysis.evidence.liveness import find_evidence
from onnxprune.analysis.groups.channels import find_channels
from onnxprune.decisions.channels.channel_cut import shrunk
from onnxprune.ir import Model, check
from onnxprune.ir.canonical.canonical_bodies import rename
from onnxprune.ir.nested_graphs import flat


def names(proto: onnx.ModelProto) -> tuple[set[str], set[str]]:
    """Return the names of the tensors that are made or fixed in a model, and those of its nodes."""
    nodes = list(flat(proto.graph))
    fixed = {t.name for graph in Model(proto).graphs for t in graph.initializer}
    return fixed | {o for n in nodes for o in n.output if o}, {n.name for n in nodes}


def added(model: Model, seed: int) -> tuple[list[str], list[str]]:
    """Return the names that a network gets when channels are cut by a plan and by evidence."""
    channels = find_channels(model)
    results = [shrunk(channels, {g.name: list(range(g.size // 2)) for g in channels.groups})]
    evidence = find_evidence(find_channels(damaged(channels, seed)))
    results.append(shrunk(find_channels(folded(evidence)), evidence.removed))
    tensors, nodes = names(model.proto)
    found = [names(result.proto) for result in results]
    return sorted(set().union(*(t for t, _ in found)) - tensors), sorted(
        set().union(*(n for _, n in found)) - nodes
    )


def taken(model: Model, seed: int) -> Model:
    """Return the network with tensors and nodes of it named as those that would be added."""
    draw, (tensors, nodes) = random.Random(seed), added(model, seed)
    model = model.copy()
    others = sorted(names(model.proto)[0])
    rename(
        model.proto.graph,
        dict(zip(draw.sample(others, min(len(others), len(tensors))), tensors, strict=False)),
    )
    whole = list(flat(model.proto.graph))
    for node, name in zip(draw.sample(whole, min(len(whole), len(nodes))), nodes, strict=False):
        node.name = name
    return check(Model(model.proto))


@pytest.mark.parametrize(("grow", "seed"), [(opened, 7), (branched, 9)])
def test_names_that_are_taken(grow: Callable[[int], Model], seed: int) -> None:
    model = taken(grow(seed), seed)
    check_plan(model, seed, apart=False)
    check_evidence(model, seed, planned=False)


def test_a_network_that_was_cut_is_cut_again() -> None:
    """Nodes that the first cut has added bear the names that the second would give."""
    seed = 0
    channels = find_channels(opened(seed))
    once = shrunk(channels, {g.name: [0] for g in channels.groups})
    check_plan(check(Model(once.proto)), seed, apart=False)
