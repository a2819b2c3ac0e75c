"""Normalisations absorbed by their neighbours, so that along an axis only linear maps remain.

BatchNormalization goes into the weights before it. Of LayerNormalization, scale and shift go into the weights
that read it, and the mean into those that write the stream before it: all that is written is centred, so the
mean is zero. There remains a root mean square, the same in every orthogonal basis (S. Ashkboos et al.,
"SliceGPT", ICLR 2024, section 3). All of it is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.analysis.groups.group_symmetry import GroupSymmetry, symmetries
from onnxprune.decisions.bases.parameters import Stream, absorb_scale, centre
from onnxprune.decisions.bases.recognition import Spelled, recognised
from onnxprune.decisions.bases.spelling import SIMPLIFIED
from onnxprune.ir import Model, attributes, label
from onnxprune.ops.symmetry import Symmetry

Array = np.ndarray[Any, np.dtype[Any]]
Selected = Callable[[Channels], set[str]]
_FOLDED = "onnxprune.folded"
FREE = (Symmetry.ORTHOGONAL, Symmetry.LINEAR)


@dataclass(frozen=True)
class Absorption:
    """A model without the normalisations that its weights can absorb.

    Attributes:
        model: A model that computes the same, the given one where none can be absorbed.
        nodes: The absorbed nodes.
        groups: The groups that they lay on, by name.
        refused: By group, why other normalisations were not absorbed.
        spelled: The normalisations that are spelled out in the given model, for `put_back`.
    """

    model: Model
    nodes: Sequence[str]
    groups: Sequence[str]
    refused: Mapping[str, str]
    spelled: Spelled


def absorbed(model: Model, selected: Selected) -> Absorption:
    """Absorb the normalisations on all axes that could be rotated without them.

    Args:
        model: A model.
        selected: Names the groups that are wanted.
    """
    named, spelled = recognised(find_channels(model, allow_inexact=True))
    channels = find_channels(named, allow_inexact=True)
    done: list[str] = []
    groups: list[str] = []
    refused: dict[str, str] = {}
    changed = channels.model.copy()
    nodes = changed.all_nodes
    for axis in _waiting(channels, selected):
        numbers = [n.node for n in axis.norms if n.kind == "batch"]
        if numbers and not (why := _folds(channels, axis, numbers)):
            for number in numbers:
                _fold(changed, channels, nodes, number)
                done.append(label(channels.typing.nodes[number]))
            groups.append(axis.group.name)
        elif numbers:
            refused[axis.group.name] = why
    if done:
        _drop_folded(changed)
        channels = find_channels(changed, allow_inexact=True)
        changed = channels.model.copy()
    split: list[str] = []
    for axis in _waiting(channels, selected):
        if all(n.kind in ("layer", "rms") for n in axis.norms):
            stream = Stream.of(channels, axis)
            if isinstance(stream, str):
                refused[axis.group.name] = stream
                continue
            _split(changed, channels, stream)
            split += [label(channels.typing.nodes[n.node]) for n in axis.norms]
            groups.append(axis.group.name)
    if split:
        changed.edited()
    result = changed if done or split else model
    return Absorption(result, [*done, *split], list(dict.fromkeys(groups)), refused, spelled)


def _waiting(channels: Channels, selected: Selected) -> list[GroupSymmetry]:
    """Return the axes that only their normalisations keep from being rotated."""
    names = selected(channels)
    return [
        axis
        for axis in symmetries(channels)
        if axis.group.name in names and axis.opened in FREE and axis.opened is not axis.symmetry
    ]


def _folds(channels: Channels, axis: GroupSymmetry, numbers: Iterable[int]) -> str:
    """Return why a BatchNormalization of an axis does not go into the weights before it."""
    nodes, index = channels.typing.nodes, channels.model.index
    writers = {v.flow: v for v in axis.vectors if v.kind == "write"}
    returned = {o.name for o in channels.model.outputs}
    for number in numbers:
        node = nodes[number]
        data, name = node.input[0], f"BatchNormalization '{label(node)}'"
        if data not in writers or nodes[writers[data].node].op_type not in ("Conv", "ConvTranspose"):
            return f"{name} stands behind no convolution that it could be folded into"
        if index.count(data) > 1 or data in returned:
            return f"the operand of {name} is read elsewhere too"
        if any(x not in channels.model.constants or index.count(x) > 1 for x in node.input[1:5]):
            return f"the statistics of {name} are tied"
    return ""


def _fold(model: Model, channels: Channels, nodes: Sequence[onnx.NodeProto], number: int) -> None:
    """Multiply the weights before a BatchNormalization by its scale, and add its shift to their bias."""
    node = nodes[number]
    place = next(k for k, n in enumerate(nodes) if node.input[0] in n.output)
    before = nodes[place]
    scale, shift, mean, variance = (model.array(x).astype(np.float64) for x in node.input[1:5])
    factor = scale / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
    weights = model.array(before.input[1])
    view = channels.typing.linear[place][0]
    matrices = view.by_group(weights.astype(np.float64)) * factor.reshape(view.groups, -1, 1, 1)
    matrices = matrices.swapaxes(1, 2) if view.inputs_first else matrices
    model.set_array(before.input[1], matrices.reshape(weights.shape).astype(weights.dtype))
    has_bias = len(before.input) > 2 and bool(before.input[2])
    old = model.array(before.input[2]).astype(np.float64) if has_bias else np.zeros(())
    bias = ((old - mean) * factor + shift).astype(weights.dtype)
    name = model.add_constant(f"{before.input[1]}_bias", bias)
    del before.input[2:]
    before.input.append(name)
    before.output[0] = node.output[0]
    node.op_type = _FOLDED


def _drop_folded(model: Model) -> None:
    """Remove the normalisations that were folded."""
    for graph in model.graphs:
        for place in reversed([k for k, n in enumerate(graph.node) if n.op_type == _FOLDED]):
            del graph.node[place]
    model.edited()


def _split(model: Model, channels: Channels, stream: Stream) -> None:
    """Reduce a stream's normalisations to the root of the mean square."""
    nodes = list(model.all_nodes)
    for reader in stream.readers:
        absorb_scale(model, channels, stream, reader, nodes)
    if stream.is_centred:
        for vector in stream.writers:
            centre(model, channels, stream, vector)
    for norm in stream.axis.norms:
        node = nodes[norm.node]
        epsilon = float(attributes(node).get("epsilon", 1e-5))
        dtype = model.dtype(node.input[1])
        ones = model.add_constant(f"{node.input[1]}_one", np.ones(stream.axis.group.size, dtype))
        del node.input[1:]
        node.input.append(ones)
        if norm.kind == "layer":
            node.op_type = SIMPLIFIED
            del node.attribute[:]
            for key, value in {"axis": -1, "epsilon": epsilon}.items():
                node.attribute.append(_attribute(key, value))


def _attribute(key: str, value: float) -> Any:
    return helper.make_attribute(key, value)
