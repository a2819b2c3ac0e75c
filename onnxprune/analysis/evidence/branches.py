"""Branches that do not depend on the input: a residual branch whose last projection is zero.

A tensor that no input changes becomes a constant where it is added or multiplied, and a sum with zeros is
replaced by the other operand; the nodes that made it are then read by none, and are removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxprune.analysis.evidence.constant_propagation import Constants, find_constants
from onnxprune.analysis.groups.channels import find_channels
from onnxprune.ir import Model
from onnxprune.ir.canonical.canonicalise import without_dead_nodes
from onnxprune.ops.spec import STANDARD_DOMAINS, spec_of

Array = np.ndarray[Any, np.dtype[Any]]
_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}


def without_dead_branches(model: Model) -> Model:
    """Return the network without such branches; itself where it has none."""
    if not any(True for _ in _zero_weights(model)):
        return model
    constants = find_constants(find_channels(model).typing)
    found = list(_replacements(model, constants))
    if not found:
        return model
    model = model.copy()
    nodes = model.all_nodes
    for number, operand, known in found:
        node = nodes[number]
        kept = node.input[1 - operand]
        if not known.any() and (node.op_type in ("Add", "Sum") or (node.op_type == "Sub" and operand == 1)):
            _pass_on(node, kept)
        else:
            node.input[operand] = model.add_constant(f"{node.input[operand]}__known", known)
    return without_dead_nodes(model)


def _pass_on(node: onnx.NodeProto, name: str) -> None:
    """Make a node one that returns a tensor as it is."""
    node.op_type = "Identity"
    node.input[:] = [name]
    del node.attribute[:]


def _zero_weights(model: Model) -> Iterator[str]:
    """Yield the matrices, and the vectors that scale an operand, that are zero as a whole."""
    scales = {node.input[k] for node in model.all_nodes for k in _scales(node) if k < len(node.input)}
    for name, tensor in model.constants.items():
        scaling = len(tensor.dims) > 1 or name in scales
        if scaling and tensor.data_type in _FLOATS and not model.array(name).any():
            yield name


def _scales(node: onnx.NodeProto) -> tuple[int, ...]:
    """Return the operands that make the whole result zero if they are, where they are vectors."""
    spec = spec_of(node)
    if spec.normalises:
        return spec.parameters[:1]
    return (0, 1) if spec.arithmetic == "product" else ()


def _replacements(model: Model, constants: Constants) -> Iterator[tuple[int, int, Array]]:
    """Yield nodes that add or multiply a fully known operand, the number of that operand, and its values."""
    sizes, types = constants.typing.shapes.sizes, constants.typing.shapes.types
    for number, node in enumerate(model.all_nodes):
        folds = spec_of(node).arithmetic not in ("", "quotient") and node.domain in STANDARD_DOMAINS
        if not folds or len(node.input) != 2:
            continue
        for operand in (1, 0):
            name, other = node.input[operand], node.input[1 - operand]
            known = constants.known.get(name)
            if known is None or np.isnan(known).any() or known.size > max(known.shape, default=1):
                continue
            if sizes.get(other) == sizes.get(node.output[0]) and types.get(name) in _FLOATS:
                yield number, operand, known.astype(helper.tensor_dtype_to_np_dtype(types[name]))
                break
