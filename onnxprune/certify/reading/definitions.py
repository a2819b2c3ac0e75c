"""Operators of several steps, read as the plain operators that define them.

Both models are read in this form, so that the rules of the plain operators hold. `Parts.whole` stands for
tensors such as masks: only from which operands they follow is stated, and these have to be the same in both
models. A node that no definition covers stays as it is: it is then shown to be the same, or refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx
from onnx import helper

from onnxprune.certify.refusal import MALFORMED, Refusal, need
from onnxprune.certify.relations.element_bounds import Array
from onnxprune.certify.sizes.size_monomials import Size, computed, over, times

if TYPE_CHECKING:
    from onnxprune.certify.reading.graph import Graph

MICROSOFT = "com.microsoft"
Definition: TypeAlias = "Callable[[Parts], None]"
DEFINITIONS: dict[tuple[str, str], Definition] = {}
"""By domain, empty for that of onnx, and operator."""
_OPERANDS = {"Split": "split", "Squeeze": "axes", "Unsqueeze": "axes"}
"""Lists that are attributes before opset 13 and operands from then on."""


def defines(*operators: str, domain: str = MICROSOFT) -> Callable[[Definition], Definition]:
    """Enter a definition of operators."""

    def enter(function: Definition) -> Definition:
        DEFINITIONS.update({(domain, operator): function for operator in operators})
        return function

    return enter


def defined(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """Return the nodes that define a node; none for a node without a definition.

    Args:
        graph: The model.
        node: A node whose operands are visited.
    """
    domain = "" if node.domain == "ai.onnx" else node.domain
    function = DEFINITIONS.get((domain, node.op_type))
    if function is None:
        return None
    parts = Parts(graph, node)
    try:
        function(parts)
    except (Refusal, *MALFORMED):  # it stays as it is
        return None
    made = {o for n in parts.nodes for o in n.output}
    return parts.nodes if all(o in made for o in node.output if o) else None


class Parts:
    """The nodes that define a node, in order.

    Args:
        graph: The model.
        node: The node.

    Attributes:
        given: The attributes of the node.
        nodes: The nodes so far.
    """

    def __init__(self, graph: Graph, node: onnx.NodeProto) -> None:
        self.graph, self.node = graph, node
        self.given = graph.attributes(node)
        self.nodes: list[onnx.NodeProto] = []
        self._count = 0

    def only(self, *attributes: str) -> None:
        """Refuse a node with other attributes than some, those aside that are zero, their default."""
        given = {name for name, value in self.given.items() if value}
        need(given <= set(attributes), "an attribute that its definition does not know")

    def without(self, *operands: int) -> None:
        """Refuse a node with one of some operands."""
        need(not any(self.has(k) for k in operands), "an operand that its definition does not know")

    def has(self, place: int) -> bool:
        """Return true if there is an operand."""
        return self.graph.has(self.node, place)

    def operand(self, place: int) -> str:
        """Return the name of an operand; empty where there is none."""
        return self.node.input[place] if self.has(place) else ""

    def result(self, place: int = 0) -> str:
        """Return the name of a result; empty where it is not made."""
        return self.node.output[place] if len(self.node.output) > place else ""

    def sizes(self, name: str) -> list[Size]:
        """Return the sizes of a tensor.

        Raises:
            KeyError: They are not known.
        """
        return self.graph.sizes[name]

    def number(self, name: str, axis: int) -> int:
        """Return the size of an axis, which is a positive number."""
        size = self.sizes(name)[axis]
        need(isinstance(size, int) and size > 0, "an axis of unknown size")
        return int(str(size))

    def count(self, attribute: str) -> int:
        """Return an attribute, which is a positive number."""
        count = self.given[attribute]
        need(count > 0, "an attribute that is no count")
        return int(count)

    def constant(self, place: int) -> Array:
        """Return the value of a constant operand."""
        return self.graph.constants[self.operand(place)]

    def op(self, operator: str, *operands: str, to: str = "", **attributes: Any) -> str:
        """Add a node and return its result, which has a given name, or one made of the node's."""
        return self.ops(operator, *operands, to=to, **attributes)[0]

    def ops(
        self,
        operator: str,
        *operands: str,
        to: str = "",
        results: int = 1,
        names: Sequence[str] = (),
        **attributes: Any,
    ) -> list[str]:
        """Add a node and return its results, all of which may be named."""
        made = list(names) or [to or self._fresh(), *(self._fresh() for _ in range(results - 1))]
        listed = _OPERANDS.get(operator)
        if listed in attributes and self.graph.opset >= 13:
            operands = (*operands, self.constants(attributes.pop(listed)))
        self._add(helper.make_node(operator, operands, made, **attributes))
        return made

    def stay(self) -> None:
        """Add the node itself."""
        self._add(self.node)

    def constants(self, numbers: Any, kind: Any = np.int64) -> str:
        """Add a constant and return its name."""
        return self.graph.add(f"constant of {self.result()}", np.asarray(numbers, kind))

    def whole(self, operands: Sequence[str], sizes: Sequence[Size], *but: str, to: str = "") -> str:
        """Add a tensor that follows from operands and the attributes, and is the same where those are.

        Args:
            operands: Names of the operands.
            sizes: The sizes of the tensor.
            but: Attributes that it does not follow from.
            to: Its name.
        """
        name, kind = to or self._fresh(), f"part {len(self.nodes)} of {self.node.op_type}"
        node = helper.make_node(kind, operands, [name], domain=self.node.domain)
        node.attribute.extend(a for a in self.node.attribute if a.name not in but)
        self.graph.sizes[name] = list(sizes)
        self.nodes.append(node)
        return name

    def reshape(self, name: str, *target: int, to: str = "") -> str:
        """Add a Reshape."""
        return self.op("Reshape", name, self.constants(target), to=to)

    def reshape_to(self, name: str, sizes: Sequence[Size], to: str = "") -> str:
        """Add a Reshape to sizes that need not be numbers."""
        target = self._fresh()
        self.graph.note_list(target, sizes)
        return self.op("Reshape", name, target, to=to)

    def transpose(self, name: str, *order: int, to: str = "") -> str:
        """Add a Transpose."""
        return self.op("Transpose", name, to=to, perm=list(order))

    def swapped(self, name: str) -> str:
        """Add a Transpose of the last two axes."""
        rank = len(self.sizes(name))
        return self.transpose(name, *range(rank - 2), rank - 1, rank - 2)

    def lengths(self, name: str, *axes: int) -> str:
        """Add the sizes of some axes, as a tensor."""
        return self.op("Gather", self.op("Shape", name), self.constants(axes), axis=0)

    def _add(self, node: onnx.NodeProto) -> None:
        self.nodes.append(node)
        self.graph.visit(node)

    def _fresh(self) -> str:
        self._count += 1
        return self.graph.fresh(f"part {self._count} of {self.node.op_type} {self.result()}")


