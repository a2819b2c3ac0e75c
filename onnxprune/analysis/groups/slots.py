"""Slots: channels ranked separately in each part and removed together.

Where a group is free within other factors, each of their elements may lose other channels, but all must lose
as many. Channels of equal rank share a slot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxprune.analysis.groups.channels import AxisRef, Channels, Group, Indices
from onnxprune.analysis.groups.weight_values import mask_values
from onnxprune.ir import Model

Scores = np.ndarray[Any, np.dtype[np.float64]]
Rows = Sequence[Sequence[int]]


def ranked(
    channels: Channels,
    scores: Mapping[str, Scores],
    gone: Mapping[str, Sequence[int]] | None = None,
) -> tuple[Channels, dict[str, Scores]]:
    """Arrange channels by their scores: the least important of each row in one slot, the next in another ...

    Args:
        channels: The groups, in the arrangement of an earlier plan, if any.
        scores: Scores by group name: one a channel, or one for each that `Channels.apart` counts.
        gone: Slots that were removed before; they stay as they are.

    Returns:
        The groups in their new order, and the scores of the slots: the mean over the channels in each.
    """
    groups = {g.name: g for g in channels.groups}
    orders: dict[str, Indices] = {n: a.order for n, a in channels.arrangements.items()}
    found: dict[str, Scores] = {}
    for name, values in scores.items():
        rows = values.reshape(-1, groups[name].size)
        if len(rows) == 1 and name in orders:  # the arrangement of an earlier plan stays
            rows = np.broadcast_to(rows, orders[name].shape)
        if len(rows) > 1:
            orders[name] = _ranks(channels, groups[name], rows, (gone or {}).get(name, ()))
            rows = np.take_along_axis(rows, orders[name], axis=1)
        found[name] = rows.mean(axis=0)
    return channels.arranged(orders), found


def dead_slots(
    channels: Channels, dead: Mapping[str, np.ndarray[Any, np.dtype[np.bool_]]]
) -> tuple[Channels, dict[str, list[int]]]:
    """Find the slots that can be filled with dead channels.

    A row that is dead as a whole fills any number of slots. One slot of a group always stays.

    Args:
        channels: The groups.
        dead: Flags ``[channels]``, true for a dead channel, by group name, as `Channels.apart` counts them.

    Returns:
        The groups arranged accordingly, and the dead slots by group name; groups without any are left out.
    """
    rows, removed = {}, {}
    for group in channels.groups:
        if group.name not in dead:
            continue
        lines = dead[group.name].reshape(-1, group.size)
        living = lines[~lines.all(axis=1)]
        count = int(living.sum(axis=1).min()) if len(living) else group.size - 1
        if not count:
            continue
        found = [np.flatnonzero(line)[-count:].tolist() for line in lines]
        removed[group.name] = found[0]
        if len(found) > 1:
            rows[group.name] = found
    return channels.without(rows), removed


def zeros_first(channels: Channels) -> Channels:
    """Return the groups arranged so that zeros are in the same slots of each row, wherever rows may differ.

    Channels that are zero in at least one tensor come first.
    """
    scores: dict[str, Scores] = {}
    for group in (g for g in channels.groups if g.name in channels.freedoms):
        least = np.min([_total(channels, channels.apart(group), p) for p in group.places if p.weight], axis=0)
        if not least.all():
            scores[group.name] = np.asarray(least, np.float64)
    return ranked(channels, scores)[0] if scores else channels


def lined_up(channels: Channels, arranged: Channels | None = None) -> Model:
    """Return the network with its channels in the order of their slots; it computes the same.

    Args:
        channels: The groups.
        arranged: The same, arranged; by default zeros are in the same slots of each row (see `zeros_first`).
    """
    arranged = arranged or zeros_first(channels)
    if not arranged.arrangements:
        return channels.model
    model = channels.model.copy()
    for name in {p.tensor for g in channels.groups if g.name in arranged.arrangements for p in g.places}:
        model.set_array(name, arranged.put_in_order(name, model.array(name)))
    return model


def removed_rows(channels: Channels, removed: Mapping[str, Sequence[int]]) -> dict[str, list[list[int]]]:
    """Return the channels that lie in removed slots, row by row, where rows differ; by group name."""
    rows = {
        name: np.sort(arrangement.order[:, np.asarray(removed[name], np.intp)], axis=1)
        for name, arrangement in channels.arrangements.items()
        if len(removed.get(name, ()))
    }
    return {name: lines.tolist() for name, lines in rows.items() if np.any(lines != lines[0])}


def _total(channels: Channels, group: Group, place: AxisRef) -> Scores:
    """Return the sum of the magnitudes in one tensor for each channel of a group."""
    values = np.abs(mask_values(channels.typing, place.tensor)).astype(np.float64)
    member = np.broadcast_to(channels.members(group, place), values.shape)
    there = member >= 0
    return np.bincount(member[there], values[there], minlength=group.size).astype(np.float64)


def _ranks(channels: Channels, group: Group, rows: Scores, gone: Sequence[int]) -> Indices:
    """Return the order that sorts each row, removed channels first; slots are named by the first row."""
    rows = rows.copy()
    earlier = channels.arrangements.get(group.name)
    before = earlier.order if earlier else np.broadcast_to(np.arange(group.size), rows.shape)
    np.put_along_axis(rows, before[:, np.asarray(gone, np.intp)], -np.inf, axis=1)
    ranks = np.argsort(rows, axis=1, kind="stable")
    order = np.empty_like(ranks)
    order[:, ranks[0]] = ranks
    return order
