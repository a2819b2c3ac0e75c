"""How much each channel of a group matters, judged by the weights alone.

A channel is spread over several tensors: the filter that makes it, its normalisation, the columns of those
that read it. Each of them gives every channel a share, scaled to an average of one, and the shares are
averaged, so that no tensor speaks louder for being larger. Scores of different groups are then comparable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from onnxprune.channels import Channels, Group, Place
from onnxprune.dims import channel_of
from onnxprune.errors import ModelError, UsageError
from onnxprune.values import real_values

Scores = np.ndarray[Any, np.dtype[np.float64]]
Criterion = Callable[[Channels, Group, int], Scores]


def l1(channels: Channels, group: Group, seed: int) -> Scores:
    """Sum of absolute weights (Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017)."""
    return _average(channels, group, _matrices(channels, group), np.abs)


def l2(channels: Channels, group: Group, seed: int) -> Scores:
    """Euclidean norm of the weights (He et al., "Soft Filter Pruning", IJCAI 2018)."""
    return np.sqrt(_average(channels, group, _matrices(channels, group), np.square))


def bn(channels: Channels, group: Group, seed: int) -> Scores:
    """Size of the BatchNormalization scale (Liu et al., "Network Slimming", ICCV 2017).

    A group that no BatchNormalization scales is scored by ``l2``.
    """
    nodes = channels.model.proto.graph.node
    scales = {n.input[1] for n in nodes if n.op_type == "BatchNormalization"}
    places = [p for p in group.places if p.tensor in scales]
    return _average(channels, group, places, np.abs) if places else l2(channels, group, seed)


def random(channels: Channels, group: Group, seed: int) -> Scores:
    """Seeded chance: the yardstick every other criterion has to beat."""
    digest = np.frombuffer(group.name.encode(), np.uint8)
    return np.random.default_rng([seed, *digest.tolist()]).uniform(0.5, 1.5, group.size)


CRITERIA: dict[str, Criterion] = {"l1": l1, "l2": l2, "bn": bn, "random": random}


def score(channels: Channels, group: Group, criterion: str, seed: int = 0) -> Scores:
    """Return one score for each channel of a group, their mean one.

    Args:
        channels: The network's groups.
        group: One of them.
        criterion: A key of ``CRITERIA``.
        seed: Seed of those criteria that draw numbers.

    Raises:
        UsageError: There is no such criterion.
        ModelError: The group has weights that are infinite.
    """
    if criterion not in CRITERIA:
        raise UsageError(f"unknown criterion '{criterion}'", f"choose from: {', '.join(CRITERIA)}")
    with np.errstate(over="ignore", invalid="ignore"):  # found below, and said better
        scores = CRITERIA[criterion](channels, group, seed)
    if not np.isfinite(scores).all():
        raise ModelError(
            f"the channels of group '{group.name}' cannot be ranked: some of its weights are infinite",
            f"leave it alone: --exclude '{group.name}'",
        )
    return _to_mean_one(scores)


def _matrices(channels: Channels, group: Group) -> list[Place]:
    """Return the places on tensors of two axes and more; biases and scales say little on their own."""
    constants = channels.model.constants
    weights = [p for p in group.places if p.weight]
    return [p for p in weights if sum(d > 1 for d in constants[p.tensor].dims) > 1] or weights


def _average(
    channels: Channels, group: Group, places: list[Place], magnitude: Callable[[Scores], Scores]
) -> Scores:
    shares = [_share(channels, group, place, magnitude) for place in places]
    return np.asarray(np.mean(shares, axis=0))


def _share(channels: Channels, group: Group, place: Place, magnitude: Callable[[Scores], Scores]) -> Scores:
    """Return the channels' magnitudes in one tensor, their mean one."""
    values = np.moveaxis(real_values(channels.typing, place.tensor).astype(np.float64), place.axis, 0)
    totals = magnitude(values).reshape(len(values), -1).sum(axis=1)
    member = channel_of(channels.typing.axes[place.tensor][place.axis], group.factor)
    sums = np.bincount(member[member >= 0], totals[member >= 0], minlength=group.size)
    return _to_mean_one(sums.astype(np.float64))


def _to_mean_one(values: Scores) -> Scores:
    mean = float(values.mean())
    return values / mean if mean > 0 else np.ones_like(values)
