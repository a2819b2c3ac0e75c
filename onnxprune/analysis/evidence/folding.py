"""Constants moved to where they survive their channels: into biases, or into the columns of an absorber."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxprune.algebra.axes import Dim
from onnxprune.algebra.kept_axes import Kept, kept_indices
from onnxprune.analysis.evidence.constant_propagation import Mask, Matrices
from onnxprune.analysis.evidence.liveness import LivenessEvidence, find_evidence
from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.ir import Model, captured, label
from onnxprune.ops.axes.constant_rules import Array, aligned


def folded_evidence(channels: Channels) -> tuple[LivenessEvidence, Channels]:
    """Find the channels a network would not miss, and the groups of the network with their constants folded.

    Folding may leave a product without an input, which is a constant then: its group is gone, and the search
    goes on without it.
    """
    while True:
        evidence = find_evidence(channels)
        if not evidence.removed:
            return evidence, channels
        remaining = find_channels(folded(evidence))
        gone = evidence.removed.keys() - {group.name for group in remaining.groups}
        if not gone:
            return evidence, remaining
        channels = replace(channels, groups=tuple(g for g in channels.groups if g.name not in gone))


def folded(evidence: LivenessEvidence) -> Model:
    """Return the network with the constants of removed channels added to kept ones: it computes the same.

    The removed channels are still there, but the biases and absorbers already contain their contributions.
    """
    model = evidence.channels.model.copy()
    nodes, readers = model.all_nodes, _readers(model)
    for index, matrices, gone in _products(evidence):
        if matrices.linear.uneven:
            _add_columns(evidence, model, index, matrices, gone)
        else:
            _add(evidence, model, nodes[index], matrices, gone, readers)
    model.edited()
    return model


def _products(evidence: LivenessEvidence) -> Iterable[tuple[int, Matrices, Array]]:
    """Yield the linear nodes that lose constants, and the constant lost at each index they sum over."""
    typing = evidence.channels.typing
    kept = evidence.channels.kept(evidence.removed)
    for index, node in enumerate(typing.nodes):
        matrices = evidence.constants.matrices(index) if index in typing.linear else None
        if matrices is None:
            continue
        name, axis = node.input[matrices.linear.data], matrices.linear.axis
        rows = _kept_places(typing.axes[node.output[0]][matrices.linear.result_axis], kept)
        read = np.any(matrices.reads & rows.reshape(len(matrices.reads), -1, 1), axis=1).ravel()
        gone = read & ~_kept_places(typing.axes[name][axis], kept)
        if np.any(evidence.constants.along(name, axis)[gone]):
            yield index, matrices, np.where(gone, evidence.constants.along(name, axis), 0.0)


def _kept_places(dim: Dim, kept: Kept) -> Mask:
    places = np.zeros(dim.count, bool)
    places[kept_indices(dim, kept)] = True
    return places


def _readers(model: Model) -> dict[str, list[onnx.NodeProto | None]]:
    """Return the nodes that read each tensor, ``None`` among them where a graph returns it."""
    readers: dict[str, list[onnx.NodeProto | None]] = defaultdict(list)
    for node in model.all_nodes:
        for name in {*node.input, *captured(node)}:
            readers[name].append(node)
    for graph in model.graphs:
        for value in graph.output:
            readers[value.name].append(None)
    return readers


def _add(
    evidence: LivenessEvidence,
    model: Model,
    node: onnx.NodeProto,
    matrices: Matrices,
    gone: Array,
    readers: Mapping[str, list[onnx.NodeProto | None]],
) -> None:
    """Add the contributions of constants to the bias of a node or of the next one; else by a new node."""
    linear, typing = matrices.linear, evidence.channels.typing
    name, kind = node.output[0], helper.tensor_dtype_to_np_dtype(typing.shapes.types[node.output[0]])
    shift = matrices.product(gone)
    has_bias = linear.bias is not None and linear.beta
    if has_bias and _into_operand(model, node, linear.bias or 0, shift / linear.beta, kind):
        return
    rank = len(typing.shapes.sizes[name])
    reader = _next_sum(model, readers[name]) if linear.result_axis % rank == rank - 1 else None
    if reader is not None and _into_operand(model, reader, _constant_operand(model, reader), shift, kind):
        return
    node.name = label(node)  # which is that of its result, where it has none: groups are named after it
    node.output[0] = model.fresh(f"{name}__varying")
    added = model.add_constant(f"{name}__constant", aligned(shift, linear.result_axis, rank).astype(kind))
    shifted = model.fresh(f"{name}__shifted")
    _insert_after(model, node, helper.make_node("Add", [node.output[0], added], [name], name=shifted))


def _insert_after(model: Model, node: onnx.NodeProto, new: onnx.NodeProto) -> None:
    for graph in model.graphs:
        for place, other in enumerate(graph.node):
            if other is node:
                graph.node.insert(place + 1, new)
                return


def _into_operand(
    model: Model, node: onnx.NodeProto, operand: int, shift: Array, kind: np.dtype[Any]
) -> bool:
    """Add a vector to a constant operand, which may be absent as yet; return whether that was possible."""
    given = operand < len(node.input) and bool(node.input[operand])
    if not given:
        node.input.extend([""] * (operand + 1 - len(node.input)))
        node.input[operand] = model.add_constant(f"{label(node)}__bias", shift.astype(kind))
        return True
    if not holds_shift(model, node.input[operand], shift.size):
        return False
    values = model.array(node.input[operand])
    node.input[operand] = model.add_constant(node.input[operand], (values + shift).astype(values.dtype))
    return True


def holds_shift(model: Model, name: str, size: int) -> bool:
    """Return whether a tensor is a constant to which a vector along its last axis can be added."""
    dims = tuple(model.constants[name].dims) if name in model.constants else (0,)
    return math.prod(dims) in (1, size) and dims[-1:] in ((), (1,), (size,))


def _next_sum(model: Model, readers: list[onnx.NodeProto | None]) -> onnx.NodeProto | None:
    """Return the only reader of a tensor, if that adds a constant to it."""
    reader = readers[0] if len(readers) == 1 else None
    if reader is None or reader.op_type != "Add":
        return None
    return reader if any(i in model.constants for i in reader.input) else None


def _constant_operand(model: Model, node: onnx.NodeProto) -> int:
    return next(k for k, name in enumerate(node.input) if name in model.constants)


def _add_columns(
    evidence: LivenessEvidence, model: Model, index: int, matrices: Matrices, gone: Array
) -> None:
    """Add the columns of removed constant channels to that of their absorber, scaled by their values."""
    linear, node = matrices.linear, evidence.channels.typing.nodes[index]
    name = node.input[linear.weights]
    data = evidence.constants.along(node.input[linear.data], linear.axis)
    weights = model.array(name).astype(np.float64)
    view = linear.by_group(weights)
    inputs = view.shape[2]
    for place in np.flatnonzero(gone):
        group = place // inputs
        absorber = evidence.absorbers[index, int(group)]
        view[group, :, absorber % inputs] += view[group, :, place % inputs] * (gone[place] / data[absorber])
    model.set_array(name, weights.astype(model.dtype(name)))
