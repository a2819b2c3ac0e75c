"""Linear layers: sums over inputs and over places of a kernel, in groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxprune.certify.refusal import Refusal, need
from onnxprune.certify.relations.element_bounds import (
    Array,
    Bounds,
    exactly,
    mul,
    plus,
    widened,
)
from onnxprune.certify.relations.kept_constants import inherited, lists_of, matched, with_shift
from onnxprune.certify.relations.relation import (
    Lists,
    Relation,
    line,
    plainer,
    removed,
)
from onnxprune.certify.relations.reshaping import reshaped
from onnxprune.certify.rules.node_pair import NodePair, by_channel
from onnxprune.certify.sizes.size_monomials import Size

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
