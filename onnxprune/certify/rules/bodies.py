"""Rules of If, Loop and Scan: their bodies are proofs of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxprune.certify.reading.inner_graphs import Body, bodies_of
from onnxprune.certify.reading.stacks import laid_out_at, scan_axes
from onnxprune.certify.refusal import need
from onnxprune.certify.relations.element_bounds import Bounds, hull, only_zero, unbounded
from onnxprune.certify.relations.relation import Relation, dropped, inserted
from onnxprune.certify.rules.node_pair import NodePair, rule

TURNS = 3
"""Number of trials of the bounds of states, after which they count as unknown."""


def _same_form(one: Relation, other: Relation) -> bool:
    """Return true if two relations cut alike; bounds aside."""
    need(one.above is None and other.above is None, "a result that may differ where it is negative")
    alike = one.rank == other.rank and one.free == other.free and one.scale == other.scale
    return (
        alike
        and one.shift is None
        and other.shift is None
        and one.lists.keys() == other.lists.keys()
        and all(m.shape == other.lists[a].shape and (m == other.lists[a]).all() for a, m in one.lists.items())
    )


def _walk(pair: NodePair, sparse: Body, dense: Body) -> list[Relation]:
    """Prove a body, and return the relations of its outputs."""
    proof = pair.proof
    nodes = list(proof.sparse.flattened(sparse))
    proof.walk(nodes, proof.dense.flattened(dense))
    need(len(sparse.outputs) == len(dense.outputs), "bodies with other outputs")
    return [proof.related(one, two) for one, two in zip(sparse.outputs, dense.outputs, strict=True)]


@rule("If")
def branches(pair: NodePair) -> list[Relation]:
    """Both branches are cut alike."""
    pair.whole(0)
    one, two = bodies_of(pair.graphs[0], pair.sparse), bodies_of(pair.graphs[1], pair.dense)
    need(one.keys() == two.keys(), "other branches")
    first, second = (_walk(pair, one[name], two[name]) for name in ("then_branch", "else_branch"))
    made = []
    for then, other in zip(first, second, strict=True):
        need(_same_form(then, other), "the branches keep other channels")
        shapes = then.bounds.shape == other.bounds.shape
        bounds = hull([then.bounds, other.bounds]) if shapes else unbounded(then.rank)
        made.append(then.holding(bounds))
    return made


@rule("Loop")
def loop(pair: NodePair) -> list[Relation]:
    """States are cut alike before and after each turn; a stack of outputs is cut as in each turn."""
    pair.whole(0)
    pair.whole(1)
    one, two = (bodies_of(g, n)["body"] for g, n in zip(pair.graphs, (pair.sparse, pair.dense), strict=True))
    count = len(pair.sparse.input) - 2
    need(len(pair.dense.input) - 2 == count, "another number of states")
    for inner in zip(one.inputs[:2], two.inputs[:2], strict=True):
        pair.proof.of[inner[1]] = (inner[0], Relation(0, unbounded(0)))
    states = [pair.relation(2 + k) for k in range(count)]
    results, states = _turns(pair, one, two, states, one.inputs[2:], two.inputs[2:], 1)
    need(results[0].plain, "the turns end otherwise")
    for outer in zip(pair.sparse.output[count:], pair.dense.output[count:], strict=True):
        made = [g.sizes.get(name) for g, name in zip(pair.graphs, outer, strict=True)]
        if made[0] and made[1]:
            made[1][0] = made[0][0]  # both take as many turns
    return [*states, *(inserted(r.exact(), 0) for r in results[1 + count :])]


@rule("Scan")
def scan(pair: NodePair) -> list[Relation]:
    """The same over the elements of inputs."""
    pair.same_attributes("body")
    need(pair.opset >= 9, "a Scan over samples")
    scanned = pair.given["num_scan_inputs"]
    one, two = (bodies_of(g, n)["body"] for g, n in zip(pair.graphs, (pair.sparse, pair.dense), strict=True))
    count = len(pair.sparse.input) - scanned
    need(len(pair.dense.input) - scanned == count, "another number of states")
    into, out_of = scan_axes(pair.given, scanned, len(one.outputs) - count)
    for k, axis in enumerate(into, count):
        given = pair.relation(k).exact()
        pair.proof.note(one.inputs[k], two.inputs[k], dropped(given, axis % given.rank))
    states = [pair.relation(k) for k in range(count)]
    results, states = _turns(pair, one, two, states, one.inputs[:count], two.inputs[:count], 0)
    stacks = [
        inserted(r.exact(), laid_out_at(axis, r.rank))
        for r, axis in zip(results[count:], out_of, strict=True)
    ]
    return [*states, *stacks]


def _turns(
    pair: NodePair,
    one: Body,
    two: Body,
    states: list[Relation],
    sparse: list[str],
    dense: list[str],
    first: int,
) -> tuple[list[Relation], list[Relation]]:
    """Find bounds of the states that hold before and after each turn, and prove the body with them.

    Returns:
        The relations of the body's outputs, and those of the states after any number of turns.
    """
    states = [s.exact().holding(s.bounds) for s in states]  # a turn need not leave more
    turn = 0
    while turn <= TURNS:
        for s, d, state in zip(sparse, dense, states, strict=True):
            pair.proof.note(s, d, state)
        results = _walk(pair, one, two)
        after = results[first : first + len(states)]
        chosen = [_chosen(b, a) for b, a in zip(states, after, strict=True)]
        if any(new is not old for new, old in zip(chosen, states, strict=True)):
            states = chosen
            continue
        for before, state in zip(states, after, strict=True):
            need(_same_form(before, state), "a state keeps other channels after a turn")
        if all(_within(a.bounds, b.bounds) for b, a in zip(states, after, strict=True)):
            return results, states
        last = turn >= TURNS - 1
        states = [b.holding(_wider(b.bounds, a.bounds, last)) for b, a in zip(states, after, strict=True)]
        turn += 1
    need(False, "the bounds of a state do not hold after a turn")
    return [], states


def _chosen(before: Relation, after: Relation) -> Relation:
    """Return a state of which any list will do with the lists that it has after a turn."""
    lists = {a: m for a, m in after.lists.items() if a in before.free and after.rank == before.rank}
    if not lists:
        return before
    return replace(before, lists={**before.lists, **lists}, free=before.free - lists.keys())


def _within(inner: Bounds, outer: Bounds) -> bool:
    return bool((inner.low >= outer.low).all() and (inner.high <= outer.high).all())


def _wider(one: Bounds, other: Bounds, last: bool) -> Bounds:
    """Return bounds that hold for both; in the last try only zeros are."""
    both = Bounds(np.minimum(one.low, other.low), np.maximum(one.high, other.high))
    return only_zero(both) if last else both
