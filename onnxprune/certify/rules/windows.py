"""Rules of operators that read neighbourhoods of each channel by itself, or normalise."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.certify.refusal import need
from onnxprune.certify.relations.element_bounds import Array, Bounds, exactly, mul, only_zero, plus, unbounded
from onnxprune.certify.relations.kept_constants import PLACES, ROUNDING
from onnxprune.certify.relations.relation import Lists, Relation, lost
from onnxprune.certify.rules.node_pair import NodePair, by_channel, rule
from onnxprune.certify.rules.reductions import reduced
from onnxprune.certify.sizes.size_monomials import over

WIDER = "the axis is normalised as a whole, and has to stay"


@dataclass(frozen=True)
class Indices:
    """Indices of the maxima of a pooling, counted through the whole pooled tensor.

    Attributes:
        sparse: The name of the sparse indices.
        source: Tensors that are pooled, sparse and dense.
        lists: The index lists of it.
        free: Its axes that do not vary.
    """

    sparse: str
    source: tuple[str, str]
    lists: Lists
    free: frozenset[int]


def _spatial(bounds: Bounds) -> Bounds:
    """Return bounds that hold for all places of a picture."""
    for axis in range(2, bounds.rank):
        bounds = bounds.squashed(axis)
    return bounds


@rule("MaxPool", "AveragePool", "LpPool")
def pool(pair: NodePair) -> list[Relation]:
    """Maxima and means of the places under a window."""
    pair.same_attributes()
    given = pair.relation(0).exact().only(0, 1)
    need(0 not in given.lists and 0 not in given.free, "samples are cut")
    bounds = _spatial(given.bounds)
    if pair.operator == "LpPool":
        bounds = only_zero(bounds)
    elif pair.operator == "AveragePool" and (pair.padded or pair.given.get("ceil_mode")):
        bounds = bounds.or_zero()
    if len(pair.sparse.output) > 1:
        names = pair.sparse.output[1], pair.dense.output[1]
        source = pair.sparse.input[0], pair.dense.input[0]
        pair.proof.indices[names[1]] = Indices(names[0], source, given.lists, given.free)
    return [Relation(given.rank, bounds, given.lists, given.free)]


@rule("GridSample", "RoiAlign", "MaxRoiPool")
def sampled(pair: NodePair) -> list[Relation]:
    """Each channel is read between places by itself; where is the same in both models."""
    pair.same_attributes()
    for place in range(1, len(pair.sparse.input)):
        pair.whole(place)
    given = pair.relation(0).exact().only(1)
    bounds = _spatial(given.bounds).or_zero()
    means = pair.given.get("mode", b"linear") in (b"linear", b"bilinear", b"nearest")
    regions = pair.operator in ("RoiAlign", "MaxRoiPool")
    if regions or not means:
        bounds = only_zero(bounds)
    if regions:
        bounds = bounds.squashed(0)
    return [given.holding(bounds)]


@rule("MaxUnpool")
def max_unpool(pair: NodePair) -> list[Relation]:
    """Puts each element at the index that a pooling of a tensor cut in the same way has returned."""
    pair.same_attributes()
    given, at = pair.relation(0).exact().only(1), pair.proof.indices.get(pair.dense.input[1])
    need(at is not None and at.sparse == pair.sparse.input[1], "indices that no pooling has made")
    assert at is not None
    need(set(at.lists) == set(given.lists) and not at.free and not given.free, "indices of other channels")
    need(all(np.array_equal(m, at.lists[a]) for a, m in given.lists.items()), "indices of other channels")
    for graph, made, name in zip(pair.graphs, pair.made(), at.source, strict=True):
        pooled = graph.sizes.get(name)
        need(pooled is not None and made[1:] == pooled[1:], "indices into a picture of another size")
    one, two = pair.made()
    need(one[0] == two[0] and one[2:] == two[2:], "another size")
    return [Relation(given.rank, _spatial(given.bounds).or_zero(), given.lists)]


@rule("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(pair: NodePair) -> list[Relation]:
    """Maxima and means over all places."""
    pair.same_attributes()
    given = pair.relation(0).exact()
    cut = [a for a in range(2, given.rank) if given.touched(a)]
    bounds = _spatial(given.bounds)
    if pair.operator == "GlobalLpPool":
        bounds = only_zero(bounds)
    if not cut:
        return [Relation(given.rank, bounds, given.lists, given.free)]
    kind = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax", "GlobalLpPool": "ReduceL2"}[
        pair.operator
    ]
    return [reduced(given, kind, range(2, given.rank), *pair.sizes(0))]


@rule("LRN")
def local_response(pair: NodePair) -> list[Relation]:
    """Divides by a norm of neighbouring channels."""
    pair.same_attributes()
    given = pair.relation(0).exact()
    need(not given.touched(1), WIDER)
    return [Relation(given.rank, only_zero(given.bounds), given.lists, given.free)]


@rule("InstanceNormalization")
def instance_normalization(pair: NodePair) -> list[Relation]:
    """Each channel by itself: a channel that is the same everywhere becomes its shift."""
    pair.same_attributes()
    given = pair.relation(0).exact().only(0, 1)
    need(0 not in given.lists and not given.free, "samples are cut")
    listed = given.lists.get(1)
    known = {} if listed is None else {0: listed.reshape(-1)}
    scale, bias = (pair.match(k, known).bounds.moved(lambda v: by_channel(v, given.rank)) for k in (1, 2))
    flat = _constant_channels(given) | scale.zero
    low, high = np.where(flat, bias.low, -np.inf), np.where(flat, bias.high, np.inf)
    return [given.holding(Bounds(low, high))]


def _constant_channels(given: Relation) -> Array:
    """Return which channels are zero at all places and for all inputs."""
    bounds = given.bounds
    for axis in range(given.rank):
        bounds = bounds if axis == 1 else bounds.squashed(axis)
    return bounds.zero


@rule("GroupNormalization")
def group_normalization(pair: NodePair) -> list[Relation]:
    """Whole groups of channels may be removed; those that stay are normalised as before."""
    pair.same_attributes("num_groups")
    given = pair.relation(0).exact().only(1)
    need(not given.free, "channels that do not vary")
    groups = pair.number("num_groups")
    (one, two), listed = pair.sizes(0), given.lists.get(1)
    each = [over(s[1], g) for s, g in zip((one, two), groups, strict=True)]
    need(each[0] == each[1] and isinstance(each[0], int), "groups of another size")
    assert isinstance(each[0], int)
    if listed is not None:
        rows = listed.reshape(groups[1], each[0])
        whole = rows[:, :1] + np.arange(each[0])
        need(np.array_equal(rows, whole) and not (rows[:, 0] % each[0]).any(), WIDER)
    else:
        need(groups[0] == groups[1], "another number of groups")
    for k in (1, 2):
        in_channels = pair.sizes(k)[0][0] == one[1]
        if listed is None:
            pair.whole(k)
        elif in_channels:
            pair.match(k, {0: listed.reshape(-1)})
        else:
            pair.match(k, {0: listed.reshape(groups[1], each[0])[:, 0] // each[0]})
    return [given.holding(unbounded(given.rank))]


@rule("MeanVarianceNormalization")
def mean_and_variance(pair: NodePair) -> list[Relation]:
    """Some axes are normalised as a whole; a tensor that is zero along them stays zero."""
    pair.same_attributes()
    given = pair.relation(0).exact()
    held = given.bounds
    for axis in pair.given.get("axes", [0, 2, 3]):
        need(not given.touched(axis % given.rank), WIDER)
        held = held.squashed(axis % given.rank)
    return [given.holding(only_zero(held))]


@rule(
    "LayerNormalization", "RMSNormalization", "Softmax", "LogSoftmax", "Hardmax", "LpNormalization",
    "CumSum", "CumProd",
)  # fmt: skip
def along(pair: NodePair) -> list[Relation]:
    """Operators that depend on a whole axis, or on all axes from one on: these have to stay."""
    pair.same_attributes(*(["epsilon"] if pair.operator == "RMSNormalization" else []))
    given = pair.relation(0).exact()
    if pair.operator == "RMSNormalization" and given.touched(given.rank - 1):
        return [_root_mean_square(pair, given)]
    first = 1 if pair.operator in ("Softmax", "LogSoftmax", "Hardmax") and pair.opset < 13 else -1
    if pair.operator in ("CumSum", "CumProd"):
        need(pair.is_constant(1), "an axis that is computed")
        axis = int(pair.constant(1)[0].ravel()[0]) % given.rank
    else:
        axis = pair.axis(first, given.rank)
    need(pair.number("epsilon")[0] == pair.number("epsilon")[1], "another epsilon")
    onwards = pair.operator in ("LayerNormalization", "RMSNormalization") or first == 1
    mixed = range(axis, given.rank) if onwards else [axis]
    need(not any(given.touched(a) for a in mixed), WIDER)
    for place in range(1, len(pair.sparse.input)):
        pair.whole(place)
    bounds = unbounded(given.rank)
    if pair.operator in ("Softmax", "Hardmax"):
        bounds = Bounds(np.zeros([1] * given.rank), np.ones([1] * given.rank))
    elif pair.operator in ("CumSum", "RMSNormalization", "LpNormalization") or (
        pair.operator == "CumProd" and not pair.given.get("exclusive")  # the product of nothing is one
    ):
        held = given.bounds
        for a in mixed:
            held = held.squashed(a)
        bounds = only_zero(held)
    if pair.operator in ("RMSNormalization", "LayerNormalization"):
        bounds = _scaled_and_shifted(pair, bounds)
    shares = axis if pair.operator == "Softmax" and list(mixed) == [axis] else None
    made = Relation(given.rank, bounds, given.lists, given.free, shares=shares)
    return (
        [made]
        if pair.operator in ("RMSNormalization", "LayerNormalization")
        else [made] * len(pair.sparse.output)
    )


def _scaled_and_shifted(pair: NodePair, bounds: Bounds) -> Bounds:
    """Return the bounds of a normalised tensor times a scale, plus a shift, operands 1 and 2."""
    for place, function in ((1, mul), (2, plus)):
        if pair.has(place):
            known = exactly(pair.constant(place)[0]) if pair.is_constant(place) else unbounded(bounds.rank)
            bounds = function(bounds, known.lifted(bounds.rank))
    return bounds


def _root_mean_square(pair: NodePair, given: Relation) -> Relation:
    """Channels divided by their root mean square, removed ones being zero.

    The mean over the n' of n kept channels is n / n' times that over all. A larger epsilon and a scale by the
    root of it compensate for that; with the epsilon alone, the relation has a factor.
    """
    last = given.rank - 1
    need(pair.axis(-1, given.rank) == last and last in given.lists and not given.free, WIDER)
    (one, two), listed = pair.sizes(0), given.lists[last]
    size, left = one[last], two[last]
    need(isinstance(size, int) and isinstance(left, int) and listed.size == left, WIDER)
    assert isinstance(size, int)
    assert isinstance(left, int)
    need(
        lost(given.holding(only_zero(given.bounds)), last, listed, size) is None,
        "removed channels are not zero",
    )
    epsilons = pair.number("epsilon", 1e-5)
    room = PLACES * ROUNDING[4]
    need(abs(epsilons[0] * size / left - epsilons[1]) <= room * epsilons[1], "another epsilon")
    scales = [c.astype(np.float64) for c in pair.constant(1)]
    before, after = scales[0][listed.reshape(-1)] if scales[0].size == size else scales[0], scales[1]
    held = given.bounds
    for axis in range(last):
        held = held.squashed(axis)
    made = given.holding(only_zero(held))
    if np.array_equal(before, after):
        return replace(made, scale=math.sqrt(left / size))
    need(before.shape == after.shape, "a scale of another size")
    expected = before * math.sqrt(size / left)
    need((np.abs(expected - after) <= room * np.abs(expected)).all(), "another scale")
    return made
