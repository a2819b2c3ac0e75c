"""``prune``: choose the channels to remove under the budgets, and set them to zero.

The result is the sparse model: the same graph and the same shapes, the plan in its metadata. Channels removed
by an earlier plan stay removed, and all reductions count from the model before any pruning.
"""

from __future__ import annotations

import glob
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from onnxprune.analysis.groups.blocks import ResidualBlock
from onnxprune.analysis.groups.channels import Channels, Group, find_channels
from onnxprune.analysis.groups.openings import openings
from onnxprune.analysis.groups.reach import counting_of, reach_of, staying_axes
from onnxprune.analysis.groups.selection import select_prunable
from onnxprune.decisions.channels.masks import check_zero, masked
from onnxprune.decisions.channels.own_graph import in_own_graph
from onnxprune.decisions.channels.planned import check_plan, planned_channels, stored_plan
from onnxprune.decisions.channels.remaining_statistics import over_remaining
from onnxprune.decisions.elements import pattern_note
from onnxprune.decisions.plan import PLAN_KEY, Analysis, Plan
from onnxprune.decisions.rotation import Bases, basis_of, check_basis
from onnxprune.errors import DataError, NothingToDoError, OutOfReachError, PlanError, UsageError
from onnxprune.evaluate.data import Dataset, open_data
from onnxprune.evaluate.equivalence import CheckBudget, examine
from onnxprune.evaluate.equivalence.verification import demand
from onnxprune.evaluate.metrics import baseline_outputs, evaluate, get_metric
from onnxprune.ir import Model, merged, over_all_channels, sized_like
from onnxprune.ops.axes.context import INEXACT_OPENS
from onnxprune.passes.base import Pass, PassResult
from onnxprune.passes.basis_choice import chosen, node_count, of_rotated, with_rotation
from onnxprune.passes.block_choice import better_by_blocks
from onnxprune.passes.plan_order import PlanOrder
from onnxprune.passes.plan_reports import plan_report
from onnxprune.passes.prune_options import PruneOptions
from onnxprune.passes.rank_choice import SplitForm, Splitting, better_by_ranks
from onnxprune.passes.recover import DEFAULT_SAMPLES, Recover
from onnxprune.passes.reports import PruneReport
from onnxprune.passes.rotate import DEFAULT_SAMPLES as ROTATION_SAMPLES
from onnxprune.passes.rotate import Rotate, rotated_like
from onnxprune.repair import Settings
from onnxprune.repair.chain_repair import split_anew
from onnxprune.runtime import Session
from onnxprune.search.evaluator import PlanEvaluator
from onnxprune.search.problem import PruningProblem, Request
from onnxprune.search.solution import PruningSolution
from onnxprune.search.ties import equal_counts, tied_groups
from onnxprune.train.tuning.original_statistics import noted

_CHECK = CheckBudget(seconds=3.0)


