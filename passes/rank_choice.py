"""Ranks beside channels: a pruning of the model with layers split exactly, against one of the model as it is.

A layer is first split without loss: a chain of products at the full rank, the directions between them ordered
by their part in the result on samples. Its rank is then the width of a group of channels, the channels that
are cut from it are the last directions, and every cost is bilinear in rank and width, as between other
groups. So one plan holds widths, ranks and blocks, sparse and dense model are one function, and the repair,
the training and the proof are the same as for all channels.

The chain at the full rank costs more than the layer; which layers are split, and at most at which rank, is
therefore decided before: by the integer program of `RankChoice`, for a share of the reduction. The plan then
chooses smaller ranks and all widths; a plan of ranks alone is tried, too. All plans meet the same budgets,
each with its repair, and are judged by the same metric on the same samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from onnxprune.algebra.axes import Factor, factors
from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.decisions.channels.own_graph import in_own_graph
from onnxprune.decisions.channels.planned import planned_channels, stored_plan
from onnxprune.decisions.plan import Plan
from onnxprune.decisions.ranks import Form, RankLayer, RankOption, find_layers, with_written_weights, written
from onnxprune.errors import DataError, NothingToDoError, PlanError, VerificationError
from onnxprune.evaluate.equivalence import CheckBudget, examine
from onnxprune.evaluate.equivalence.verification import demand
from onnxprune.ir import Model, sized_like
from onnxprune.passes.base import PassResult
from onnxprune.passes.plan_order import PlanOrder, score_of
from onnxprune.passes.plan_reports import by_kind
from onnxprune.repair.chain_repair import Chain, InnerAxis
from onnxprune.runtime import Array
from onnxprune.scoring.layerwise.low_rank_kernels import Kernels
from onnxprune.scoring.rank_scores import exact_kernels, offers_of
from onnxprune.search.rank_allocation import RankChoice
from onnxprune.support.globs import matching
from onnxprune.support.memory import budget
from onnxprune.support.progress import task

SHARES = (0.35, 0.7, 1.0)
"""Shares of the reduction for which layers to split are chosen."""
_CHECK = CheckBudget(seconds=5.0)
_SHARE = 16
"""Part of the memory budget that kernels kept from one share to the next may take."""
_REFUSALS = (PlanError, NothingToDoError, DataError, VerificationError)
"""Errors of one share, which leave the others."""
_Feeds = Sequence[Mapping[str, Array]]


@dataclass(frozen=True)
class SplitForm:
    """A model with layers split without loss.

    Attributes:
        model: The model.
        chains: The layers, with the largest number of channels that stay between their products.
    """

    model: Model
    chains: Sequence[Chain]

    @property
    def ranks(self) -> dict[str, int]:
        """The ranks of all layers by the names of their groups."""
        return {axis.group: axis.rank for chain in self.chains for axis in chain.inner if axis.group}


@dataclass(frozen=True, eq=False)
class Splitting:
    """The splits of a model, chosen on samples.

    Attributes:
        given: The model.
        feeds: The samples, arrays for every input.
        exclude: Globs of nodes, weights or tensors of layers that stay whole.
        only: Globs of the layers that may be split; by default all.
        max_ratio: Largest fraction of the full rank that may go.
        threads: Threads of the sessions.
        seed: Seed of all draws.
        known: The kernels of splits without loss that were computed before, as far as memory allows.
    """

    given: Model
    feeds: _Feeds
    exclude: Sequence[str] = ()
    only: Sequence[str] = ()
    max_ratio: float = 0.9
    threads: int | None = None
    seed: int = 0
    known: dict[tuple[str, Form, int], Kernels] = field(default_factory=dict)

    @cached_property
    def channels(self) -> Channels:
        """The groups of the model."""
        return find_channels(self.given)

    @cached_property
    def choice(self) -> RankChoice:
        """The splits of each layer that cost less than it.

        Raises:
            NothingToDoError: There are none.
        """
        layers, _ = find_layers(self.channels, self._model)
        own = {name for node in self.given.nodes for name in node.output[:1]}
        layers = [n for n in layers if n.linear.node.output[0] in own and self._is_free(n)]
        offers = offers_of(self._model, layers, (), self.feeds, {}, self.threads, self.seed)
        if not offers:
            raise NothingToDoError(
                "no layer can be split into smaller ones", "see `factorize` for the reasons"
            )
        return RankChoice(offers, cost_of(self.channels).figures())

    def at(self, reductions: Mapping[str, float]) -> SplitForm:
        """Split the layers that are chosen for reductions by ranks alone; none of them loses anything.

        Args:
            reductions: The fractions of ``macs`` and ``params``.

        Raises:
            PlanError: Ranks alone cannot reach them.
            VerificationError: The result does not compute the function of the model.
        """
        choice = self.choice
        while True:
            chosen = choice.allotted(reductions)
            kernels = self._kernels(chosen)
            made = self._written(chosen, kernels)
            chains, blocked = self._chains(made, chosen, kernels)
            if not blocked:
                break
            choice = replace(choice, offers=[o for o in choice.offers if o.layer.name not in blocked])
        verdict = examine(self.given, made, shapes=self.given.sizes or None, seed=self.seed, budget=_CHECK)
        demand(verdict, self.given.name, "its form with layers split")
        return SplitForm(made, chains)

    @cached_property
    def _model(self) -> Model:
        return with_written_weights(self.channels.model)

    def _is_free(self, layer: RankLayer) -> bool:
        node = layer.linear.node
        names = {layer.name, layer.linear.weight, *node.input, *node.output}
        meant = [any(matching(p, names) for p in globs) for globs in (self.exclude, self.only)]
        return not meant[0] and (meant[1] or not self.only)

    def _kernels(self, chosen: Sequence[tuple[RankLayer, RankOption]]) -> list[Kernels]:
        """Return the kernels of splits without loss; ranks do not change them."""
        keys = [(layer.name, option.form, len(option.ranks)) for layer, option in chosen]
        missing = [pair for pair, key in zip(chosen, keys, strict=True) if key not in self.known]
        made = exact_kernels(self._model, missing, self.feeds, self.threads, self.seed) if missing else []
        fresh = iter(made)
        kernels = [self.known[key] if key in self.known else next(fresh) for key in keys]
        held = sum(part.nbytes for parts in self.known.values() for part in parts)
        for key, parts in zip(keys, kernels, strict=True):
            size = sum(part.nbytes for part in parts)
            if key not in self.known and held + size <= budget() // _SHARE:
                self.known[key], held = parts, held + size
        return kernels

    def _written(self, chosen: Sequence[tuple[RankLayer, RankOption]], kernels: Sequence[Any]) -> Model:
        """Write chains into the user's own graph, or else into the analysed form."""
        chains = {n.linear.node.output[0]: (n, found) for (n, _), found in zip(chosen, kernels, strict=True)}
        own = in_own_graph(self.given, self.channels.model, self._model)
        if own is not None:
            nodes = {node.output[0]: node for node in own.nodes if node.output}
            stems = {nodes[out].input[layer.view.weights] for out, (layer, _) in chains.items()}
            own = own if stems <= own.constants.keys() else None
        made = written(self._model if own is None else own, chains)
        return sized_like(made, self.given)

    def _chains(
        self, made: Model, chosen: Sequence[tuple[RankLayer, RankOption]], kernels: Sequence[Kernels]
    ) -> tuple[list[Chain], set[str]]:
        """Return the chains of a model, and the layers within whose chains nothing can be cut, by name."""
        channels, chains, blocked = find_channels(made), list[Chain](), set[str]()
        for (layer, option), parts in zip(chosen, kernels, strict=True):
            name, inner = layer.linear.node.output[0], list[InnerAxis]()
            outside = self._factors(channels, name)
            for rank, part in reversed(list(zip(option.ranks, parts, strict=False))):
                producer, size = made.main.producer(name), part.shape[1]
                assert producer is not None
                name = producer.input[layer.view.data]
                found = [g for g in channels.groups if g.factor in self._factors(channels, name) - outside]
                if len(found) == 1:
                    least = math.ceil(found[0].size * (1 - self.max_ratio) - 1e-9)
                    inner.insert(0, InnerAxis(found[0].name, size, max(1, rank, least)))
                    outside = outside | {found[0].factor}
                elif rank >= size:
                    inner.insert(0, InnerAxis("", size, size))
                else:
                    blocked.add(layer.name)
            chains.append(Chain(layer, option, tuple(inner)))
        return chains, blocked

    @staticmethod
    def _factors(channels: Channels, tensor: str) -> set[Factor]:
        return {factor for dim in channels.typing.axes.get(tensor, ()) for factor in factors(dim)}