# --- element by element -------------------------------------------------------------------------------------


@defines("Gelu", "FastGelu", "BiasGelu")
def gelu(p: Parts) -> None:
    """Gelu, of a sum with a bias where there is one."""
    x = p.op("Add", p.operand(0), p.operand(1)) if p.has(1) else p.operand(0)
    fast = p.node.op_type == "FastGelu"
    p.op("Gelu", x, to=p.result(), **({"approximate": "tanh"} if fast else {}))


@defines("QuickGelu")
def quick_gelu(p: Parts) -> None:
    """``x · sigmoid(alpha · x)``."""
    x = p.operand(0)
    factor = p.constants(p.given.get("alpha", 1.702), np.float32)
    p.op("Mul", x, p.op("Sigmoid", p.op("Mul", x, factor)), to=p.result())


# --- moves --------------------------------------------------------------------------------------------------


@defines("DepthToSpace", "SpaceToDepth", domain="")
def blocks(p: Parts) -> None:
    """Blocks of a picture from channels, or into them."""
    (n, c, h, w), b = p.sizes(p.operand(0)), p.count("blocksize")
    if p.node.op_type == "SpaceToDepth":
        rows, columns = (computed("Div", size, b) for size in (h, w))
        apart = p.reshape_to(p.operand(0), [n, c, rows, b, columns, b])
        moved = p.transpose(apart, 0, 3, 5, 1, 2, 4)
        p.reshape_to(moved, [n, times(c, b * b), rows, columns], p.result())
        return
    inner = over(c, b * b)
    need(inner is not None, "channels that are no blocks")
    assert inner is not None
    first = p.given.get("mode", b"DCR") == b"DCR"
    apart = p.reshape_to(p.operand(0), [n, b, b, inner, h, w] if first else [n, inner, b, b, h, w])
    moved = p.transpose(apart, *((0, 3, 4, 1, 5, 2) if first else (0, 1, 4, 2, 5, 3)))
    p.reshape_to(moved, [n, inner, times(h, b), times(w, b)], p.result())


@defines("GatherND", "Pad", "QuantizeLinear", "Trilu")
def of_onnx(p: Parts) -> None:
    """The operator of onnx of this name."""
    p.op(p.node.op_type, *p.node.input, to=p.result(), **p.given)


