"""The pruning problem and its solution: evidence, budgets, plan, check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from onnxprune.algebra.axes import Factor
from onnxprune.analysis.groups.channels import Channels, Group
from onnxprune.analysis.groups.cost import Polynomial, bytes_of, cost_of
from onnxprune.analysis.groups.slots import Scores, ranked, removed_rows
from onnxprune.decisions.plan import Analysis, Plan
from onnxprune.errors import UsageError
from onnxprune.evaluate.data import DataSpec
from onnxprune.evaluate.metrics import MetricSpec
from onnxprune.evaluate.sensitivity.ledger import digest_of
from onnxprune.ir import Model, skeleton
from onnxprune.runtime.backends import TIMEOUT_S, find_backend
from onnxprune.scoring.criteria import CalibrationStatistics, gather, looks_at_data, score
from onnxprune.search.budgets import Balance, Budget
from onnxprune.search.costs import KINDS, cost_by_name
from onnxprune.search.evaluator import PlanEvaluator
from onnxprune.search.files import PlanFile, removed_channels
from onnxprune.search.frontier import largest_reduction
from onnxprune.search.latency import CLOSE, CORRECTIONS, Stopwatch
from onnxprune.search.limits import Limits
from onnxprune.search.planner import Planner

Removed = dict[str, list[int]]


@dataclass(frozen=True)
class Request:
    """The options of a pruning; `Prune` describes them."""

    reductions: Mapping[str, float]
    max_drop: float | None = None
    strategy: str = "global"
    criterion: str = "l2"
    limits: Limits = field(default_factory=Limits)
    data: DataSpec | None = None
    metric: MetricSpec = "kl"
    samples: int | None = None
    batch_size: int = 64
    evaluations: int = 0
    trials: Path | None = None
    threads: int | None = None
    seed: int = 0
    latency_backend: str | None = None
    latency_timeout: float = TIMEOUT_S


@dataclass(frozen=True)
class PruningSolution:
    """The selected channels and the figures of the plan.

    Attributes:
        removed: Removed channels by group name, ascending.
        within: Where they differ from part to part: row by row (see `Plan`).
        baseline: What the model cost before any pruning, by budget.
        facts: What was predicted and measured, ready for JSON.
    """

    removed: Mapping[str, tuple[int, ...]]
    within: Mapping[str, tuple[tuple[int, ...], ...]]
    baseline: Mapping[str, float]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class PruningProblem:
    """A pruning to be planned.

    Attributes:
        model: The model as it was given.
        channels: Its groups, arranged as an earlier plan says.
        groups: Those that may lose channels.
        earlier: The plan the model carries.
        analysis: Curves to go by.
        request: The options.
    """

    model: Model
    channels: Channels
    groups: Sequence[Group]
    earlier: Plan | None
    analysis: Analysis | None
    request: Request

    def make(self) -> PruningSolution:
        """Plan, and measure what the plan is said to do.

        Raises:
            PlanError: The budgets cannot be met.
        """
        self.request.limits.check(self.groups)
        if "latency" in self.request.reductions:
            return self._in_time()
        if self.request.max_drop is not None:
            return self._within_drop(self._fixed_budgets)
        return self._found(self.planner.plan(self._fixed_budgets))

    def apply(self, plan: PlanFile) -> PruningSolution:
        """Do what a plan says, whoever wrote it.

        Raises:
            PlanError: It is of another model, or brings back what an earlier plan removed.
        """
        removed, rows = removed_channels(self.planner, plan)
        return self._found(removed, rows=rows)

    @cached_property
    def planner(self) -> Planner:
        """All that decides the plan but the budgets."""
        request = self.request
        channels, scores = self._ranked
        return Planner(
            channels=channels,
            groups=self.groups,
            scores=scores,
            strategy=request.strategy,
            criterion=request.criterion,
            limits=request.limits,
            gone=self._gone,
            analysis=self.analysis,
            evidence=self._evidence,
            judge=replace(self._judge, channels=channels) if self._judge else None,
            evaluations=request.evaluations,
            trials=request.trials,
            digest=self._digest if request.trials else "",
            seed=request.seed,
        )

    @property
    def _digest(self) -> str:
        """The digest of model, data and options that identifies trials."""
        request = self.request
        options = {
            "strategy": request.strategy,
            "criterion": request.criterion,
            "limits": asdict(request.limits),
            "metric": self._judge.metric.name if self._judge else "",
            "groups": [g.name for g in self.groups],
            "seed": request.seed,
            "analysis": self.analysis.digest if self.analysis else "",
        }
        return digest_of(self.model, self._judge.dataset.digest() if self._judge else "", options)

    @property
    def _gone(self) -> Mapping[str, Sequence[int]]:
        return self.earlier.removed if self.earlier else {}

    @cached_property
    def _ranked(self) -> tuple[Channels, dict[str, Scores]]:
        request, channels = self.request, self.channels
        scores = {
            g.name: score(channels, channels.apart(g), request.criterion, request.seed, self._evidence)
            for g in self.groups
        }
        return ranked(channels, scores, self._gone)

    @cached_property
    def _judge(self) -> PlanEvaluator | None:
        request = self.request
        if request.data is None:
            return None
        return PlanEvaluator.open(
            self.channels,
            request.data,
            request.metric,
            samples=request.samples,
            batch_size=request.batch_size,
            threads=request.threads,
        )

    @cached_property
    def _evidence(self) -> CalibrationStatistics | None:
        request, judge = self.request, self._judge
        if not looks_at_data(request.criterion):
            return None
        if judge is None:
            raise UsageError(f"the criterion '{request.criterion}' looks at samples", "give them with `data`")
        return gather(
            self.channels,
            request.criterion,
            judge.dataset,
            batch_size=judge.batch_size,
            threads=request.threads,
            seed=request.seed,
        )

    # --- budgets -------------------------------------------------------------------------------------------

    @cached_property
    def _costs(self) -> dict[str, Polynomial]:
        cost = cost_of(self.channels)
        size = bytes_of(self.channels, file_bytes(self.model))
        known = {"macs": cost.macs, "params": cost.params, "channels": cost.channels, "size": size}
        return known | {kind: cost_by_name(kind, self.channels) for kind in self._foreign}

    @property
    def _foreign(self) -> list[str]:
        """The budgets of costs from outside the package."""
        return [kind for kind in self.request.reductions if kind not in KINDS]

    @cached_property
    def _baseline(self) -> dict[str, float]:
        """The cost of the original model."""
        known = {name: float(round(cost.value())) for name, cost in self._costs.items()}
        return known | (dict(self.earlier.baseline) if self.earlier else {})

    def _budget(self, kind: str, reduction: float) -> Budget:
        return Budget(kind, self._costs[kind], self._baseline[kind], reduction, self._elsewhere)

    @cached_property
    def _fixed_budgets(self) -> list[Budget]:
        asked = self.request.reductions.items()
        return [self._budget(kind, reduction) for kind, reduction in asked if kind != "latency"]

    @property
    def _elsewhere(self) -> dict[Factor, int]:
        """The width of each group after an earlier plan."""
        return {
            g.factor: g.size - len(self._gone[g.name]) for g in self.channels.groups if g.name in self._gone
        }

    # --- plans that are measured ---------------------------------------------------------------------------

    def _in_time(self) -> PruningSolution:
        """Plan for a latency, time the plan, and plan again until prediction and measurement agree."""
        planner, request = self.planner, self.request
        backend = find_backend(request.latency_backend, request.latency_timeout)
        watch = Stopwatch(planner.channels, request.threads, request.seed, backend)
        watch.calibrate(planner.offers("uniform"))
        wanted = request.reductions["latency"]
        best: tuple[float, PruningSolution] | None = None
        for _ in range(CORRECTIONS):
            budget = Budget("latency", watch.polynomial(), 1.0, wanted, self._elsewhere)
            found = self._within([*self._fixed_budgets, budget])
            counts = {f: len(kept) for f, kept in planner.channels.kept(found.removed).items()}
            predicted = budget.polynomial.value(counts)
            measured = watch.correct(found.removed)
            off = abs(predicted / measured - 1)
            facts = {
                "latency_ms_baseline": watch.baseline_ms,
                "latency_ms_predicted": predicted * watch.baseline_ms,
                "latency_ms": measured * watch.baseline_ms,
                "latency_reduction": 1 - measured,
                "latency_prediction_error": off,
                "latency_input_shapes": watch.input_shapes,
                "latency_backend": backend.name,
                "latency_device": backend.device,
                "latency_missed": 1 - measured < wanted - CLOSE,
            }
            found = replace(found, facts=found.facts | facts)
            missed = abs(measured - (1 - wanted))
            best = (missed, found) if best is None or missed < best[0] else best
            if off <= CLOSE:
                return found
        assert best is not None
        return best[1]

    def _within(self, budgets: Sequence[Budget]) -> PruningSolution:
        if self.request.max_drop is not None:
            return self._within_drop(budgets)
        return self._found(self.planner.plan(budgets))

    def _within_drop(self, budgets: Sequence[Budget]) -> PruningSolution:
        """Remove as many multiply-accumulates as the drop allows, the budgets kept."""
        judge, allowed = self.planner.judge, self.request.max_drop
        assert judge is not None
        assert allowed is not None
        planner = replace(self.planner, evaluations=self.request.evaluations // _SHARES)
        offers = planner.offers("uniform")
        whole = Balance(offers, [self._budget("macs", 0.0)])
        most = -float(whole.excess(whole.widths([len(o.steps) for o in offers]))[0])
        least = max(float(-whole.excess(whole.widths([0] * len(offers)))[0]), 0.0)

        def plan_at(reduction: float) -> Removed:
            return planner.plan([*budgets, self._budget("macs", max(reduction, least + 1e-6))])

        def drop_of(removed: Removed) -> float:
            return judge.drop(removed)

        reached = largest_reduction(plan_at, drop_of, most, allowed)
        return self._found(reached.plan, {"reductions_tried": [list(pair) for pair in reached.tried]})

    def _found(
        self,
        removed: Removed,
        facts: Mapping[str, Any] | None = None,
        rows: Mapping[str, Sequence[Sequence[int]]] | None = None,
    ) -> PruningSolution:
        channels = self.planner.channels
        within = (
            {**removed_rows(channels, removed), **(rows or {})} if rows else removed_rows(channels, removed)
        )
        judge = self._judge
        said = dict(facts or {})
        said |= _measured(replace(judge, channels=self.channels.without(within)), removed) if judge else {}
        counts = {factor: len(kept) for factor, kept in channels.kept(removed).items()}
        size = self._costs["size"].value(counts)
        said |= {"size_bytes_baseline": round(self._baseline["size"]), "dense_size_bytes": round(size)}
        if self._foreign:
            said["budgets"] = {
                kind: {"baseline": self._baseline[kind], "predicted": self._costs[kind].value(counts)}
                for kind in self._foreign
            }
        names = [g.name for g in channels.groups if removed.get(g.name)]
        return PruningSolution(
            removed={n: tuple(removed[n]) for n in names},
            within={n: tuple(map(tuple, lines)) for n, lines in within.items()},
            baseline=self._baseline,
            facts=said,
        )


def file_bytes(model: Model) -> int:
    """Return how large a model is as a file, its weights included wherever they lie."""
    weights = sum(len(t.raw_data) for t in model.proto.graph.initializer)
    if weights < _LARGEST_MESSAGE:
        return int(model.proto.ByteSize())
    return weights + int(skeleton(model.proto).ByteSize())


def _measured(judge: PlanEvaluator, removed: Removed) -> dict[str, Any]:
    drop = judge.drop(removed)
    score = judge.baseline - drop if judge.metric.higher_is_better else judge.baseline + drop
    return {"metric": judge.metric.name, "score_before": judge.baseline, "score": score, "drop": drop}


_LARGEST_MESSAGE = 1 << 30
"""Beyond about twice this a protobuf message cannot tell its own size."""
_SHARES = 5
"""A search for the largest reduction makes about so many plans, which share the evaluations."""
