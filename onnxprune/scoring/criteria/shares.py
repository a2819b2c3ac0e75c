"""Saliency of a group's channels in each tensor, and the aggregation over tensors.

A channel is spread over several tensors: the filter that makes it, its normalisation, the columns of those
that read it. Each of them gives every channel a *share*. Shares are scaled to an average of one and averaged
over the tensors, so that a larger tensor has no larger weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onnxprune.analysis.groups.channels import AxisRef, Channels, Group
from onnxprune.analysis.groups.weight_values import finite_values, is_plain, without_infinity
from onnxprune.scoring.criteria.power_sums import power_sums
from onnxprune.support.mapped import blocks

Scores = np.ndarray[Any, np.dtype[np.float64]]
Members = np.ndarray[Any, np.dtype[np.intp]]


def matrices(channels: Channels, group: Group) -> list[AxisRef]:
    """Return the places on tensors of two axes and more; without any, those on biases and scales."""
    constants = channels.model.constants
    weights = [p for p in group.places if p.weight]
    return [p for p in weights if sum(d > 1 for d in constants[p.tensor].dims) > 1] or weights


def members(channels: Channels, group: Group, place: AxisRef) -> Members | None:
    """Return the channel of each element of an axis, −1 where it has none.

    ``None`` where the axis alone does not determine the channel: the channels are counted apart in each
    element of factors that lie on other axes.
    """
    found = channels.members(group, place)
    return found.ravel() if found.size == found.shape[place.axis] else None


def share(
    channels: Channels,
    group: Group,
    place: AxisRef,
    magnitude: Callable[[str, Scores], Scores],
    *,
    elementwise: bool = False,
) -> Scores:
    """Return the mean magnitude of each channel's elements in one tensor, ``[channels]``.

    Args:
        channels: The network.
        group: The group.
        place: One of its places.
        magnitude: From a tensor's name and its values to a non-negative array of the same shape.
        elementwise: True if each magnitude depends on its own element only: large tensors are then gone
            through in parts.
    """
    if elementwise and is_plain(channels.typing, place.tensor):
        return _share_in_parts(channels, group, place, magnitude)
    values = magnitude(place.tensor, finite_values(channels.typing, place.tensor))
    return sums(channels, group, place, values) * group.size / values.size


def _share_in_parts(
    channels: Channels, group: Group, place: AxisRef, magnitude: Callable[[str, Scores], Scores]
) -> Scores:
    """Return the same, a part of the tensor in float64 at a time."""
    member, whole = channels.members(group, place), channels.model.array(place.tensor)
    alike = tuple(axis for axis, size in enumerate(member.shape) if size == 1)
    parts = [
        magnitude(place.tensor, without_infinity(block)).sum(axis=alike, keepdims=True)
        for block in blocks(whole)
    ]
    values = np.add.reduce(parts) if 0 in alike else np.concatenate(parts)
    return _totals(member, values, group.size) * group.size / whole.size


def power_share(channels: Channels, group: Group, place: AxisRef, power: int) -> Scores:
    """Return the mean of |w|ᵖ over each channel's elements in one tensor, ``[channels]``.

    Args:
        channels: The network.
        group: The group.
        place: One of its places.
        power: The exponent, 1 or 2.
    """
    member = channels.members(group, place)
    if member.size != member.shape[place.axis] or not is_plain(channels.typing, place.tensor):
        magnitude = np.abs if power == 1 else np.square
        return share(channels, group, place, lambda _, w: magnitude(w), elementwise=True)
    values = power_sums(channels.model, place.tensor, power)[place.axis].reshape(member.shape)
    mean = group.size / math.prod(channels.model.constants[place.tensor].dims)
    return np.asarray(_totals(member, values, group.size) * mean)


def sums(channels: Channels, group: Group, place: AxisRef, values: Scores) -> Scores:
    """Add up an array shaped like a tensor over the elements of each channel, ``[channels]``."""
    member = channels.members(group, place)
    alike = tuple(axis for axis, size in enumerate(member.shape) if size == 1)
    return _totals(member, values.sum(axis=alike, keepdims=True), group.size)


def _totals(member: Members, values: Scores, channels: int) -> Scores:
    """Sum numbers over the elements of each channel."""
    there = member >= 0
    return np.bincount(member[there], values[there], minlength=channels).astype(np.float64)


def together(shares: Sequence[Scores], scales: Sequence[float]) -> Scores:
    """Average the shares of several tensors, each divided by its scale; with a scale of zero all are one."""
    scaled = [s / scale if scale > 0 else np.ones_like(s) for s, scale in zip(shares, scales, strict=True)]
    return np.asarray(np.mean(scaled, axis=0))


def to_mean_one(values: Scores) -> Scores:
    """Scale to a mean of one; where all are zero, all are alike."""
    mean = float(values.mean())
    return values / mean if mean > 0 else np.ones_like(values)
