"""Options of `prune`: amounts, ranking, limits, and the checks that need no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxprune.decisions.plan import Analysis
from onnxprune.errors import UsageError
from onnxprune.evaluate.data import DataSpec
from onnxprune.evaluate.metrics import MetricSpec, get_metric
from onnxprune.passes.basis_choice import RotateChoice
from onnxprune.passes.plan_order import PlanOrder
from onnxprune.passes.recover import DEFAULT_METHODS
from onnxprune.repair import RepairMethod
from onnxprune.runtime.backends import check_backend
from onnxprune.scoring.criteria import CRITERIA, NEED_DATA, CriterionName, check_criterion
from onnxprune.search import DEFAULT_ROUND_TO, Limits, Strategy
from onnxprune.search.costs import KINDS, find_cost
from onnxprune.search.plan_files import PlanFile
from onnxprune.support.common_options import (
    EqualLayers,
    GroupSelection,
    InexactAxes,
    InputSizes,
    LatencyTableOptions,
    Reductions,
    Seeded,
    Threaded,
    Unchanged,
    check_fraction,
)
from onnxprune.support.option_fields import Key, NumberRange, one_of, option

DEFAULT_EVALUATIONS = 100


@dataclass(frozen=True)
class PruneOptions(
    Reductions,
    GroupSelection,
    InexactAxes,
    EqualLayers,
    Unchanged,
    LatencyTableOptions,
    Seeded,
    Threaded,
    InputSizes,
):
    """Options of a pruning.

    The ``reduce_`` options are fractions to remove, of the costs of the model before any pruning. At least
    one of them is given, or ``max_drop``, or ``plan``.

    Attributes:
        reduce: Remove this fraction of another cost: that of a plugin, or module:callable.
        max_drop: Remove as much as possible with a drop of the metric of no more than this.
        analysis: Analysis made by `ana`.
        strategy: By default ``sensitivity`` with an analysis, else ``global``.
        criterion: ``l1``, ``l2``, ``geometric-median``, ``bn``, ``lamp``, ``random``; ``activation``,
            ``obs``, ``taylor`` or ``fisher`` with ``data``; that of a plugin, or module:callable. By default
            that of the analysis; without one ``obs`` with ``data``, else ``l2``.
        data: Samples without labels to rank channels, repair and measure by: an .npz or .jsonl file, a folder
            of samples, or module:callable.
        metric: Metric that plans are measured by; by default that of the analysis, else ``kl``.
        samples: Only the first so many samples. Plans with and without ranks are judged on as many further
            ones, if there are any.
        batch_size: Samples a run.
        evaluations: Number of plans measured on the data.
        trials: File of the measured plans, with which a search can be resumed.
        recover: Repair afterwards, without training: ``least-squares``, ``bias``, ``scale`` or ``batchnorm``,
            or ``none``. By default ``least-squares`` with ``data``.
        round_to: Keep multiples of this, and groups that are no larger; by default of 8, of less in small
            groups.
        max_ratio: Largest fraction of a group that may go.
        keep_at_least: Fewest channels that stay of the groups this glob names.
        keep_at_most: Most channels that stay of the groups this glob names.
        plan: Apply this plan instead of making one.
        rotate: Prune the rotated model (see `rotate`): ``always``, ``never``, or ``auto``, if its repaired
            plan is better on ``data``; without ``data`` ``auto`` keeps the basis.
        blocks: Number of residual blocks to remove as a whole, those of least loss. By default, with an
            analysis and ``data``, as many as the plan is better with on the samples. 0 for none.
        ranks: Also try plans that split layers into chains of lower rank (see `factorize`), and keep the best
            repaired plan on ``data``. It takes about four times as long.
        unrepaired: Return the model before its repair, too.
    """

    reduce: Mapping[str, float] = field(
        default_factory=dict, metadata=option(metavar="COST=R", example="COST=R, such as flash=0.3")
    )
    max_drop: float | None = field(default=None, metadata=option(metavar="D", least=0))
    analysis: Analysis | None = field(default=None, metadata=option(place="reads"))
    strategy: Strategy | None = field(
        default=None,
        metadata=option(
            key=Key(
                text="Distribution of the reduction among the groups; by default ``sensitivity`` where it"
                " is measured, else ``global``.",
                example='"global"',
                note="{choices}; by default sensitivity with ana",
            )
        ),
    )
    criterion: CriterionName | str | None = field(
        default=None,
        metadata=option(
            metavar="NAME",
            place="reads",
            key=Key(
                default="obs",
                text="Ranking of the channels within a group. Criteria that look at samples are given the"
                " calibration data.",
                note=" ".join(CRITERIA),
            ),
        ),
    )
    data: DataSpec | None = field(default=None, metadata=option(metavar="DATA", place="reads"))
    metric: MetricSpec | None = field(default=None, metadata=option(metavar="TEXT", place="reads"))
    samples: int | None = field(default=None, metadata=option(least=1))
    batch_size: int = field(default=64, metadata=option(least=1))
    evaluations: int = field(
        default=DEFAULT_EVALUATIONS,
        metadata=option(
            least=0,
            key=Key(
                bounds=NumberRange(least=1),
                text="With ``search``: number of plans to try.",
                example="100",
                note="plans that search tries",
            ),
        ),
    )
    trials: Path | None = field(default=None, metadata=option(place="writes"))
    recover: Sequence[RepairMethod] | None = field(default=None, metadata=option(metavar="METHOD"))
    round_to: int | None = field(
        default=None,
        metadata=option(
            least=1,
            key=Key(example="16", note="a group keeps a multiple of this; by default of 8 or less"),
        ),
    )
    max_ratio: float = field(
        default=0.9, metadata=option(above=0, below=1, key=Key(note="the most that may go of a group"))
    )
    keep_at_least: Mapping[str, int] = field(
        default_factory=dict,
        metadata=option(
            metavar="GROUP=N",
            example="GROUP=N",
            least=1,
            key=Key(example='{ "stem*" = 16 }', note="fewest channels that stay of these groups"),
        ),
    )
    keep_at_most: Mapping[str, int] = field(
        default_factory=dict,
        metadata=option(
            metavar="GROUP=N",
            example="GROUP=N",
            least=1,
            key=Key(example='{ "head*" = 64 }', note="most channels that stay"),
        ),
    )
    plan: PlanFile | None = field(default=None, metadata=option(place="reads"))
    rotate: RotateChoice = field(
        default="auto",
        metadata=option(key=Key(note="{choices}; auto: where its plan is better")),
    )
    blocks: int | None = field(
        default=None,
        metadata=option(
            least=0,
            key=Key(example="2", note="residual blocks to remove; by default as many as pay, 0 for none"),
        ),
    )
    ranks: bool = False
    unrepaired: bool = field(default=False, metadata=option(flag=""))

    def reductions(self) -> dict[str, float]:
        """Return the demanded reduction of each cost, as a fraction."""
        return super().reductions() | dict(self.reduce)

    @property
    def _methods(self) -> Sequence[RepairMethod]:
        """The repair methods and their options."""
        if self.recover is not None:
            return self.recover
        return DEFAULT_METHODS if self.data is not None else ()

    def _check_amounts(self) -> None:
        amounts = self.reductions()
        for kind in self.reduce:
            if kind in KINDS:
                raise UsageError(f"a budget of {kind} has an option of its own", f"use `reduce_{kind}`")
            find_cost(kind)
            check_fraction(kind, self.reduce[kind])
        if self.max_drop is not None and self.data is None:
            raise UsageError("`max_drop` is measured on samples", "give them with `data`")
        if self.ranks:
            self._check_ranks(amounts)
        if (self.plan is None) == (not amounts and self.max_drop is None):
            raise UsageError(
                "no reduction is given" if self.plan is None else "a plan and a reduction exclude each other",
                f"give one or more of {one_of(Reductions)}, or `max_drop`, or `plan`",
            )

    def _check_ranks(self, amounts: Mapping[str, float]) -> None:
        """Refuse options that ranks do not go with."""
        if self.data is None:
            raise UsageError("plans with `ranks` are judged on samples", "give them with `data`")
        if self.plan is not None:
            raise UsageError("`ranks` belongs to a plan that is made", "leave it out, or `plan`")
        if foreign := set(amounts) - {"macs", "params", "size"}:
            raise UsageError(
                f"`ranks` does not go with a budget of {min(foreign)}",
                "it is planned for MACs, parameters or size; `factorize` first goes with all budgets",
            )

    def _check_backend(self) -> None:
        if self.latency_backend is not None:
            check_backend(self.latency_backend)
            if self.reduce_latency is None and self.latency_table is None:
                raise UsageError("no latency is measured without a budget of it", "give `reduce_latency`")

    @property
    def _keeps_blocks(self) -> bool:
        """Return whether no block is offered: by default where no samples judge the plan."""
        if self.blocks is not None or self.plan is not None:
            return False
        return self.data is None or self.trials is not None

    def _limits(self) -> Limits:
        step = DEFAULT_ROUND_TO if self.round_to is None else self.round_to
        least, most = self.keep_at_least, self.keep_at_most
        return Limits(step, self.max_ratio, least, most, exact=self.round_to is not None)

    def _strategy(self, analysis: Analysis | None) -> Strategy:
        strategy: Strategy = self.strategy or ("sensitivity" if analysis else "global")
        if strategy == "sensitivity" and analysis is None:
            raise UsageError("the strategy 'sensitivity' needs an analysis", "run `ana` and give its file")
        if strategy == "search" and self.data is None:
            raise UsageError("the strategy 'search' tries plans on samples", "give them with `data`")
        return strategy

    def _criterion(self, analysis: Analysis | None) -> str:
        usual = "l2" if self.data is None else "obs"
        known = analysis.settings.get("criterion", usual) if analysis else usual
        if self.data is None and known in NEED_DATA:
            known = usual  # the criterion of the analysis needs data, and there is none now
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
            **({"blocks": self.blocks} if self.blocks is not None else {}),
            **({"keep_at_least": dict(self.keep_at_least)} if self.keep_at_least else {}),
            **({"keep_at_most": dict(self.keep_at_most)} if self.keep_at_most else {}),
            "exclude": list(self.exclude),
            "only": list(self.only),
            "seed": self.seed,
        }

    def _order(self, analysis: Analysis | None) -> PlanOrder:
        """Return the order of plans: by the metric, or by the reduction where the budget is a loss."""
        return PlanOrder(get_metric(self._metric(analysis)), by_reduction=self.max_drop is not None)
