"""A normalised stream, and the scale, shift and mean of its normalisations moved into other weights."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxprune.algebra.kept_axes import channel_of
from onnxprune.analysis.groups.axis_fibres import fibres_of
from onnxprune.analysis.groups.channels import Channels
from onnxprune.analysis.groups.group_symmetry import GroupSymmetry, lying_on
from onnxprune.decisions.bases.handed_on import hands_on
from onnxprune.ir import Model, label
from onnxprune.ops.symmetry import Vector
from onnxprune.ops.views import LinearView

Array = np.ndarray[Any, np.dtype[Any]]
_SHIFTED = ("matrix", "stack", "windows", "transposed windows")
"""Layouts of weights whose product with a shift is a bias."""


@dataclass(frozen=True)
class Stream:
    """An axis that is normalised wherever it is read.

    Attributes:
        axis: The axis.
        writers: Operands that write before the normalisations.
        readers: Operands that read behind them.
        norm_of: For the tensor that a reader reads, the number of the normalisation it comes from.
        is_centred: True if some normalisation subtracts the mean.
    """

    axis: GroupSymmetry
    writers: tuple[Vector, ...]
    readers: tuple[Vector, ...]
    norm_of: dict[str, int]
    is_centred: bool

    @classmethod
    def of(cls, channels: Channels, axis: GroupSymmetry) -> Stream | str:
        """Find the stream; a sentence where its normalisations cannot be absorbed."""
        norms = [n.node for n in axis.norms]
        joined = _joined(channels, axis, set(norms))
        before = {joined[channels.typing.nodes[k].input[0]] for k in norms}
        behind = _behind(channels, norms, joined, before)
        if isinstance(behind, str):
            return behind
        is_centred = any(n.kind == "layer" for n in axis.norms)
        if why := _unshifted(channels, axis, joined, behind, before if is_centred else ()):
            return why
        readers, writers = [], []
        for vector in axis.vectors:
            place = joined[vector.flow]
            if vector.kind != "read":
                writers.append(vector)
                why = "" if place in before else "writes behind a normalisation"
            elif place in behind:
                readers.append(vector)
                why = _unreadable(channels, vector, channels.typing.nodes[behind[place]])
            else:
                why = "reads the stream without normalisation" if is_centred else ""
            if why:
                return f"{_called(channels, vector.node)} {why}"
        norm_of = {v.flow: behind[joined[v.flow]] for v in readers}
        return cls(axis, tuple(writers), tuple(readers), norm_of, is_centred)


def _behind(
    channels: Channels, norms: Sequence[int], joined: Mapping[str, str], before: Container[str]
) -> dict[str, int] | str:
    """Return the normalisation that each tensor behind one comes from; a sentence where that is not clear."""
    behind: dict[str, int] = {}
    for number in norms:
        node = channels.typing.nodes[number]
        place, called = joined[node.output[0]], _called(channels, number)
        if place in behind:
            return f"the results of {called} and another normalisation meet"
        if place in before:
            return f"{called} is post-norm: its scale lies on the stream"
        if any(x and x not in channels.model.constants for x in node.input[1:]):
            return f"the scale of {called} is computed while the network runs"
        if channels.model.dtype(node.input[1]) == np.float16:
            return f"{called} is of half precision, which the squares of a stream would leave"
        if any(node.output[1:]):
            return f"the statistics of {called} are results too"
        behind[place] = number
    return behind


def _unshifted(
    channels: Channels,
    axis: GroupSymmetry,
    joined: Mapping[str, str],
    behind: Mapping[str, int],
    centred: Container[str],
) -> str:
    """Return which node keeps parameters of normalisations from being absorbed; empty where none does.

    Args:
        channels: The groups of the model.
        axis: The axis.
        joined: The representative of each tensor.
        behind: The normalisation that each tensor behind one comes from.
        centred: The tensors whose mean is subtracted.
    """
    for pair in axis.pairs:
        if any(joined[name] in behind or joined[name] in centred for name in (pair.first, pair.second)):
            return f"{_called(channels, pair.node)} multiplies the stream by another activation"
    apart = {n.node for n in axis.norms} | {v.node for v in axis.vectors} | {p.node for p in axis.pairs}
    for number, names in lying_on(channels.typing, axis.group.factor):
        norms = {behind[joined[name]] for name in names if joined[name] in behind}
        shifted = [k for k in norms if _has_shift(channels, channels.typing.nodes[k])]
        if shifted and number not in apart and not hands_on(channels.typing, axis.group.factor, number):
            return f"{_called(channels, number)} changes the shift of a normalisation"
    return ""


def _has_shift(channels: Channels, norm: onnx.NodeProto) -> bool:
    given = len(norm.input) > 2 and bool(norm.input[2])
    return given and bool(np.any(channels.model.array(norm.input[2])))


def absorb_scale(
    model: Model, channels: Channels, stream: Stream, reader: Vector, nodes: Sequence[onnx.NodeProto]
) -> None:
    """Multiply the weights that read a normalisation by its scale, and put its shift into their bias."""
    norm = channels.typing.nodes[stream.norm_of[reader.flow]]
    values = model.array(reader.constant)
    wide = values.astype(np.float64)
    scale, shift = (_parameter(channels.model, norm, k, stream.axis.group.size) for k in (1, 2))
    added = _shifted(channels, stream, reader, wide, shift)
    fibres = fibres_of(channels, stream.axis, reader.constant, reader.axis, values.shape)
    lines = fibres.taken(wide) * scale[None, :, None]
    model.set_array(reader.constant, fibres.put(wide, lines).astype(values.dtype))
    if np.any(added):
        _add_bias(model, channels, nodes[reader.node], _view(channels, reader), added.astype(values.dtype))


def centre(model: Model, channels: Channels, stream: Stream, vector: Vector) -> None:
    """Subtract from the weights that write an axis their mean along it."""
    values = model.array(vector.constant)
    fibres = fibres_of(channels, stream.axis, vector.constant, vector.axis, values.shape)
    wide = values.astype(np.float64)
    lines = fibres.taken(wide)
    centred = lines - lines.mean(1, keepdims=True)
    model.set_array(vector.constant, fibres.put(wide, centred).astype(values.dtype))


def _parameter(model: Model, norm: onnx.NodeProto, operand: int, size: int) -> Array:
    """Return a scale or a shift along the axis."""
    given = operand < len(norm.input) and norm.input[operand]
    values = model.array(norm.input[operand]).astype(np.float64) if given else np.array([2.0 - operand])
    return np.broadcast_to(values.ravel(), size)


def _shifted(channels: Channels, stream: Stream, reader: Vector, weights: Array, shift: Array) -> Array:
    """Return the weights' product with a shift, one number an output."""
    dims = channels.typing.axes[reader.constant]
    channel = channel_of(dims[reader.axis], stream.axis.group.factor)
    along = np.where(channel >= 0, shift[np.maximum(channel, 0)], 0.0)
    view = _view(channels, reader)
    product = view.alpha * np.tensordot(weights, along, axes=([reader.axis], [0]))
    if view.layout in ("matrix", "stack"):  # one for each matrix of a stack, which lies before the rows
        return np.asarray(np.expand_dims(product, reader.axis) if weights.ndim > 2 else product)
    return np.asarray(product.reshape(product.shape[0], -1).sum(1))


