"""Normalisations of a sparse model that take their statistics over the remaining channels, as the dense one.

A mean over ``old`` channels, ``old - new`` of them zero, is not the mean over the others. A
LayerNormalization of the sparse model therefore reads, in the places of removed channels, the mean of the
remaining ones: their deviations are zero, and the mean square becomes ``new/old`` of that of the
remaining channels. The scale and epsilon of the dense model make up for this factor (see
`ops.axes.normalization`). A statistic that does not subtract a mean reads zeros there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxprune.algebra.axes import factors
from onnxprune.algebra.kept_axes import kept_indices
from onnxprune.analysis.groups.channels import Channels, inexact_cuts
from onnxprune.decisions.channels.own_graph import in_own_graph
from onnxprune.ir import Model, note_statistics, noted_statistics, over_all_channels
from onnxprune.ops.axes import Inexact
from onnxprune.runtime import Array

AXES_ARE_AN_OPERAND = 18
"""The opset from which ReduceMean takes its axes as an operand."""


@dataclass(frozen=True)
class Statistic:
    """A node that takes a statistic over an axis that has lost channels.

    Attributes:
        result: Its first result.
        operand: The tensor the statistic is taken of.
        made: The tensor that it reads in place of this.
        nodes: The nodes that make that, with their constants.
    """

    result: str
    operand: str
    made: str
    nodes: tuple[onnx.NodeProto, ...]

    def reading(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return the nodes with one behind them that reads their result."""
        own = onnx.NodeProto()
        own.CopyFrom(node)
        own.input[:] = [self.made if name == self.operand else name for name in node.input]
        return [*self.nodes, own]


def statistics(channels: Channels, removed: Mapping[str, Sequence[int]]) -> tuple[list[Statistic], list[str]]:
    """Return the statistics that the removal of channels changes.

    Args:
        channels: The network's groups.
        removed: Removed channels by group name.

    Returns:
        Those that can be taken over the remaining channels, and the first results of the other nodes.
    """
    cuts: dict[int, list[Inexact]] = defaultdict(list)
    for found in inexact_cuts(channels, removed):
        cuts[found.node].append(found)
    known, unknown = [], []
    for index, together in cuts.items():
        statistic = _statistic(channels, removed, together)
        if statistic is None:
            unknown.append(channels.typing.nodes[index].output[0])
        else:
            known.append(statistic)
    return known, unknown


def over_remaining(model: Model, channels: Channels, removed: Mapping[str, Sequence[int]]) -> Model:
    """Return a sparse model with its statistics over the remaining channels; itself where there are none.

    Args:
        model: The model, in canonical form or as the user gave it, with its statistics over all channels.
        channels: The network's groups.
        removed: Removed channels by group name.
    """
    found, _ = statistics(channels, removed)
    if not found:
        return model
    model, made = model.copy(), {}
    for statistic in found:
        number = model.index.producers.get(statistic.result)
        if number is None or statistic.operand not in model.node(number).input:
            continue
        *nodes, own = statistic.reading(model.node(number))
        model.node(number).CopyFrom(own)
        for node in reversed(nodes):
            model.insert(number, node)
        model.edited()
        made[statistic.made] = statistic.operand
    note_statistics(model, made)
    return model


def sparse_in_own_graph(
    given: Model, channels: Channels, removed: Mapping[str, Sequence[int]], changed: Model
) -> Model:
    """Return the user's model with changed constants, its statistics over the remaining channels.

    Args:
        given: The model as it was given.
        channels: Its groups, and its canonical form.
        removed: Removed channels by group name.
        changed: The canonical form with other constants; the result is that one where the user's graph does
            not have the nodes that read them.
    """
    own = in_own_graph(over_all_channels(given), channels.model, changed)
    return over_remaining(changed if own is None else own, channels, removed)


def is_corrected(sparse: Model, channels: Channels, removed: Mapping[str, Sequence[int]]) -> bool:
    """Return whether a sparse model takes all statistics over the channels that a plan leaves."""
    found, unknown = statistics(channels, removed)
    return not unknown and {s.made for s in found} == set(noted_statistics(sparse))


def _statistic(
    channels: Channels, removed: Mapping[str, Sequence[int]], found: Sequence[Inexact]
) -> Statistic | None:
    """Return the nodes for one statistic, ``None`` where they are not known."""
    first, typing = found[0], channels.typing
    result = typing.nodes[first.node].output[0]
    if not first.operand or any((f.operand, f.centred) != (first.operand, first.centred) for f in found):
        return None
    over = sorted({axis for f in found for axis in f.over})
    mask = _mask(channels, removed, first.operand, over)
    if mask is None:
        return None
    kind = helper.tensor_dtype_to_np_dtype(typing.shapes.types[first.operand])
    stem, mask = f"{result}__remaining", mask.astype(kind)
    nodes = [_constant(f"{stem}_mask", mask)]
    if not first.centred:
        nodes.append(_node("Mul", [first.operand, f"{stem}_mask"], stem))
        return Statistic(result, first.operand, stem, tuple(nodes))
    nodes.append(_node("Mul", [first.operand, f"{stem}_mask"], f"{stem}_values"))
    nodes += _mean(f"{stem}_values", over, f"{stem}_mean", channels.model.opset())
    nodes.append(_constant(f"{stem}_share", ((1 - mask) * (mask.size / mask.sum())).astype(kind)))
    nodes.append(_node("Mul", [f"{stem}_mean", f"{stem}_share"], f"{stem}_others"))
    nodes.append(_node("Add", [f"{stem}_values", f"{stem}_others"], stem))
    return Statistic(result, first.operand, stem, tuple(nodes))


def _mask(
    channels: Channels, removed: Mapping[str, Sequence[int]], operand: str, over: Sequence[int]
) -> Array | None:
    """Return 1 for remaining channels and 0 for removed ones, to be broadcast over the operand.

    ``None`` where channels lie in another order there, or where their number follows the input.
    """
    kept, dims = channels.kept(removed), channels.typing.axes[operand]
    if any(a.factor in factors(dim) for a in channels.arrangements.values() for dim in dims):
        return None
    mask = np.ones([1] * len(dims))
    for axis in over:
        if kept.keys().isdisjoint(factors(dims[axis])):
            continue
        size = dims[axis].size
        if not isinstance(size, int):
            return None
        line = np.zeros(size)
        line[kept_indices(dims[axis], kept)] = 1
        mask = mask * line.reshape([-1 if k == axis else 1 for k in range(len(dims))])
    return mask


def _mean(operand: str, over: Sequence[int], result: str, opset: int) -> list[onnx.NodeProto]:
    if opset < AXES_ARE_AN_OPERAND:
        return [_node("ReduceMean", [operand], result, axes=list(over), keepdims=1)]
    axes = f"{result}_axes"
    nodes = [_constant(axes, np.asarray(over, np.int64))]
    return [*nodes, _node("ReduceMean", [operand, axes], result, keepdims=1)]


def _constant(name: str, values: Array) -> onnx.NodeProto:
    return _node("Constant", [], name, value=numpy_helper.from_array(values, name))


def _node(kind: str, operands: Sequence[str], result: str, **settings: Any) -> onnx.NodeProto:
    return helper.make_node(kind, operands, [result], name=result, **settings)