@dataclass(frozen=True)
class Prune(PruneOptions, Pass):
    """Zero the least useful channels until all budgets are met."""

    name: ClassVar[str] = "prune"
    maps: ClassVar[bool] = True

    def requires(self, given: PassResult) -> None:
        """The options make sense, and the weights are numbers."""
        self._check_amounts()
        self._check_backend()
        self._strategy(self.analysis or given.analysis)
        super().requires(given)
        note = pattern_note(given.model)
        if note is not None:
            raise PlanError(
                f"{given.model.name} follows the pattern {note.pattern}, which lost channels would break",
                "prune channels first, and run `sparsify` last",
            )

    def run(self, given: PassResult) -> PassResult:
        """Choose the basis, plan, then mask; with ranks, let layers that are split compete."""
        given = replace(given, model=over_all_channels(given.model))
        pruned = self._in_best_basis(given)
        return self._with_ranks(given, pruned) if self.ranks else pruned

    def _in_best_basis(self, given: PassResult) -> PassResult:
        """Choose the basis, plan, then mask."""
        planned = self._as_planned(given)
        self._check_bases(given if planned is None else planned)
        if planned is not None:
            return of_rotated(planned, self._pruned(planned, given.model))
        if self.rotate == "always":
            rotated = self._rotation(given)
            return of_rotated(rotated, self._pruned(rotated, given.model))
        if self.rotate == "never" or self.data is None or not self._methods:
            return self._pruned(given)
        if reason := self._why_not_rotated(given):
            return with_rotation(self._pruned(given), kept=False, reason=reason)
        order = self._order(self.analysis or given.analysis)
        return chosen(given, self._rotation, lambda way: self._pruned_way(way, given), order)

    def _pruned_way(self, way: PassResult, given: PassResult) -> PassResult:
        """Prune the given model, or its rotated form: the analysis holds for the first alone."""
        analysis = self.analysis or given.analysis
        if analysis is None or basis_of(way.model.metadata()) is None:
            return self._pruned(way, given.model)
        return self._without(analysis)._pruned(replace(way, analysis=None), given.model)

    def _without(self, analysis: Analysis | None) -> Prune:
        """Return the step without an analysis, its criterion and metric kept."""
        return replace(
            self,
            analysis=None,
            strategy=None if self.strategy == "sensitivity" else self.strategy,
            criterion=self._criterion(analysis),
            metric=self._metric(analysis),
        )

    def _as_planned(self, given: PassResult) -> PassResult | None:
        """Return the model in the bases of the plan, if the plan is of its rotated form."""
        bases = Bases.stored(self.plan.bases) if self.plan is not None else None
        if bases is None or basis_of(given.model.metadata()) is not None:
            return None
        data = None if self.data is None else self._samples_of(given.model)
        rotated = rotated_like(given, bases, data=data, seed=self.seed)
        return replace(rotated, model=sized_like(rotated.model, given.model))

    def _rotation(self, given: PassResult) -> PassResult:
        """Rotate the model that was given, by the samples where there are any."""
        data = None if self.data is None else self._samples_of(given.model)
        step = Rotate(
            data=data,
            samples=max(2, min(self.samples or ROTATION_SAMPLES, ROTATION_SAMPLES)),
            batch_size=self.batch_size,
            exclude=self.exclude,
            only=self.only,
            seed=self.seed,
            threads=self.threads,
            allow_unchanged=self.rotate == "auto",
        )
        rotated = step(given)
        rotated = replace(rotated, model=sized_like(rotated.model, given.model))
        if self.rotate == "auto" and "latency" in self.reductions():
            slower = rotated.modified and node_count(rotated.model) > node_count(given.model)
            if slower:
                raise PlanError("a rotation adds nodes, which take time", "`rotate = always` does it anyway")
        return rotated

    def _why_not_rotated(self, given: PassResult) -> str:
        """Return the reason to keep the basis without a trial; empty if there is none."""
        if stored_plan(given.model) is not None:
            return "the model is pruned already"
        if self.plan is not None:
            return "the plan is of the model as it is"
        if basis_of(given.model.metadata()) is not None:
            return "the model is rotated already"
        return "the trials are of the model as it is" if self.trials is not None else ""

    def _check_bases(self, given: PassResult) -> None:
        """Refuse a plan or an analysis of another basis.

        Raises:
            PlanError: One of them is.
            UsageError: The basis is to change, and one of them is there.
        """
        basis, analysis = basis_of(given.model.metadata()), self.analysis or given.analysis
        plans = [("the analysis", analysis), ("the plan", self.plan)]
        for named, found in plans:
            if found is None:
                continue
            if self.rotate == "always":
                raise UsageError(
                    f"{named} belongs to the basis it was made in, which `rotate` changes",
                    "run `rotate` first, and all else on the rotated model",
                )
            check_basis(basis, found.settings.get("basis"), named, "make it of the model that is pruned")

    def _with_ranks(self, given: PassResult, whole: PassResult) -> PassResult:
        """Return the better of a pruning and those of the model with layers split."""
        if stored_plan(given.model) is not None or not whole.modified:
            choice = {"kept": False, "reason": "the model is pruned already, or has nothing to prune"}
            return replace(whole, report=whole.report.with_keys(rank_choice=choice))
        assert self.data is not None
        model, analysis = whole.original or given.model, self.analysis or given.analysis
        session = Session(model.proto, threads=self.threads)
        samples = max(2, min(self.samples or DEFAULT_SAMPLES, DEFAULT_SAMPLES))
        drawn = Recover(model, samples=samples, batch_size=self.batch_size, seed=self.seed)
        feeds = drawn.feeds(self._samples_of(model), session.fixed_batch)
        how = (self.exclude, self.only, self.max_ratio, self.threads, self.seed)
        reductions = {k: v for k, v in self.reductions().items() if k in ("macs", "params")}
        if not reductions:
            kind = "params" if self.reduce_size is not None else "macs"
            reductions = {kind: whole.facts[f"{kind}_reduction"]}
        step = replace(self._without(analysis), ranks=False, trials=None, rotate="never")

        def prune(form: SplitForm, alone: bool) -> PassResult:
            names = {glob.escape(name): rank for name, rank in form.ranks.items()}
            only = tuple(names) if alone else (*self.only, *names) if self.only else ()
            limits = {**({} if alone else self.keep_at_most), **names}
            own = replace(step, only=only, keep_at_most=limits, blocks=0 if alone else step.blocks)
            pruned = own._pruned(PassResult(form.model, False), given.model)
            return own._split_anew(splitting, form, pruned, order)

        splitting = Splitting(model.in_memory(), feeds, *how)
        order = replace(self._order(analysis), judge=self._judge(model, analysis))
        return better_by_ranks(whole, splitting, prune, reductions, order)

    def _judge(self, model: Model, analysis: Analysis | None) -> Callable[[Model], float] | None:
        """Return the metric on as many further samples at most; none where there are none."""
        if self.samples is None or self.data is None or self.max_drop is not None:
            return None
        session = Session(model.proto, threads=self.threads)
        data = open_data(self.data, session.inputs, session.outputs)
        if data.samples is not None and data.samples <= self.samples:
            return None
        most = 2 * self.samples if data.samples is None else min(data.samples, 2 * self.samples)
        further = data.chosen(np.arange(most) >= self.samples)
        try:
            next(further.batches(1))
        except DataError:  # a callable with no more samples
            return None
        metric = get_metric(self._metric(analysis))
        batch = session.fixed_batch or self.batch_size
        before = baseline_outputs(session, further, batch_size=batch) if metric.uses_baseline else None
        return lambda pruned: evaluate(
            Session(pruned.proto, threads=self.threads), further, metric, batch_size=batch, baseline=before
        )

    def _split_anew(
        self, splitting: Splitting, form: SplitForm, pruned: PassResult, order: PlanOrder
    ) -> PassResult:
        """Return a pruning of a model with chains, these split in the pruned network if that is better."""
        plan = stored_plan(pruned.model)
        assert plan is not None
        assert self.data is not None
        settings = Settings(self._methods, self.seed, self.threads)
        model = None
        if self._methods:
            model = split_anew(splitting.given, form.model, plan, form.chains, splitting.feeds, settings)
        if model is None:
            return pruned
        known = model.metadata()
        for name, text in pruned.model.metadata().items():
            if name not in known:
                model.set_metadata(name, text)
        how: dict[str, Any] = {"samples": self.samples, "batch_size": self.batch_size}
        judge = PlanEvaluator.open(
            splitting.channels, self.data, self._metric(None), threads=self.threads, **how
        )
        loss = judge.drop_of(model)
        score = judge.baseline - loss if judge.metric.higher_is_better else judge.baseline + loss
        facts = {**pruned.facts.get("recovery", {}), "score": score}
        made = replace(
            pruned,
            model=sized_like(model, pruned.model),
            report=pruned.report.with_keys(recovery=facts),
        )
        return made if order.rank(made) < order.rank(pruned) else pruned

    def _pruned(self, given: PassResult, original: Model | None = None) -> PassResult:
        """Prune with the blocks that the plan chooses; without any, where that is better on the samples.

        Args:
            given: The model that is pruned.
            original: Model whose costs reductions count from, where that is another.
        """
        found = self._masked(given, original)
        earlier = stored_plan(given.model)
        known = set(earlier.removed) if earlier else set()
        if self.blocks is not None or self.plan is not None or not set(found.facts.get("blocks", ())) - known:
            return found
        try:
            whole = replace(self, blocks=0)._masked(given, original)
        except PlanError:
            return found
        return better_by_blocks(found, whole, self._order(self.analysis or given.analysis))

    def _masked(self, given: PassResult, original: Model | None) -> PassResult:
        """Plan, then mask.

        Args:
            given: The model that is pruned.
            original: Model whose costs reductions count from, where that is another.
        """
        earlier = stored_plan(given.model)
        channels = self._find(given, earlier)
        try:
            groups, blocks = select_prunable(channels, self.exclude, self.only)
        except NothingToDoError:
            if not self.allow_unchanged:
                raise
            return PassResult(given.model, False, PruneReport(unchanged=True), given.analysis)
        problem = self._problem(given, channels, groups, blocks, earlier)
        if original is not None and original is not given.model:
            problem = replace(problem, whole=self._find(replace(given, model=original), None))
        try:
            found = problem.apply(self.plan) if self.plan else self._planned(problem)
        except OutOfReachError as error:
            raise OutOfReachError(error.message, self._further(channels, error.hint)) from None
        plan = Plan(
            removed=found.removed,
            sizes={g.name: g.size for g in channels.prunable if g.name in found.removed},
            baseline=found.baseline,
            settings=self._settings(self.analysis or given.analysis)
            | ({"basis": basis} if (basis := basis_of(given.model.metadata())) else {}),
            allow_inexact=self.allow_inexact or (earlier is not None and earlier.allow_inexact),
            input_shapes=merged(earlier.input_shapes if earlier else {}, given.model.sizes),
            within=found.within,
        )
        analysed = masked(channels.without(plan.within), plan.removed)
        sparse = in_own_graph(given.model, channels.model, analysed)
        self._prove(given.model if sparse is None else sparse, channels.model if sparse is None else analysed)
        sparse = analysed if sparse is None else sparse
        sparse = over_remaining(sparse, channels.without(plan.within), plan.removed)
        sparse.set_metadata(PLAN_KEY, plan.to_json())
        report = plan_report(channels, plan, **found.facts, **counting_of(channels).facts())
        result = PassResult(sparse, True, report, given.analysis)
        if self._methods:
            return self._repaired(given, result)
        if self.data is not None:
            self._note(sparse, channels.model)
        return result

    def _further(self, channels: Channels, hint: str) -> str:
        """Add to a hint the options that open more of this network."""
        blocks = len(channels.blocks.removable)
        reasons = [reason.reason for axis in staying_axes(channels) for reason in axis.reasons]
        if blocks and self.blocks is None and (self.data is None or self.analysis is None):
            hint += f"; with `analysis` and `data` the {blocks} residual blocks are candidates too"
        found = openings(channels, reach_of(channels))
        named = any(opening.allow_inexact for opening in found) or self.allow_inexact
        if not named and any(reason.endswith(INEXACT_OPENS) for reason in reasons):
            hint += "; `allow_inexact` opens axes that are normalised"
        return "; ".join([hint, *(opening.statement for opening in found)])

    def _prove(self, own: Model, analysed: Model) -> None:
        """Compare the user's own graph with the form that is analysed, the same channels zero in both.

        Raises:
            VerificationError: They differ: the analysed form does not compute the user's function.
        """
        if own is not analysed:
            verdict = examine(own, analysed, shapes=own.sizes or None, seed=self.seed, budget=_CHECK)
            if verdict.status == "differ":
                demand(verdict, own.name, "its analysed form")

    def ensures(self, given: PassResult, result: PassResult) -> None:
        """The sparse model is valid, and the channels of its plan are zero."""
        super().ensures(given, result)
        plan = stored_plan(result.model)
        if result.modified and plan is not None:
            check_zero(planned_channels(result.model, plan), plan.removed)

    def _note(self, sparse: Model, original: Model) -> None:
        """Store in the sparse model the statistics of the original that finetuning reads."""
        noted(sparse, original, self._samples_of(original), seed=self.seed, threads=self.threads)

    def _samples_of(self, model: Model) -> Dataset:
        """Open the data, cut to the number of samples in the options."""
        assert self.data is not None
        session = Session(model.proto, threads=self.threads)
        data = open_data(self.data, session.inputs, session.outputs)
        return data if self.samples is None else data.take(self.samples)

    def _repaired(self, given: PassResult, pruned: PassResult) -> PassResult:
        step = Recover(
            original=given.model,
            data=self.data if self.data is None or self.samples is None else self._samples_of(given.model),
            methods=self._methods,
            samples=self.samples or DEFAULT_SAMPLES,
            batch_size=self.batch_size,
            metric=self._metric(self.analysis or given.analysis) if self.data is not None else None,
            seed=self.seed,
            threads=self.threads,
        )
        repaired = step(pruned)
        report = pruned.report.with_keys(recovery=repaired.facts)
        unrepaired = pruned.model if self.unrepaired else None
        return replace(repaired, modified=True, report=report, unrepaired=unrepaired)

    def _planned(self, problem: PruningProblem) -> PruningSolution:
        """Plan; where `equal_layers` is violated, plan again with one number for all of these layers."""
        found = problem.make()
        ties = tied_groups(problem.channels, problem.groups) if self.equal_layers else []
        gone = problem.earlier.removed if problem.earlier else {}
        if counts := equal_counts(ties, found.removed, gone):
            limits = problem.request.limits
            limits = replace(
                limits, at_least={**limits.at_least, **counts}, at_most={**limits.at_most, **counts}
            )
            found = replace(problem, request=replace(problem.request, limits=limits)).make()
        return found

    def _find(self, given: PassResult, earlier: Plan | None) -> Channels:
        channels = find_channels(
            given.model,
            allow_inexact=self.allow_inexact or (earlier is not None and earlier.allow_inexact),
            given=earlier.input_shapes if earlier else None,
        )
        if earlier is not None:
            check_plan(channels, earlier)
            channels = channels.without(earlier.within)
        return channels

    def _problem(
        self,
        given: PassResult,
        channels: Channels,
        groups: list[Group],
        blocks: list[ResidualBlock],
        earlier: Plan | None,
    ) -> PruningProblem:
        analysis = self.analysis or given.analysis
        return PruningProblem(
            model=given.model,
            channels=channels,
            groups=groups,
            earlier=earlier,
            analysis=analysis,
            blocks=blocks,
            request=Request(
                reductions=self.reductions(),
                max_drop=self.max_drop,
                strategy=self._strategy(analysis),
                criterion=self._criterion(analysis),
                limits=self._limits(),
                data=self.data,
                metric=self._metric(analysis),
                samples=self.samples,
                batch_size=self.batch_size,
                evaluations=0 if self._curves_hold(analysis) else self.evaluations,
                trials=self.trials,
                threads=self.threads,
                seed=self.seed,
                latency_backend=self.latency_backend,
                latency_timeout=self.latency_timeout,
                latency_table=self.latency_table,
                blocks=0 if self._keeps_blocks else self.blocks,
            ),
        )
