"""One node on its own, run with such operands as it has.

A rule that fails on a node fails either because no operator takes those operands, or because of a defect of
its own. A run of the node distinguishes the two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from onnxprune.errors import ModelError
from onnxprune.runtime.deadline import runs_within
from onnxprune.runtime.session import Array, Session, TensorSpec

_SECONDS = 10.0
_LARGEST = 1 << 24
"""Elements of an operand up to which a node is tried."""
_IR_VERSION = 10


@dataclass(frozen=True)
class Known:
    """An operand of a node: its type, shape and value as far as known.

    Attributes:
        kind: Its element type, a ``TensorProto`` number.
        shape: Its sizes.
        tensor: Its numbers, where they are constant.
    """

    kind: int
    shape: tuple[int, ...]
    tensor: onnx.TensorProto | None = None


def objection(
    node: onnx.NodeProto, known: Mapping[str, Known], opsets: Sequence[onnx.OperatorSetIdProto]
) -> str:
    """Return why a node cannot be run, by a session of onnxruntime for it alone; empty where it runs.

    Args:
        node: The node, with its bodies.
        known: All the tensors it reads, those of its bodies included; one that is missing is an objection.
        opsets: The operator sets of its model.
    """
    own = {t.name for _, k in known.items() if (t := k.tensor) is not None}
    if missing := [name for name in node.input if name and name not in known]:
        return f"nothing is known of its operand '{missing[0]}'"
    if any(math.prod(k.shape) > _LARGEST for k in known.values()):
        return "its operands are too large to try it"
    model = onnx.ModelProto(ir_version=_IR_VERSION, opset_import=opsets)
    model.graph.name = "one node"
    model.graph.node.append(node)
    model.graph.initializer.extend(k.tensor for k in known.values() if k.tensor is not None)
    for name, operand in known.items():
        if name not in own:
            model.graph.input.append(helper.make_tensor_value_info(name, operand.kind, operand.shape))
    model.graph.output.extend(onnx.ValueInfoProto(name=o) for o in node.output if o)
    try:
        session = Session(model, optimize=False, threads=1)
        with runs_within(_SECONDS):
            session.run({spec.name: _fed(spec) for spec in session.inputs})
    except ModelError as error:
        return error.message
    return ""


def _fed(spec: TensorSpec) -> Array:
    """Return ones, zeros for whole numbers, which may be indices, and a word for strings."""
    shape = [s if isinstance(s, int) else 1 for s in spec.shape]
    value: object = {"f": 1.0, "O": "a", "b": True}.get(spec.dtype.kind, 0)
    return np.full(shape, value, spec.dtype)
