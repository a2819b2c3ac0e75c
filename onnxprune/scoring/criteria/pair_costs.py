"""Saliency of channels that two activations are summed over: those of queries and keys."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from onnxprune.analysis.groups.channels import Channels
from onnxprune.analysis.groups.group_symmetry import GroupSymmetry, symmetries
from onnxprune.ops.symmetry import DualPair
from onnxprune.runtime import Array, Feeds
from onnxprune.scoring.criteria.axis_moments import SecondMoments, observed


def pair_costs(
    channels: Channels,
    feeds: Iterable[Feeds],
    threads: int | None = None,
    names: Collection[str] | None = None,
) -> Mapping[str, Array]:
    """Return the squared error of the products of two activations when a channel goes.

    The product of queries and keys is ``Σⱼ qⱼ·kⱼ``. Without channel ``j`` its squared error is
    ``E[qⱼ²]·E[kⱼ²]``, queries and keys drawn independently. A constant of all keys adds one number to all
    products of a query, to which the softmax behind it is invariant, so keys are taken about their mean.
    Errors are relative to the mean power of the products: one number for all heads of a group, since a
    softmax depends on absolute differences.

    Args:
        channels: The groups.
        feeds: The inputs of the network, batch by batch; they are not read without paired groups.
        threads: Threads of the session.
        names: The groups; by default all.

    Returns:
        By group name, one number a channel as `Channels.apart` counts them, ``[channels]``; groups that no
        pair sums over are left out.

    Raises:
        DataError: There are no samples, or they make numbers that are not finite.
    """
    made = channels.model.main_values
    wanted = [a for a in symmetries(channels) if names is None or a.group.name in names]
    paired = [(axis, pairs) for axis in wanted if (pairs := _pairs(axis, made))]
    if not paired:
        return {}
    tapped = [(axis, name) for axis, pairs in paired for p in pairs for name in (p.first, p.second)]
    seen = observed(channels, tapped, feeds, threads)
    return {
        axis.group.name: sum(
            (_cost(seen[axis.group.name, p.first], seen[axis.group.name, p.second]) for p in pairs),
            np.zeros(channels.apart(axis.group).size),
        )
        for axis, pairs in paired
    }


def _pairs(axis: GroupSymmetry, made: Collection[str]) -> Sequence[DualPair]:
    """Return the pairs of an axis whose operands lie in the main graph."""
    return [p for p in axis.pairs if p.first in made and p.second in made]


def _cost(queries: SecondMoments, keys: SecondMoments) -> Array:
    """Return the cost of each channel of a pair, relative to the power of the products."""
    first, second = queries.about(mean=False), keys.about(mean=True)
    parts = np.einsum("hii,hii->hi", first, second)
    power = float(np.einsum("hij,hij->", first, second))
    return np.asarray(parts.ravel() / (power or 1.0))
