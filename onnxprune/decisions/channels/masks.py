"""Removed channels as zeros: the sparse model has the shapes of the original."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from types import EllipsisType
from typing import Any

import numpy as np

from onnxprune.analysis.evidence.constant_propagation import channels_on
from onnxprune.analysis.groups.channels import AxisRef, Channels, Group, Indices
from onnxprune.analysis.groups.slots import dead_slots
from onnxprune.analysis.groups.weight_values import mask_blocks, mask_values, zero_value
from onnxprune.errors import PlanError
from onnxprune.ir import Model
from onnxprune.ops.axes.constant_rules import aligned
from onnxprune.support.mapped import has_nonzero

Array = np.ndarray[Any, np.dtype[Any]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

_WORDS = {np.dtype(f"f{n}"): np.dtype(f"u{n}") for n in (2, 4, 8)}
"""Unsigned numbers of the size of each float."""


def keep_masks(channels: Channels, removed: Mapping[str, Sequence[int]]) -> dict[str, Mask]:
    """Return, for every weight that loses channels or ends a removed block, which of its elements remain.

    Args:
        channels: The network's groups.
        removed: Removed channels by group name.

    Returns:
        One boolean array of the tensor's shape for each weight, by tensor name.
    """
    return dict(KeepMasks(channels, removed))


class KeepMasks(Mapping[str, Mask]):
    """The masks of `keep_masks`, each made when it is asked for and not kept.

    Args:
        channels: The network's groups.
        removed: Removed channels by group name.
    """

    def __init__(self, channels: Channels, removed: Mapping[str, Sequence[int]]) -> None:
        gone = {name for block in channels.removed_blocks(removed) for name in block.weights}
        masks = channels.masks(channels.kept(removed))
        self._channels, self._gone = channels, gone
        self._cuts = {name: axes for name, axes in masks.items() if name not in gone}

    def __getitem__(self, name: str) -> Mask:
        if name in self._gone:
            return np.zeros(tuple(self._channels.model.constants[name].dims), bool)
        mask = _mask(self._channels, name, self._cuts[name])
        return np.asarray(self._channels.put_back(name, mask))

    def lines(self, name: str) -> dict[int, Array] | None:
        """Return the removed elements of each axis of a weight; ``None`` where they are no whole lines."""
        if name in self._gone or self._channels.is_rearranged(name):
            return None
        dims = self._channels.model.constants[name].dims
        return {axis: np.flatnonzero(~_line(dims[axis], kept)) for axis, kept in self._cuts[name].items()}

    def __iter__(self) -> Iterator[str]:
        yield from self._cuts
        yield from sorted(self._gone)

    def __len__(self) -> int:
        return len(self._cuts) + len(self._gone)


def _mask(channels: Channels, name: str, axes: Mapping[int, Any]) -> Mask:
    shape = tuple(channels.model.constants[name].dims)
    mask = np.ones(shape, bool)
    for axis, kept in axes.items():
        mask &= _line(shape[axis], kept).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return mask


def _line(size: int, kept: Array) -> Mask:
    line = np.zeros(size, bool)
    line[kept] = True
    return line


def masked(channels: Channels, removed: Mapping[str, Sequence[int]]) -> Model:
    """Return a copy of the network in which all weights of removed channels are zero."""
    model, masks = channels.model.copy(), KeepMasks(channels, removed)
    for name in masks:
        zero, lines = zero_value(channels.typing, name), masks.lines(name)
        if lines is None or zero.size > 1:
            model.set_array(name, np.where(masks[name], model.array(name), zero))
        else:
            model.change_array(name, partial(_without, lines, zero.reshape(())))
    return model


def _without(lines: Mapping[int, Array], zero: Array, part: slice | EllipsisType, values: Array) -> Array:
    """Return a part of a weight in which the elements at some places of its axes are zero."""
    places = list(_places(lines, part))
    if zero.tobytes().strip(b"\0") or values.dtype not in _WORDS:
        values = np.array(values)
    else:  # in one reading, several times as fast as places of inner axes one by one
        values = _without_inner(values, {len(place) - 1: place[-1] for place in places})
        places = [place for place in places if len(place) == 1]
    for place in places:
        values[place] = zero
    return values


def _without_inner(values: Array, lines: Mapping[int, Array]) -> Array:
    """Return a copy in which all bits are zero at some places of all axes but the first."""
    words = np.array(values) if not lines.keys() - {0} else values
    words = words.view(_WORDS[values.dtype])
    for axis in sorted(lines.keys() - {0}):
        words = words & ~_bits_at(lines[axis], axis, words)
    return words.view(values.dtype)


def _bits_at(places: Array, axis: int, words: Array) -> Array:
    """Return all bits at some places of an axis and none elsewhere, to be broadcast to an array."""
    line = np.zeros(words.shape[axis], words.dtype)
    line[places] = ~np.zeros((), words.dtype)
    return line.reshape([-1 if a == axis else 1 for a in range(words.ndim)])


def _places(lines: Mapping[int, Array], part: slice | EllipsisType) -> Iterator[tuple[Any, ...]]:
    """Yield, for each axis, the index of its elements within a part of a weight (of `parts`)."""
    for axis, gone in lines.items():
        if axis == 0 and isinstance(part, slice):
            gone = gone[(gone >= part.start) & (gone < part.stop)] - part.start
        yield (*(slice(None),) * axis, gone)


def check_zero(channels: Channels, removed: Mapping[str, Sequence[int]]) -> None:
    """Refuse a plan that the weights do not bear out.

    Raises:
        PlanError: A channel the plan calls removed has a weight that is not zero.
    """
    masks = KeepMasks(channels, removed)
    for name in masks:
        if any(map(has_nonzero, _removed_elements(masks, name, mask_blocks(channels.typing, name)))):
            raise PlanError(
                f"the plan says that channels of '{name}' are removed, but they are not zero",
                "the weights were changed without their masks; use `finetune`, or prune again",
            )


def _removed_elements(
    masks: KeepMasks, name: str, blocks: Iterator[tuple[slice | EllipsisType, Array]]
) -> Iterator[Array]:
    """Yield the elements of a weight that are removed, in parts, or numbers that are zero where they are."""
    lines = masks.lines(name)
    mask = masks[name] if lines is None else None
    for part, block in blocks:
        if mask is not None:
            yield block[~mask[part]]
            continue
        assert lines is not None
        for place in _places(lines, part):
            if len(place) == 1 or block.dtype not in _WORDS:
                yield block[place]
            else:  # whole lines are read several times as fast as places within them
                words = block.view(_WORDS[block.dtype])
                yield words & (_bits_at(place[-1], len(place) - 1, words) >> 1)  # signs aside


def dead_channels(channels: Channels) -> tuple[Channels, dict[str, list[int]]]:
    """Find channels all of whose weights are zero, set by any tool.

    Returns:
        The groups, arranged where other channels are dead in each element of a group's outer factors, and
        dead channels (slots) by group name; groups without any are left out. One channel always stays.
    """
    return dead_slots(channels, {g.name: _dead(channels, channels.apart(g)) for g in channels.groups})


def _dead(channels: Channels, group: Group) -> Mask:
    dead = np.ones(group.size, bool)
    for place in (p for p in group.places if p.weight):
        alive = mask_values(channels.typing, place.tensor) != 0
        for member in _members(channels, group, place):
            dead[np.broadcast_to(member, alive.shape)[alive & (member >= 0)]] = False
    return dead


def _members(channels: Channels, group: Group, place: AxisRef) -> list[Indices]:
    """Return the channels of each element of a tensor; several where the factor is nested with itself."""
    if group.outer:
        return [channels.members(group, place)]
    dims = channels.typing.axes[place.tensor]
    return [aligned(ways, place.axis, len(dims)) for ways in channels_on(dims[place.axis], group.factor)]
