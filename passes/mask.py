"""``prune``: decide which channels a budget costs, and set them to zero.

The result is the sparse model: the same graph and the same shapes, the plan in its metadata. What an earlier
plan removed stays removed, and all reductions count from the model before any pruning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from onnxprune.allocate import DEFAULT_ROUND_TO, STRATEGIES, Budget, Limits, Offer, allocate, make_offer
from onnxprune.channels import Channels, Group, find_channels
from onnxprune.cost import Cost, Polynomial, cost_of
from onnxprune.dims import Factor
from onnxprune.errors import NothingToDoError, PlanError, UsageError
from onnxprune.importance import score
from onnxprune.masks import check_zero, masked
from onnxprune.passes.base import Pass, PassResult
from onnxprune.plan import PLAN_KEY, Analysis, Curve, Plan
from onnxprune.planned import check_plan, plan_facts, planned_channels, stored_plan
from onnxprune.selection import select_groups


@dataclass(frozen=True)
class Prune(Pass):
    """Zero the least useful channels until a budget is met.

    Exactly one of the ``reduce_`` options is given: the fraction to remove, of what the model cost before any
    pruning.

    Attributes:
        reduce_macs: Fraction of the multiply-accumulates.
        reduce_params: Fraction of the parameters.
        reduce_channels: Fraction of the prunable channels.
        analysis: Sensitivity of the groups; by default that of an ``Ana`` pass run before.
        strategy: ``uniform``, ``global`` or ``sensitivity``; by default the last if there is an analysis,
            else ``global``.
        criterion: What ranks the channels within a group: ``l1``, ``l2``, ``bn``, ``random``.
        round_to: What remains of a group is a multiple of this; 1 for no rounding.
        max_ratio: Largest fraction of a group that may go.
        exclude: Globs of groups, nodes or tensors to leave alone.
        only: Globs of those to prune and no others.
        allow_inexact: Open axes that the network normalises over.
        allow_unchanged: Return the model as it is where nothing can be pruned, instead of an error.
        seed: For the criteria that draw numbers.
        input_shapes: Full shapes to analyse with, by input name.
    """

    name: ClassVar[str] = "prune"

    reduce_macs: float | None = None
    reduce_params: float | None = None
    reduce_channels: float | None = None
    analysis: Analysis | None = None
    strategy: str | None = None
    criterion: str = "l2"
    round_to: int = DEFAULT_ROUND_TO
    max_ratio: float = 0.9
    exclude: Sequence[str] = ()
    only: Sequence[str] = ()
    allow_inexact: bool = False
    allow_unchanged: bool = False
    seed: int = 0
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def requires(self, given: PassResult) -> None:
        """The options make sense, and the weights are numbers."""
        of, reduction = self._reduction()
        if not 0 < reduction < 1:
            raise UsageError(
                f"a reduction of {reduction:g} of {of} makes no sense", "give a fraction between 0 and 1"
            )
        if not 0 < self.max_ratio < 1:
            raise UsageError(
                f"a largest ratio of {self.max_ratio:g} makes no sense", "give a fraction between 0 and 1"
            )
        if self.round_to < 1:
            raise UsageError(
                f"cannot round to {self.round_to}", "give 1 for no rounding, or a multiple such as 8"
            )
        super().requires(given)

    def run(self, given: PassResult) -> PassResult:
        """Plan, then mask."""
        earlier = stored_plan(given.model)
        channels = find_channels(
            given.model,
            allow_inexact=self.allow_inexact or (earlier is not None and earlier.allow_inexact),
            given=self.input_shapes or (earlier.input_shapes if earlier else None),
        )
        if earlier is not None:
            check_plan(channels, earlier)
        try:
            groups = select_groups(channels, self.exclude, self.only)
        except NothingToDoError:
            if not self.allow_unchanged:
                raise
            return PassResult(given.model, False, {"unchanged": True}, given.analysis)
        plan = self._plan(channels, groups, earlier, self.analysis or given.analysis)
        sparse = masked(channels, plan.removed)
        sparse.set_metadata(PLAN_KEY, plan.to_json())
        return PassResult(sparse, True, plan_facts(channels, plan), given.analysis)

    def ensures(self, given: PassResult, result: PassResult) -> None:
        """The sparse model is valid, and what its plan names is zero."""
        super().ensures(given, result)
        plan = stored_plan(result.model)
        if result.modified and plan is not None:
            check_zero(planned_channels(result.model, plan), plan.removed)

    def _reduction(self) -> tuple[str, float]:
        asked = {
            "macs": self.reduce_macs, "params": self.reduce_params, "channels": self.reduce_channels
        }  # fmt: skip
        given = [(name, value) for name, value in asked.items() if value is not None]
        if len(given) != 1:
            raise UsageError(
                "say how much to remove, once",
                "give one of --reduce-macs, --reduce-params, --reduce-channels",
            )
        return given[0]

    def _plan(
        self, channels: Channels, groups: list[Group], earlier: Plan | None, analysis: Analysis | None
    ) -> Plan:
        cost = cost_of(channels)
        baseline = dict(earlier.baseline) if earlier else {k: float(v) for k, v in cost.figures().items()}
        gone = {k: list(v) for k, v in earlier.removed.items()} if earlier else {}
        of, reduction = self._reduction()
        offers = self._offers(channels, groups, gone, analysis)
        budget = Budget(of, _polynomial(cost, of), baseline[of], reduction, _kept(channels, gone))
        removed = gone | allocate(offers, budget)
        sizes = {g.name: g.size for g in channels.groups if g.name in removed}
        return Plan(
            removed={name: tuple(removed[name]) for name in sizes},
            sizes=sizes,
            baseline=baseline,
            settings=self._settings(of, reduction, analysis),
            allow_inexact=self.allow_inexact or (earlier is not None and earlier.allow_inexact),
            input_shapes=self.input_shapes or (earlier.input_shapes if earlier else {}),
        )

    def _offers(
        self,
        channels: Channels,
        groups: list[Group],
        gone: Mapping[str, Sequence[int]],
        analysis: Analysis | None,
    ) -> list[Offer]:
        strategy = self._strategy(analysis)
        limits = Limits(self.round_to, self.max_ratio)
        offers = []
        for group in groups:
            scores = score(channels, group, self.criterion, self.seed)
            curve = _curve(analysis, group) if strategy == "sensitivity" else None
            offers.append(
                make_offer(channels, group, scores, limits, strategy, curve, gone.get(group.name, ()))
            )
        return offers

    def _strategy(self, analysis: Analysis | None) -> str:
        strategy = self.strategy or ("sensitivity" if analysis else "global")
        if strategy not in STRATEGIES:
            raise UsageError(f"unknown strategy '{strategy}'", f"choose from: {', '.join(STRATEGIES)}")
        if strategy == "sensitivity" and analysis is None:
            raise UsageError("the strategy 'sensitivity' needs an analysis", "run `ana` and give its file")
        return strategy

    def _settings(self, of: str, reduction: float, analysis: Analysis | None) -> dict[str, Any]:
        return {
            f"reduce_{of}": reduction,
            "strategy": self._strategy(analysis),
            "criterion": self.criterion,
            "round_to": self.round_to,
            "max_ratio": self.max_ratio,
            "exclude": list(self.exclude),
            "only": list(self.only),
            "seed": self.seed,
        }


def _kept(channels: Channels, gone: Mapping[str, Sequence[int]]) -> dict[Factor, int]:
    """Return how many channels an earlier plan left of each group it touched."""
    return {g.factor: g.size - len(gone[g.name]) for g in channels.groups if g.name in gone}


def _curve(analysis: Analysis | None, group: Group) -> tuple[Curve, Analysis]:
    assert analysis is not None
    curve = analysis.curves.get(group.name)
    if curve is None or curve.size != group.size:
        raise PlanError(
            f"the analysis has no curve for group '{group.name}' of {group.size} channels",
            "it is of another model, or excluded that group: run `ana` again, or exclude it here too",
        )
    return curve, analysis


def _polynomial(cost: Cost, of: str) -> Polynomial:
    return {"macs": cost.macs, "params": cost.params, "channels": cost.channels}[of]
