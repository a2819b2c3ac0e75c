"""Dense constants compared with the kept elements of the sparse ones, bit for bit.

The kept elements follow from the operands beside a constant, stand in the certificate, or are found by
comparing rows. The constants are compared element by element for lists of any origin: a wrong list
proves no equality.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.certify.refusal import Refusal, need
from onnxprune.certify.relations.element_bounds import Array, Bounds, exactly, lift
from onnxprune.certify.relations.relation import Lists, Relation, line, plainer

ROUNDING = {2: 2.0**-10, 4: 2.0**-22, 8: 2.0**-50}
"""Relative rounding of a floating-point type, by its bytes."""
PLACES = 64
"""Error allowed to constants that are computed before the run, in roundings."""
_COMPARED = 1 << 22
"""Bytes of constants that are compared at a time."""
DIFFERENT = "a constant differs from the remaining elements of the sparse one"


def matched(
    sparse: Array,
    dense: Array,
    known: Lists,
    hints: Lists | None = None,
    within: Sequence[int] = (),
    rounded: bool = False,
) -> Relation:
    """Return the relation of a dense constant to a sparse one, with its bounds (see `lists_of`)."""
    lists = lists_of(sparse, dense, known, hints, within, rounded)
    return Relation(sparse.ndim, exactly(sparse), lists)


def lists_of(
    sparse: Array,
    dense: Array,
    known: Lists,
    hints: Lists | None = None,
    within: Sequence[int] = (),
    rounded: bool = False,
) -> dict[int, Array]:
    """Find how a dense constant was cut out of a sparse one.

    Args:
        sparse: The sparse constant.
        dense: The dense one.
        known: Index lists that follow from other operands.
        hints: Lists that the certificate gives for other axes.
        within: Axes in each element of which another list may be looked for.
        rounded: True if the sparse constant was computed by the verifier, so that its last places may differ.
    """
    need(sparse.dtype == dense.dtype and sparse.ndim == dense.ndim, "a constant of another type or rank")
    lists = {a: m for a, m in (hints or {}).items() if m.ndim == sparse.ndim and a < sparse.ndim}
    lists |= {a: m for a, m in known.items() if sparse.shape[a] != 1}
    for axis in range(sparse.ndim):
        if axis not in lists and sparse.shape[axis] != dense.shape[axis]:
            lists[axis] = _found(sparse, dense, lists, axis, within)
    left, here = np.broadcast_arrays(selected(sparse, lists), dense)
    need(here.shape == dense.shape, DIFFERENT)
    if not same_bits(left, here):
        need(rounded and left.dtype.kind == "f", DIFFERENT)
        room = 4 * ROUNDING[left.dtype.itemsize] * np.abs(left.astype(np.float64))
        need((np.abs(left.astype(np.float64) - here) <= room).all(), DIFFERENT)
    return plainer(lists, sparse.shape)


def same_bits(one: Array, other: Array) -> bool:
    """Return true if two arrays of one type and shape are equal bit for bit; they are compared in parts."""
    if one.nbytes <= _COMPARED or not one.ndim:
        return one.tobytes() == other.tobytes()
    step = max(1, _COMPARED * len(one) // one.nbytes)
    pairs = ((one[k : k + step], other[k : k + step]) for k in range(0, len(one), step))
    return all(a.tobytes() == b.tobytes() for a, b in pairs)


def selected(values: Array, lists: Lists) -> Array:
    """Return the remaining elements of a tensor."""
    if not lists:
        return values
    need(
        all(m.min(initial=0) >= 0 and m.max(initial=0) < values.shape[a] for a, m in lists.items()),
        "an index list that names elements that are not there",
    )
    if all(m.size == m.shape[a] for a, m in lists.items()):  # one list for all elements of the others
        for axis, listed in lists.items():
            values = values.take(listed.ravel(), axis)
        return values
    where = [lists.get(a, line(values.shape[a], a, values.ndim)) for a in range(values.ndim)]
    return np.asarray(values[tuple(np.broadcast_arrays(*where))])


def with_shift(sparse: Array, dense: Array, lists: Lists, shift: Bounds) -> Relation:
    """Compare a dense constant with a sparse one plus the contributions of removed elements.

    Args:
        sparse: The sparse constant.
        dense: The dense one.
        lists: Index lists of the sparse constant.
        shift: Bounds of the contributions.
    """
    need(sparse.dtype == dense.dtype and dense.dtype.itemsize in ROUNDING, "a bias of another type")
    rank = max(sparse.ndim, shift.rank)
    wide = lift(sparse, rank)
    left = selected(
        wide,
        {
            a + rank - sparse.ndim: lift(m, rank)
            for a, m in lists.items()
            if wide.shape[a + rank - sparse.ndim] != 1
        },
    )
    close(
        left.astype(np.float64),
        lift(dense, rank),
        shift,
        "a bias does not hold the constants that were removed",
    )
    return Relation(sparse.ndim, exactly(sparse), plainer(lists, sparse.shape))


def with_factor(sparse: Array, dense: Array, lists: Lists, factor: float) -> Relation:
    """Compare a dense constant with a sparse one times a factor, rounded to its type.

    Args:
        sparse: The sparse constant.
        dense: The dense one.
        lists: Index lists of the sparse constant.
        factor: Factor that the dense one has been multiplied with.

    Returns:
        The relation of the constants without the factor.
    """
    need(sparse.dtype.kind == "f" and sparse.dtype.itemsize in ROUNDING, "a factor of another type")
    scaled = (sparse.astype(np.float64) * factor).astype(sparse.dtype)
    return Relation(sparse.ndim, exactly(sparse), lists_of(scaled, dense, lists, rounded=True))


def close(before: Array, after: Array, shift: Bounds, reason: str) -> None:
    """Refuse unless ``after`` is ``before`` plus the shift, rounded to its type."""
    size = np.abs(before) + np.maximum(np.abs(shift.low), np.abs(shift.high))
    room = PLACES * ROUNDING[after.dtype.itemsize] * size + np.finfo(after.dtype).tiny
    values = after.astype(np.float64)
    inside = (values >= before + shift.high - room) & (values <= before + shift.low + room)
    need(inside.all(), reason)


def _found(sparse: Array, dense: Array, lists: Lists, axis: int, within: Sequence[int]) -> Array:
    """Find the kept elements of an axis, in each element of the axes ``within`` apart."""
    others = [b for b in range(sparse.ndim) if b not in within and b != axis]
    order = [*within, axis, *others]
    rows, left = selected(sparse, lists).transpose(order), dense.transpose(order)
    need(rows.shape[: len(within)] == left.shape[: len(within)], "another number of groups")
    found = [_places(rows[w], left[w]) for w in np.ndindex(*rows.shape[: len(within)])]
    shape = [dense.shape[b] if b in within or b == axis else 1 for b in order]
    return np.asarray(found, np.int64).reshape(shape).transpose(np.argsort(order))


def _places(rows: Array, left: Array) -> list[int]:
    """Return where some rows stand among others, in order where there is a choice."""
    places: dict[bytes, list[int]] = {}
    for k, row in enumerate(rows):
        places.setdefault(row.tobytes(), []).append(k)
    last, kept = -1, []
    for row in left:
        options = places.get(row.tobytes(), [])
        need(options, DIFFERENT)
        last = next((k for k in options if k > last), options[0])
        options.remove(last)
        kept.append(last)
    return kept


def inherited(bounds: Bounds, sparse: Array, dense: Array, lists: Lists) -> Array:
    """Return sparse weights that compute the same with the columns of the dense ones where constants are.

    Inputs that are the same in every run can replace each other: the contributions of the removed ones
    may be in the columns of one that stays, at each place of the kernel by itself: padding does not matter.

    Args:
        bounds: Bounds of the inputs, ``[groups, 1, inputs]``.
        sparse: Weights, ``[groups, outputs, inputs, places]``.
        dense: Dense weights of that form.
        lists: Index lists of all axes that are cut.
    """
    at = [lists.get(a, line(sparse.shape[a], a, 4)) for a in range(4)]
    if any(m.shape[a] != dense.shape[a] for a, m in enumerate(at)):
        raise Refusal("the certificate has to say which channels are kept where inputs are constant")
    every = line(sparse.shape[2], 2, 4)
    groups = [len(at[0]), 1, sparse.shape[2], 1]
    held = bounds.moved(lambda v: np.broadcast_to(v[..., None], (sparse.shape[0], 1, sparse.shape[2], 1)))
    held = held.moved(lambda v: np.broadcast_to(v[tuple(np.broadcast_arrays(at[0], 0, every, 0))], groups))
    stays = np.broadcast_to(at[2], (dense.shape[0], 1, dense.shape[2], 1))
    fixed, value = held.fixed, held.middle
    mine = np.take_along_axis(value, stays, 2)
    moved = fixed.copy()
    np.put_along_axis(moved, stays, mine != 0, 2)
    have = sparse[tuple(np.broadcast_arrays(at[0], at[1], every, at[3]))].astype(np.float64)
    one = (have * np.where(moved, value, 0.0)).sum(2)
    other = (dense * mine).sum(2)
    size = (np.abs(have) * np.abs(value)).sum(2) + (np.abs(dense) * np.abs(mine)).sum(2)
    room = PLACES * ROUNDING[sparse.dtype.itemsize] * size
    need((np.abs(one - other) <= room).all(), "constants do not add up to the same")
    same = sparse.copy()
    where = tuple(np.broadcast_arrays(at[0], at[1], every, at[3]))
    same[where] = np.where(np.broadcast_to(moved, have.shape), 0, have).astype(sparse.dtype)
    target = tuple(np.broadcast_arrays(*at))
    same[target] = np.where(np.broadcast_to(mine != 0, dense.shape), dense, same[target])
    return same
