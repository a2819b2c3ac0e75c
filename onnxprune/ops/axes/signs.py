"""Tensors that are nowhere negative: the largest element of an axis is independent of zeros among them.

``max(x, 0) = max(x)`` where no element of ``x`` is below zero. Where some are, the two still are the same for
a consumer that maps negative numbers to 0 (Relu).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto

from onnxprune.ir import attributes
from onnxprune.ops.axes.axis_typing import Typing
from onnxprune.ops.axes.context import Context
from onnxprune.ops.spec import STANDARD_DOMAINS

_ALWAYS = set(
    "Abs Exp HardSigmoid Hardmax ReduceL1 ReduceL2 ReduceSumSquare Relu Sigmoid Softmax Softplus Sqrt".split()
)
_MOVE = set(
    "CastLike DepthToSpace Dropout Expand Flatten Gather GatherElements GatherND Identity Reshape "
    "ReverseSequence Slice SpaceToDepth Split Squeeze Tile Transpose Unsqueeze".split()
)
_CHOOSE = {"GlobalMaxPool", "MaxPool", "ReduceMax", "ReduceMin"}
_FIRST = _MOVE | _CHOOSE
_FIRST |= set(
    "Asinh Atan AveragePool Cast Ceil Celu CumSum Elu Erf Floor Gelu GlobalAveragePool GlobalLpPool "
    "HardSwish LeakyRelu LpNormalization LpPool MaxUnpool Mish PRelu Pad Pow ReduceMean ReduceProd ReduceSum "
    "Resize Round Sign Sinh Softsign Swish Tanh ThresholdedRelu TopK Trilu Upsample".split()
)
"""Operators that make no negative number if their first operand has none."""
_ALL = {"Add", "Concat", "Div", "MatMul", "Mean", "Min", "Mul", "Sum"}
"""Operators that make none if no operand has any."""

_EXACT = _MOVE | _CHOOSE | set("Concat Min Pad ScatterElements ScatterND Sign TopK Trilu Where".split())
"""Operators whose integers do not overflow."""
_SIGNED = (TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64)


def is_never_negative(c: Context, operand: int) -> bool:
    """Return whether no element of an operand can be below zero."""
    known: dict[str, bool] = {}
    waiting = [c.node.input[operand]]
    while waiting:
        name = waiting[-1]
        makes = c.typing.maker(name)
        needed = _sign_operands(c.typing, makes) if makes is not None and name not in known else []
        missing = [n for n in needed if n not in known]
        if missing:
            waiting += missing
            continue
        if name not in known:
            known[name] = _holds(c.typing, name, makes, [known[n] for n in needed])
        waiting.pop()
    return known[c.node.input[operand]]


def loses_its_sign(c: Context, result: int) -> bool:
    """Return whether every path from a result to an output passes a node that clips negative numbers."""
    typing, waiting, seen = c.typing, [c.node.output[result]], set[str]()
    outputs = {o.name for graph in typing.model.graphs for o in graph.output}
    while waiting:
        name = waiting.pop()
        if name in outputs:
            return False
        seen.add(name)
        for node in typing.readers.get(name, ()):
            if not _floors(typing, node):
                if not _passes_on(node, name):
                    return False
                waiting += [o for o in node.output if o and o not in seen]
    return True


def _passes_on(node: onnx.NodeProto, name: str) -> bool:
    """Return whether a node only moves the elements of an operand, or chooses among them."""
    if node.domain not in STANDARD_DOMAINS:
        return False
    if node.op_type != "Split" and any(node.output[1:]):  # a pool may list places as well
        return False
    return node.op_type == "Concat" or (
        node.op_type in _MOVE | _CHOOSE and name not in node.input[1:]  # places, sizes
    )


def _sign_operands(typing: Typing, node: onnx.NodeProto) -> Sequence[str]:
    """Return the operands that determine the sign of a node's results."""
    if node.domain not in STANDARD_DOMAINS or node.op_type in _ALWAYS:
        return []
    if _is_square(typing, node):
        return []
    if node.op_type == "DequantizeLinear":
        source = _quantised(typing, node)
        return [source] if source is not None else []
    if node.op_type in _ALL or node.op_type == "Max":
        return [i for i in node.input if i]
    special = {"Where": [1, 2], "ScatterND": [0, 2], "ScatterElements": [0, 2]}
    chosen = special.get(node.op_type, [0] if node.op_type in _FIRST or node.op_type == "Clip" else [])
    return [node.input[k] for k in chosen]


