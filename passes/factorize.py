"""``factorize``: split products with weights into chains of smaller ones, of the rank that pays.

The result is an approximation, and an ordinary file: convolutions and matrix products with weights of their
own. The channels between the products of a chain are channels like any others: later passes can prune them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, ClassVar

import numpy as np

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.decisions.channels.own_graph import in_own_graph
from onnxprune.decisions.channels.planned import stored_plan
from onnxprune.decisions.elements import pattern_note
from onnxprune.decisions.ranks import (
    FormName,
    RankLayer,
    RankOption,
    WholeLayer,
    find_layers,
    forms_of,
    with_written_weights,
    written,
)
from onnxprune.decisions.ranks.split_forms import largest_rank
from onnxprune.errors import NothingToDoError, PlanError, UsageError
from onnxprune.evaluate.data import DataSpec, open_data
from onnxprune.evaluate.equivalence import CheckBudget, examine
from onnxprune.evaluate.equivalence.verification import demand
from onnxprune.evaluate.metrics import MetricSpec
from onnxprune.ir import Model
from onnxprune.passes.base import Pass, PassResult
from onnxprune.passes.recover import DEFAULT_METHODS, DEFAULT_SAMPLES, Recover
from onnxprune.passes.reports import FactorizeReport, costs
from onnxprune.repair import ModelPair, RepairMethod, Settings, sweep
from onnxprune.repair.low_rank_layers import Lowering
from onnxprune.runtime import Array, Session
from onnxprune.scoring.rank_scores import RankOffer, offers_of
from onnxprune.search.evaluator import PlanEvaluator
from onnxprune.search.frontier import largest_reduction
from onnxprune.search.rank_allocation import RankChoice
from onnxprune.support.common_options import (
    FRACTION,
    GroupSelection,
    InputSizes,
    Seeded,
    Threaded,
    Unchanged,
)
from onnxprune.support.globs import matching
from onnxprune.support.option_fields import Key, option

_CHECK = CheckBudget(seconds=5.0)
_Feeds = Sequence[Mapping[str, Array]]


@dataclass(frozen=True)
class SplitModel:
    """A network whose layers have weights of low rank, before the chains are written.

    Attributes:
        pair: The network, and its original.
        lowering: The layers that are split, and their kernels.
        facts: Errors of the outputs, and nodes that were not repaired.
    """

    pair: ModelPair
    lowering: Lowering
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Factorize(GroupSelection, Unchanged, Seeded, Threaded, InputSizes, Pass):
    """Split products with weights into chains of smaller ones of lower rank; the result is an approximation.

    Attributes:
        reduce_macs: Remove this fraction of the MACs.
        reduce_params: Remove this fraction of the parameters.
        max_drop: Remove as many MACs as possible with a drop of the metric of no more than this, as measured
            on ``data`` after the repair.
        metric: Metric of ``max_drop``; by default ``kl``.
        rank: Split the layers that this glob of nodes or weights names at this rank.
        form: Forms that are tried: ``svd``, the kernel at fewer outputs, then a product that restores them;
            ``spatial``, the kernel along one axis, then along the others; ``tucker-2``, the kernel between
            two products that reduce and restore the channels. By default all.
        data: Samples, labels not needed, to choose ranks and weights by and to repair with: an .npz or .jsonl
            file, a folder of samples, or module:callable.
        recover: Methods of `recover` to repair the other layers with, or none; by default ``least-squares``
            with samples, and none without.
        samples: Number of samples, drawn at random.
        batch_size: Samples a run.
    """

    name: ClassVar[str] = "factorize"

    reduce_macs: float | None = field(
        default=None,
        metadata=option(
            metavar="R",
            above=FRACTION.above,
            below=FRACTION.below,
            key=Key(example="0.2", note="of the MACs of the original, counted in the budget"),
        ),
    )
    reduce_params: float | None = field(
        default=None,
        metadata=option(
            metavar="R", above=FRACTION.above, below=FRACTION.below, key=Key(example="0.2", note="likewise")
        ),
    )
    max_drop: float | None = field(
        default=None,
        metadata=option(
            metavar="D",
            least=0,
            key=Key(
                text="Remove as many MACs as possible with a drop of the metric of no more than this, as"
                " measured on the calibration data.",
                example="0.01",
                note="as many MACs as this drop of the metric allows",
            ),
        ),
    )
    metric: MetricSpec | None = field(default=None, metadata=option(metavar="TEXT", place="reads"))
    rank: Mapping[str, int] = field(
        default_factory=dict,
        metadata=option(
            metavar="GLOB=N",
            example="GLOB=N",
            least=1,
            key=Key(example='{ "head*" = 16 }', note="of the layers that a glob names"),
        ),
    )
    form: Sequence[FormName] = field(
        default=(),
        metadata=option(metavar="NAME", key=Key(example='["svd"]', note="svd spatial tucker-2; all")),
    )
    data: DataSpec | None = field(default=None, metadata=option(metavar="DATA", place="reads"))
    recover: Sequence[RepairMethod] | None = field(default=None, metadata=option(metavar="METHOD"))
    samples: int = field(
        default=DEFAULT_SAMPLES,
        metadata=option(least=2, key=Key(text="Number of samples of the calibration data.")),
    )
    batch_size: int = field(default=32, metadata=option(least=1))

    def requires(self, given: PassResult) -> None:
        """The options make sense, and the model has no zeros of a plan or a pattern."""
        super().requires(given)
        if not self._reductions and self.max_drop is None and not self.rank:
            raise UsageError(
                "no reduction is given", "give `reduce_macs`, `reduce_params`, `max_drop` or `rank`"
            )
        if self.data is None and self.max_drop is not None:
            raise UsageError("`max_drop` is measured on samples", "give them with `data`")
        if self.data is None and self.recover:
            raise UsageError("a repair looks at samples", "give them with `data`")
        if stored_plan(given.model) is not None or pattern_note(given.model) is not None:
            raise PlanError(
                f"{given.model.name} has zeros that a plan or a pattern keeps, and a split would fill them",
                "factorize the model before `prune` and `sparsify`, or after `transform`",
            )

    def run(self, given: PassResult) -> PassResult:
        """Find the layers, allot ranks, split and repair from front to back, write the chains, compare."""
        start, channels = perf_counter(), find_channels(given.model)
        model = with_written_weights(channels.model)
        found, whole = find_layers(channels, model)
        layers = self._chosen(found, given.model)
        ranks = self._ranks(layers)
        feeds = self._feeds(model) if self.data is not None else []
        offers = offers_of(model, layers, self.form, feeds, ranks, self.threads, self.seed)
        whole += self._without_split(layers, offers, ranks)
        if not offers:
            return self._unchanged(given, whole)
        before = cost_of(channels).figures()
        split, facts = self._found(model, channels, RankChoice(offers, before, ranks), feeds)
        made, error = self._written(given.model, split.pair, split.lowering)
        after = cost_of(find_channels(made)).figures()
        known = {k: v for k, v in costs(before, after).items() if not k.startswith("channels")}
        report = FactorizeReport(
            exact=False,
            layers=[_described(*chosen, split.lowering) for chosen in split.lowering.chosen.values()],
            left=[{"node": w.node, "operator": w.operator, "reason": w.reason} for w in whole],
            samples=sum(len(next(iter(feed.values()))) for feed in feeds),
            max_rel_error=error,
            factorize_s=perf_counter() - start,
            **known,
            **split.facts,
            **facts,
        )
        return PassResult(made, True, report, None)

    @property
    def _reductions(self) -> dict[str, float]:
        given = {"macs": self.reduce_macs, "params": self.reduce_params}
        return {name: reduction for name, reduction in given.items() if reduction is not None}

    @property
    def _methods(self) -> Sequence[RepairMethod]:
        if self.recover is not None:
            return self.recover
        return DEFAULT_METHODS if self.data is not None else ()

    def _feeds(self, model: Model) -> list[dict[str, Array]]:
        """Draw the samples."""
        session = Session(model.proto, threads=self.threads)
        data = open_data(self.data, session.inputs, session.outputs)  # type: ignore[arg-type]
        drawn = Recover(model, samples=self.samples, batch_size=self.batch_size, seed=self.seed)
        return drawn.feeds(data, session.fixed_batch)

    def _chosen(self, layers: Sequence[RankLayer], given: Model) -> list[RankLayer]:
        """Return the layers that the options choose and that are nodes of the file itself."""
        own = {name for node in given.nodes for name in node.output[:1]}
        names = {layer.index: {layer.name, layer.linear.weight} for layer in layers}
        excluded, named = (_meant(globs, names) for globs in (self.exclude, self.only))
        if self.only:
            excluded |= names.keys() - named
        return [n for n in layers if n.index not in excluded and n.linear.node.output[0] in own]

    def _ranks(self, layers: Sequence[RankLayer]) -> dict[str, int]:
        """Return the ranks that are given, by the name of the layer."""
        names, found = {n.index: {n.name, n.linear.weight} for n in layers}, dict[str, int]()
        for glob, rank in self.rank.items():
            meant = _meant([glob], names)
            found |= {layer.name: rank for layer in layers if layer.index in meant}
        return found

    def _without_split(
        self, layers: Sequence[RankLayer], offers: Sequence[RankOffer], ranks: Mapping[str, int]
    ) -> list[WholeLayer]:
        """Return the layers without a split that costs less than the layer.

        Raises:
            PlanError: A demanded rank costs no less than its layer, for all layers with one.
        """
        offered, found = {offer.layer.name for offer in offers}, list[WholeLayer]()
        for layer in (n for n in layers if n.name not in offered):
            reason = "no split costs less than the layer"
            if layer.name in ranks:
                most = largest_rank(layer, forms_of(layer, self.form))
                reason = f"rank {ranks[layer.name]} costs no less than the layer; "
                reason += f"the largest rank that pays is {most}" if most else "no rank pays"
            found.append(WholeLayer(layer.name, layer.linear.node.op_type, reason))
        if ranks and not offered & ranks.keys():
            refused = [f"'{w.node}': {w.reason}" for w in found if w.node in ranks]
            raise PlanError("no layer can be split at the rank that is given", "; ".join(refused[:3]))
        return found

    def _unchanged(self, given: PassResult, whole: Sequence[WholeLayer]) -> PassResult:
        if not self.allow_unchanged:
            reasons = "; ".join(f"{w.operator} '{w.node}': {w.reason}" for w in whole[:3])
            raise NothingToDoError(
                f"no layer of {given.model.name} can be split into smaller ones",
                reasons or "it has no convolution or matrix product with weights of its own",
            )
        left = [{"node": w.node, "operator": w.operator, "reason": w.reason} for w in whole]
        return PassResult(given.model, False, FactorizeReport(unchanged=True, left=left), given.analysis)

    def _found(
        self, model: Model, channels: Channels, choice: RankChoice, feeds: _Feeds
    ) -> tuple[SplitModel, dict[str, Any]]:
        """Split for the reductions, or for the largest one whose measured drop is allowed.

        Returns:
            The model that is split, and the figures of the search.

        Raises:
            PlanError: The budgets cannot be met.
        """
        reductions = self._reductions
        if self.max_drop is None:
            return self._split(model, choice.allotted(reductions), feeds), {}
        judge = PlanEvaluator.open(
            channels,
            self.data,  # type: ignore[arg-type]
            self.metric or "kl",
            samples=self.samples,
            batch_size=self.batch_size,
            threads=self.threads,
        )

        def split_at(reduction: float) -> SplitModel:
            macs = max(reduction, reductions.get("macs", 0.0))
            return self._split(model, choice.allotted({**reductions, "macs": macs}), feeds)

        def drop_of(split: SplitModel) -> float:
            return judge.drop_of(split.pair.sparse)

        reached = largest_reduction(split_at, drop_of, choice.largest("macs"), self.max_drop)
        score = judge.baseline + reached.drop * (-1 if judge.metric.higher_is_better else 1)
        return reached.plan, {
            "metric": judge.metric.name,
            "score_before": judge.baseline,
            "score": score,
            "drop": reached.drop,
            "reductions_tried": [list(pair) for pair in reached.tried],
        }

    def _split(
        self, model: Model, chosen: Sequence[tuple[RankLayer, RankOption]], feeds: _Feeds
    ) -> SplitModel:
        """Split layers in a copy of a model, and repair the others."""
        lowering = Lowering({layer.index: (layer, option) for layer, option in chosen}, bool(self._methods))
        pair = ModelPair(model.copy(), model, {})
        if not feeds:
            lowering.unseen(pair.sparse)
            return SplitModel(pair, lowering, {"outputs": {}, "skipped": []})
        report = sweep(pair, feeds, Settings(self._methods, self.seed, self.threads), lowering.prepare)
        outputs = {name: found["mse_after"] for name, found in report.outputs.items()}
        return SplitModel(pair, lowering, {"outputs": outputs, "skipped": report.skipped})

    def _written(self, given: Model, pair: ModelPair, lowering: Lowering) -> tuple[Model, float | None]:
        """Write the chains into the user's own graph.

        Returns:
            The model, and its largest relative error to the same graph with the weights that the chains
            stand for.

        Raises:
            VerificationError: It does not compute the function of those weights.
            NotShownError: No input showed whether it does.
        """
        own = in_own_graph(given, pair.original, pair.sparse)
        low = pair.sparse if own is None else own
        nodes = pair.original.main.nodes
        chains = {
            nodes[number].output[0]: (layer, lowering.kernels[number])
            for number, (layer, _) in lowering.chosen.items()
        }
        made = written(low, chains)
        how: dict[str, Any] = {"data": self.data, "samples": 64} if self.data is not None else {}
        verdict = examine(low, made, shapes=given.sizes or None, seed=self.seed, budget=_CHECK, **how)
        demand(verdict, f"{given.name} with weights of low rank", "the chains of products")
        return made, max((o.max_rel_error for o in verdict.outputs), default=None)


def _meant(globs: Sequence[str], names: Mapping[int, set[str]]) -> set[int]:
    """Return the layers that some globs name.

    Raises:
        PlanError: A glob matches nothing.
    """
    every, found = set().union(*names.values()), set[int]()
    for glob in globs:
        meant = matching(glob, every)
        if not meant:
            raise PlanError(
                f"'{glob}' matches no layer that can be split, by its node or its weight",
                "`inspect` lists the nodes; the report says why layers stay whole",
            )
        found |= {index for index, own in names.items() if own & meant}
    return found


def _described(layer: RankLayer, option: RankOption, lowering: Lowering) -> dict[str, Any]:
    """Describe a split."""
    return {
        "node": layer.name,
        "operator": layer.linear.node.op_type,
        "form": option.form.name,
        "ranks": list(option.ranks),
        "groups": layer.shape[0],
        "outputs": layer.shape[1],
        "inputs": layer.shape[2],
        "kernel": list(layer.kernel_shape),
        "macs_before": round(layer.macs([layer.shape])),
        "macs": round(option.macs),
        "params_before": int(np.prod(layer.shape)),
        "params": option.params,
        "error": lowering.errors[layer.index],
    }