def _add_bias(model: Model, channels: Channels, node: onnx.NodeProto, view: LinearView, added: Array) -> None:
    """Add numbers to the outputs of a layer: to its bias, to the sum behind it, or by a sum of its own."""
    if view.bias is not None:
        if len(node.input) > view.bias and node.input[view.bias]:
            bias = model.array(node.input[view.bias])
            total = (bias + added / view.beta).astype(bias.dtype)
            node.input[view.bias] = model.add_constant(f"{node.input[view.bias]}_shifted", total)
        else:
            node.input.append(model.add_constant(f"{node.input[view.weights]}_bias", added / view.beta))
        return
    readers = [n for n in model.all_nodes if node.output[0] in n.input]
    returned = {o.name for o in model.outputs}
    if len(readers) == 1 and readers[0].op_type == "Add" and node.output[0] not in returned:
        other = next((k for k, x in enumerate(readers[0].input) if x in model.constants), None)
        if other is not None and model.array(readers[0].input[other]).shape == added.shape:
            bias = model.array(readers[0].input[other])
            name = f"{readers[0].input[other]}_shifted"
            readers[0].input[other] = model.add_constant(name, (bias + added).astype(bias.dtype))
            return
    result = node.output[0]
    node.output[0] = model.fresh(f"{result}_unshifted")
    name = model.add_constant(f"{result}_shift", added)
    after = helper.make_node(
        "Add", [node.output[0], name], [result], name=model.fresh(f"{label(node)}_shift")
    )
    for graph in model.graphs:
        for place, found in enumerate(graph.node):
            if found is node or (found.output and found.output[0] == node.output[0]):
                graph.node.insert(place + 1, after)
                return


def _view(channels: Channels, reader: Vector) -> LinearView:
    """Return the linear view of a reader by its constant weights."""
    node = channels.typing.nodes[reader.node]
    views = channels.typing.linear[reader.node]
    return next(v for v in views if node.input[v.weights] == reader.constant)


def _unreadable(channels: Channels, reader: Vector, norm: onnx.NodeProto) -> str:
    """Return why the shift of a normalisation cannot go into the bias of a reader."""
    view = _view(channels, reader)
    rank = len(channels.typing.axes[channels.typing.nodes[reader.node].output[0]])
    if not _has_shift(channels, norm):
        return ""
    if view.uneven:
        return f"has no bias for the shift before it: {view.uneven}"
    if view.groups > 1:
        return "reads the normalised stream in groups"
    if view.layout in ("matrix", "stack") and view.result_axis % rank != rank - 1:
        return "multiplies the normalised stream from the left"
    node, weights = channels.typing.nodes[reader.node], channels.model.constants[reader.constant]
    if view.layout not in _SHIFTED or (view.layout == "stack" and reader.axis != len(weights.dims) - 2):
        return "has no bias for the shift before it"
    if view.bias is None or len(node.input) <= view.bias or not node.input[view.bias]:
        return ""
    if node.input[view.bias] not in channels.model.constants:
        return "has a bias that is computed while the network runs"
    return "" if view.beta else "has a bias that it multiplies by zero"


def _joined(channels: Channels, axis: GroupSymmetry, norms: set[int]) -> dict[str, str]:
    """Return, for each tensor of an axis, the representative of its connected tensors."""
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    weighted = {v.node for v in axis.vectors if v.kind != "shift"}
    for number, names in lying_on(channels.typing, axis.group.factor):
        for name in names:
            find(name)
        if number not in norms and number not in weighted:
            for name in names[1:]:
                parent[find(name)] = find(names[0])
    return {name: find(name) for name in list(parent)}


def _called(channels: Channels, number: int) -> str:
    node = channels.typing.nodes[number]
    return f"{node.op_type} '{label(node)}'"
