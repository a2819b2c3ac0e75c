"""Rules of convolutions."""

from __future__ import annotations

import math

from onnxprune.certify.refusal import Refusal, need
from onnxprune.certify.relations.element_bounds import (
    Array,
    mul,
    only_zero,
    plus,
)
from onnxprune.certify.relations.relation import (
    Relation,
    combined,
    contracted,
    dropped,
    plainer,
)
from onnxprune.certify.rules.layers import Layer, biased, channels, merged, on_channels
from onnxprune.certify.rules.node_pair import NodePair, rule


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
