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

from onnxprune.analysis.groups.channels import find_channels
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
from onnxprune.ir import Model
from onnxprune.passes.base import Pass, PassResult
from onnxprune.passes.recover import DEFAULT_METHODS, DEFAULT_SAMPLES, Recover
from onnxprune.passes.reports import FactorizeReport, costs
from onnxprune.repair import ModelPair, RepairMethod, Settings, sweep
from onnxprune.repair.low_rank_layers import Lowering
from onnxprune.runtime import Array, Session
from onnxprune.scoring.rank_scores import RankOffer, offers_of
from onnxprune.search.rank_allocation import allotted
from onnxprune.support.common_options import (
    FRACTION,
    GroupSelection,
    InputSizes,
    Seeded,
    Threaded,
    Unchanged,
)
from onnxprune.support.globs import matching
from onnxprune.support.option_fields import option

_CHECK = CheckBudget(seconds=5.0)
_Feeds = Sequence[Mapping[str, Array]]


@dataclass(frozen=True)
class Factorize(GroupSelection, Unchanged, Seeded, Threaded, InputSizes, Pass):
    """Split products with weights into chains of smaller ones of lower rank; the result is an approximation.

    Attributes:
        reduce_macs: Remove this fraction of the MACs.
        reduce_params: Remove this fraction of the parameters.
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
        default=None, metadata=option(metavar="R", above=FRACTION.above, below=FRACTION.below)
    )
    reduce_params: float | None = field(
        default=None, metadata=option(metavar="R", above=FRACTION.above, below=FRACTION.below)
    )
    rank: Mapping[str, int] = field(
        default_factory=dict, metadata=option(metavar="GLOB=N", example="GLOB=N", least=1)
    )
    form: Sequence[FormName] = field(default=(), metadata=option(metavar="NAME"))
    data: DataSpec | None = field(default=None, metadata=option(metavar="DATA", place="reads"))
    recover: Sequence[RepairMethod] | None = field(default=None, metadata=option(metavar="METHOD"))
    samples: int = field(default=DEFAULT_SAMPLES, metadata=option(least=2))
    batch_size: int = field(default=32, metadata=option(least=1))

    def requires(self, given: PassResult) -> None:
        """The options make sense, and the model has no zeros of a plan or a pattern."""
        super().requires(given)
        if self.reduce_macs is None and self.reduce_params is None and not self.rank:
            raise UsageError("say how much to remove", "give `reduce_macs`, `reduce_params` or `rank`")
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
        chosen = allotted(offers, cost_of(channels).figures(), self._reductions, ranks)
        lowering = Lowering({layer.index: (layer, option) for layer, option in chosen}, bool(self._methods))
        pair = ModelPair(model.copy(), model, {})
        facts = self._split(pair, lowering, feeds)
        made, error = self._written(given.model, pair, lowering)
        before, after = cost_of(channels).figures(), cost_of(find_channels(made)).figures()
        known = {k: v for k, v in costs(before, after).items() if not k.startswith("channels")}
        report = FactorizeReport(
            exact=False,
            layers=[_described(layer, option, lowering) for layer, option in chosen],
            left=[{"node": w.node, "operator": w.operator, "reason": w.reason} for w in whole],
            samples=sum(len(next(iter(feed.values()))) for feed in feeds),
            max_rel_error=error,
            factorize_s=perf_counter() - start,
            **known,
            **facts,
        )
        return PassResult(made, True, report, None)

    @property
    def _reductions(self) -> dict[str, float]:
        asked = {"macs": self.reduce_macs, "params": self.reduce_params}
        return {name: reduction for name, reduction in asked.items() if reduction is not None}

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
                most = largest_rank(layer, forms_of(layer.kernel_shape, self.form))
                reason = f"rank {ranks[layer.name]} costs no less than the layer; "
                reason += f"the largest rank that pays is {most}" if most else "no rank pays"
            found.append(WholeLayer(layer.name, layer.linear.node.op_type, reason))
        if ranks and not offered & ranks.keys():
            refused = [f"'{w.node}': {w.reason}" for w in found if w.node in ranks]
            raise PlanError("no layer can be split at the rank that is given", "; ".join(refused[:3]))
        return found

    def _unchanged(self, given: PassResult, whole: Sequence[WholeLayer]) -> PassResult:
        if not self.allow_unchanged:
            said = "; ".join(f"{w.operator} '{w.node}': {w.reason}" for w in whole[:3])
            raise NothingToDoError(
                f"no layer of {given.model.name} can be split into smaller ones",
                said or "it has no convolution or matrix product with weights of its own",
            )
        left = [{"node": w.node, "operator": w.operator, "reason": w.reason} for w in whole]
        return PassResult(given.model, False, FactorizeReport(unchanged=True, left=left), given.analysis)

    def _split(self, pair: ModelPair, lowering: Lowering, feeds: _Feeds) -> dict[str, Any]:
        """Split the layers in the pair's model; return the errors of the outputs."""
        if not feeds:
            lowering.unseen(pair.sparse)
            return {"outputs": {}, "skipped": []}
        report = sweep(pair, feeds, Settings(self._methods, self.seed, self.threads), lowering.prepare)
        outputs = {name: found["mse_after"] for name, found in report.outputs.items()}
        return {"outputs": outputs, "skipped": report.skipped}

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
