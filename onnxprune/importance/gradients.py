"""Criteria that look at the gradient of a loss, batch by batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np

from onnxprune.channels import Channels, Group, Place
from onnxprune.errors import DataError
from onnxprune.importance.evidence import Evidence
from onnxprune.importance.shares import Scores, by_channel
from onnxprune.runtime import Array
from onnxprune.values import real_values


def taylor(channels: Channels, group: Group, evidence: Evidence, seed: int) -> list[Scores]:
    """First-order change of the loss when a channel goes: the mean over the batches of |Σ w · ∂L/∂w|.

    Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019.
    """
    return _lines(channels, group, evidence.slopes)


def fisher(channels: Channels, group: Group, evidence: Evidence, seed: int) -> list[Scores]:
    """Second-order change, the diagonal of the empirical Fisher information for the Hessian: Σ w² E[g²].

    Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018; for coupled channels
    Liu et al., "Group Fisher Pruning for Practical Network Compression", ICML 2021.
    """
    return _lines(channels, group, evidence.curvatures)


def slopes_of(channels: Channels, batches: Iterable[Mapping[str, Array]]) -> Evidence:
    """Go once through gradients.

    Args:
        channels: The network.
        batches: For each batch of samples the gradient of the loss by weight name, shaped like the weight.

    Raises:
        DataError: There is no batch, or no weight of a group has a gradient.
    """
    places = list(dict.fromkeys((p.tensor, p.axis) for g in channels.groups for p in g.places if p.weight))
    weights = {name: real_values(channels.typing, name).astype(np.float64) for name, _ in places}
    slopes: dict[tuple[str, int], Array] = defaultdict(lambda: np.zeros(()))
    curvatures: dict[tuple[str, int], Array] = defaultdict(lambda: np.zeros(()))
    count = 0
    for gradients in batches:
        count += 1
        for name, axis in places:
            if name in gradients:
                products = np.moveaxis(weights[name] * gradients[name], axis, 0)
                lines = products.reshape(len(products), -1)
                slopes[name, axis] = slopes[name, axis] + np.abs(lines.sum(1))
                curvatures[name, axis] = curvatures[name, axis] + np.square(lines).sum(1)
    if not slopes:
        raise DataError("no weight of any group has a gradient on this data", "use another criterion")
    means = [{key: sums / count for key, sums in found.items()} for found in (slopes, curvatures)]
    return Evidence(slopes=means[0], curvatures=means[1])


def _lines(channels: Channels, group: Group, found: Mapping[tuple[str, int], Array]) -> list[Scores]:
    """Return what was found at each place of a group; a group without gradients is ranked as it comes."""
    places: list[Place] = [p for p in group.places if p.weight and (p.tensor, p.axis) in found]
    lines = [by_channel(channels, group, p, found[p.tensor, p.axis]) for p in places]
    return lines or [np.ones(group.size)]
