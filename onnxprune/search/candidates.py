"""Candidates: the removable steps of each group and their prices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from onnxprune.analysis.groups.blocks import ResidualBlock
from onnxprune.analysis.groups.channels import Channels, Group, Prunable
from onnxprune.decisions.plan import Analysis, Curve
from onnxprune.errors import PlanError
from onnxprune.scoring.criteria.shares import Scores
from onnxprune.search.limits import Limits, kept_counts

_RESERVE = 0.04
"""Cost of every step beside its measured loss, in typical losses."""
_WHOLE = 10.0
"""The removal of a block counts like that of all but a tenth of a group."""
_TOGETHER = {False: 0.8, True: 1.0}
"""The power to which losses are raised before they are added up: as measured, and of repaired networks."""


@dataclass(frozen=True)
class Candidate:
    """The removable steps of one group; of a block there is one, its removal.

    Attributes:
        group: The group, or the block.
        order: Its channels, the least important first; those already gone come first of all.
        steps: Number of channels that are gone after each step, ascending.
        losses: Loss after each step altogether, never falling: the value that a plan adds up.
        prices: The price of each step by itself, never falling: the value that a ranking compares.
        gone: Number of channels that are gone before the first step.
        forced: True if some of those are gone because of a limit, not an earlier plan.
    """

    group: Prunable
    order: np.ndarray[Any, np.dtype[np.intp]]
    steps: tuple[int, ...]
    losses: tuple[float, ...] = ()
    prices: tuple[float, ...] = ()
    gone: int = 0
    forced: bool = False

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """The number of channels before the first step and after each."""
        return tuple(self.group.size - n for n in (self.gone, *self.steps))

    def removed(self, level: int) -> list[int]:
        """Return the channels that are gone after so many steps, ascending."""
        return sorted(self.order[: (self.gone, *self.steps)[level]].tolist())


def make_offer(
    channels: Channels, group: Group, scores: Scores, limits: Limits, gone: Sequence[int] = ()
) -> Candidate:
    """Rank the channels of one group and list the steps it can be shrunk by.

    Args:
        channels: The network.
        group: The group.
        scores: One number a channel.
        limits: Rounding, and how many channels stay.
        gone: Channels removed by an earlier plan; they stay removed.
    """
    ranked = scores.copy()
    ranked[list(gone)] = -1.0
    counts = kept_counts(channels, group, limits, group.size - len(gone))
    order, forced = np.argsort(ranked, kind="stable"), group.size - len(gone) > limits.most(group)
    start = group.size - counts.pop(0) if forced else len(gone)
    return Candidate(group, order, tuple(group.size - n for n in counts), gone=start, forced=forced)


def block_offer(block: ResidualBlock, loss: float | None = None, *, gone: bool = False) -> Candidate:
    """Return the removal of a residual block as the only step of a group of one.

    Args:
        block: The block.
        loss: Loss of the network without it; ``None`` keeps it.
        gone: True if an earlier plan removed it.
    """
    order, losses = np.zeros(1, np.intp), () if loss is None or gone else (loss,)
    return Candidate(block, order, (1,) * len(losses), losses, losses, gone=int(gone))


def uniformly(offer: Candidate) -> Candidate:
    """Price the steps by the fraction of the group that is gone, so that all groups shrink alike."""
    return _priced(offer, [n / offer.group.size for n in offer.steps])


def globally(offer: Candidate, scores: Scores) -> Candidate:
    """Price each step by the mean score of its channels, over the fraction of the group that is left by then.

    The least important channels of all groups go first, and their price rises as fewer of their group are
    left. A ranking by scores alone empties whole layers whose weights are small for no better reason than
    that their inputs are large; no sum of scores shows that their last channels carry the whole signal.

    Args:
        offer: The offer.
        scores: Scores of the group's channels, comparable with those of others.
    """
    steps = list(pairwise((offer.gone, *offer.steps)))
    left = [1 - (a + b) / 2 / offer.group.size for a, b in steps]
    means = [float(scores[offer.order[a:b]].mean()) for a, b in steps]
    return _priced(offer, [mean / part for mean, part in zip(means, left, strict=True)])


def sensitively(
    offer: Candidate, curve: Curve, analysis: Analysis, typical: float | None = None
) -> Candidate:
    """Price the steps by the metric's measured loss.

    Losses of several groups do not just add up. Where their errors are independent, variances add, and so do
    losses quadratic in the error, such as the divergence; where they have the same direction, amplitudes add,
    which are the square roots of such losses. Measurements on trained networks lie in between; where the
    layers that read the channels are fitted anew, variances add. Channels that are redundant while all other
    groups are whole may be needed when these are not: so every step has a small price of its own, which rises
    as fewer channels remain.

    Args:
        offer: The offer.
        curve: Metric measured as the group shrank; it is made monotone, and is straight in between.
        analysis: Analysis that the curve is from.
        typical: Result of `typical_loss` for the analysis, where it is known already.
    """
    ratios = np.asarray([offer.gone, *offer.steps]) / offer.group.size
    losses = loss_at(curve, analysis, ratios)
    power = _TOGETHER[bool(analysis.settings.get("repair"))]
    unit = (typical_loss(analysis) if typical is None else typical) ** power
    losses = losses**power - _RESERVE * unit * np.log1p(-ratios)
    rising = losses[1:] - losses[0]
    return replace(offer, losses=tuple(rising.tolist()), prices=tuple(losses[1:].tolist()))


def block_loss(block: ResidualBlock, analysis: Analysis, typical: float | None = None) -> float | None:
    """Return the measured loss without a block, as `sensitively` counts it; ``None`` if it was not measured.

    Args:
        block: The block.
        analysis: Analysis that measured it.
        typical: Result of `typical_loss` for the analysis, where it is known already.
    """
    curve = analysis.blocks.get(block.name)
    if curve is None:
        return None
    power = _TOGETHER[bool(analysis.settings.get("repair"))]
    unit = (typical_loss(analysis) if typical is None else typical) ** power
    return float(analysis.drop(curve.values[-1]) ** power + _RESERVE * unit * np.log(_WHOLE))


def typical_loss(analysis: Analysis) -> float:
    """Return the mean loss with half of a group removed, at least 1e-9."""
    half = np.asarray([0.5])
    found = [float(loss_at(curve, analysis, half)[0]) for curve in analysis.curves.values()]
    return max(sum(found) / max(len(found), 1), 1e-9)


def loss_at(curve: Curve, analysis: Analysis, ratios: Scores) -> Scores:
    """Return the measured loss at some ratios, with linear extrapolation beyond the last measured one."""
    known = np.asarray([0.0, *curve.ratios])
    losses = np.maximum.accumulate([0.0, *(analysis.drop(v) for v in curve.values)])
    found = np.interp(ratios, known, losses)
    if len(known) > 1:
        slope = (losses[-1] - losses[-2]) / max(known[-1] - known[-2], 1e-9)
        found = found + np.maximum(ratios - known[-1], 0) * slope
    return np.asarray(found)


def curve_of(analysis: Analysis, group: Group) -> Curve:
    """Return the curve of a group.

    Raises:
        PlanError: The analysis has none.
    """
    curve = analysis.curves.get(group.name)
    if curve is None or curve.size != group.size:
        raise PlanError(
            f"the analysis has no curve for group '{group.name}' of {group.size} channels",
            "it is of another model, or excluded that group: run `ana` again, or exclude it here too",
        )
    return curve


def removed_by(offers: Sequence[Candidate], levels: Sequence[int]) -> dict[str, list[int]]:
    """Return the removed channels by group name; groups that lose none are left out."""
    found = {o.group.name: o.removed(n) for o, n in zip(offers, levels, strict=True)}
    return {name: gone for name, gone in found.items() if gone}


def _priced(offer: Candidate, prices: Sequence[float]) -> Candidate:
    rising = np.maximum.accumulate(prices) if prices else np.zeros(0)
    sizes = np.diff([offer.gone, *offer.steps])
    return replace(offer, losses=tuple(np.cumsum(rising * sizes).tolist()), prices=tuple(rising.tolist()))
