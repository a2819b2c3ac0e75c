"""Which elements of the tensors known before the run follow the sizes of the input.

Two walks with different sizes tell by what differs. But that a comparison came out alike twice does not mean
that it always will: ``height == 1`` is false for most heights. So what compares something that moves, and all
that follows from it, moves as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from onnxprune.graph import Model, attributes, bodies
from onnxprune.shapes.inference import evaluate

Array = np.ndarray[Any, np.dtype[Any]]

COMPARES = set(
    "And Clip Equal Greater GreaterOrEqual Less LessOrEqual Max Min Mod Not Or Sign Where Xor".split()
)
_MOVES_ELEMENTS = set("Expand Gather Identity Reshape Slice Squeeze Tile Transpose Unsqueeze".split())


def moving_elements(
    model: Model, values: Mapping[str, Array], others: Mapping[str, Array]
) -> dict[str, Array]:
    """Return, for each known tensor, which of its elements follow the input.

    Args:
        model: The network.
        values: What the first walk knows, by name.
        others: What the second knows.
    """
    moving = {name: _differs(value, others[name]) for name, value in values.items()}
    doubtful: dict[str, Array] = {}
    for node in model.all_nodes:
        if not node.output or node.output[0] not in values:
            continue
        for name, found in _doubts(model, node, values, moving, doubtful):
            if found.any():
                doubtful[name] = found
                moving[name] = moving[name] | found
    return moving


def _differs(a: Array, b: Array) -> Array:
    return np.asarray(a != b) if a.shape == b.shape else np.ones(a.shape, bool)


def _doubts(
    model: Model,
    node: onnx.NodeProto,
    values: Mapping[str, Array],
    moving: Mapping[str, Array],
    doubtful: Mapping[str, Array],
) -> list[tuple[str, Array]]:
    """Return which elements of a node's results may have come out alike by chance."""
    if node.op_type == "If":
        return _doubts_of_branch(node, values, moving, doubtful)
    compares = node.op_type in COMPARES or (
        node.op_type == "Cast" and attributes(node)["to"] == onnx.TensorProto.BOOL
    )
    source = moving if compares else doubtful
    masks = [source.get(name) for name in node.input if name]
    if not any(mask is not None and mask.any() for mask in masks):
        return []
    name = node.output[0]
    return [(name, _spread(model, node, values, masks))]


def _doubts_of_branch(
    node: onnx.NodeProto,
    values: Mapping[str, Array],
    moving: Mapping[str, Array],
    doubtful: Mapping[str, Array],
) -> list[tuple[str, Array]]:
    """An If returns what its branch makes, unless it may take the other."""
    if not any(bodies(node)):
        return []
    taken = attributes(node)["then_branch" if values[node.input[0]].item() else "else_branch"]
    found = []
    for name, made in zip(node.output, taken.output, strict=True):
        if name in values:
            nowhere = np.zeros(values[name].shape, bool)
            other = moving[node.input[0]].any()
            found.append((name, ~nowhere if other else doubtful.get(made.name, nowhere)))
    return found


def _spread(
    model: Model, node: onnx.NodeProto, values: Mapping[str, Array], masks: Sequence[Array | None]
) -> Array:
    """Follow marks on the operands of a node to its result; where that cannot be told, all is marked."""
    shape = values[node.output[0]].shape
    names = [name for name in node.input if name]
    marks = [np.zeros(values[n].shape, bool) if m is None else m for n, m in zip(names, masks, strict=True)]
    try:
        if node.op_type in _MOVES_ELEMENTS and not any(mark.any() for mark in marks[1:]):
            operands = [marks[0].astype(np.int64), *(values[n] for n in names[1:])]
            return np.asarray(evaluate(node, operands, model.opset())).astype(bool)
        if node.op_type == "Concat":
            return np.asarray(evaluate(node, [m.astype(np.int64) for m in marks], model.opset())).astype(bool)
        return np.asarray(np.broadcast_to(np.logical_or.reduce(np.broadcast_arrays(*marks)), shape))
    except Exception:  # whatever the evaluation says of marks: it is not known where they go
        return np.ones(shape, bool)
