"""Rules of operators that move elements without arithmetic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import numpy_helper

from onnxprune.certify.refusal import need
from onnxprune.certify.relations.element_bounds import Array, Bounds, exactly, only_zero, unbounded
from onnxprune.certify.relations.relation import (
    Relation,
    combined,
    concatenated,
    dropped,
    inserted,
    plainer,
    same,
    taken,
    transposed,
)
from onnxprune.certify.relations.reshaping import reshaped
from onnxprune.certify.rules.node_pair import NodePair, rule
from onnxprune.certify.sizes.size_monomials import Monomial
from onnxprune.certify.sizes.size_rules import placed, slices
from onnxprune.certify.sizes.window_sizes import pads


@rule("Transpose")
def transpose(pair: NodePair) -> list[Relation]:
    """Axes in another order."""
    pair.same_attributes()
    given = pair.relation(0)
    return [transposed(given, list(pair.given.get("perm", range(given.rank)[::-1])))]


@rule("Reshape", "Flatten", "Unsqueeze", "Squeeze")
def reshape(pair: NodePair) -> list[Relation]:
    """Elements in the same order: the sizes of the result in each graph determine the relation."""
    given = pair.relation(0)
    scale = given.scale
    operand, result = (list(zip(*s, strict=True)) for s in (pair.sizes(0), pair.made()))
    for axis in _squeezed(pair, given.rank):
        operand[axis] = operand[axis] if given.touched(axis) else (1, 1)  # in every run
    return [replace(reshaped(replace(given, scale=1.0), operand, result), scale=scale)]


def _squeezed(pair: NodePair, rank: int) -> set[int]:
    """Return the axes that both nodes drop by name: they are of length one in every run."""
    if pair.operator != "Squeeze":
        return set()
    listed = [g.listed(n, "axes", 1) for g, n in zip(pair.graphs, (pair.sparse, pair.dense), strict=True)]
    one, two = ({placed(axis, rank) for axis in axes or ()} for axes in listed)
    return one & two


@rule("Concat")
def concat(pair: NodePair) -> list[Relation]:
    """Tensors behind each other."""
    pair.same_attributes()
    need(len(pair.sparse.input) == len(pair.dense.input), "another number of parts")
    axis = pair.axis(0, len(pair.made()[0]))
    sizes = [tuple(s[axis] for s in pair.sizes(k)) for k in pair.places]
    moving = [pair.relation(k).exact() for k in pair.places if not pair.is_constant(k)]
    known = {a: m for r in moving for a, m in r.lists.items() if a != axis and m.shape[axis] == 1}
    parts = [pair.relation(k, known) for k in pair.places]
    if all(p.plain for p in parts) and any(p.free for p in parts):
        return [same(parts[0].rank)]
    return [concatenated(parts, axis, [(s[0], s[1]) for s in sizes])]


@rule("Split")
def split(pair: NodePair) -> list[Relation]:
    """Parts of an axis."""
    pair.same_attributes("split", "num_outputs")
    given, (xs, xd) = pair.relation(0).exact(), pair.sizes(0)
    axis, starts, made = pair.axis(0, given.rank), [0, 0], []
    for k in range(len(pair.sparse.output)):
        one, two = (sizes[axis] for sizes in pair.made(k))
        if (
            isinstance(one, int)
            and isinstance(two, int)
            and isinstance(xs[axis], int)
            and isinstance(xd[axis], int)
        ):
            ranges = [list(range(s, s + n)) for s, n in zip(starts, (one, two), strict=True)]
            made.append(taken(given, axis, *ranges))
            starts = [s + n for s, n in zip(starts, (one, two), strict=True)]
        else:
            need(one == two and not given.touched(axis), "parts of unknown size")
            made.append(given.holding(given.bounds.squashed(axis)))
    return made


@rule("Slice")
def cut(pair: NodePair) -> list[Relation]:
    """A piece of each axis."""
    pair.same_attributes("starts", "ends")
    given, (xs, xd) = pair.relation(0).exact(), pair.sizes(0)
    cuts = [slices(graph, node) for graph, node in zip(pair.graphs, (pair.sparse, pair.dense), strict=True)]
    need([c[0] for c in cuts[0]] == [c[0] for c in cuts[1]], "other axes")
    need(len({c[0] for c in cuts[0]}) == len(cuts[0]), "an axis that is cut twice")
    for (axis, *one), (_, *two) in zip(*cuts, strict=True):
        size, left = xs[axis], xd[axis]
        if (
            isinstance(size, int)
            and isinstance(left, int)
            and not any(isinstance(v, Monomial) for v in (*one, *two))
        ):
            pieces = [list(range(size))[slice(*one)], list(range(left))[slice(*two)]]
            if not given.touched(axis) and pieces[0] == pieces[1] and size == left:
                given = given.holding(_piece(given.bounds, axis, pieces[0]))
            else:
                given = taken(given, axis, *pieces)
        else:
            need(one == two and not given.touched(axis), "a cut axis of unknown size")
            given = given.holding(given.bounds.squashed(axis))
    return [given]


def _piece(bounds: Bounds, axis: int, kept: list[int]) -> Bounds:
    if bounds.shape[axis] == 1:
        return bounds
    return bounds.moved(lambda v: v.take(kept, axis)) if kept else unbounded(bounds.rank)


@rule("Gather")
def gather(pair: NodePair) -> list[Relation]:
    """Elements of an axis by a list of numbers."""
    axis = pair.axis(0, len(pair.sizes(0)[0]))
    given = pair.relation(0).exact()
    if not given.touched(axis):
        return [_picked(pair, given, axis)]
    one, two = (v.astype(np.int64) for v in pair.values(1))
    need(one.ndim < 2, "a table of numbers on a cut axis")
    sizes = [s[axis] for s in pair.sizes(0)]
    need(all(isinstance(s, int) for s in sizes), "a cut axis of unknown size")
    lists = [
        [k % int(str(size)) for k in v.ravel().tolist()] for v, size in zip((one, two), sizes, strict=True)
    ]
    made = taken(given, axis, *lists)
    return [dropped(made, axis) if one.ndim == 0 else made]


def _picked(pair: NodePair, given: Relation, axis: int) -> Relation:
    """Elements of an axis that is whole, by numbers that may be cut themselves."""
    at = pair.relation(1).exact()
    made = given.holding(given.bounds.squashed(axis))
    for _ in range(at.rank):
        made = inserted(made, axis)
    made = dropped(made, axis + at.rank)
    before, after = axis, made.rank - axis - at.rank

    def form(listed: Array) -> Array:
        return listed.reshape((1,) * before + listed.shape + (1,) * after)

    lists = {**made.lists, **{a + axis: form(m) for a, m in at.lists.items()}}
    return Relation(made.rank, made.bounds, lists, made.free | {a + axis for a in at.free})


@rule("GatherElements")
def gather_elements(pair: NodePair) -> list[Relation]:
    """Elements of an axis that is whole, by numbers cut like the data elsewhere."""
    pair.same_attributes()
    given, at = pair.relation(0).exact(), pair.relation(1).exact()
    axis = pair.axis(0, given.rank)
    need(not given.touched(axis), "elements are picked along a cut axis")
    need(not at.touched(axis), "other numbers")
    sizes = (pair.sizes(0)[0], pair.sizes(1)[0])
    need(
        all(a == axis or s == n for a, (s, n) in enumerate(zip(*sizes, strict=True))),
        "a smaller table",
    )
    held = given.bounds.squashed(axis)
    return [combined([(given, sizes[0]), (at, sizes[1])], lambda *_: held)]


@rule("GatherND")
def gather_nd(pair: NodePair) -> list[Relation]:
    """Elements at places that the last axis of the numbers lists; axes that are not picked may be cut."""
    pair.same_attributes()
    given, at = pair.relation(0).exact(), pair.relation(1).exact()
    (count, other), batch = (s[-1] for s in pair.sizes(1)), pair.given.get("batch_dims", 0)
    need(count == other and isinstance(count, int) and not at.touched(at.rank - 1), "other places")
    assert isinstance(count, int)
    picked, bounds = batch + count, given.bounds
    need(not any(given.touched(a) for a in range(picked)), "elements are picked along a cut axis")
    need(not any(at.touched(a) for a in range(batch)), "samples are cut")
    for axis in range(picked):
        bounds = bounds.squashed(axis)
    before, behind = at.rank - 1, given.rank - picked

    def form(values: Array) -> Array:
        return values.reshape((1,) * before + values.shape[picked:])

    lists = {a: m.reshape(m.shape[:-1] + (1,) * behind) for a, m in at.lists.items()}
    lists |= {a - picked + before: form(m) for a, m in given.lists.items()}
    free = at.free | {a - picked + before for a in given.free}
    return [Relation(before + behind, bounds.moved(form), lists, free)]


@rule("Expand")
def expand(pair: NodePair) -> list[Relation]:
    """Axes of length one repeated."""
    (xs, xd), (ys, yd) = pair.sizes(0), pair.made()
    rank = len(ys)
    made = pair.relation(0).exact().lifted(rank)
    free = set(made.free)
    for axis in range(rank):
        place = axis - rank + len(xs)
        before = (xs[place], xd[place]) if place >= 0 else (1, 1)
        if before == (1, 1) and ys[axis] != yd[axis]:
            need(axis not in made.lists, "a list along an axis of length one")
            free.add(axis)
        else:
            cut_already = axis in made.lists or axis in made.free
            need(cut_already or ys[axis] == yd[axis], "expanded to another size")
    return [Relation(rank, made.bounds, made.lists, frozenset(free))]


@rule("Tile")
def tile(pair: NodePair) -> list[Relation]:
    """Axes repeated as a whole."""
    given = pair.relation(0).exact()
    for axis, (one, two) in enumerate(zip(*pair.values(1), strict=True)):
        if one == two == 1:
            continue
        if one != two:
            size = [s[axis] for s in pair.sizes(0)]
            need(size == [1, 1] and axis not in given.lists, "a cut axis is repeated")
            given = Relation(given.rank, given.bounds, given.lists, given.free | {axis})
            continue
        need(not given.touched(axis), "a cut axis is repeated")
        given = given.holding(given.bounds.squashed(axis))
    return [given]


@rule("Pad")
def pad(pair: NodePair) -> list[Relation]:
    """Elements around an axis; zeros or constants around a cut axis are channels of their own."""
    pair.same_attributes("pads")
    one, two = (pads(g, n) for g, n in zip(pair.graphs, (pair.sparse, pair.dense), strict=True))
    pair.whole(2)
    given, bounds = pair.relation(0).exact(), pair.relation(0).bounds
    mode, value = pair.given.get("mode", b"constant"), float(pair.given.get("value", 0.0))
    if pair.has(2):
        need(pair.is_constant(2) or not given.lists, "a computed number in the place of channels")
        value = float(pair.constant(2)[0].ravel()[0]) if pair.is_constant(2) else np.nan
    lists = dict(given.lists)
    for axis, (before, after) in enumerate(zip(one, two, strict=True)):
        if before == (0, 0) and after == (0, 0):
            continue
        if before == after and not given.touched(axis):
            bounds = bounds.squashed(axis)
            if mode == b"constant":
                around = (
                    unbounded(given.rank) if np.isnan(value) else exactly(np.full([1] * given.rank, value))
                )
                bounds = Bounds(np.minimum(bounds.low, around.low), np.maximum(bounds.high, around.high))
            continue
        need(
            mode == b"constant" and all(isinstance(n, int) and n >= 0 for n in (*before, *after)),
            "a cut axis is padded",
        )
        need(axis not in given.free and not np.isnan(value), "a cut axis is padded")
        lists[axis] = _padded(pair, lists, axis, before, after)
        count = pair.sizes(0)[0][axis]
        assert isinstance(count, int)
        bounds = _around(bounds, axis, count, before, value)
    return [Relation(given.rank, bounds, plainer(lists, pair.made()[0]), given.free)]


def _padded(
    pair: NodePair, lists: dict[int, Array], axis: int, before: tuple[int, int], after: tuple[int, int]
) -> Array:
    """Return the list of a cut axis with padding at both ends, which is kept from the inside outwards."""
    size, left = (s[axis] for s in pair.sizes(0))
    need(isinstance(size, int) and isinstance(left, int), "a cut axis of unknown size")
    assert isinstance(size, int)
    assert isinstance(left, int)
    inside = lists.get(axis)
    rank = len(pair.sizes(0)[0])
    if inside is None:
        need(size == left, "a cut axis without a list")
        inside = np.arange(size).reshape([-1 if a == axis else 1 for a in range(rank)])
    need(after[0] <= before[0] and after[1] <= before[1], "more padding than before")
    need(inside.size == inside.shape[axis], "other channels in each element of a padded axis")
    hint = pair.proof.kept.get(pair.dense.output[0], {}).get(axis)
    if hint is not None and hint.size == after[0] + left + after[1]:  # which of the equal elements are kept
        listed = hint.reshape(-1)
        front, middle, back = (
            listed[: after[0]],
            listed[after[0] : after[0] + left],
            listed[after[0] + left :],
        )
        need(np.array_equal(middle, inside.reshape(-1) + before[0]), "a wrong list of elements")
        need((front < before[0]).all() and (back >= before[0] + size).all(), "a wrong list of elements")
        need((back < before[0] + size + before[1]).all() and (front >= 0).all(), "a wrong list of elements")
        need(len(set(listed.tolist())) == listed.size, "an element that is kept twice")
    else:
        front, back = np.arange(after[0]), before[0] + size + np.arange(after[1])
        listed = np.concatenate([front, inside.reshape(-1) + before[0], back])
    return listed.reshape([-1 if a == axis else 1 for a in range(rank)])


def _around(bounds: Bounds, axis: int, size: int, around: tuple[int, int], value: float) -> Bounds:
    """Return bounds with a number in front of and behind an axis."""
    shape = list(bounds.shape)
    shape[axis] = size
    wide = [(0, 0)] * bounds.rank
    wide[axis] = around
    return bounds.moved(lambda v: np.pad(np.broadcast_to(v, shape), wide, constant_values=value))


@rule("Resize", "Upsample")
def resize(pair: NodePair) -> list[Relation]:
    """Axes of another length; those that keep theirs may be cut."""
    pair.same_attributes()
    given, (xs, xd), (ys, yd) = pair.relation(0).exact(), pair.sizes(0), pair.made()
    for place in range(1, len(pair.sparse.input)):
        if pair.operator == "Resize" and pair.opset >= 11 and place == 3 and pair.has(3):
            for axis, (one, two) in enumerate(zip(*pair.values(3), strict=True)):
                need(one == two or (xs[axis] == one and xd[axis] == two), "other sizes")
        else:
            pair.whole(place)
    bounds = given.bounds
    for axis in range(given.rank):
        same_length = xs[axis] == ys[axis] and xd[axis] == yd[axis]
        need(not given.touched(axis) or same_length, "a cut axis is resized")
        if not same_length or not isinstance(xs[axis], int):
            bounds = bounds.squashed(axis)
    linear = pair.given.get("mode", b"nearest") in (b"nearest", b"linear")
    crops = pair.given.get("coordinate_transformation_mode") == b"tf_crop_and_resize"
    if crops and pair.given.get("extrapolation_value", 0.0):
        return [given.holding(unbounded(given.rank))]
    return [given.holding(bounds if linear and not crops else only_zero(bounds))]


@rule("ConstantOfShape")
def filled(pair: NodePair) -> list[Relation]:
    """One number throughout: no axis varies."""
    pair.same_attributes()
    (ys, yd), value = pair.made(), pair.given.get("value")
    number = 0.0
    if value is not None:
        number = float(numpy_helper.to_array(value).ravel()[0])
    free = frozenset(a for a, (one, two) in enumerate(zip(ys, yd, strict=True)) if one != two)
    return [Relation(len(ys), exactly(np.full([1] * len(ys), number)), free=free)]


@rule("Trilu")
def triangle(pair: NodePair) -> list[Relation]:
    """Zeros on one side of the diagonal of the last two axes, which have to stay."""
    pair.same_attributes()
    pair.whole(1)
    given = pair.relation(0).exact()
    need(not given.touched(given.rank - 1) and not given.touched(given.rank - 2), "a cut axis has a diagonal")
    bounds = given.bounds.squashed(given.rank - 1).squashed(given.rank - 2)
    return [given.holding(bounds.or_zero())]
