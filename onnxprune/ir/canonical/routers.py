"""Mixtures of experts: an expert can only be switched off where its router has a bias.

An expert whose weights are zero still takes its part of the routing; one whose logit is far below all others
is never chosen. So the logits of a router get a bias, zero for now, where they have none of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper

from onnxprune.ir import Model
from onnxprune.ops.spec import MICROSOFT, spec_of

MIXTURES = ("MoE", "QMoE")
ROUTER, EXPERTS = 1, 2
"""The operands of a mixture that hold the logits and, one an expert, the first weights."""


def with_biases(model: Model) -> Model:
    """Return the model with a bias in front of every mixture of experts; itself where none is missing."""
    wanting = [k for k, node in enumerate(model.all_nodes) if _lacks_bias(model, node)]
    if not wanting:
        return model
    model = model.copy()
    for number in reversed(wanting):
        node = model.node(number)
        name, tensor = node.input[ROUTER], model.constants[node.input[EXPERTS]]
        kind = _float_type(model, name)
        assert kind is not None
        zeros = np.zeros(tensor.dims[0], helper.tensor_dtype_to_np_dtype(kind))
        bias = model.add_constant(f"{name}__router_bias", zeros)
        node.input[ROUTER] = model.fresh(f"{name}__biased")
        made = helper.make_node("Add", [name, bias], [node.input[ROUTER]], name=node.input[ROUTER])
        model.insert(number, made)
        model.edited()
    return model


def bias_of(nodes: list[onnx.NodeProto], constants: Mapping[str, onnx.TensorProto], logits: str) -> str:
    """Return the constant added to logits, where no other node reads either of them; ``""`` otherwise."""
    maker = next((n for n in nodes if logits in n.output), None)
    readers = Counter(name for node in nodes for name in node.input)
    if maker is None or maker.op_type != "Add" or readers[logits] != 1:
        return ""
    found = [i for i in maker.input if i in constants and len(constants[i].dims) == 1 and readers[i] == 1]
    return found[0] if len(found) == 1 else ""


def _lacks_bias(model: Model, node: onnx.NodeProto) -> bool:
    """Return whether a node is a mixture whose router is a layer of the network, and has no bias yet."""
    if node.op_type not in MIXTURES or node.domain != MICROSOFT or len(node.input) <= EXPERTS:
        return False
    weights = model.constants.get(node.input[EXPERTS])
    if weights is None or bias_of(model.all_nodes, model.constants, node.input[ROUTER]):
        return False
    return _float_type(model, node.input[ROUTER]) is not None


def _passes(node: onnx.NodeProto) -> bool:
    """Return whether a node changes at most the shape and the type of a tensor."""
    return node.op_type == "Cast" or spec_of(node).rearranges == "shape"


def _float_type(model: Model, logits: str) -> int | None:
    """Return the type of logits by the weights of their layer; ``None`` where no layer makes them."""
    cast: int | None = None
    index = model.index
    while (node := index.producer(logits)) is not None and _passes(node):
        if node.op_type == "Cast" and cast is None:
            cast = int(next(a.i for a in node.attribute if a.name == "to"))
        logits = node.input[0]
    if node is None or not (spec_of(node).mixes or spec_of(node).arithmetic == "sum"):
        return None
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    kinds = [model.constants[i].data_type for i in node.input if i in model.constants]
    found = [kind for kind in kinds if kind in floats]
    return cast if found and cast is not None else found[0] if found else None
