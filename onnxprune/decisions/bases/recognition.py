"""Normalisations that exporters spell out in arithmetic, read as one operator while bases are chosen.

Before opset 17 LayerNormalization has no operator: with ``c = x − mean(x)``, files compute
``c / √(mean(c²) + ε)``, times a scale, plus a shift; or, as TensorFlow does, ``x·k + (shift − mean(x)·k)``,
where ``k`` is the scale over the root. The dataflow decides, not names. Without the mean it is the root mean
square of B. Zhang and R. Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxprune.analysis.groups.channels import Channels
from onnxprune.decisions.bases.spelling import SIMPLIFIED
from onnxprune.ir import Model, attributes

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class SpelledNorm:
    """A normalisation spelled out, and the operator that stands for it.

    Attributes:
        nodes: The nodes that compute it, copies of those in the file.
        constants: The constants that these read.
        operator: LayerNormalization, or SimplifiedLayerNormalization for one without a mean.
    """

    nodes: Sequence[onnx.NodeProto]
    constants: Sequence[onnx.TensorProto]
    operator: onnx.NodeProto


Spelled = Mapping[str, SpelledNorm]
"""Normalisations by the name of their result."""


def recognised(channels: Channels) -> tuple[Model, Spelled]:
    """Put operators in the place of normalisations that are spelled out.

    Args:
        channels: The groups of a model.

    Returns:
        A copy with these operators, and the arithmetic they stand for; the model itself where none is
        spelled out.
    """
    model, axes = channels.model, channels.typing.axes
    reader = _Reader(model, {name: len(dims) - 1 for name, dims in axes.items()})
    found = [norm for number in range(len(model.main.nodes)) if (norm := reader.norm(number)) is not None]
    if not found:
        return model, {}
    changed, spelled, gone = model.copy(), {}, set[int]()
    for norm in found:
        operator = _operator(changed, norm, axes[norm.data][-1].count)
        nodes = [model.main.nodes[k] for k in norm.numbers]
        read = sorted({x for node in nodes for x in node.input if x in model.constants})
        spelled[norm.result] = SpelledNorm(nodes, [model.constants[x] for x in read], operator)
        gone |= reader.unread_without(norm)
    _replace(changed, model, gone, spelled)
    return changed, spelled


def put_back(model: Model, spelled: Spelled) -> None:
    """Spell out again the normalisations that were not absorbed.

    Args:
        model: The model, which is changed.
        spelled: Operators and the nodes they stand for.
    """
    graph = model.proto.graph
    nodes, made = list(graph.node), {o for n in graph.node for o in n.output}
    needed: list[onnx.TensorProto] = []
    del graph.node[:]
    for node in nodes:
        norm = spelled.get(node.output[0]) if node.output else None
        if norm is None or list(node.input) != list(norm.operator.input):
            graph.node.append(node)
            continue
        graph.node.extend(n for n in norm.nodes if n.output[0] not in made or n.output[0] == node.output[0])
        needed += norm.constants
    known = {t.name for t in graph.initializer}
    graph.initializer.extend({t.name: t for t in needed if t.name not in known}.values())
    model.edited()


def _operator(model: Model, norm: _Norm, size: int) -> onnx.NodeProto:
    """Return the operator of a normalisation; its scale and shift are added to the model."""
    epsilon = model.array(norm.epsilon)
    parameters = {"scale": np.ones(1) if norm.scale is None else model.array(norm.scale)}
    parameters |= {} if norm.shift is None else {"shift": model.array(norm.shift)}
    names = [
        model.add_constant(
            f"{norm.result}_{part}", np.broadcast_to(values.ravel(), size).astype(epsilon.dtype).copy()
        )
        for part, values in parameters.items()
    ]
    kind = "LayerNormalization" if norm.is_centred else SIMPLIFIED
    how: dict[str, Any] = {"axis": -1, "epsilon": float(epsilon.ravel()[0])}
    return helper.make_node(kind, [norm.data, *names], [norm.result], name=model.fresh(norm.result), **how)


def _replace(model: Model, given: Model, gone: set[int], spelled: Spelled) -> None:
    """Remove nodes, and put operators in the place of those that made the same results."""
    kept: list[onnx.NodeProto] = []
    for number, node in enumerate(given.main.nodes):
        norm = spelled.get(node.output[0]) if node.output else None
        if norm is not None:
            kept.append(norm.operator)
        elif number not in gone:
            kept.append(node)
    del model.proto.graph.node[:]
    model.proto.graph.node.extend(kept)
    model.edited()


@dataclass(frozen=True)
class _Norm:
    """The parts of a normalisation: nodes in order of execution, tensors and constants."""

    numbers: Sequence[int]
    data: str
    result: str
    epsilon: str
    is_centred: bool
    scale: str | None = None
    shift: str | None = None


@dataclass(frozen=True)
class _Reader:
    """Recognition of normalisations in the main graph of a model.

    Attributes:
        model: The model.
        last: The number of the last axis of each tensor, by name.
    """

    model: Model
    last: Mapping[str, int]

    def norm(self, number: int) -> _Norm | None:
        """Return the normalisation whose division, or last sum, is a node; ``None`` where there is none."""
        node = self._nodes[number]
        if node.op_type == "Add":
            return self._folded(number)
        for data, scale in _splits(node):
            found = self._root(scale, inverse=node.op_type == "Mul")
            if found is not None:
                numbers, power, epsilon = found
                norm = self._statistics([number, *numbers], data, power, epsilon)
                if norm is not None:
                    return self._with_parameters(norm)
        return None

    def unread_without(self, norm: _Norm) -> set[int]:
        """Return the nodes of a normalisation that nothing reads once an operator makes its result."""
        gone = {norm.numbers[-1]}
        for number in reversed(norm.numbers[:-1]):
            name = self._nodes[number].output[0]
            if name not in self._returned and set(self.model.index.readers(name)) <= self._flat(gone):
                gone.add(number)
        return gone

    def _flat(self, numbers: Iterable[int]) -> set[int]:
        """Return numbers of the main graph as the index over all graphs counts them."""
        return {self._number_in_all[id(self._nodes[k])] for k in numbers}

    @cached_property
    def _number_in_all(self) -> dict[int, int]:
        return {id(node): k for k, node in enumerate(self.model.index.nodes)}

    @cached_property
    def _nodes(self) -> Sequence[onnx.NodeProto]:
        return self.model.main.nodes

    @cached_property
    def _makers(self) -> Mapping[str, int]:
        return {o: k for k, node in enumerate(self._nodes) for o in node.output}

    @cached_property
    def _returned(self) -> set[str]:
        return {o.name for o in self.model.outputs}

    def _made(self, name: str, *operators: str) -> tuple[int, onnx.NodeProto] | None:
        """Return the node that makes a tensor, if it is one of some operators."""
        number = self._makers.get(name)
        if number is None or self._nodes[number].op_type not in operators:
            return None
        return number, self._nodes[number]

    def _number(self, name: str) -> float | None:
        """Return the one number that a constant holds."""
        if name not in self.model.constants:
            return None
        values = self.model.array(name)
        return float(values.ravel()[0]) if values.size == 1 and values.dtype.kind == "f" else None

    def _root(self, name: str, *, inverse: bool) -> tuple[list[int], str, str] | None:
        """Return nodes, the mean of squares and ε of ``√(mean + ε)``, or of its reciprocal."""
        numbers: list[int] = []
        if inverse and (turned := self._made(name, "Reciprocal")):
            numbers.append(turned[0])
            name, inverse = turned[1].input[0], False
        root = self._made(name, "Sqrt", "Pow")
        if root is None:
            return None
        exponent = -0.5 if inverse else 0.5
        if root[1].op_type == "Sqrt" and inverse:
            return None
        if root[1].op_type == "Pow" and self._number(root[1].input[1]) != exponent:
            return None
        total = self._made(root[1].input[0], "Add")
        if total is None:
            return None
        for mean, epsilon in _splits(total[1]):
            if (self._number(epsilon) or 0) > 0:
                return [*numbers, root[0], total[0]], mean, epsilon
        return None

    def _mean(self, name: str) -> tuple[int, onnx.NodeProto] | None:
        """Return the node that takes the mean along the last axis, and keeps that."""
        found = self._made(name, "ReduceMean")
        if found is None:
            return None
        node, known = found[1], attributes(found[1])
        given = known.get("axes")
        if given is None and len(node.input) > 1 and node.input[1] in self.model.constants:
            given = self.model.array(node.input[1]).tolist()
        last = self.last.get(node.input[0])
        alone = given is not None and len(given) == 1 and last is not None and given[0] in (-1, last)
        return found if alone and known.get("keepdims", 1) else None

    def _statistics(self, numbers: Sequence[int], data: str, power: str, epsilon: str) -> _Norm | None:
        """Return a normalisation without its parameters."""
        squares = self._mean_of_squares(power)
        if squares is None:
            return None
        base, result = squares[1], self._nodes[numbers[0]].output[0]
        inner = {*numbers, *squares[0]}
        parts = [self._centred(name) for name in (data, base)]
        if parts[0] and parts[1] and parts[0][1] == parts[1][1]:
            every = inner | parts[0][0] | parts[1][0]
            return _Norm(sorted(every), parts[0][1], result, epsilon, is_centred=True)
        return _Norm(sorted(inner), data, result, epsilon, is_centred=False) if data == base else None

    def _mean_of_squares(self, name: str) -> tuple[set[int], str] | None:
        """Return the nodes of ``mean(x²)``, and ``x``."""
        mean = self._mean(name)
        square = mean and self._made(mean[1].input[0], "Pow", "Mul")
        if not mean or not square:
            return None
        base, other = square[1].input[:2]
        is_square = self._number(other) == 2 if square[1].op_type == "Pow" else base == other
        return ({mean[0], square[0]}, base) if is_square else None

    def _centred(self, name: str) -> tuple[set[int], str] | None:
        """Return the nodes of ``x − mean(x)``, and ``x``."""
        found = self._made(name, "Sub")
        mean = found and self._mean(found[1].input[1])
        if not found or not mean or mean[1].input[0] != found[1].input[0]:
            return None
        return {found[0], mean[0]}, found[1].input[0]

    def _folded(self, number: int) -> _Norm | None:
        """Return the normalisation that a node ends as ``x·k + (shift − mean(x)·k)``."""
        node = self._nodes[number]
        for scaled, rest in _splits(node):
            product, difference = self._made(scaled, "Mul"), self._made(rest, "Sub")
            if not product or not difference or not self._is_vector(difference[1].input[0]):
                continue
            lost = self._made(difference[1].input[1], "Mul")
            for data, factor in _splits(product[1]) if lost else []:
                assert lost is not None
                mean = self._mean(next((m for m, k in _splits(lost[1]) if k == factor), ""))
                found = self._factor(factor) if mean and mean[1].input[0] == data else None
                norm = found and self._deviation(data, found)
                parameters = [difference[1].input[0], *([norm.scale] if norm and norm.scale else [])]
                if norm and mean and all(self._is_vector(x, data) for x in parameters):
                    every = {*norm.numbers, number, product[0], difference[0], lost[0], mean[0]}
                    shift, result = difference[1].input[0], node.output[0]
                    return replace(norm, numbers=sorted(every), result=result, shift=shift)
        return None

    def _factor(self, name: str) -> tuple[list[int], str, str, str | None] | None:
        """Return nodes, mean of squares, ε and scale of ``scale / √(mean + ε)``."""
        if (alone := self._root(name, inverse=True)) is not None:
            return *alone, None
        product = self._made(name, "Mul")
        for root, scale in _splits(product[1]) if product else []:
            found = self._root(root, inverse=True)
            if found is not None and product and self._is_vector(scale):
                return [product[0], *found[0]], found[1], found[2], scale
        return None

    def _deviation(self, data: str, factor: tuple[list[int], str, str, str | None]) -> _Norm | None:
        """Return the normalisation of a tensor by the deviation in a factor, if it is that of the tensor."""
        numbers, power, epsilon, scale = factor
        squares = self._mean_of_squares(power)
        centred = squares and self._centred(squares[1])
        if not squares or not centred or centred[1] != data:
            return None
        every = {*numbers, *squares[0], *centred[0]}
        return _Norm(sorted(every), data, "", epsilon, is_centred=True, scale=scale)

    def _with_parameters(self, norm: _Norm) -> _Norm:
        """Take in the scale and the shift behind a normalisation."""
        norm = self._followed(norm, "Mul", "scale")
        return self._followed(norm, "Add", "shift") if norm.is_centred else norm

    def _followed(self, norm: _Norm, operator: str, part: str) -> _Norm:
        readers = self.model.main.readers(norm.result)
        if norm.result in self._returned or self.model.index.count(norm.result) != 1 or len(readers) != 1:
            return norm
        node = self._nodes[readers[0]]
        if node.op_type != operator:
            return norm
        for data, constant in _splits(node):
            if data == norm.result and self._is_vector(constant, norm.data):
                numbers = [*norm.numbers, readers[0]]
                more: dict[str, Any] = {"numbers": numbers, "result": node.output[0], part: constant}
                return replace(norm, **more)
        return norm

    def _is_vector(self, name: str, data: str = "") -> bool:
        """Return whether a constant holds numbers along the last axis alone, and adds no axis to a tensor."""
        if name not in self.model.constants:
            return False
        dims = self.model.constants[name].dims
        grows = data != "" and len(dims) > self.last.get(data, -1) + 1
        return all(d == 1 for d in dims[:-1]) and not grows


def _splits(node: onnx.NodeProto) -> list[tuple[str, str]]:
    """Return the two operands of a node, in both orders where that does not matter."""
    if node.op_type not in ("Add", "Mul", "Div") or len(node.input) != 2:
        return []
    first, second = node.input
    return [(first, second)] if node.op_type == "Div" else [(first, second), (second, first)]