@defines("GridSample")
def sampled(p: Parts) -> None:
    """The operator of onnx, whose modes have other names from opset 20 on."""
    mode = p.given.get("mode", b"bilinear").decode()
    given = p.given | {"mode": mode.removeprefix("bi") if p.graph.opset >= 20 else mode}
    p.op("GridSample", *p.node.input, to=p.result(), **given)


@defines("NhwcMaxPool")
def pool_of_channels_last(p: Parts) -> None:
    """MaxPool, whose channels are axis 1."""
    x = p.op("MaxPool", p.transpose(p.operand(0), 0, 3, 1, 2), **p.given)
    p.transpose(x, 0, 2, 3, 1, to=p.result())


# --- products -----------------------------------------------------------------------------------------------


@defines("FusedMatMul", "TransposeMatMul")
def fused_product(p: Parts) -> None:
    """A product of matrices, either turned, times a factor."""
    p.only("alpha", "transA", "transB")
    turned = []
    for name, flag in zip(p.node.input, ("transA", "transB"), strict=True):
        need(len(p.sizes(name)) > 1, "a vector")
        turned.append(p.swapped(name) if p.given.get(flag) else name)
    factor = p.given.get("alpha", 1.0)
    y = p.op("MatMul", *turned, to=p.result() if factor == 1 else "")
    if factor != 1:
        p.op("Mul", y, p.constants(factor, np.float32), to=p.result())


_ACTIVATIONS = ("Relu", "Sigmoid", "Tanh")


@defines("FusedGemm", "FusedConv")
def fused_layer(p: Parts) -> None:
    """A Gemm, or a convolution and the sum with a fourth operand, then an activation."""
    activation = p.given.get("activation", b"").decode()
    need(activation in ("", *_ACTIVATIONS), "an activation with parameters")
    layer = p.node.op_type.removeprefix("Fused")
    given = {name: value for name, value in p.given.items() if not name.startswith("activation")}
    y = p.op(layer, *list(p.node.input)[:3], **given)
    y = p.op("Add", y, p.operand(3)) if p.has(3) else y
    p.op(activation or "Identity", y, to=p.result())


# --- normalisation ------------------------------------------------------------------------------------------


@defines("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
def skip_normalization(p: Parts) -> None:
    """The sum of two tensors and a bias, and its normalisation over the last axis.

    Whether the simplified form adds its bias depends on the version of onnxruntime.
    """
    simple = "Simplified" in p.node.op_type
    bias = 3 if simple else 4
    need(not (simple and p.has(bias)) and not p.result(1) and not p.result(2), "statistics")
    x = p.op("Add", p.operand(0), p.operand(1), to=p.result(3) if not p.has(bias) else "")
    if p.has(bias):
        x = p.op("Add", x, p.operand(bias), to=p.result(3))
    _normalised(p, x, [2] if simple else [2, 3], "RMSNormalization" if simple else "LayerNormalization")


def _normalised(p: Parts, x: str, parameters: Sequence[int], kind: str, epsilon: float = 1e-12) -> None:
    names = [p.operand(k) for k in parameters if p.has(k)]
    p.op(kind, x, *names, to=p.result(), axis=-1, epsilon=p.given.get("epsilon", epsilon))


@defines("SimplifiedLayerNormalization", domain="")
@defines("SimplifiedLayerNormalization")
def simplified_normalization(p: Parts) -> None:
    """RMSNormalization by its name before it was part of onnx."""
    need(p.given.get("axis", -1) in (-1, len(p.sizes(p.operand(0))) - 1), "another axis")
    _normalised(p, p.operand(0), [1], "RMSNormalization", 1e-5)


@defines("EmbedLayerNormalization")
def embeddings(p: Parts) -> None:
    """The sum of rows of three tables, and its normalisation; the lengths follow from the mask."""
    ids = p.operand(0)
    batch = p.sizes(ids)[0]
    if p.has(8):
        places = p.operand(8)
    else:
        every = p.op("Squeeze", p.lengths(ids, 1), axes=[0])
        places = p.op("Range", p.constants(0), every, p.constants(1))
    x = p.op("Add", p.op("Gather", p.operand(2), ids), p.op("Gather", p.operand(3), places))
    need(p.has(1) == p.has(4), "segments without a table")
    if p.has(1):
        x = p.op("Add", x, p.op("Gather", p.operand(4), p.operand(1)))
    if p.result(2):
        p.op("Identity", x, to=p.result(2))
    _normalised(p, x, [5, 6], "LayerNormalization")
    if p.result(1):
        p.whole([p.operand(7), p.lengths(ids, 0, 1)], [batch], to=p.result(1))
