"""Rules of products of matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.certify.refusal import need
from onnxprune.certify.relations.element_bounds import (
    Array,
    exactly,
    lift,
    mul,
    unbounded,
)
from onnxprune.certify.relations.relation import (
    Relation,
    combined,
    contracted,
    dropped,
    inserted,
    transposed,
)
from onnxprune.certify.rules.layers import Layer, biased
from onnxprune.certify.rules.node_pair import NodePair, rule
from onnxprune.certify.sizes.size_monomials import Size


@rule("Gemm")
def gemm(pair: NodePair) -> list[Relation]:
    """``alpha A[m k] B[k n] + beta C[m n] → Y[m n]``."""
    pair.same_attributes()
    turn = [bool(pair.given.get(name)) for name in ("transA", "transB")]
    alpha, beta = pair.given.get("alpha", 1.0), pair.given.get("beta", 1.0)
    made = _product(pair, turn)
    factor = exactly(np.full((1, 1), float(alpha)))
    shift = made.shift
    if alpha != 1:
        shift = shift if shift is None else mul(shift, factor)
        made = Relation(2, mul(made.bounds, factor), made.lists, made.free)
    made = Relation(2, made.bounds, made.lists, made.free, shift=shift)
    there = [g.has(n, 2) for g, n in zip(pair.graphs, (pair.sparse, pair.dense), strict=True)]
    if not any(there):
        return [made]
    need(beta != 0, "a bias that is not added")
    if all(there) and not pair.is_constant(2):
        need(shift is None, "no bias that could hold a constant")
        return [
            combined([(made, pair.made()[0]), (pair.relation(2), pair.sizes(2)[0])], lambda *b: unbounded(2))
        ]
    count = pair.made()[0][1]
    need(isinstance(count, int), "outputs of unknown number")
    assert isinstance(count, int)
    vector = not there[0] or all(c.shape[:-1] in ((), (1,)) for c in pair.constant(2))
    need(vector, "a bias for each sample")
    rows, columns = (dict.get(dict(made.lists), a) for a in (0, 1))
    need(columns is None or columns.size == columns.shape[1], "other outputs in each sample")
    bounds = made.bounds.squashed(0).moved(lambda v: v.reshape(-1))
    lists = {} if columns is None else {0: columns.reshape(-1)}
    moved = shift if shift is None else shift.squashed(0).moved(lambda v: v.reshape(-1))
    alone = biased(
        pair,
        2,
        Relation(1, bounds, lists, frozenset({0} if 1 in made.free else ()), shift=moved),
        count,
        beta,
    )
    lists = {a: m for a, m in ((0, rows), (1, columns)) if m is not None}
    return [Relation(2, alone.bounds.moved(lambda v: v.reshape(1, -1)), lists, made.free)]


@rule("MatMul")
def matmul(pair: NodePair) -> list[Relation]:
    """``A[… m k] B[… k n] → Y[… m n]``."""
    pair.same_attributes()
    return [_product(pair, [False, False])]


def _product(pair: NodePair, turn: Sequence[bool]) -> Relation:
    ranks = [len(pair.sizes(k)[0]) for k in (0, 1)]
    need(min(ranks) >= 2, "a vector")
    if ranks[1] == 2 and pair.is_constant(1) and not pair.is_constant(0):
        return _layer(pair, turn)
    return _general_product(pair, turn)


def _layer(pair: NodePair, turn: Sequence[bool]) -> Relation:
    """A product with a constant matrix: one linear layer over the last axis."""
    x, hints = pair.relation(0).exact(), pair.hints(1)
    if turn[0]:
        x = transposed(x, [1, 0])
    last = x.rank - 1
    listed = x.lists.get(last)
    if last in x.free or (listed is not None and listed.size != listed.shape[last]):
        return _general_product(pair, turn)
    one, two = (c.T if turn[1] else c for c in pair.constant(1))
    sizes = [pair.sizes(0)[k][0 if turn[0] else -1] for k in (0, 1)]
    need(sizes == [len(one), len(two)], "matrices of other sizes")
    kept = hints.get(0 if turn[1] else 1)
    kept = kept.T if kept is not None and turn[1] else kept
    bounds = x.bounds
    others = {a: m for a, m in x.lists.items() if a != last}
    need(
        all(m.shape[last] == 1 for m in others.values()),
        "other axes are cut differently along the one summed over",
    )
    for axis in range(last):
        bounds = bounds.squashed(axis)
    lists = {} if listed is None else {1: listed.reshape(1, -1)}
    inputs = Relation(2, bounds.moved(lambda v: v.reshape(1, -1)), lists)
    one, two = (w.T[None, :, :, None] for w in (one, two))
    formed = {} if kept is None else {1: kept.T[None, :, :, None]}
    made = Layer(inputs, one, two, formed, folded=pair.is_folded(1)).related()
    need(0 not in made.lists, "groups")
    shape = [-1 if a == last else 1 for a in range(x.rank)]
    outputs = {last: made.lists[1].reshape(shape)} if 1 in made.lists else {}
    shift = made.shift if made.shift is None else made.shift.moved(lambda v: v.reshape(shape))
    free = frozenset(a for a in x.free if a != last)
    return Relation(
        x.rank, made.bounds.moved(lambda v: v.reshape(shape)), {**others, **outputs}, free, shift=shift
    )


def _general_product(pair: NodePair, turn: Sequence[bool]) -> Relation:
    """Operands multiplied element by element in one more axis, ``[… m k n]``, then summed."""
    sizes = [pair.sizes(k)[0] for k in (0, 1)]
    rank = max(map(len, sizes)) + 1
    rels: dict[int, Relation] = {}
    wide: dict[int, list[Size]] = {}
    for k in sorted((0, 1), key=pair.is_constant):
        order = list(range(len(sizes[k])))
        if turn[k]:
            order[-2:] = [order[-1], order[-2]]
        place = len(order) if k == 0 else len(order) - 2
        turned = [sizes[k][a] for a in order]
        turned.insert(place, 1)
        wide[k] = [*[1] * (rank - len(turned)), *turned]
        if pair.is_constant(k):
            rels[k] = _constant_operand(pair, k, order, place, rels.get(1 - k), rank)
        else:
            rels[k] = inserted(transposed(pair.relation(k).exact(), order), place).lifted(rank)
    terms = combined([(rels[0], wide[0]), (rels[1], wide[1])], mul)
    summed_over = wide[0][-2] if isinstance(wide[0][-2], int) or wide[0][-2] == wide[1][-2] else wide[1][-2]
    made = dropped(contracted(terms, rank - 2, summed_over), rank - 2)
    if rels[0].shares == rank - 2:  # a mean of the other operand's elements
        return made.holding(rels[1].bounds.squashed(rank - 2).moved(lambda v: v.squeeze(rank - 2)))
    return made


def _constant_operand(
    pair: NodePair, k: int, order: Sequence[int], place: int, other: Relation | None, rank: int
) -> Relation:
    def form(values: Array) -> Array:
        return lift(np.expand_dims(values.transpose(order), place), rank)

    one = form(pair.constant(k)[0])
    known = {} if other is None else {a: m for a, m in other.lists.items() if one.shape[a] != 1}
    hints = {}
    for axis, listed in pair.hints(k).items():
        inside = order.index(axis)
        hints[inside + (inside >= place) + rank - len(order) - 1] = form(listed)
    return pair.match(k, known, form, {a: m for a, m in hints.items() if a not in known})
