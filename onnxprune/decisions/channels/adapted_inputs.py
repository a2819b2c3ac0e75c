"""The dense network, fed with inputs of the whole one: samples need not be cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from onnxprune.analysis.groups.channels import Channels
from onnxprune.decisions.channels.channel_cut import shrunk
from onnxprune.decisions.channels.dense_interface import Interface
from onnxprune.ir import Model


def fed_as_before(channels: Channels, removed: Mapping[str, Sequence[int]]) -> Model:
    """Return the dense network, its inputs cut by itself where they have shrunk.

    Args:
        channels: The network's groups.
        removed: Removed channels by group name.
    """
    model = shrunk(channels, removed)
    names = [value.name for value in channels.model.inputs]
    cuts = Interface.of(channels, removed, names).cuts
    if not cuts:
        return model
    made: list[onnx.NodeProto] = []
    inner: dict[str, str] = {}
    for name, axes in cuts.items():
        inner[name] = name
        for axis, kept in axes.items():
            listed = model.add_constant(f"{name}__kept{axis}", kept.astype(np.int64))
            cut = model.fresh(f"{name}__cut{axis}")
            made.append(helper.make_node("Gather", [inner[name], listed], [cut], name=cut, axis=axis))
            inner[name] = cut
    for node in model.proto.graph.node:
        _read_instead(node, inner)
    for node in reversed(made):
        model.proto.graph.node.insert(0, node)
    _declare_as_before(channels, model, set(cuts))
    model.edited()
    return model


def _read_instead(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Let a node read other tensors, in its bodies too."""
    node.input[:] = [names.get(i, i) for i in node.input]
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in attribute.g.node:
                _read_instead(inner, names)


def _declare_as_before(channels: Channels, model: Model, names: set[str]) -> None:
    before = {value.name: value for value in channels.model.inputs}
    for value in model.proto.graph.input:
        if value.name in names:
            value.CopyFrom(before[value.name])
