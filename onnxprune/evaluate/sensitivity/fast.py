"""All curves at once, estimated from one pass through the samples instead of measured.

With the training runtime: forward and backward, and the second-order expansion of the Kullback-Leibler
divergence from the network's own outputs, ½ δᵀFδ with the Fisher information F and δ the values that removal
sets to zero (Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018; Martens,
"New insights and perspectives on the natural gradient method", JMLR 2020, section 9). The labels of the
gradients are drawn from the network's own probabilities, which makes F the true one.

Without it: forward only, and the share of a group's energy, (|w| · ‖x‖)², that is removed (Sun et al., "A
Simple and Effective Pruning Approach for Large Language Models", ICLR 2024).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnxprune.algebra.axes import factors
from onnxprune.analysis.groups.channels import AxisRef, Channels, Group
from onnxprune.analysis.groups.weight_values import finite_values
from onnxprune.decisions.plan import Analysis, Curve
from onnxprune.errors import DataError, TrainingError, UsageError
from onnxprune.evaluate.data import Dataset
from onnxprune.evaluate.sensitivity.adaptive_search import Step
from onnxprune.evaluate.sensitivity.cut import extract
from onnxprune.evaluate.sensitivity.sample_stages import Scores
from onnxprune.runtime import Array
from onnxprune.scoring.criteria import score
from onnxprune.scoring.criteria.calibration_pass import gather
from onnxprune.train.gradients import gradients_of

GRADIENT_BATCH = 4
"""Most samples a gradient: the gradients of several are only their mean, from which less is learnt."""
_LOOKS = 256
"""Number of gradients that are computed, fewer where there are fewer samples."""


@dataclass(frozen=True)
class Estimate:
    """Statistics from which curves are estimated.

    Attributes:
        by: ``fisher`` or ``energy``.
        reason: The reason for an estimate without gradients; empty where they are used.
        changes: For each group the change made by the removal of each of its channels, ``[looks, channels]``:
            the square of the sum over removed channels, averaged over the looks, is their cost.
    """

    by: str
    reason: str
    changes: Mapping[str, Scores]

    def curve(self, name: str, steps: Sequence[Step]) -> Curve:
        """Return the estimated curve of a group: the rise of the divergence, or the energy lost."""
        lost = [self.changes[name][:, list(step.removed[name])] for step in steps]
        if self.by == "energy":
            values = [np.square(part).sum() for part in lost]
        else:
            values = [np.square(part.sum(axis=1)).mean() for part in lost]
        rising = np.maximum.accumulate(values).tolist()  # to remove more costs no less
        return Curve(0, tuple(step.ratio for step in steps), tuple(rising))


def estimate(
    channels: Channels,
    groups: Iterable[Group],
    dataset: Dataset,
    *,
    batch_size: int,
    threads: int | None,
    seed: int,
) -> Estimate:
    """Go once through the samples.

    Args:
        channels: The network, its groups arranged as they are to be pruned.
        groups: Those to be estimated.
        dataset: The samples.
        batch_size: Samples a run, where only that is needed.
        threads: Threads to compute with.
        seed: Seed of the answers that are drawn.

    Raises:
        DataError: The samples do not fit.
        ModelError: The network fails.
    """
    chosen = list(groups)
    try:
        return Estimate("fisher", "", _by_gradients(channels, chosen, dataset, threads, seed))
    except (TrainingError, DataError) as error:
        reason = error.message
    seen = gather(channels, "activation", dataset, batch_size=batch_size, threads=threads, seed=seed)
    shares = {
        g.name: _slots(channels, g, np.square(score(channels, channels.apart(g), "activation", seed, seen)))
        for g in chosen
    }
    return Estimate("energy", reason, {n: np.sqrt(s / s.sum())[None, :] for n, s in shares.items()})


def _by_gradients(
    channels: Channels, groups: Sequence[Group], dataset: Dataset, threads: int | None, seed: int
) -> dict[str, Scores]:
    """Return how the loss changes, to first order, when each channel goes; a row a batch."""
    places = {g.name: _readers(channels, g) for g in groups}
    names = {p.tensor for found in places.values() for p in found}
    weights = {name: finite_values(channels.typing, name) for name in names}
    rows: dict[str, list[Scores]] = defaultdict(list)
    size = max(1, min(GRADIENT_BATCH, dataset.count() // _LOOKS))
    for model in _heads(channels):
        found = gradients_of(
            model, dataset, "sampled-labels", batch_size=size, seed=seed, names=names, threads=threads
        )
        for gradients in found:
            for group in groups:
                rows[group.name].append(_change(channels, group, places[group.name], weights, gradients))
    scale = np.sqrt(size / 2)  # ½ F, and single samples from the means of several
    return {name: np.asarray(found) * scale for name, found in rows.items()}


def _heads(channels: Channels) -> list[onnx.ModelProto]:
    """Return the network once for every output: the divergence is the mean over the outputs."""
    model, outputs = channels.model, [o.name for o in channels.model.outputs]
    if len(outputs) == 1:
        return [model.proto]
    inputs = [i.name for i in model.inputs]
    return [extract(model, channels.typing.shapes, [name], inputs).proto for name in outputs]


def _readers(channels: Channels, group: Group) -> list[AxisRef]:
    """Return where weights read the channels, or all places where none does."""
    summed = {t for c in channels.typing.contractions if group.factor in factors(c.dim) for t in c.tensors}
    places = [p for p in group.places if p.weight]
    return [p for p in places if p.tensor in summed] or places


def _change(
    channels: Channels,
    group: Group,
    places: Iterable[AxisRef],
    weights: Mapping[str, Scores],
    gradients: Mapping[str, Array],
) -> Scores:
    """Add up −w · ∂L/∂w over all elements of each channel."""
    apart = channels.apart(group)
    total: Scores = np.zeros(apart.size)
    for place in places:
        if place.tensor in gradients:
            products = -weights[place.tensor] * gradients[place.tensor]
            member = np.broadcast_to(channels.members(apart, place), products.shape)
            inside = member >= 0
            total += np.bincount(member[inside], products[inside], minlength=apart.size)
    return _slots(channels, group, total)


def _slots(channels: Channels, group: Group, values: Scores) -> Scores:
    """Add up the values of channels that are removed together, where each row loses channels of its own."""
    rows = values.reshape(-1, group.size)
    if group.name in channels.arrangements:
        rows = np.take_along_axis(rows, channels.arrangements[group.name].order, axis=1)
    return np.asarray(rows.sum(axis=0))


def agreement(estimated: Analysis, exact: Analysis) -> dict[str, Any]:
    """Return Spearman's rank correlation of an estimate with measured curves.

    Args:
        estimated: The estimate.
        exact: Measured curves, of at least two of the same groups.

    Returns:
        ``rank_correlation``, of the groups by their drop at one half; and ``rank_correlation_points``, of all
        measured points.

    Raises:
        UsageError: The analyses have fewer than two groups in common.
    """
    from scipy.stats import spearmanr

    shared = [name for name in estimated.curves if name in exact.curves]
    if len(shared) < 2:
        raise UsageError(
            "the two analyses have fewer than two groups in common", "give an analysis of the same network"
        )
    halves = [[_drop(a, name, 0.5) for name in shared] for a in (estimated, exact)]
    points = [(name, ratio) for name in shared for ratio in exact.curves[name].ratios]
    drops = [[_drop(a, *point) for point in points] for a in (estimated, exact)]
    return {
        "rank_correlation": float(spearmanr(*halves).statistic),
        "rank_correlation_points": float(spearmanr(*drops).statistic),
    }


def _drop(analysis: Analysis, name: str, ratio: float) -> float:
    curve = analysis.curves[name]
    return float(np.interp(ratio, [0.0, *curve.ratios], [0.0, *map(analysis.drop, curve.values)]))
