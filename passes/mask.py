"""``prune``: decide which channels the budgets cost, and set them to zero.

The result is the sparse model: the same graph and the same shapes, the plan in its metadata. What an earlier
plan removed stays removed, and all reductions count from the model before any pruning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from onnxprune.analysis.groups.channels import Channels, Group, find_channels
from onnxprune.analysis.groups.selection import select_groups
from onnxprune.decisions.channels.masks import check_zero, masked
from onnxprune.decisions.channels.own_graph import in_own_graph
from onnxprune.decisions.channels.planned import check_plan, plan_facts, planned_channels, stored_plan
from onnxprune.decisions.channels.statistics import over_remaining
from onnxprune.decisions.plan import PLAN_KEY, Analysis, Plan
from onnxprune.errors import NothingToDoError, UsageError
from onnxprune.evaluate.data import Dataset, DataSpec, open_data
from onnxprune.evaluate.equivalence import CheckBudget, examine
from onnxprune.evaluate.equivalence.proof import demand
from onnxprune.evaluate.metrics import MetricSpec
from onnxprune.ir import Model, merged, over_all_channels
from onnxprune.passes.base import Pass, PassResult
from onnxprune.passes.recover import DEFAULT_METHODS, DEFAULT_SAMPLES, Recover, check_methods
from onnxprune.runtime import Session
from onnxprune.runtime.backends import TIMEOUT_S, check_backend
from onnxprune.scoring.criteria import NEED_DATA, check_criterion
from onnxprune.search import DEFAULT_ROUND_TO, STRATEGIES, Limits
from onnxprune.search.costs import KINDS, find_cost
from onnxprune.search.files import PlanFile
from onnxprune.search.problem import PruningProblem, PruningSolution, Request
from onnxprune.search.ties import equal_counts, tied_groups
from onnxprune.train.tuning.origin import noted

DEFAULT_EVALUATIONS = 100
_CHECK = CheckBudget(seconds=3.0)


@dataclass(frozen=True)
class Prune(Pass):
    """Zero the least useful channels until all budgets are met.

    The ``reduce_`` options are fractions to remove, of what the model cost before any pruning. At least one
    of them is given, or ``max_drop``, or ``plan``.

    Attributes:
        reduce_macs: Fraction of the multiply-accumulates.
        reduce_params: Fraction of the parameters.
        reduce_size: Fraction of the bytes of the file.
        reduce_latency: Fraction of the time one run takes, measured on this machine.
        reduce_channels: Fraction of the prunable channels.
        reduce: Fractions of other costs, by the name of an entry point of ``onnxprune.budgets`` or by
            ``module:callable``: a function from channels to a polynomial.
        max_drop: Remove as many multiply-accumulates as cost no more than this of the metric on the data.
        plan: A plan to apply, instead of making one.
        analysis: Sensitivity of the groups; by default that of an ``Ana`` pass run before.
        strategy: ``uniform``, ``global``, ``sensitivity`` or ``search``; by default ``sensitivity`` if there
            is an analysis, else ``global``.
        criterion: What ranks the channels within a group; by default what the analysis went by; without one
            ``obs`` with samples, else ``l2``.
        data: Samples, for criteria that look at them and to measure plans on.
        metric: What plans are measured by; by default the analysis's, else ``kl``.
        samples: Only the first so many samples.
        batch_size: Samples a batch, where the model does not fix it.
        evaluations: How many plans are measured on the data.
        recover: Methods of ``recover`` to repair with afterwards, from the data or, without any, from drawn
            inputs; the model given is the original. By default ``least-squares`` with data, and none without;
            an empty list for none.
        trials: File that keeps what plans were measured, so that a search can go on.
        round_to: What remains of a group is a multiple of this; 1 for no rounding. By default 8, and less in
            groups that are small.
        max_ratio: Largest fraction of a group that may go.
        keep_at_least: Fewest channels that stay, by glob over group names.
        keep_at_most: Most channels that stay, likewise.
        exclude: Globs of groups, nodes or tensors to leave alone.
        only: Globs of those to prune and no others.
        allow_inexact: Open axes that the network normalises over.
        allow_unchanged: Return the model as it is where nothing can be pruned, instead of an error.
        threads: Threads to compute with.
        seed: Of all that is drawn.
        input_shapes: Full shapes to analyse and run with, by input name.
        dims: Sizes to analyse and run with, by the name of an open axis of the inputs.
        open_io: Globs of inputs and outputs whose fixed axes may shrink, such as ``past*`` of caches.
        latency_backend: Runtime or device on which latency is measured (see `onnxprune.runtime.backends`); by
            default onnxruntime.
        latency_timeout: Seconds that one call of a command may take that measures latency.
        equal_layers: Keep as many channels in every layer along each axis of inputs and outputs that may
            shrink (see ``open_io``).
    """

    name: ClassVar[str] = "prune"

    reduce_macs: float | None = None
    reduce_params: float | None = None
    reduce_size: float | None = None
    reduce_latency: float | None = None
    reduce_channels: float | None = None
    reduce: Mapping[str, float] = field(default_factory=dict)
    max_drop: float | None = None
    plan: PlanFile | None = None
    analysis: Analysis | None = None
    strategy: str | None = None
    criterion: str | None = None
    data: DataSpec | None = None
    metric: MetricSpec | None = None
    samples: int | None = None
    batch_size: int = 64
    evaluations: int = DEFAULT_EVALUATIONS
    trials: Path | None = None
    recover: Sequence[str] | None = None
    round_to: int | None = None
    max_ratio: float = 0.9
    keep_at_least: Mapping[str, int] = field(default_factory=dict)
    keep_at_most: Mapping[str, int] = field(default_factory=dict)
    exclude: Sequence[str] = ()
    only: Sequence[str] = ()
    allow_inexact: bool = False
    allow_unchanged: bool = False
    threads: int | None = None
    seed: int = 0
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    open_io: Sequence[str] = ()
    equal_layers: bool = False
    latency_backend: str | None = None
    latency_timeout: float = TIMEOUT_S

    def requires(self, given: PassResult) -> None:
        """The options make sense, and the weights are numbers."""
        self._check_amounts()
        if not 0 < self.max_ratio < 1:
            raise UsageError(
                f"a largest ratio of {self.max_ratio:g} makes no sense", "give a fraction between 0 and 1"
            )
        if self.round_to is not None and self.round_to < 1:
            raise UsageError(
                f"cannot round to {self.round_to}", "give 1 for no rounding, or a multiple such as 8"
            )
        if self.batch_size < 1 or self.evaluations < 0:
            raise UsageError(
                f"{self.evaluations} evaluations with batches of {self.batch_size} make no sense", "give more"
            )
        if self.recover:
            check_methods(self.recover)
        self._check_backend()
        self._strategy(self.analysis or given.analysis)
        super().requires(given)

    def run(self, given: PassResult) -> PassResult:
        """Plan, then mask."""
        given = replace(given, model=over_all_channels(given.model))
        earlier = stored_plan(given.model)
        channels = self._find(given, earlier)
        try:
            groups = select_groups(channels, self.exclude, self.only)
        except NothingToDoError:
            if not self.allow_unchanged:
                raise
            return PassResult(given.model, False, {"unchanged": True}, given.analysis)
        wanted = self._want(given, channels, groups, earlier)
        found = wanted.apply(self.plan) if self.plan else self._made(wanted)
        plan = Plan(
            removed=found.removed,
            sizes={g.name: g.size for g in channels.groups if g.name in found.removed},
            baseline=found.baseline,
            settings=self._settings(self.analysis or given.analysis),
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
        result = PassResult(sparse, True, plan_facts(channels, plan) | found.facts, given.analysis)
        if self._methods:
            return self._repaired(given, result)
        if self.data is not None:
            self._note(sparse, channels.model)
        return result

    def _prove(self, own: Model, analysed: Model) -> None:
        """Compare the user's own graph with the form that is analysed, the same channels zero in both.

        Raises:
            VerificationError: They differ: what would be cut out is not what the user's file computes.
        """
        if own is not analysed:
            verdict = examine(own, analysed, shapes=own.sizes or None, seed=self.seed, budget=_CHECK)
            if verdict.status == "differ":
                demand(verdict, own.name, "its analysed form")

    def ensures(self, given: PassResult, result: PassResult) -> None:
        """The sparse model is valid, and what its plan names is zero."""
        super().ensures(given, result)
        plan = stored_plan(result.model)
        if result.modified and plan is not None:
            check_zero(planned_channels(result.model, plan), plan.removed)

    def reductions(self) -> dict[str, float]:
        """Return what is to be reduced, and by how much."""
        asked = {kind: getattr(self, f"reduce_{kind}") for kind in KINDS}
        return {kind: value for kind, value in asked.items() if value is not None} | dict(self.reduce)

    @property
    def _methods(self) -> Sequence[str]:
        """The repair methods and their options."""
        if self.recover is not None:
            return self.recover
        return DEFAULT_METHODS if self.data is not None else ()

    def _note(self, sparse: Model, original: Model) -> None:
        """Leave in the sparse model what finetuning asks of the original."""
        noted(sparse, original, self._samples_of(original), seed=self.seed, threads=self.threads)

    def _samples_of(self, model: Model) -> Dataset:
        """Open the samples, no more than are asked for."""
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
        return replace(repaired, modified=True, facts=pruned.facts | {"recovery": repaired.facts})

    def _made(self, wanted: PruningProblem) -> PruningSolution:
        """Plan; where layers are to be equal and are not, plan again around one number for all of them."""
        found = wanted.make()
        ties = tied_groups(wanted.channels, wanted.groups) if self.equal_layers else []
        gone = wanted.earlier.removed if wanted.earlier else {}
        if counts := equal_counts(ties, found.removed, gone):
            limits = wanted.request.limits
            limits = replace(
                limits, at_least={**limits.at_least, **counts}, at_most={**limits.at_most, **counts}
            )
            found = replace(wanted, request=replace(wanted.request, limits=limits)).make()
        return found

    def _check_amounts(self) -> None:
        amounts = self.reductions()
        for kind in self.reduce:
            if kind in KINDS:
                raise UsageError(f"a budget of {kind} has an option of its own", f"use --reduce-{kind}")
            find_cost(kind)
        for kind, reduction in amounts.items():
            if not 0 < reduction < 1:
                raise UsageError(
                    f"a reduction of {reduction:g} of {kind} makes no sense",
                    "give a fraction between 0 and 1",
                )
        if self.max_drop is not None and not self.max_drop >= 0:
            raise UsageError(
                f"a drop of {self.max_drop:g} makes no sense", "give 0 or more, in the metric's unit"
            )
        if self.max_drop is not None and self.data is None:
            raise UsageError("--max-drop is measured on samples", "give them with --data")
        if (self.plan is None) == (not amounts and self.max_drop is None):
            options = ", ".join(f"--reduce-{kind}" for kind in KINDS)
            raise UsageError(
                "say how much to remove, once", f"give one or more of {options}, or --max-drop, or --plan"
            )

    def _check_backend(self) -> None:
        if not self.latency_timeout > 0:
            raise UsageError(f"{self.latency_timeout:g} s are no time to measure in", "give more")
        if self.latency_backend is not None:
            check_backend(self.latency_backend)
            if self.reduce_latency is None:
                raise UsageError("no latency is measured without a budget of it", "give --reduce-latency")

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

    def _want(
        self, given: PassResult, channels: Channels, groups: list[Group], earlier: Plan | None
    ) -> PruningProblem:
        analysis = self.analysis or given.analysis
        return PruningProblem(
            model=given.model,
            channels=channels,
            groups=groups,
            earlier=earlier,
            analysis=analysis,
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
            ),
        )

    def _limits(self) -> Limits:
        step = DEFAULT_ROUND_TO if self.round_to is None else self.round_to
        least, most = self.keep_at_least, self.keep_at_most
        return Limits(step, self.max_ratio, least, most, exact=self.round_to is not None)

    def _strategy(self, analysis: Analysis | None) -> str:
        strategy = self.strategy or ("sensitivity" if analysis else "global")
        if strategy not in STRATEGIES:
            raise UsageError(f"unknown strategy '{strategy}'", f"choose from: {', '.join(STRATEGIES)}")
        if strategy == "sensitivity" and analysis is None:
            raise UsageError("the strategy 'sensitivity' needs an analysis", "run `ana` and give its file")
        if strategy == "search" and self.data is None:
            raise UsageError("the strategy 'search' tries plans on samples", "give them with --data")
        return strategy

    def _criterion(self, analysis: Analysis | None) -> str:
        usual = "l2" if self.data is None else "obs"
        known = analysis.settings.get("criterion", usual) if analysis else usual
        if self.data is None and known in NEED_DATA:
            known = usual  # what ranked the channels then cannot be asked again
        criterion = self.criterion or str(known)
        check_criterion(criterion)
        return criterion

    def _curves_hold(self, analysis: Analysis | None) -> bool:
        """Return whether plans follow curves of the repaired network; unrepaired curves judge worse."""
        repaired = analysis is not None and bool(analysis.settings.get("repair"))
        return repaired and bool(self._methods) and self._strategy(analysis) == "sensitivity"

    def _metric(self, analysis: Analysis | None) -> MetricSpec:
        return self.metric or (analysis.metric if analysis else "kl")

    def _settings(self, analysis: Analysis | None) -> dict[str, Any]:
        amounts = {f"reduce_{kind}": value for kind, value in self.reductions().items()}
        return {
            **amounts,
            **({"max_drop": self.max_drop} if self.max_drop is not None else {}),
            "strategy": "plan" if self.plan else self._strategy(analysis),
            "criterion": self._criterion(analysis),
            "recover": list(self._methods),
            "round_to": self._limits().round_to,
            "max_ratio": self.max_ratio,
            **({"keep_at_least": dict(self.keep_at_least)} if self.keep_at_least else {}),
            **({"keep_at_most": dict(self.keep_at_most)} if self.keep_at_most else {}),
            "exclude": list(self.exclude),
            "only": list(self.only),
            "seed": self.seed,
        }
