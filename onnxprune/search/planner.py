"""The planner: selects channels for budgets by a strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from onnxprune.analysis.groups.blocks import ResidualBlock
from onnxprune.analysis.groups.channels import Channels, Group
from onnxprune.decisions.plan import Analysis
from onnxprune.errors import UsageError
from onnxprune.scoring.criteria import CalibrationStatistics, comparable
from onnxprune.scoring.criteria.shares import Scores
from onnxprune.search.budgets import Balance, Budget
from onnxprune.search.candidates import (
    Candidate,
    block_loss,
    block_offer,
    curve_of,
    globally,
    make_offer,
    removed_by,
    sensitively,
    typical_loss,
    uniformly,
)
from onnxprune.search.evaluator import PlanEvaluator, Removed
from onnxprune.search.greedy import allocate, cheapest
from onnxprune.search.limits import Limits
from onnxprune.search.optimum import optimise
from onnxprune.search.plan_trials import Trials, improve, one_step

Strategy: TypeAlias = Literal["uniform", "global", "sensitivity", "search"]


@dataclass(frozen=True, eq=False)
class Planner:
    """All arguments of a plan but the budgets.

    Attributes:
        channels: The network, its channels arranged by their scores.
        groups: The groups that may lose channels.
        scores: One number a channel, by group name.
        strategy: See `Strategy`.
        criterion: Criterion that ranks the channels within a group.
        limits: Limits that no plan may exceed.
        gone: Channels that an earlier plan removed, by group name.
        analysis: The curves that ``sensitivity`` goes by.
        evidence: Statistics of samples, for criteria that look at data.
        judge: Evaluator of whole plans; ``search`` needs it, and ``sensitivity`` is corrected by it.
        evaluations: Number of plans that are measured.
        trials: File that keeps the measured plans.
        digest: Digest of the search that those trials belong to.
        seed: Seed of all draws.
        blocks: The residual blocks that may be removed.
        forced: True if some of the channels or blocks that are gone are removed by this plan: alone they may
            meet the budgets.
    """

    channels: Channels
    groups: Sequence[Group]
    scores: Mapping[str, Scores]
    strategy: str
    criterion: str
    limits: Limits = field(default_factory=Limits)
    gone: Mapping[str, Sequence[int]] = field(default_factory=dict)
    analysis: Analysis | None = None
    evidence: CalibrationStatistics | None = None
    judge: PlanEvaluator | None = None
    evaluations: int = 0
    trials: Path | None = None
    digest: str = ""
    seed: int = 0
    blocks: Sequence[ResidualBlock] = ()
    forced: bool = False

    def plan(self, budgets: Sequence[Budget]) -> dict[str, list[int]]:
        """Return the removed channels by group name, those an earlier plan removed included.

        Raises:
            PlanError: The budgets cannot be met.
            UsageError: The strategy lacks its analysis or its data.
        """
        earlier = {name: list(gone) for name, gone in self.gone.items()}
        if self.forced and Balance(self.offers("uniform"), budgets).is_met:
            return earlier
        return earlier | self._chosen(budgets)

    def _chosen(self, budgets: Sequence[Budget]) -> dict[str, list[int]]:
        if self.strategy in ("uniform", "global"):
            return allocate(self.offers(self.strategy), budgets)
        if self.strategy == "sensitivity":
            offers = self.offers("sensitivity")
            if self.judge is None or self.evaluations < 1:
                return optimise(offers, budgets)
            return self._corrected(Balance(offers, budgets), self.judge)
        if self.judge is None:
            raise UsageError("the strategy 'search' tries plans on samples", "give them with `data`")
        balance = Balance(self.offers("uniform"), budgets)
        balance.check()
        trials = Trials(balance.offers, _Drop(self.judge, self.gone), self.digest, self.trials)
        return removed_by(balance.offers, one_step(balance, trials, self.evaluations, self.seed))

    def offers(self, strategy: str) -> list[Candidate]:
        """Return the removable steps of every group, priced by a strategy."""
        found = [
            make_offer(self.channels, g, self.scores[g.name], self.limits, self.gone.get(g.name, ()))
            for g in self.groups
        ]
        kept = [block_offer(b, gone=b.name in self.gone) for b in self.blocks]
        if strategy == "uniform":
            return [uniformly(o) for o in found] + kept
        if strategy == "global":
            return [globally(o, self._comparable[o.group.name]) for o in found] + kept
        if self.analysis is None:
            raise UsageError("the strategy 'sensitivity' needs an analysis", "run `ana` and give its file")
        typical = typical_loss(self.analysis)
        measured = [
            block_offer(b, block_loss(b, self.analysis, typical), gone=b.name in self.gone)
            for b in self.blocks
        ]
        priced = [
            sensitively(o, curve_of(self.analysis, g), self.analysis, typical)
            for o, g in zip(found, self.groups, strict=True)
        ]
        return priced + measured

    @cached_property
    def _comparable(self) -> dict[str, Scores]:
        """Scores that can be ranked together: the mean over the channels of each slot."""
        apart = [self.channels.apart(g) for g in self.groups]
        found = comparable(self.channels, apart, self.criterion, self.seed, self.evidence)
        for group in self.groups:
            rows = found[group.name].reshape(-1, group.size)
            if group.name in self.channels.arrangements and len(rows) > 1:
                rows = np.take_along_axis(rows, self.channels.arrangements[group.name].order, axis=1)
            found[group.name] = rows.mean(axis=0)
        return found

    def _corrected(self, balance: Balance, judge: PlanEvaluator) -> dict[str, list[int]]:
        """Let the plans of the other strategies compete, and improve the best of all on data."""
        balance.check()
        others = [tuple(cheapest(balance.with_offers(self.offers(s)))) for s in ("uniform", "global")]
        trials = Trials(balance.offers, judge.drop, self.digest, self.trials)
        return removed_by(balance.offers, improve(balance, trials, others, self.evaluations, self.seed))


@dataclass(frozen=True)
class _Drop:
    """Judges plans with new statistics, together with the channels that are removed already."""

    judge: PlanEvaluator
    gone: Mapping[str, Sequence[int]]

    def __call__(self, removed: Removed) -> float:
        return self.judge.drop({**self.gone, **removed}, renew=True)
