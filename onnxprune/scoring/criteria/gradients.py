"""Criteria that look at the gradient of a loss, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from onnxprune.analysis.groups.channels import Channels, Group
from onnxprune.analysis.groups.weight_values import finite_values
from onnxprune.errors import DataError
from onnxprune.runtime import Array
from onnxprune.scoring.criteria.calibration import CalibrationStatistics
from onnxprune.scoring.criteria.readers import reading_places
from onnxprune.scoring.criteria.shares import Scores, sums


def taylor(channels: Channels, group: Group, evidence: CalibrationStatistics, seed: int) -> list[Scores]:
    """First-order change of the loss when a channel goes: the mean over the batches of |Σ w · ∂L/∂w|.

    The sum is over all weights that read the channel. Molchanov et al., "Importance Estimation for Neural
    Network Pruning", CVPR 2019, with the gate where the channel enters the layers behind it.
    """
    return [_found(group, evidence.slopes)]


def fisher(channels: Channels, group: Group, evidence: CalibrationStatistics, seed: int) -> list[Scores]:
    """Second-order change, by the empirical Fisher information: the mean over the batches of (Σ w · ∂L/∂w)².

    Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018; for coupled channels
    Liu et al., "Group Fisher Pruning for Practical Network Compression", ICML 2021.
    """
    return [_found(group, evidence.curvatures)]


def slopes_of(channels: Channels, batches: Iterable[Mapping[str, Array]]) -> CalibrationStatistics:
    """Go once through gradients.

    Args:
        channels: The network.
        batches: For each batch of samples the gradient of the loss by weight name, shaped like the weight.

    Raises:
        DataError: There is no batch, or no weight of a group has a gradient.
    """
    groups = [channels.apart(g) for g in channels.groups]
    places = {g.name: reading_places(channels, g) for g in groups}
    names = {p.tensor for listed in places.values() for p in listed}
    weights = {name: finite_values(channels.typing, name) for name in names}
    slopes = {g.name: np.zeros(g.size) for g in groups}
    curvatures = {g.name: np.zeros(g.size) for g in groups}
    seen, count = set[str](), 0
    for gradients in batches:
        count += 1
        for group in groups:
            there = [p for p in places[group.name] if p.tensor in gradients]
            products = [
                sums(channels, group, p, weights[p.tensor] * gradients[p.tensor].astype(np.float64))
                for p in there
            ]
            if there:
                seen.add(group.name)
                total = np.sum(products, axis=0)
                slopes[group.name] += np.abs(total)
                curvatures[group.name] += np.square(total)
    if not seen:
        raise DataError("no weight of any group has a gradient on this data", "use another criterion")
    means = [{name: found[name] / count for name in seen} for found in (slopes, curvatures)]
    return CalibrationStatistics(slopes=means[0], curvatures=means[1])


def _found(group: Group, means: Mapping[str, Array]) -> Scores:
    """Return the scores of a group; one without gradients is ranked as it comes."""
    return np.asarray(means[group.name]) if group.name in means else np.ones(group.size)
