"""Rules of changes between numbers and integers."""

from __future__ import annotations

import numpy as np

from onnxprune.certify.refusal import need
from onnxprune.certify.relations.element_bounds import (
    Bounds,
    Centred,
    only_zero,
    unbounded,
)
from onnxprune.certify.relations.relation import Relation, removed, same
from onnxprune.certify.rules.node_pair import NodePair, rule


@rule("QuantizeLinear", "DequantizeLinear")
def quantise(pair: NodePair) -> list[Relation]:
    """A scale and a zero point, of the whole tensor or along one axis."""
    pair.same_attributes()
    need(not pair.given.get("block_size"), "quantised in blocks")
    if pair.is_constant(0):
        need(all(pair.is_constant(k) for k in pair.places), "a constant with a computed scale")
        given = pair.match(0, {})
    else:
        given = pair.relation(0).exact()
    axis = pair.given.get("axis", 1) % given.rank if given.rank else 0
    for k in (1, 2):
        if not pair.has(k):
            continue
        if pair.sizes(k)[0] in ([], [1]):
            pair.whole(k)
        else:
            listed = given.lists.get(axis)
            need(
                listed is None or listed.size == listed.shape[axis],
                "other channels in each element of an axis",
            )
            need(axis not in given.free, "an axis that does not vary")
            pair.match(k, {} if listed is None else {0: listed.reshape(-1)}, hints={})
    return [given.holding(_quantised(pair, given.bounds))]


def _quantised(pair: NodePair, bounds: Bounds) -> Bounds:
    """Return the bounds behind a change between numbers and integers; zero is the zero point.

    Of integers, the bounds of their differences to the zero point are kept apart (see `Centred`).
    """
    single = pair.has(2) and pair.sizes(2)[0] in ([], [1])
    none = not pair.has(2) or (pair.is_constant(2) and not pair.constant(2)[0].any())
    name = pair.sparse.input[2] if pair.has(2) else ""
    if pair.operator == "QuantizeLinear" and single:
        pair.proof.centred[pair.sparse.output[0]] = Centred(name, only_zero(bounds))
    elif pair.operator == "DequantizeLinear" and single:
        centred = pair.proof.centred.get(pair.sparse.input[0])
        if centred is not None and _same_point(pair, name, centred.zero_point):
            return centred.bounds
    return only_zero(bounds) if none else unbounded(bounds.rank)


def _same_point(pair: NodePair, one: str, other: str) -> bool:
    """Return true if two zero points of one type are one number."""
    known = [pair.graphs[0].constants.get(name) for name in (one, other)]
    same = known[0] is not None and known[1] is not None and bool((known[0] == known[1]).all())
    return one == other or same


@rule("DynamicQuantizeLinear")
def dynamic_quantisation(pair: NodePair) -> list[Relation]:
    """The elements, their scale and their zero point: these two stay if zeros alone are removed."""
    pair.same_attributes()
    given = pair.relation(0).exact()
    need(not given.free, "an axis that does not vary")
    for axis, listed in given.lists.items():
        size = pair.sizes(0)[0][axis]
        need(isinstance(size, int) and listed.size == listed.shape[axis], "other elements in each row")
        assert isinstance(size, int)
        gone = removed(listed, axis, size)
        zero = np.broadcast_to(given.bounds.zero, np.broadcast_shapes(given.bounds.shape, gone.shape))
        need((zero | ~gone).all(), "a removed element may be the largest or the least")
    sparse, _, zero_point = pair.sparse.output
    pair.proof.centred[sparse] = Centred(zero_point, only_zero(given.bounds))
    return [given.holding(unbounded(given.rank)), same(0), same(0)]
