"""The pruning problem: evidence, budgets, plan, check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from onnxprune.algebra.axes import Factor
from onnxprune.analysis.groups.blocks import ResidualBlock
from onnxprune.analysis.groups.channels import Channels, Group
from onnxprune.analysis.groups.cost import Polynomial, bytes_of, cost_of
from onnxprune.analysis.groups.slots import Scores, ranked, removed_rows
from onnxprune.decisions.plan import Analysis, Plan
from onnxprune.errors import PlanError, UsageError
from onnxprune.evaluate.data import DataSpec
from onnxprune.evaluate.metrics import MetricSpec
from onnxprune.evaluate.sensitivity.ledger import digest_of
from onnxprune.ir import Model, skeleton
from onnxprune.runtime.backends import TIMEOUT_S
from onnxprune.scoring.criteria import CalibrationStatistics, gather, looks_at_data, score
from onnxprune.search.budgets import Balance, Budget
from onnxprune.search.costs import COSTS, KINDS, cost_by_name
from onnxprune.search.evaluator import PlanEvaluator
from onnxprune.search.frontier import largest_reduction
from onnxprune.search.latency_model import CLOSE, CORRECTIONS, REACHED_IN_TIME, Stopwatch, opened_table
from onnxprune.search.limits import Limits
from onnxprune.search.plan_files import PlanFile, removed_channels
from onnxprune.search.planner import Planner
from onnxprune.search.solution import PruningSolution, TimedPlan, best_in_time, timing
from onnxprune.support.mapped import byte_count, message_bytes

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
    latency_table: Path | None = None
    blocks: int | None = None


@dataclass(frozen=True, eq=False)
class PruningProblem:
    """A pruning to be planned.

    Attributes:
        model: The model as it was given.
        channels: Its groups, in the arrangement of an earlier plan.
        groups: Those that may lose channels.
        earlier: The plan the model carries.
        analysis: Curves to go by.
        request: The options.
        whole: Groups of the model that reductions count from, where that is another: the unrotated one.
        blocks: The residual blocks that may be removed.
    """

    model: Model
    channels: Channels
    groups: Sequence[Group]
    earlier: Plan | None
    analysis: Analysis | None
    request: Request
    whole: Channels | None = None
    blocks: Sequence[ResidualBlock] = ()

    def make(self) -> PruningSolution:
        """Make a plan within the budgets and the limit of the drop.

        Raises:
            PlanError: The budgets cannot be met.
        """
        self.request.limits.check(self.groups)
        if "latency" in self.request.reductions:
            return self._in_time()
        if self.request.max_drop is not None:
            return self._within_drop(self._fixed_budgets)
        return self._within(self._fixed_budgets)

    def apply(self, plan: PlanFile) -> PruningSolution:
        """Apply a plan file, written by hand or by this program.

        Raises:
            PlanError: It is of another model, or restores channels that an earlier plan removed.
        """
        removed, rows = removed_channels(self.planner, plan)
        return self._found(removed, rows=rows)

    @cached_property
    def planner(self) -> Planner:
        """The planner, with all arguments of a plan but the budgets."""
        request = self.request
        channels, scores = self._ranked
        forced = {name: [0] for name in self._forced}
        return Planner(
            channels=channels,
            groups=self.groups,
            scores=scores,
            strategy=request.strategy,
            criterion=request.criterion,
            limits=replace(request.limits, steps=self._named_steps),
            gone={**self._gone, **forced},
            analysis=self.analysis,
            evidence=self._evidence,
            judge=replace(self._judge, channels=channels) if self._judge else None,
            evaluations=request.evaluations,
            trials=request.trials,
            digest=self._digest if request.trials else "",
            seed=request.seed,
            blocks=[] if request.blocks == 0 or "latency" in request.reductions else self.blocks,
            forced=bool(forced),
        )

    @cached_property
    def _forced(self) -> list[str]:
        """The blocks that are removed in any case: those of least loss, in the requested number.

        Raises:
            UsageError: Nothing tells the losses, or a budget of latency is planned.
            PlanError: There are fewer blocks.
        """
        count = self.request.blocks
        if not count:
            return []
        if "latency" in self.request.reductions:
            raise UsageError("a budget of latency is planned by channels alone", "leave `blocks` at 0")
        gone = [b.name for b in self.blocks if b.name in self._gone]
        left = [b for b in self.blocks if b.name not in self._gone]
        if count > len(self.blocks):
            raise PlanError(
                f"{count} blocks are to be removed, and there are {len(self.blocks)} to choose from",
                "`inspect` lists the blocks; those that are excluded stay",
            )
        losses = self._block_losses(left)
        return [b.name for b in sorted(left, key=lambda b: losses[b.name])][: count - len(gone)]

    def _block_losses(self, blocks: Sequence[ResidualBlock]) -> dict[str, float]:
        """Return the loss of the network without each block: as analysed, or else as measured on the data."""
        analysis, judge = self.analysis, self._judge
        if analysis is not None and all(b.name in analysis.blocks for b in blocks):
            return {b.name: analysis.drop(analysis.blocks[b.name].values[-1]) for b in blocks}
        if judge is None:
            raise UsageError(
                "the blocks to remove are chosen by their losses, and nothing tells these",
                "run `ana` and give its file, or give samples with `data`",
            )
        return {b.name: judge.drop({**self._gone, b.name: [0]}) for b in blocks}

    @property
    def _named_steps(self) -> dict[str, int]:
        return {g.name: self._steps[g.factor] for g in self.groups if g.factor in self._steps}

    @property
    def _digest(self) -> str:
        """The digest of model, data and options that identifies trials."""
        request = self.request
        options = {
            "strategy": request.strategy,
            "criterion": request.criterion,
            "limits": asdict(request.limits),
            "metric": self._judge.metric.name if self._judge else "",
            "groups": [*(g.name for g in self.groups), *(b.name for b in self.blocks)],
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
            names={group.name for group in self.groups},
        )

    # --- budgets -------------------------------------------------------------------------------------------

    @cached_property
    def _costs(self) -> dict[str, Polynomial]:
        known = {kind: COSTS[kind](self.channels) for kind in ("macs", "params", "channels")}
        known["size"] = bytes_of(self.channels, file_bytes(self.model))
        return known | {kind: cost_by_name(kind, self.channels) for kind in self._further}

    @property
    def _further(self) -> list[str]:
        """The budgets without an option of their own."""
        return [kind for kind in self.request.reductions if kind not in KINDS]

    @cached_property
    def _baseline(self) -> dict[str, float]:
        """The cost of the original model."""
        known = {name: float(round(cost.value())) for name, cost in self._costs.items()}
        if self.whole is not None:
            cost = cost_of(self.whole)
            known |= {"macs": float(round(cost.macs.value())), "params": float(round(cost.params.value()))}
            known |= {"size": float(round(bytes_of(self.whole, file_bytes(self.whole.model)).value()))}
        return known | (dict(self.earlier.baseline) if self.earlier else {})

    def _budget(self, kind: str, reduction: float) -> Budget:
        return Budget(kind, self._costs[kind], self._baseline[kind], reduction, self._elsewhere)

    @cached_property
    def _fixed_budgets(self) -> list[Budget]:
        reductions = self.request.reductions.items()
        return [self._budget(kind, reduction) for kind, reduction in reductions if kind != "latency"]

    @property
    def _elsewhere(self) -> dict[Factor, int]:
        """The width of each group after an earlier plan."""
        gone = {**self._gone, **{name: [0] for name in self._forced}}
        return {g.factor: g.size - len(gone[g.name]) for g in self.channels.prunable if g.name in gone}

    # --- plans that are measured ---------------------------------------------------------------------------

    @cached_property
    def _watch(self) -> Stopwatch | None:
        """The latency model of the device, if there is a budget or a table for it."""
        request = self.request
        if "latency" not in request.reductions and request.latency_table is None:
            return None
        how = (request.latency_backend, request.latency_timeout, request.threads)
        table, backend = opened_table(request.latency_table, *how)
        return Stopwatch(self._ranked[0], table, backend, request.threads, request.seed)

    @cached_property
    def _steps(self) -> dict[Factor, int]:
        """The steps in which the device computes channels; none where the user sets the rounding."""
        watch = self._watch
        return {} if watch is None or self.request.limits.exact else watch.steps

    def _in_time(self) -> PruningSolution:
        """Plan for a latency, time the plan, and plan again until prediction and measurement agree."""
        watch, reduction = self._watch, self.request.reductions["latency"]
        assert watch is not None
        watch.calibrate(self._finer.offers("uniform"))
        timed: list[TimedPlan] = []
        for _ in range(CORRECTIONS):
            budget = watch.budget(reduction, self._elsewhere, self._steps)
            found = self._within([*self._fixed_budgets, budget])
            counts = {f: len(kept) for f, kept in self.planner.channels.kept(found.removed).items()}
            predicted = budget.value(counts)
            measured = predicted if watch.backend is None else watch.correct(found.removed)
            facts = timing(watch, reduction, predicted, measured)
            timed.append(TimedPlan(measured, counts, replace(found, facts=found.facts | facts)))
            close = watch.backend is None or abs(predicted / measured - 1) <= CLOSE
            if close and 1 - measured >= reduction - REACHED_IN_TIME:
                break
        return best_in_time(timed, reduction).solution

    @cached_property
    def _finer(self) -> Planner:
        """The planner without regard to the steps of a device."""
        return replace(self.planner, limits=self.request.limits)

    def _within(self, budgets: Sequence[Budget]) -> PruningSolution:
        """Plan for budgets, in steps of the device if they can be met so."""
        if self.request.max_drop is not None:
            return self._within_drop(budgets)
        try:
            return self._found(self.planner.plan(budgets))
        except PlanError:
            if not self._steps:
                raise
            return self._found(self._finer.plan(budgets))

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
        figures = dict(facts or {})
        figures |= _measured(replace(judge, channels=self.channels.without(within)), removed) if judge else {}
        counts = {factor: len(kept) for factor, kept in channels.kept(removed).items()}
        size = self._costs["size"].value(counts)
        figures |= {"size_bytes_before": round(self._baseline["size"]), "dense_size_bytes": round(size)}
        if self._further:
            figures["budgets"] = {
                kind: {"before": self._baseline[kind], "predicted": self._costs[kind].value(counts)}
                for kind in self._further
            }
        names = [g.name for g in channels.prunable if removed.get(g.name)]
        return PruningSolution(
            removed={n: tuple(removed[n]) for n in names},
            within={n: tuple(map(tuple, lines)) for n, lines in within.items()},
            baseline=self._baseline,
            facts=figures,
        )


def file_bytes(model: Model) -> int:
    """Return how large a model is as a file, its weights included wherever they lie."""
    weights = sum(map(byte_count, model.proto.graph.initializer))
    if weights < _LARGEST_MESSAGE:
        return message_bytes(model.proto)
    return weights + int(skeleton(model.proto).ByteSize())


def _measured(judge: PlanEvaluator, removed: Removed) -> dict[str, Any]:
    drop = judge.drop(removed)
    score = judge.baseline - drop if judge.metric.higher_is_better else judge.baseline + drop
    return {"metric": judge.metric.name, "score_before": judge.baseline, "score": score, "drop": drop}


_LARGEST_MESSAGE = 1 << 30
"""Bytes; beyond about twice this a protobuf message cannot hold its own size."""
_SHARES = 5
"""A search for the largest reduction makes about so many plans, which share the evaluations."""
