"""Criteria that look at the weights alone."""

from __future__ import annotations

import numpy as np

from onnxprune.analysis.groups.channels import AxisRef, Channels, Group
from onnxprune.analysis.groups.weight_values import finite_values
from onnxprune.ops.spec import spec_of
from onnxprune.scoring.criteria.calibration import CalibrationStatistics
from onnxprune.scoring.criteria.shares import Scores, matrices, members, power_share


def l1(channels: Channels, group: Group, evidence: CalibrationStatistics, seed: int) -> list[Scores]:
    """Sum of absolute weights (Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017)."""
    places = matrices(channels, group)
    return [power_share(channels, group, p, 1) for p in places]


def l2(channels: Channels, group: Group, evidence: CalibrationStatistics, seed: int) -> list[Scores]:
    """Squares of the weights, of which the root is taken once they are put together.

    The Euclidean norm of He et al., "Soft Filter Pruning", IJCAI 2018.
    """
    places = matrices(channels, group)
    return [power_share(channels, group, p, 2) for p in places]


def bn(channels: Channels, group: Group, evidence: CalibrationStatistics, seed: int) -> list[Scores]:
    """Size of the BatchNormalization scale (Liu et al., "Network Slimming", ICCV 2017).

    A group that no BatchNormalization scales is scored by ``l2``.
    """
    index = channels.model.index

    def scales(name: str) -> bool:
        uses = index.operands(name)
        return any(u.operand == 1 and spec_of(index.nodes[u.node]).statistics for u in uses)

    places = [p for p in group.places if scales(p.tensor)] or matrices(channels, group)
    return [power_share(channels, group, p, 2) for p in places]


def geometric_median(
    channels: Channels, group: Group, evidence: CalibrationStatistics, seed: int
) -> list[Scores]:
    """Sum of distances to all other channels: a channel near the median can be replaced by the others.

    He et al., "Filter Pruning via Geometric Median for Deep Neural Networks Acceleration", CVPR 2019.
    """
    return [_distances(channels, group, p) for p in matrices(channels, group)]


def random(channels: Channels, group: Group, evidence: CalibrationStatistics, seed: int) -> list[Scores]:
    """Seeded chance: the yardstick every other criterion has to beat."""
    digest = np.frombuffer(group.name.encode(), np.uint8)
    return [np.random.default_rng([seed, *digest.tolist()]).uniform(0.5, 1.5, group.size)]


def lamp(scores: Scores) -> Scores:
    """Return each squared score as a fraction of all that are not smaller; the largest gets one.

    The layer-adaptive magnitude of Lee et al., "Layer-Adaptive Sparsity for the Magnitude-Based Pruning",
    ICLR 2021, here of whole channels: it makes groups comparable by the energy of their remaining channels.
    """
    order = np.argsort(scores, kind="stable")
    squares = np.square(scores[order])
    left = np.cumsum(squares[::-1])[::-1]
    found = np.empty_like(scores)
    found[order] = squares / np.where(left > 0, left, 1)
    return found


def _distances(channels: Channels, group: Group, place: AxisRef) -> Scores:
    """Return the sum of each channel's distances to the others, by their elements in one tensor."""
    values = finite_values(channels.typing, place.tensor)
    lines = np.moveaxis(values, place.axis, 0).reshape(values.shape[place.axis], -1)
    member = members(channels, group, place)
    if member is None:
        return np.ones(group.size)
    order = np.argsort(member[member >= 0], kind="stable")
    rows = lines[member >= 0][order]
    if len(rows) % group.size or np.ptp(np.bincount(member[member >= 0], minlength=group.size)):
        return np.ones(group.size)  # channels of different lengths have no distance
    points = rows.reshape(group.size, -1)
    squares = np.square(points).sum(1)
    apart = squares[:, None] + squares[None] - 2 * points @ points.T
    return np.asarray(np.sqrt(np.maximum(apart, 0)).sum(1) / np.sqrt(points.shape[1]))
