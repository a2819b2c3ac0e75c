"""Chains of products whose layers were split anew, in the network as it is pruned and repaired.

A plan of ranks removes the last directions of chains that are exact. The directions that are best in the
pruned network are others: so the network without chains is repaired from front to back, its layers are split
on their operands there (`Lowering`), and the kernels are put into the chains of the sparse model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.decisions.channels.masks import masked
from onnxprune.decisions.channels.planned import planned_channels
from onnxprune.decisions.channels.remaining_statistics import sparse_in_own_graph
from onnxprune.decisions.plan import Plan
from onnxprune.decisions.ranks import RankLayer, RankOption
from onnxprune.errors import PlanError
from onnxprune.ir import Model
from onnxprune.repair.low_rank_layers import Lowering
from onnxprune.repair.model_pair import ModelPair
from onnxprune.repair.sweep import Settings, sweep
from onnxprune.runtime import Array
from onnxprune.scoring.layerwise.low_rank_kernels import Kernels


@dataclass(frozen=True)
class InnerAxis:
    """The channels between two products of a chain.

    Attributes:
        group: Name of their group; empty where all of them stay.
        size: Their number in the chain that loses nothing, in each group of a convolution.
        rank: The largest number that stays.
    """

    group: str
    size: int
    rank: int


@dataclass(frozen=True)
class Chain:
    """A layer that a model with layers split has as a chain of products.

    Attributes:
        layer: The layer.
        option: Its split.
        inner: The channels between the products, the first to run first.
    """

    layer: RankLayer
    option: RankOption
    inner: tuple[InnerAxis, ...]

    @property
    def result(self) -> str:
        """The name of the result."""
        return str(self.layer.linear.node.output[0])


def split_anew(
    whole: Model,
    form: Model,
    plan: Plan,
    chains: Sequence[Chain],
    feeds: Sequence[Mapping[str, Array]],
    settings: Settings,
) -> Model | None:
    """Return the sparse model of a plan, its layers repaired and its chains split in the pruned network.

    Args:
        whole: The model before its layers were split.
        form: The model with chains, which lose nothing.
        plan: A plan of that model.
        chains: The chains.
        feeds: Samples, arrays for every input.
        settings: Options of the repair.

    Returns:
        The sparse model; ``None`` where the groups of the plan are not those of the model without chains.

    Raises:
        DataError: The samples make values that are not finite.
    """
    axes = {axis for chain in chains for axis in chain.inner}
    ranks = {axis.group for axis in axes}
    if ranks & plan.within.keys():
        return None
    channels = planned_channels(form, plan)
    kept = {a: np.setdiff1d(np.arange(a.size), np.asarray(plan.removed.get(a.group, ()), int)) for a in axes}
    pair = _without_chains(whole, plan, ranks)
    if pair is None:
        return None
    nodes = pair.sparse.nodes
    numbers = {node.output[0]: n for n, node in enumerate(nodes) if node.output}
    chosen = {}
    for chain in chains:
        number = numbers.get(chain.result)
        if number is None or chain.layer.linear.weight not in nodes[number].input:
            return None  # its weights are computed in the file
        found = tuple(len(kept[axis]) for axis in chain.inner)
        layer = replace(chain.layer, index=number)
        chosen[number] = (layer, replace(chain.option, ranks=found))
    lowering = Lowering(chosen)
    sweep(pair, feeds, settings, lowering.prepare)
    sparse = masked(channels, plan.removed)
    kernels = {chain.result: lowering.kernels.get(numbers[chain.result]) for chain in chains}
    _copy_constants(pair.sparse, sparse, {chain.result: chain.layer.view.weights for chain in chains})
    for chain in chains:
        made = kernels[chain.result]
        if made is not None:  # no part of a removed block
            _put(sparse, chain, made, kept)
    sparse = masked(replace(channels, model=sparse), plan.removed)
    return sparse_in_own_graph(form, channels, plan.removed, sparse)


def _without_chains(whole: Model, plan: Plan, ranks: set[str]) -> ModelPair | None:
    """Return the model without chains, pruned by the rest of a plan, beside its original."""
    rest = replace(
        plan,
        removed={name: gone for name, gone in plan.removed.items() if name not in ranks},
        sizes={name: size for name, size in plan.sizes.items() if name not in ranks},
    )
    try:
        channels = planned_channels(whole, rest)
        sparse = masked(channels, rest.removed)
        return ModelPair.of(replace(channels, model=sparse), rest.removed, whole, rest)
    except PlanError:
        return None


def _copy_constants(source: Model, target: Model, left_out: Mapping[str, int]) -> None:
    """Give the nodes of a model the constants of the same nodes of another one.

    Args:
        source: The model that has the constants.
        target: The model that gets them; its nodes are those of the other one, and more.
        left_out: The operand of a node that stays, by the node's first result.
    """
    nodes = target.nodes
    numbers = {node.output[0]: n for n, node in enumerate(nodes) if node.output}
    for node in source.nodes:
        number = numbers.get(node.output[0] if node.output else "")
        if number is None:
            continue
        operands = list(nodes[number].input)
        for place, name in enumerate(node.input):
            if name not in source.constants or left_out.get(node.output[0]) == place:
                continue
            values = source.array(name)
            own = operands[place] if place < len(operands) else ""
            if own in target.constants:
                before = target.array(own)
                if before.shape == values.shape and not np.array_equal(before, values):
                    target.set_array(own, values)
            elif not own:  # a bias that the repair added
                operands += [""] * (place + 1 - len(operands))
                operands[place] = target.add_constant(name, values)
                target.rewire(number, operands)


def _put(model: Model, chain: Chain, kernels: Kernels, kept: Mapping[InnerAxis, Array]) -> None:
    """Write kernels into the remaining channels of a chain; all others are zero."""
    layer, tensor, inner = chain.layer, chain.result, chain.inner
    numbers = {node.output[0]: n for n, node in enumerate(model.nodes) if node.output}
    for place in reversed(range(len(kernels))):
        node, kernel = model.nodes[numbers[tensor]], kernels[place]
        groups, outputs, inputs, *sides = kernel.shape
        rows, height = _places(inner[place] if place < len(inner) else None, outputs, kept)
        columns, width = _places(inner[place - 1] if place else None, inputs, kept)
        full = np.zeros((groups, height, width, *sides))
        full[:, rows[:, None], columns] = kernel
        name = node.input[layer.view.weights]
        before = model.array(name)
        model.set_array(name, layer.weights(full).reshape(before.shape).astype(before.dtype))
        tensor = node.input[layer.view.data]


def _places(axis: InnerAxis | None, count: int, kept: Mapping[InnerAxis, Array]) -> tuple[Array, int]:
    """Return the places of some channels among those of the chain that loses nothing, and its number."""
    if axis is None:
        return np.arange(count), count
    return kept[axis][:count], axis.size
