"""Networks of one operator, made of onnx's own examples of it, in which every axis is made of weights.

Each floating-point operand is a sum of weights, scaled by the input; each result is summed up. So an axis
may be shortened wherever the operator's rule does not object, and if the rule is wrong the sparse and the
dense network differ. There are variants: results summed up with weights or without, which is exact only if
they are zero where a channel is removed; operands that are zero there or not.
"""

from __future__ import annotations

import importlib
import re
import warnings
from collections import defaultdict
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, defs, helper, numpy_helper
from onnx.backend.test import loader
from onnx.backend.test.case import node as node_cases

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
ELSEWHERE = {"If", "Loop", "Scan"}
"""Operators that hold graphs."""


def operators() -> list[str]:
    """Return the operators that onnx has examples of, in order, from the sources of the examples alone."""
    return sorted(op for op in _sources() if op not in ELSEWHERE)


@cache
def _sources() -> dict[str, list[str]]:
    """Return the modules that name an operator as the first argument of a node, by operator."""
    found = defaultdict(list)
    for path in sorted(Path(node_cases.__file__).parent.glob("*.py")):
        for operator in set(re.findall(r"""["']([A-Z]\w+)["']""", path.read_text(encoding="utf-8"))):
            if defs.has(operator):
                found[operator].append(path.stem)
    return dict(found)


@cache
def examples_of(operator: str) -> list[Any]:
    """Return onnx's examples of an operator; no other module of examples is run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in _sources().get(operator, []):
            importlib.import_module(f"{node_cases.__name__}.{name}")
    return [case for case in node_cases._NodeTestCases if _operator_of(case) == operator]


@cache
def examples() -> dict[str, list[Any]]:
    """Return onnx's examples by operator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = loader.load_model_tests(kind="node")
    found = defaultdict(list)
    for case in cases:
        if operator := _operator_of(case):
            found[operator].append(case)
    return dict(found)


def _operator_of(case: Any) -> str:
    """Return the operator of an example of one node of the standard domain; empty for other examples."""
    nodes = case.model.graph.node
    standard = all(o.domain in ("", "ai.onnx") for o in case.model.opset_import)
    plain = len(nodes) == 1 and nodes[0].op_type not in ELSEWHERE and "_expanded" not in case.name
    return str(nodes[0].op_type) if plain and standard else ""


def network(
    case: Any,
    weighed: bool = True,
    shifted: float = 0.0,
    plain: Collection[str] = (),
    quantised: Mapping[str, tuple[float, int]] | None = None,
) -> onnx.ModelProto | None:
    """Build the network of one example.

    Args:
        case: One of onnx's examples.
        weighed: Whether results are summed up with weights.
        shifted: A number that is added to all operands, so that none is zero at a removed channel.
        plain: Operands that are constants of the network rather than sums of weights.
        quantised: Scale and zero point of operands and results that are integers and stand for floats.

    Returns:
        The network; ``None`` where the example has no floating-point operand with an axis.
    """
    graph, (operands, results) = case.model.graph, case.data_sets[0]
    if not all(isinstance(v, np.ndarray) for v in (*operands, *results)) or not all(v.size for v in results):
        return None
    build = _Builder(weighed, shifted, plain, quantised or {})
    for info, value in zip(graph.input, operands, strict=False):
        build.operand(info, value)
    node = onnx.NodeProto()
    node.CopyFrom(graph.node[0])
    node.name = "the_node"
    build.nodes.append(node)
    for info, value in zip(graph.output, results, strict=True):
        build.result(info, value)
    if not build.inputs:
        return None
    whole = helper.make_graph(build.nodes, "net", build.inputs, build.outputs, build.constants)
    return helper.make_model(whole, opset_imports=case.model.opset_import, ir_version=case.model.ir_version)


class _Builder:
    def __init__(
        self,
        weighed: bool,
        shifted: float,
        plain: Collection[str],
        quantised: Mapping[str, tuple[float, int]],
    ) -> None:
        self.weighed, self.shifted = weighed, shifted
        self.plain, self.quantised = plain, quantised
        self.random = np.random.default_rng(0)
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def operand(self, info: onnx.ValueInfoProto, value: np.ndarray) -> None:
        """Make an operand of the example's values, scaled by the input and shifted."""
        kind, name = info.type.tensor_type.elem_type, info.name
        if name in self.quantised:
            self.integers(name, value, kind)
            return
        if kind not in FLOATS or value.size < 2 or name in self.plain:
            self.constants.append(numpy_helper.from_array(value, name))
            return
        self.inputs.append(helper.make_tensor_value_info(f"{name}_in", kind, [1] * value.ndim))
        scaled = self._constant(f"{name}_scaled", value * self.random.uniform(0.5, 1.5, value.shape), kind)
        shift = self._constant(f"{name}_shift", value * self.random.uniform(0.1, 0.3, value.shape), kind)
        self._node("Mul", [f"{name}_in", scaled], f"{name}_product")
        if self.shifted:
            self._node("Add", [f"{name}_product", shift], f"{name}_unshifted")
            number = self._constant(f"{name}_number", np.asarray(self.shifted), kind)
            self._node("Add", [f"{name}_unshifted", number], name)
        else:
            self._node("Add", [f"{name}_product", shift], name)

    def integers(self, name: str, value: np.ndarray, kind: int) -> None:
        """Make an operand of integers from a float operand that stands for them."""
        scale, zero = self.quantised[name]
        real = (value.astype(np.float32) - zero) * np.float32(scale)
        tensor = helper.make_tensor_value_info(f"{name}_real", TensorProto.FLOAT, value.shape)
        self.operand(tensor, real)
        parameters = [
            self._constant(f"{name}_scale", np.asarray(scale), TensorProto.FLOAT),
            self._constant(f"{name}_zero", np.asarray(zero), kind),
        ]
        self._node("QuantizeLinear", [f"{name}_real", *parameters], name)

    def result(self, info: onnx.ValueInfoProto, value: np.ndarray) -> None:
        """Sum a result up with weights."""
        name, kind = info.name, info.type.tensor_type.elem_type
        if name in self.quantised:
            scale, zero = self.quantised[name]
            constants = [
                self._constant(f"{name}_scale", np.asarray(scale), TensorProto.FLOAT),
                self._constant(f"{name}_zero", np.asarray(zero), kind),
            ]
            self._node("DequantizeLinear", [name, *constants], f"{name}_float")
            name = f"{name}_float"
        elif kind != TensorProto.FLOAT:
            self._node("Cast", [name], f"{name}_float", to=TensorProto.FLOAT)
            name = f"{name}_float"
        if self.weighed:
            values = self.random.uniform(0.5, 1.5, value.shape)
            weights = self._constant(f"{name}_weights", values, TensorProto.FLOAT)
            self._node("Mul", [name, weights], f"{name}_weighed")
            self._node("ReduceSum", [f"{name}_weighed"], f"{name}_sum", keepdims=0)
        else:
            self._node("ReduceSum", [name], f"{name}_sum", keepdims=0)
        self.outputs.append(helper.make_tensor_value_info(f"{name}_sum", TensorProto.FLOAT, []))

    def _constant(self, name: str, values: np.ndarray, kind: int) -> str:
        array = values.astype(helper.tensor_dtype_to_np_dtype(kind))
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def _node(self, kind: str, operands: list[str], result: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(kind, operands, [result], name=f"make_{result}", **attributes))
