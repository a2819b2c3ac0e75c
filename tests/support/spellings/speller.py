"""The walk over a network that is written anew, and the tables of spellings, detours and weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxprune.analysis.shapes import infer
from onnxprune.ir import Model, check

Way = TypeVar("Way", bound=Callable[..., Any])
Spelling = Callable[["Speller", onnx.NodeProto], bool]
SPELLINGS: dict[str, list[Spelling]] = {}
"""Spellings by operator; a spelling returns false where it does not apply."""
MOVES: list[Callable[[Speller, str], str | None]] = []
"""Detours of an activation: they take its name, and return that of an equal tensor."""
WEIGHTS: list[Callable[[Speller, str], str | None]] = []
"""Computations of a weight from others."""
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class Speller:
    """A network being written anew.

    Args:
        model: The network.
        seed: Of the choices.
        share: Share of the nodes that are written in another way.
        only: Names of the spellings to use; all of them where it is empty.

    Attributes:
        nodes: The new nodes.
        used: Names of the spellings that were used.
    """

    def __init__(self, model: Model, seed: int, share: float, only: Collection[str] = ()) -> None:
        self.only = only
        self.random, self.share = np.random.default_rng(seed), share
        self.model, self.shapes = model, infer(model)
        self.opset = model.opset()
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.functions: list[onnx.FunctionProto] = []
        self.used: list[str] = []
        self._count = 0
        self._equal: dict[str, str] = {}

    # --- facts ---------------------------------------------------------------------------------------------

    def rank(self, name: str) -> int | None:
        """Return the rank of a tensor."""
        found = self.shapes.sizes.get(self.equal(name))
        return None if found is None else len(found)

    def size(self, name: str, axis: int) -> int | None:
        """Return the size of an axis where it is a number."""
        found = self.shapes.sizes.get(self.equal(name), ())
        size = found[axis] if -len(found) <= axis < len(found) else None
        return size if isinstance(size, int) else None

    def array(self, name: str) -> np.ndarray[Any, Any] | None:
        """Return the numbers of a constant."""
        name = self.equal(name)
        return self.model.array(name) if name in self.model.constants else None

    def kind(self, name: str) -> int:
        """Return the element type of a tensor."""
        return self.shapes.types.get(self.equal(name), 0)

    def equal(self, name: str) -> str:
        """Return the tensor of the network that a detour comes from."""
        return self._equal.get(name, name)

    def attribute(self, node: onnx.NodeProto, name: str, default: Any) -> Any:
        """Return an attribute of a node."""
        found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        return found.get(name, default)

    # --- writing -------------------------------------------------------------------------------------------

    def fresh(self, stem: str = "s") -> str:
        self._count += 1
        return f"{stem}__spelled_{self._count}"

    def op(self, op_type: str, *inputs: str, into: str | None = None, **attributes: Any) -> str:
        """Write a node, and return the name of its result."""
        result = into or self.fresh(op_type.lower())
        self.nodes.append(helper.make_node(op_type, inputs, [result], name=f"n_{result}", **attributes))
        return result

    def const(self, values: Any, like: str | None = None) -> str:
        """Write a constant, of the type of a tensor."""
        kind = self.kind(like) if like else 0
        array = np.asarray(values)
        array = array.astype(helper.tensor_dtype_to_np_dtype(kind)) if kind else array
        name = self.fresh("c")
        if self.random.uniform() < 0.5:
            self.weights.append(numpy_helper.from_array(array, name))
        else:
            value = numpy_helper.from_array(array, name)
            self.nodes.append(helper.make_node("Constant", [], [name], value=value))
        return name

    def ints(self, *values: int) -> str:
        return self.const(np.asarray(values, np.int64))

    # --- the walk ------------------------------------------------------------------------------------------

    def write(self) -> Model:
        """Write the network anew."""
        proto = self.model.copy().proto
        outputs = {o.name for o in proto.graph.output}
        for node in proto.graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            self._detour(copy)
            if not (self.random.uniform() < self.share and self._spell(copy)):
                self._keep(copy, outputs)
        del proto.graph.node[:], proto.graph.value_info[:]
        proto.graph.node.extend(self.nodes)
        proto.graph.initializer.extend(self.weights)
        if self.functions:
            proto.functions.extend(self.functions)
            proto.opset_import.append(helper.make_opsetid("spelled", 1))
        return check(Model(proto))

    def _usable(self, ways: Iterable[Way]) -> list[Way]:
        return [way for way in ways if not self.only or way.__name__ in self.only]

    def _spell(self, node: onnx.NodeProto) -> bool:
        found = self._usable(SPELLINGS.get(node.op_type, ()))
        self.random.shuffle(found)  # type: ignore[arg-type]
        for spelling in found:
            if spelling(self, node):
                self.used.append(spelling.__name__)
                return True
        return False

    def _detour(self, node: onnx.NodeProto) -> None:
        """Let operands come by a detour, and weights be computed."""
        for place, name in enumerate(node.input):
            if not name or self.random.uniform() > self.share / 2:
                continue
            if name in self.model.constants:
                wanted = self._usable(WEIGHTS) if node.op_type in WEIGHTED and place == 1 else []
            else:
                wanted = (
                    self._usable(MOVES) if self.kind(name) == TensorProto.FLOAT and self.rank(name) else []
                )
            if wanted:
                way = wanted[self.random.integers(len(wanted))]
                if (other := way(self, name)) is not None:
                    node.input[place] = other
                    self._equal[other] = name
                    self.used.append(way.__name__)

    def _keep(self, node: onnx.NodeProto, outputs: set[str]) -> None:
        plain = len(node.output) == 1 and not any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute)
        plain = plain and node.domain == "" and node.op_type != "Constant"
        usable = not self.only or "function" in self.only
        if plain and usable and self.random.uniform() < self.share / 4:
            self._call(node)
        else:
            self.nodes.append(node)

    def _call(self, node: onnx.NodeProto) -> None:
        """Put a node into a local function."""
        given = list(dict.fromkeys(i for i in node.input if i))
        names = {name: f"a{k}" for k, name in enumerate(given)}
        inner = onnx.NodeProto()
        inner.CopyFrom(node)
        inner.input[:] = [names.get(i, i) for i in node.input]
        inner.output[:] = ["result"]
        title = self.fresh("call")
        imports = [helper.make_opsetid("", self.opset)]
        self.functions.append(
            helper.make_function("spelled", title, list(names.values()), ["result"], [inner], imports)
        )
        self.nodes.append(helper.make_node(title, given, list(node.output), domain="spelled", name=title))
        self.used.append("function")


def spelling(*operators: str) -> Callable[[Spelling], Spelling]:
    """Register a spelling of some operators."""

    def register(function: Spelling) -> Spelling:
        for operator in operators:
            SPELLINGS.setdefault(operator, []).append(function)
        return function

    return register


def move(function: Callable[[Speller, str], str | None]) -> Callable[[Speller, str], str | None]:
    """Register a detour of an activation."""
    MOVES.append(function)
    return function


def weight(function: Callable[[Speller, str], str | None]) -> Callable[[Speller, str], str | None]:
    """Register a computation of a weight."""
    WEIGHTS.append(function)
    return function


def is_float(s: Speller, node: onnx.NodeProto) -> bool:
    """Return whether the first result of a node is of floats."""
    return s.kind(node.output[0]) == TensorProto.FLOAT
