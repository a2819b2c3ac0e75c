"""The nodes of a chain of products in the place of one node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from onnxprune.decisions.ranks.splittable_layers import RankLayer
from onnxprune.ir import Model, attributes
from onnxprune.ir.canonical.canonicalise import drop_unused_constants, without_dead_nodes
from onnxprune.scoring.layerwise.low_rank_kernels import Kernels

_NAMES = {2: ("in", "out"), 3: ("in", "core", "out")}
_BIAS_OPTIONAL = 11
"""The opset from which on a Gemm needs no bias."""
_SPATIAL = {"strides": 1, "dilations": 1}


def written(model: Model, layers: Mapping[str, tuple[RankLayer, Kernels]]) -> Model:
    """Return a model in which nodes are chains of products.

    The last node of a chain has the name, the result and the bias of the node.

    Args:
        model: A model that has the nodes.
        layers: For the first result of each node the layer, and the kernels of the chain.
    """
    model = model.copy()
    for number in reversed(range(len(model.proto.graph.node))):
        node = model.proto.graph.node[number]
        if node.output and node.output[0] in layers:
            for made in reversed(_chain(model, node, *layers[node.output[0]])):
                model.proto.graph.node.insert(number, made)
    model.edited()
    model = without_dead_nodes(model)
    drop_unused_constants(model)
    return model


def _chain(model: Model, node: onnx.NodeProto, layer: RankLayer, kernels: Kernels) -> list[onnx.NodeProto]:
    """Turn a node into the last one of a chain, and return the others."""
    weight, data = layer.view.weights, layer.view.data
    stem, operand = node.input[weight], node.input[data]
    kind = helper.tensor_dtype_to_np_dtype(model.constants[stem].data_type)
    shapes, made = [kernel.shape for kernel in kernels], list[onnx.NodeProto]()
    for place, kernel in enumerate(kernels):
        values = np.ascontiguousarray(layer.weights(kernel), kind)
        name = model.add_constant(f"{stem}__{_NAMES[len(kernels)][place]}", values)
        own = _attributes(node, layer, shapes, place)
        if place == len(kernels) - 1:
            node.input[weight], node.input[data] = name, operand
            _set(node, own)
            continue
        result = model.fresh(f"{layer.name}__{_NAMES[len(kernels)][place]}")
        inputs = ["", ""]
        inputs[weight], inputs[data] = name, operand
        if node.op_type == "Gemm" and model.opset() < _BIAS_OPTIONAL:
            inputs.append(model.add_constant(f"{result}__zero", np.zeros(1, kind)))
        made.append(onnx.NodeProto(name=result, op_type=node.op_type, domain=node.domain))
        made[-1].input.extend(inputs)
        made[-1].output.append(result)
        _set(made[-1], own)
        operand = result
    return made


def _attributes(
    node: onnx.NodeProto, layer: RankLayer, shapes: Sequence[tuple[int, ...]], place: int
) -> dict[str, object]:
    """Return the attributes of one node of a chain."""
    given = attributes(node)
    if layer.view.layout == "matrix":
        data = "transA" if layer.view.data == 0 else "transB"
        return {
            name: value
            for name, value in given.items()
            if name != "alpha"
            and (name != data or place == 0)
            and (name != "beta" or place == len(shapes) - 1)
        }
    if not layer.kernel_shape:
        return dict(given)
    own, axes = layer.own_axes(shapes, place), range(len(layer.kernel_shape))
    found: dict[str, object] = {"group": shapes[place][0], "kernel_shape": list(shapes[place][3:])}
    for name, usual in _SPATIAL.items():
        if name in given:
            found[name] = [given[name][k] if k in own else usual for k in axes]
    for name in ("pads", "output_padding", "output_shape"):
        if name in given and own:
            found[name] = _along(given[name], own, len(axes), name)
    if given.get("auto_pad", "NOTSET") != "NOTSET" and own:
        found["auto_pad"] = given["auto_pad"]
    return found


def _along(values: Sequence[int], own: Sequence[int], axes: int, name: str) -> list[int]:
    """Return the numbers of an attribute, 0 along the axes that a product does not have."""
    assert name != "output_shape" or len(own) == axes
    return [value if k % axes in own else 0 for k, value in enumerate(values)]


def _set(node: onnx.NodeProto, values: Mapping[str, object]) -> None:
    del node.attribute[:]
    node.attribute.extend(helper.make_attribute(name, value) for name, value in values.items())
