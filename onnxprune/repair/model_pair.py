"""A sparse model and the original it was pruned from, side by side: the same graph, node for node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from onnxprune.analysis.groups.channels import Channels
from onnxprune.decisions.channels.masks import KeepMasks, Mask
from onnxprune.decisions.channels.remaining_statistics import statistics
from onnxprune.decisions.elements import element_masks
from onnxprune.decisions.plan import Plan
from onnxprune.decisions.rotation import basis_of, check_basis
from onnxprune.errors import PlanError
from onnxprune.ir import Model, attributes, label
from onnxprune.ir.canonical.canonicalise import canonicalise
from onnxprune.ops.spec import spec_of
from onnxprune.ops.views import Operands
from onnxprune.repair.alignment import aligned, computing_nodes
from onnxprune.runtime import Array
from onnxprune.scoring.layerwise.trace import Instead


@dataclass(frozen=True)
class ModelPair:
    """Two models of one graph.

    Attributes:
        sparse: The one being repaired; its weights change.
        original: The model that it approximates.
        masks: Masks of the elements of the sparse model's weights that remain, for those that lose channels.
        instead: Nodes of the sparse model whose statistics are over the remaining channels (see `Trace`).
        elements: Masks of single elements of weights that remain, for those that follow a sparsity pattern.
        original_instead: The same nodes of the original, where that has lost the channels already.
        dead: First results of the nodes that only removed blocks need: they are not repaired.
    """

    sparse: Model
    original: Model
    masks: Mapping[str, Mask] = field(repr=False)
    instead: Instead = field(default_factory=dict, repr=False)
    elements: dict[str, Mask] = field(default_factory=dict, repr=False)
    original_instead: Instead = field(default_factory=dict, repr=False)
    dead: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls, channels: Channels, removed: Mapping[str, Sequence[int]], original: Model, plan: Plan | None
    ) -> ModelPair:
        """Match a sparse model with its original.

        Args:
            channels: The groups of the sparse model.
            removed: Its removed channels by group name.
            original: The model before pruning, as it was read.
            plan: The plan of the sparse model.

        Raises:
            PlanError: They are not of the same graph, or in different bases.
        """
        check_basis(
            basis_of(channels.model.metadata()),
            basis_of(original.metadata()),
            f"the original {original.name}",
            "put it into the basis of the sparse model: `rotate --like`",
        )
        canonical, _ = canonicalise(original, (plan.input_shapes or None) if plan else None)
        canonical = aligned(canonical, channels.model)
        _check_same(channels.model, canonical, original.name)
        known, _ = statistics(channels, removed)
        instead = {statistic.result: statistic.reading for statistic in known}
        masks = KeepMasks(channels, removed)
        blocks = channels.removed_blocks(removed)
        dead = frozenset(channels.typing.nodes[k].output[0] for block in blocks for k in block.numbers)
        sparse = channels.model.copy()
        return cls(sparse, canonical, masks, instead, elements=element_masks(channels), dead=dead)

    @classmethod
    def beside_itself(cls, channels: Channels, removed: Mapping[str, Sequence[int]]) -> ModelPair:
        """Return a model, and a copy of it that is to change.

        Args:
            channels: The groups of the model.
            removed: Its removed channels by group name.
        """
        known, _ = statistics(channels, removed)
        instead = {statistic.result: statistic.reading for statistic in known}
        masks = KeepMasks(channels, removed)
        return cls(channels.model.copy(), channels.model, masks, instead, original_instead=instead)

    def mask(self, name: str) -> Mask:
        """Return which elements of a constant remain of its channels."""
        if name in self.masks:
            return self.masks[name]
        return np.ones(tuple(self.sparse.constants[name].dims), bool)

    def allowed(self, name: str) -> Mask:
        """Return which elements of a constant may be other than zero."""
        mask = self.mask(name)
        return mask & self.elements[name] if name in self.elements else mask

    def replace(self, name: str, values: Array) -> None:
        """Replace weights of the sparse model; removed channels and elements stay zero."""
        before = self.sparse.array(name)
        after = np.where(self.allowed(name), values, np.zeros((), values.dtype))
        self.sparse.set_array(name, after.astype(before.dtype))


def _check_same(sparse: Model, original: Model, name: str) -> None:
    hint = "give the model that was pruned, as it was before"
    ours, theirs = computing_nodes(sparse), computing_nodes(original)
    if len(ours) != len(theirs):
        raise PlanError(f"{name} has {len(theirs)} nodes, the sparse model {len(ours)}", hint)
    for a, b in zip(ours, theirs, strict=True):
        if not _same_node(a, b):
            raise PlanError(f"{name} differs from the sparse model at node '{label(a)}' ({a.op_type})", hint)
    for tensor in original.constants:
        ours_dims = list(sparse.constants[tensor].dims) if tensor in sparse.constants else None
        if ours_dims != list(original.constants[tensor].dims):
            raise PlanError(f"{name} differs from the sparse model in its tensor '{tensor}'", hint)


def _settings(node: onnx.NodeProto) -> list[onnx.AttributeProto]:
    """Return the attributes of a node; the nodes of its bodies are compared one by one."""
    return [a for a in node.attribute if a.type != onnx.AttributeProto.GRAPH]


def _bias_operand(node: onnx.NodeProto) -> int | None:
    """Return the operand of a node that is an optional bias."""
    views = spec_of(node).views(Operands(attributes(node), [None] * len(node.input)))
    return next((view.bias for view in views if view.bias is not None), None)


def _same_node(sparse: onnx.NodeProto, original: onnx.NodeProto) -> bool:
    """Return whether two nodes are the same; an earlier recovery may have given the sparse one a bias."""
    inputs = list(sparse.input)
    bias = _bias_operand(original)
    if bias is not None and bias < len(inputs) and (bias >= len(original.input) or not original.input[bias]):
        inputs[bias] = ""
        if bias >= len(original.input):
            inputs = inputs[: len(original.input)]
    return (
        (sparse.op_type, sparse.domain, inputs) == (original.op_type, original.domain, list(original.input))
        and list(sparse.output) == list(original.output)
        and _settings(sparse) == _settings(original)
    )
