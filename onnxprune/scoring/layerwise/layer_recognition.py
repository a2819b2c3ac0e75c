"""Recognition of layers: linear maps with their own weights."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from onnxprune.ir import Model, attributes
from onnxprune.ops.spec import spec_of
from onnxprune.ops.views import INNER, LinearView, Operands, WeightLayout
from onnxprune.scoring.layerwise.im2col import Convolution, TransposedConvolution
from onnxprune.scoring.layerwise.linear_views import Linear, MatrixProduct, Stack

_KINDS: Mapping[WeightLayout, type[Linear]] = {
    "matrix": MatrixProduct,
    "stack": Stack,
    "windows": Convolution,
    "transposed windows": TransposedConvolution,
}
_UNKNOWN = {
    "gates": "its hidden state comes in between",
    "offset windows": "it reads its data at places that are computed",
    "blocks": "its weights are packed",
    "letters": "its weights are neither a matrix nor a stack that stands on the right",
}


def is_layer(node: onnx.NodeProto) -> bool:
    """Return whether a node multiplies by weights, so that it may be a linear map."""
    return spec_of(node).mixes


def views_of(model: Model, node: onnx.NodeProto) -> tuple[LinearView, ...]:
    """Return the linear views of a node whose operands have the shapes of constants."""
    dims = [model.constants[i].dims if i in model.constants else None for i in node.input]
    return spec_of(node).views(Operands(attributes(node), dims))


def _stands_on_the_right(view: LinearView) -> bool:
    return view.inputs_first and view.axis == view.result_axis == -1 and view.alpha == 1


def linear_of(model: Model, node: onnx.NodeProto, *, before: bool = False) -> Linear | str:
    """Return a node as a linear map, or the reason why it cannot be treated as one.

    Args:
        model: The model.
        node: One of its nodes.
        before: Also return the product of nodes that apply an activation, or add another operand, after it.
    """
    if not is_layer(node):
        return f"{node.op_type} is not a linear map with weights of its own"
    found = [v for v in views_of(model, node) if node.input[v.weights] in model.constants]
    fixed = [v for v in found if v.data == INNER or node.input[v.data] not in model.constants]
    if not fixed:
        return "its weights are not a constant"
    view, *others = fixed
    if len(model.index.readers(node.input[view.weights])) > 1:
        return "other nodes share its weights"
    if view.integers:
        return "its weights are integers that stand for other numbers"
    if view.layout not in _KINDS or (view.layout == "stack" and not _stands_on_the_right(view)):
        return _UNKNOWN.get(view.layout, _UNKNOWN["letters"])
    if others or view.after == "mixing" or (view.after and not before):
        return "more is done to the product within the node"
    return _KINDS[view.layout](node, tuple(model.constants[node.input[view.weights]].dims), view)
