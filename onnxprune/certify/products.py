"""Rules of sums of products: convolutions and products of matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.certify.element_bounds import (
    Array,
    Bounds,
    exactly,
    lift,
    mul,
    only_zero,
    plus,
    unbounded,
    widened,
)
from onnxprune.certify.kept_constants import inherited, lists_of, matched, with_shift
from onnxprune.certify.node_pair import NodePair, by_channel, rule
from onnxprune.certify.refusal import Refusal, need
from onnxprune.certify.relation import (
    Lists,
    Relation,
    combined,
    contracted,
    dropped,
    inserted,
    line,
    plainer,
    removed,
    transposed,
)
from onnxprune.certify.reshaping import reshaped
from onnxprune.certify.size_products import Size

CHUNK = 1 << 20
"""Weights that are held in float64 at once."""
_UNIT = 2.0**-53
"""Relative rounding of one operation in float64."""
_ROOM = 2.0**-44
"""Least relative widening of a sum, for its own rounding."""


@dataclass(frozen=True)
class Layer:
    """A linear layer: outputs ``[groups, outputs]`` that sum over inputs and over places of a kernel.

    Attributes:
        inputs: The relation of the inputs, ``[groups, inputs]``.
        sparse: Weights, ``[groups, outputs, inputs, places]``.
        dense: Dense weights of that form.
        hints: Index lists of the certificate, for that form.
        padded: True if zeros may stand in the place of inputs.
        folded: True if the weights were computed by the verifier.
    """

    inputs: Relation
    sparse: Array
    dense: Array
    hints: Lists
    padded: bool = False
    folded: bool = False

    def related(self) -> Relation:
        """Return the relation of the outputs; its shift is the sum over the removed inputs."""
        need(not self.inputs.free, "a sum over channels that do not vary")
        known = {2 * a: m.reshape(m.shape[0], 1, m.shape[1], 1) for a, m in self.inputs.lists.items()}
        hints = {a: m for a, m in self.hints.items() if a not in known}
        within = () if self.sparse.shape[0] == 1 else (0,)
        sparse = self.sparse
        try:
            found = lists_of(sparse, self.dense, known, hints, within, self.folded)
        except Refusal:
            if not np.any(self.inputs.bounds.fixed & ~self.inputs.bounds.zero):
                raise
            bounds = self.inputs.bounds.moved(lambda v: v[:, None, :])
            sparse = inherited(bounds, sparse, self.dense, known | hints)
            found = lists_of(sparse, self.dense, known, hints, within)
        need(0 not in found or found[0].size == len(found[0]), "groups that differ by output")
        need(3 not in found, "another kernel")
        lists = {a: m.reshape(m.shape[:2]) for a, m in found.items() if a < 2 and m.shape[2:] == (1, 1)}
        need(len(lists) == sum(1 for a in found if a < 2), "outputs that differ by input")
        shift = self._lost(sparse, found)
        return Relation(2, self._bounds(sparse), plainer(lists, sparse.shape[:2]), shift=shift)

    def _lost(self, sparse: Array, lists: Lists) -> Bounds | None:
        """Return bounds of the sums of removed inputs in kept outputs, ``[dense groups, dense outputs]``."""
        kept = lists.get(2)
        if kept is None:
            return None
        count = sparse.shape[2]
        need(kept.shape[1] == kept.shape[3] == 1, "inputs that differ by output")
        gone = removed(kept.reshape(kept.shape[0], kept.shape[2]), 1, count)  # [dense groups or 1, inputs]
        groups = lists.get(0, line(sparse.shape[0], 0, 4)).reshape(-1)
        held = self._held().moved(lambda v: np.broadcast_to(v, sparse.shape[0::2])[groups])
        gone = np.broadcast_to(gone, held.shape) & ~held.zero
        columns = np.flatnonzero(gone.any(0))
        if not len(columns):
            return None
        outputs = lists.get(1, line(sparse.shape[1], 1, 4))
        where = np.broadcast_arrays(groups[:, None, None], outputs[:, :, :, 0], columns[None, None, :])
        weights = sparse[tuple(where)].astype(np.float64)  # [dense groups, dense outputs, columns, places]
        weights = np.where(gone[:, None, columns, None], weights, 0.0)
        one, size = _summed(weights, held.moved(lambda v: v[:, None, columns]))
        need(np.isfinite(size).all(), "removed channels are not known to add nothing")
        return one if one.low.any() or one.high.any() else None

    def _held(self) -> Bounds:
        return self.inputs.bounds.or_zero() if self.padded else self.inputs.bounds

    def _bounds(self, sparse: Array) -> Bounds:
        """Return the bounds of the sparse outputs."""
        held = self._held().moved(lambda v: np.broadcast_to(v, sparse.shape[0::2]))
        rows = max(1, CHUNK // max(1, sparse.shape[0] * sparse.shape[2] * sparse.shape[3]))
        parts = [
            _summed(sparse[:, k : k + rows].astype(np.float64), held.moved(lambda v: v[:, None, :]))[0]
            for k in range(0, sparse.shape[1], rows)
        ]
        return Bounds(np.concatenate([p.low for p in parts], 1), np.concatenate([p.high for p in parts], 1))


def _summed(weights: Array, held: Bounds) -> tuple[Bounds, Array]:
    """Return the bounds of sums of weights times inputs, and how large the terms are.

    Args:
        weights: ``[groups, outputs, inputs, places]``.
        held: Bounds of the inputs, ``[groups, 1, inputs]``.
    """
    terms = weights.shape[2] * weights.shape[3]
    if weights.shape[3] == 1:
        weights = weights[..., 0]
        up, down = np.maximum(weights, 0.0), np.minimum(weights, 0.0)
    else:
        up, down = np.maximum(weights, 0.0).sum(3), np.minimum(weights, 0.0).sum(3)
    low = _dot(up, held.low) + _dot(down, held.high)
    high = _dot(up, held.high) + _dot(down, held.low)
    largest = np.maximum(np.abs(held.low), np.abs(held.high))
    size = _dot(up, largest) - _dot(down, largest)
    room = np.where(np.isfinite(size), size, 0.0) * max(_ROOM, 2 * terms * _UNIT)
    return widened(low - room, high + room), size


def _dot(weights: Array, values: Array) -> Array:
    """Return sums over the last axis, zero times infinity being zero.

    Args:
        weights: ``[groups, outputs, inputs]``, all of one sign.
        values: ``[groups, 1, inputs]``.
    """

    def total(vector: Array) -> Array:
        column = np.ascontiguousarray(vector, np.float64).reshape(
            vector.shape[0], -1, 1
        )  # BLAS takes no other
        return np.asarray(np.matmul(weights, column)[:, :, 0])

    finite = np.isfinite(values)
    known = np.where(finite, values, 0.0)
    found = total(known) if known.any() else np.zeros(weights.shape[:2])
    for sign in (1.0, -1.0):
        endless = values == sign * np.inf
        if endless.any():
            reached = sign * total(endless)
            found = found + np.where(reached == 0, 0.0, np.copysign(np.inf, reached))
    return found


def channels(given: Relation, groups: tuple[int, int], inputs: tuple[int, int]) -> Relation:
    """Return a relation of the channels on axis 1, as ``[groups, inputs]``; other axes are whole.

    Args:
        given: The relation of a tensor ``[n c …]``.
        groups: The number of groups, sparse and dense.
        inputs: The channels of one group, sparse and dense.
    """
    given.exact().only(0, 1)
    need(0 not in given.free, "samples that do not vary")
    listed, bounds = given.lists.get(1), given.bounds
    need(listed is None or listed.size == listed.shape[1], "other channels in each sample")
    for axis in range(given.rank):
        bounds = bounds if axis == 1 else bounds.squashed(axis)
    lists = {} if listed is None else {0: listed.reshape(-1)}
    alone = Relation(
        1, bounds.moved(lambda v: v.reshape(-1)), lists, frozenset({0} if 1 in given.free else ())
    )
    whole: tuple[Size, Size] = (groups[0] * inputs[0], groups[1] * inputs[1])
    return reshaped(alone, [whole], [groups, inputs])


def merged(given: Relation, groups: tuple[int, int], outputs: tuple[int, int]) -> Relation:
    """Return the relation of all channels, ``[groups * outputs]``, of one by groups; the shift goes along."""
    shift = given.shift
    alone = Relation(2, given.bounds, given.lists, given.free)
    made = reshaped(alone, [groups, outputs], [(groups[0] * outputs[0], groups[1] * outputs[1])])
    if shift is not None:
        wide = (groups[1], outputs[1])
        shift = shift.moved(lambda v: np.broadcast_to(v, wide).reshape(-1))
    return Relation(1, made.bounds, made.lists, made.free, shift=shift)


def biased(pair: NodePair, place: int, given: Relation, count: int, beta: float = 1.0) -> Relation:
    """Return the relation of outputs with a bias added, which may hold the sums over removed inputs.

    Args:
        pair: The nodes.
        place: Number of the operand that is the bias.
        given: The relation of the outputs, ``[outputs]``.
        count: Number of outputs of the sparse layer.
        beta: A factor of the bias.
    """
    present = [
        graph.has(node, place) for graph, node in zip(pair.graphs, (pair.sparse, pair.dense), strict=True)
    ]
    if not any(present):
        return given
    need(present[1], "a bias is lost")
    if present[0]:
        one, two = (c.reshape(-1) for c in pair.constant(place))
    else:
        need(
            given.shift is not None and pair.dense.input[place] in pair.graphs[1].constants,
            "a bias from nowhere",
        )
        two = pair.graphs[1].constants[pair.dense.input[place]].reshape(-1)
        one = np.zeros(count, two.dtype)
    need(one.size in (1, count), "a bias of another size")
    lists = given.lists if one.size == count and count > 1 else {}
    shift = given.shift
    if shift is None:
        bias = matched(one, two, lists, {}, rounded=present[0] and pair.is_folded(place)).bounds
    else:
        factor = exactly(np.asarray([1 / beta]))
        bias = with_shift(one, two, lists, shift if beta == 1 else mul(shift, factor)).bounds
    bias = bias if beta == 1 else mul(bias, exactly(np.asarray([float(beta)])))
    return Relation(1, plus(given.bounds, bias), given.lists, given.free)


def on_channels(given: Relation, like: Relation) -> Relation:
    """Return the relation of a tensor ``[n c …]`` of that of its channels; samples are as in another."""
    rank = like.rank
    lists = {a: m for a, m in like.lists.items() if a == 0}
    if 0 in given.lists:
        lists[1] = by_channel(given.lists[0], rank)
    shift = given.shift if given.shift is None else given.shift.moved(lambda v: by_channel(v, rank))
    bounds = given.bounds.moved(lambda v: by_channel(v, rank))
    return Relation(rank, bounds, lists, frozenset({1} if given.free else ()), shift=shift)


@rule("Conv", "ConvTranspose")
def conv(pair: NodePair) -> list[Relation]:
    """``X[n (g i) …] W[(g o) i …] B[(g o)] → Y[n (g o) …]``; transposed ``W[(g i) o …]``."""
    pair.same_attributes("group")
    if not pair.is_constant(1):
        return [_conv_by_weights(pair)]
    one, two = pair.constant(1)
    need(one.shape[2:] == two.shape[2:], "another kernel")
    turned, groups = pair.operator == "ConvTranspose", pair.number("group", 1)
    inputs, outputs = (
        tuple(w.shape[axis] // (g if axis == 0 else 1) for w, g in ((one, groups[0]), (two, groups[1])))
        for axis in ((0, 1) if turned else (1, 0))
    )
    sizes = [s[1] for s in pair.sizes(0)]
    need(
        sizes == [g * i for g, i in zip(groups, inputs, strict=True)],
        "weights for another number of channels",
    )

    def form(weights: Array, g: int) -> Array:
        shape = (g, weights.shape[0] // g, weights.shape[1], -1)
        return weights.reshape(shape).transpose(0, 2, 1, 3) if turned else weights.reshape(shape)

    x = pair.relation(0)
    layer = Layer(
        channels(x, groups, inputs),
        form(one, groups[0]),
        form(two, groups[1]),
        _output_hints(pair, groups, outputs, turned),
        turned or pair.padded,
        pair.is_folded(1),
    )
    made = merged(layer.related(), groups, outputs)
    if turned and made.shift is not None:
        raise Refusal("a transposed convolution whose removed inputs are not zero")
    count = groups[0] * outputs[0]
    return [on_channels(biased(pair, 2, made, count), x)]


def _output_hints(
    pair: NodePair, groups: tuple[int, int], outputs: tuple[int, int], turned: bool
) -> dict[int, Array]:
    """Return the kept outputs by the certificate, in each group."""
    listed = pair.hints(1).get(1 if turned else 0)
    if listed is None or listed.size != max(listed.shape):
        return {}
    if turned:
        return {1: listed.reshape(1, -1, 1, 1)} if listed.size == outputs[1] else {}
    if listed.size != groups[1] * outputs[1]:
        return {}
    kept = listed.reshape(groups[1], outputs[1])
    lists: dict[int, Array] = {1: (kept % outputs[0])[:, :, None, None]}
    if groups[0] != groups[1]:
        lists[0] = (kept[:, :1] // outputs[0])[:, :, None, None]
    return plainer(lists, (groups[0], outputs[0], 1, 1))


def _conv_by_weights(pair: NodePair) -> Relation:
    """A convolution whose weights are computed, in one group."""
    need(pair.operator == "Conv" and pair.number("group", 1) == (1, 1), "computed weights, in groups")
    x, w = pair.relation(0), pair.relation(1).exact().only(0, 1)
    (one, two), (xs, xd) = pair.sizes(1), pair.sizes(0)
    need(
        one[2:] == two[2:] and all(isinstance(s, int) for s in (*one[:2], *two[:2])),
        "weights of unknown size",
    )
    co, ci = (int(s) for s in one[:2] if isinstance(s, int))
    di = two[1]
    need((xs[1], xd[1]) == (ci, di) and isinstance(di, int), "weights for another number of channels")
    assert isinstance(di, int)
    inputs = channels(x, (1, 1), (ci, di))
    inputs = Relation(2, only_zero(inputs.bounds), inputs.lists, inputs.free)
    bounds = w.bounds
    for axis in range(2, w.rank):
        bounds = bounds.squashed(axis)
    weights = Relation(
        2,
        only_zero(bounds.moved(lambda v: v.reshape(v.shape[:2]))),
        {a: m.reshape(m.shape[:2]) for a, m in w.lists.items()},
        w.free,
    )
    terms = combined([(inputs, (1, ci)), (weights, (co, ci))], mul)
    made = dropped(contracted(terms, 1, ci), 1)
    need(made.shift is None, "removed channels are not known to add nothing")
    if pair.has(2):
        made = combined([(made, [co]), (pair.relation(2, made.lists), [co])], plus)
    return on_channels(made, x)


@rule("DeformConv")
def deform_conv(pair: NodePair) -> list[Relation]:
    """A convolution that reads between places: zero inputs stay zero. Offsets and masks are whole."""
    pair.same_attributes("group")
    for place in (2, 4):
        pair.whole(place)
    one, two = pair.constant(1)
    groups, x = pair.number("group", 1), pair.relation(0)
    need(one.shape[2:] == two.shape[2:], "another kernel")
    need(pair.given.get("offset_group", 1) == 1, "offsets for groups of channels")
    need(
        [s[1] for s in pair.sizes(0)] == [w.shape[1] * g for w, g in zip((one, two), groups, strict=True)],
        "groups",
    )
    inputs = channels(x, groups, (one.shape[1], two.shape[1]))
    outputs = (one.shape[0] // groups[0], two.shape[0] // groups[1])
    hints = _output_hints(pair, groups, outputs, turned=False)
    places = math.prod(one.shape[2:])
    sparse, dense = (w.reshape(g, -1, w.shape[1], places) for w, g in zip((one, two), groups, strict=True))
    layer = Layer(inputs.holding(only_zero(inputs.bounds)), sparse, dense, hints)
    return [on_channels(biased(pair, 3, merged(layer.related(), groups, outputs), one.shape[0]), x)]


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