def _holds(typing: Typing, name: str, node: onnx.NodeProto | None, operands: Sequence[bool]) -> bool:
    """Return whether a tensor is nowhere negative, given that of the operands that decide."""
    if name in typing.model.constants:
        values = typing.model.array(name)
        return values.dtype.kind in "fiub" and bool(np.all(values >= 0))
    if node is None or node.domain not in STANDARD_DOMAINS:
        return False
    if node.op_type in _ALWAYS or _is_square(typing, node):
        return typing.shapes.types.get(name) not in _SIGNED or node.op_type == "Relu"  # it may overflow
    if node.op_type == "Max":
        return any(operands)
    if node.op_type == "Clip":
        return _clips(typing, node, operands)
    if node.op_type not in _EXACT and typing.shapes.types.get(name) in _SIGNED:
        return False  # it may overflow
    more = _CONDITIONS.get(node.op_type)
    return bool(operands) and all(operands) and (more is None or more(typing, node))


def _is_square(typing: Typing, node: onnx.NodeProto) -> bool:
    """Return whether a node multiplies a tensor by itself, or takes it to an even power."""
    if node.op_type == "Mul":
        one, other = (_unchanged(typing, name) for name in node.input)
        return one == other
    exponents = typing.shapes.values.get(node.input[1]) if node.op_type == "Pow" else None
    return exponents is not None and bool(np.all(exponents % 2 == 0))


def _unchanged(typing: Typing, name: str) -> str:
    """Return the tensor of which another one is a copy."""
    while (maker := typing.maker(name)) is not None and maker.op_type in ("Identity", "Dropout"):
        name = maker.input[0]
    return name


def _clips(typing: Typing, node: onnx.NodeProto, operands: Sequence[bool]) -> bool:
    """The upper bound, which holds against the lower, is not negative, nor is one of lower and operand."""
    low, high = (_bound(typing, node, name, k) for name, k in (("min", 1), ("max", 2)))
    return (high is None or high >= 0) and (operands[0] or (low is not None and low >= 0))


def _bound(typing: Typing, node: onnx.NodeProto, name: str, operand: int) -> float | None:
    """Return a bound of Clip; for an unknown one the least possible upper bound, and no lower one."""
    found = attributes(node).get(name)
    if found is not None or len(node.input) <= operand or not node.input[operand]:
        return found if found is None else float(found)
    value = typing.shapes.values.get(node.input[operand])
    if value is None or value.size != 1:
        return None if name == "min" else -np.inf
    return float(value.item())


def _floors(typing: Typing, node: onnx.NodeProto) -> bool:
    """Return whether a node passes on no negative number, as Relu and the maximum with 0 do."""
    if node.domain not in STANDARD_DOMAINS:
        return False
    if node.op_type == "Clip":
        return _clips(typing, node, [False])
    return node.op_type == "Relu" or (
        node.op_type == "Max" and any(_holds(typing, n, None, []) for n in node.input)
    )


def _interpolates(typing: Typing, node: onnx.NodeProto) -> bool:
    """Means of neighbours, not polynomials through them, which overshoot; nothing negative outside."""
    found = attributes(node)
    crops = found.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    inside = not crops or found.get("extrapolation_value", 0.0) >= 0
    return inside and found.get("mode", "nearest") in ("nearest", "linear")


def _pads(typing: Typing, node: onnx.NodeProto) -> bool:
    """Padding with copies, or with a number that is not negative."""
    found = attributes(node)
    if found.get("mode", "constant") != "constant" or len(node.input) < 3 or not node.input[2]:
        return bool(found.get("value", 0.0) >= 0)
    value = typing.shapes.values.get(node.input[2])
    return value is not None and bool(np.all(value >= 0))


def _quantised(typing: Typing, node: onnx.NodeProto) -> str | None:
    """Return the tensor whose integers a node dequantises with the zero point they were made with."""
    maker = typing.maker(node.input[0])
    while maker is not None and maker.op_type in _MOVE | _CHOOSE:
        maker = typing.maker(maker.input[0])
    if maker is None or maker.op_type != "QuantizeLinear":
        return None
    one, other = (n.input[2] if len(n.input) > 2 else "" for n in (maker, node))
    constants = typing.model.constants
    same = one in constants and other in constants
    same = same and np.array_equal(typing.model.array(one), typing.model.array(other))
    return str(maker.input[0]) if one == other or same else None


def _makes_floats(typing: Typing, node: onnx.NodeProto) -> bool:
    """Integers may overflow."""
    kind = onnx.helper.tensor_dtype_to_np_dtype(attributes(node)["to"])
    return bool(np.issubdtype(kind, np.floating))


def _replaces(_: Typing, node: onnx.NodeProto) -> bool:
    return bool(attributes(node).get("reduction", "none") == "none")


_CONDITIONS: Mapping[str, Callable[[Typing, onnx.NodeProto], bool]] = {
    "Cast": _makes_floats,
    "Pad": _pads,
    "Resize": _interpolates,
    "ScatterElements": _replaces,
    "ScatterND": _replaces,
    "Upsample": _interpolates,
}
"""Further conditions, beside operands that are not negative, by operator."""