def better_by_ranks(
    whole: PassResult,
    splitting: Splitting,
    prune: Callable[[SplitForm, bool], PassResult],
    reductions: Mapping[str, float],
    order: PlanOrder,
) -> PassResult:
    """Return the best of a pruning and those of the model with layers split, with all scores in its report.

    Args:
        whole: The pruning of the model as it is.
        splitting: The splits of the model.
        prune: From a model with layers split to its pruning under the same budgets; of ranks alone, if the
            second argument is true.
        reductions: The reductions of ``macs`` and ``params`` that ranks are chosen for.
        order: The order of prunings.
    """
    best, form, tried = whole, None, list[dict[str, Any]]()
    least, split, parted = order.rank(whole), None, 0.0
    for share, alone in (*((share, False) for share in SHARES), (1.0, True)):
        trial: dict[str, Any] = {"share": share, "ranks_alone": alone}
        tried.append(trial)
        try:
            with task(f"prune with ranks for {share:.0%}{', and nothing else' if alone else ''}"):
                if split is None or parted != share:
                    split, parted = None, share
                    split = splitting.at({name: share * value for name, value in reductions.items()})
                pruned = prune(split, alone)
        except _REFUSALS as error:
            trial["reason"] = error.message
            continue
        trial["score"] = score_of(pruned)
        rank = order.rank(pruned)
        if order.judge is not None:
            trial["judged"] = -rank[1] if order.metric.higher_is_better else rank[1]
        if rank < least:
            best, form, least = pruned, split, rank
    choice = {"kept": form is not None, "score_without": score_of(whole), "tried": tried}
    if order.judge is not None:
        choice["judged_without"] = order.score(whole)
    if form is None:
        return replace(best, report=best.report.with_keys(rank_choice=choice))
    plan = stored_plan(best.model)
    assert plan is not None
    choice |= {"score_with": score_of(best), "layers": _described(form, plan)}
    kinds = by_kind(planned_channels(best.model, plan), plan, form.ranks)
    report = best.report.with_keys(rank_choice=choice, **kinds)
    return replace(best, original=form.model, analysis=whole.analysis, report=report)


def _described(form: SplitForm, plan: Plan) -> list[dict[str, Any]]:
    """Describe the layers that are split, with the ranks that the plan keeps."""
    return [
        {
            "node": chain.layer.name,
            "operator": chain.layer.linear.node.op_type,
            "form": chain.option.form.name,
            "ranks": [
                plan.sizes[axis.group] - len(plan.removed[axis.group])
                if axis.group in plan.removed
                else axis.rank
                for axis in chain.inner
            ],
        }
        for chain in form.chains
    ]
