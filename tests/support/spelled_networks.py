"""Networks written in another way: nodes replaced at random by equal ones, as other exporters write them.

An operator is spelled out in others (Relu as Max, BatchNormalization as four products and sums, Softmax as a
quotient), a weight is computed by nodes, a tensor is moved there and back. The result is the same network: it
has to compute the same, and the same number of its channels has to be removable.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
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
LIMITS = frozenset({"groups_apart"})
"""Spellings that may leave fewer channels to remove: groups of a convolution written apart cannot go as a
whole where others stay in one node."""
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


# --- elementwise -------------------------------------------------------------------------------------------


@spelling("Relu")
def relu_as_max(s: Speller, node: onnx.NodeProto) -> bool:
    x = node.input[0]
    s.op("Max", x, s.const(0.0, x), into=node.output[0])
    return True


@spelling("Relu")
def relu_as_clip(s: Speller, node: onnx.NodeProto) -> bool:
    x = node.input[0]
    if s.opset < 12:
        return False
    s.op("Clip", x, s.const(0.0, x), into=node.output[0])
    return True


@spelling("Relu")
def relu_as_where(s: Speller, node: onnx.NodeProto) -> bool:
    x = node.input[0]
    above = s.op("Greater", x, s.const(0.0, x))
    s.op("Where", above, x, s.const(0.0, x), into=node.output[0])
    return True


@spelling("Relu")
def relu_as_product(s: Speller, node: onnx.NodeProto) -> bool:
    x = node.input[0]
    above = s.op("Cast", s.op("Greater", x, s.const([0.0], x)), to=s.kind(x))
    s.op("Mul", x, above, into=node.output[0])
    return True


@spelling("Sigmoid")
def sigmoid_as_quotient(s: Speller, node: onnx.NodeProto) -> bool:
    x = node.input[0]
    power = s.op("Exp", s.op("Neg", x))
    s.op("Div", s.const(1.0, x), s.op("Add", s.const(1.0, x), power), into=node.output[0])
    return True


@spelling("Sigmoid")
def sigmoid_as_reciprocal(s: Speller, node: onnx.NodeProto) -> bool:
    x = node.input[0]
    s.op("Reciprocal", s.op("Add", s.op("Exp", s.op("Neg", x)), s.const(1.0, x)), into=node.output[0])
    return True


@spelling("Tanh")
def tanh_by_sigmoid(s: Speller, node: onnx.NodeProto) -> bool:
    x = node.input[0]
    half = s.op("Sigmoid", s.op("Mul", x, s.const(2.0, x)))
    s.op("Sub", s.op("Mul", half, s.const(2.0, x)), s.const(1.0, x), into=node.output[0])
    return True


@spelling("HardSigmoid")
def hard_sigmoid_as_clip(s: Speller, node: onnx.NodeProto) -> bool:
    x = node.input[0]
    slope, shift = s.attribute(node, "alpha", 0.2), s.attribute(node, "beta", 0.5)
    y = s.op("Add", s.op("Mul", x, s.const(slope, x)), s.const(shift, x))
    s.op("Min", s.op("Max", y, s.const(0.0, x)), s.const(1.0, x), into=node.output[0])
    return True


@spelling("HardSwish")
def hard_swish_as_product(s: Speller, node: onnx.NodeProto) -> bool:
    x = node.input[0]
    gate = s.op("Clip", s.op("Add", x, s.const(3.0, x)), s.const(0.0, x), s.const(6.0, x))
    s.op("Div", s.op("Mul", x, gate), s.const(6.0, x), into=node.output[0])
    return True


@spelling("Add")
def add_as_sum(s: Speller, node: onnx.NodeProto) -> bool:
    if not _is_float(s, node):
        return False
    s.op("Sum", *node.input, into=node.output[0])
    return True


@spelling("Add")
def add_as_difference(s: Speller, node: onnx.NodeProto) -> bool:
    if not _is_float(s, node):
        return False
    s.op("Sub", node.input[0], s.op("Neg", node.input[1]), into=node.output[0])
    return True


@spelling("Add")
def add_the_other_way_round(s: Speller, node: onnx.NodeProto) -> bool:
    s.op("Add", node.input[1], node.input[0], into=node.output[0])
    return True


@spelling("Sub")
def sub_as_sum(s: Speller, node: onnx.NodeProto) -> bool:
    if not _is_float(s, node):
        return False
    minus = s.op("Mul", node.input[1], s.const(-1.0, node.input[0]))
    s.op("Add", node.input[0], minus, into=node.output[0])
    return True


@spelling("Div")
def div_as_product(s: Speller, node: onnx.NodeProto) -> bool:
    if not _is_float(s, node):
        return False
    s.op("Mul", node.input[0], s.op("Reciprocal", node.input[1]), into=node.output[0])
    return True


@spelling("Mul")
def mul_the_other_way_round(s: Speller, node: onnx.NodeProto) -> bool:
    s.op("Mul", node.input[1], node.input[0], into=node.output[0])
    return True


@spelling("LeakyRelu")
def leaky_relu_as_max(s: Speller, node: onnx.NodeProto) -> bool:
    x, slope = node.input[0], s.attribute(node, "alpha", 0.01)
    if slope > 1:
        return False
    s.op("Max", x, s.op("Mul", x, s.const(slope, x)), into=node.output[0])
    return True


@spelling("LeakyRelu")
def leaky_relu_in_two_halves(s: Speller, node: onnx.NodeProto) -> bool:
    x = node.input[0]
    below = s.op("Mul", s.op("Relu", s.op("Neg", x)), s.const(s.attribute(node, "alpha", 0.01), x))
    s.op("Sub", s.op("Relu", x), below, into=node.output[0])
    return True


@spelling("Clip")
def clip_as_bounds(s: Speller, node: onnx.NodeProto) -> bool:
    bounds = [*node.input[1:], "", ""][:2]
    if not all(bounds) or not _is_float(s, node):
        return False
    s.op("Min", s.op("Max", node.input[0], bounds[0]), bounds[1], into=node.output[0])
    return True


@spelling("Softplus")
def softplus_as_logarithm(s: Speller, node: onnx.NodeProto) -> bool:
    x = node.input[0]
    s.op("Log", s.op("Add", s.op("Exp", x), s.const(1.0, x)), into=node.output[0])
    return True


@spelling("Pow")
def square_as_product(s: Speller, node: onnx.NodeProto) -> bool:
    exponent = s.array(node.input[1])
    if exponent is None or exponent.size != 1 or exponent.item() != 2:
        return False
    s.op("Mul", node.input[0], node.input[0], into=node.output[0])
    return True


@spelling("Sqrt")
def root_as_power(s: Speller, node: onnx.NodeProto) -> bool:
    s.op("Pow", node.input[0], s.const(0.5, node.input[0]), into=node.output[0])
    return True


@spelling("Reciprocal")
def reciprocal_as_power(s: Speller, node: onnx.NodeProto) -> bool:
    s.op("Pow", node.input[0], s.const(-1.0, node.input[0]), into=node.output[0])
    return True


@spelling("Add")
def add_as_sum_along_a_new_axis(s: Speller, node: onnx.NodeProto) -> bool:
    """Both operands on a new axis, added up along it."""
    sizes = [s.shapes.sizes.get(s.equal(i)) for i in node.input]
    if sizes[0] is None or sizes[0] != sizes[1] or not sizes[0] or s.opset < 13 or not _is_float(s, node):
        return False
    parts = [s.op("Unsqueeze", i, s.ints(0)) for i in node.input]
    s.op("ReduceSum", s.op("Concat", *parts, axis=0), s.ints(0), keepdims=0, into=node.output[0])
    return True


def _is_float(s: Speller, node: onnx.NodeProto) -> bool:
    return s.kind(node.output[0]) == TensorProto.FLOAT


# --- products ----------------------------------------------------------------------------------------------


@spelling("Conv")
def conv_with_bias_apart(s: Speller, node: onnx.NodeProto) -> bool:
    if len(node.input) < 3 or not node.input[2] or (rank := s.rank(node.input[0])) is None:
        return False
    bias, result = s.array(node.input[2]), node.output[0]
    if bias is None:
        return False
    del node.input[2]
    node.output[0] = s.fresh("conv")
    s.nodes.append(node)
    s.op("Add", node.output[0], s.const(bias.reshape(-1, *[1] * (rank - 2))), into=result)
    return True


@spelling("Conv")
def conv_with_pads_apart(s: Speller, node: onnx.NodeProto) -> bool:
    pads = s.attribute(node, "pads", None)
    if s.opset < 11 or not pads or not any(pads) or s.attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
        return False
    spatial = len(pads) // 2
    outer = [0, 0, *pads[:spatial], 0, 0, *pads[spatial:]]
    for attribute in list(node.attribute):
        if attribute.name == "pads":
            node.attribute.remove(attribute)
    node.input[0] = s.op("Pad", node.input[0], s.ints(*outer))
    s.nodes.append(node)
    return True


@spelling("Conv")
def conv_as_product_of_matrices(s: Speller, node: onnx.NodeProto) -> bool:
    """A 1×1 convolution as a product with the channels at the end."""
    weight, rank = s.array(node.input[1]), s.rank(node.input[0])
    if weight is None or rank is None or weight.shape[2:] != (1,) * (rank - 2):
        return False
    plain = all(set(s.attribute(node, a, [1])) == {1} for a in ("strides", "dilations"))
    plain &= not any(s.attribute(node, "pads", [])) and s.attribute(node, "group", 1) == 1
    if not plain or s.attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
        return False
    last = s.op("Transpose", node.input[0], perm=[0, *range(2, rank), 1])
    y = s.op("MatMul", last, s.const(weight.reshape(weight.shape[:2]).T.copy()))
    if len(node.input) > 2 and node.input[2]:
        y = s.op("Add", y, node.input[2])
    s.op("Transpose", y, perm=[0, rank - 1, *range(1, rank - 1)], into=node.output[0])
    return True


@spelling("Conv")
def conv_of_one_axis_more(s: Speller, node: onnx.NodeProto) -> bool:
    """A convolution over a line as one over a picture of height 1."""
    weight = s.array(node.input[1])
    if weight is None or weight.ndim != 3 or s.opset < 13:
        return False
    if s.attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
        return False
    stride, dilation = (s.attribute(node, a, [1])[0] for a in ("strides", "dilations"))
    begin, end = s.attribute(node, "pads", [0, 0])
    wide = s.op("Unsqueeze", node.input[0], s.ints(2))
    inputs = [wide, s.const(weight[:, :, None, :].copy()), *node.input[2:]]
    y = s.op(
        "Conv",
        *inputs,
        group=s.attribute(node, "group", 1),
        strides=[1, stride],
        dilations=[1, dilation],
        pads=[0, begin, 0, end],
    )
    s.op("Squeeze", y, s.ints(2), into=node.output[0])
    return True


@spelling("Gemm")
def gemm_as_product_and_sum(s: Speller, node: onnx.NodeProto) -> bool:
    if s.attribute(node, "alpha", 1.0) != 1.0 or s.attribute(node, "beta", 1.0) != 1.0:
        return False
    a, b = node.input[:2]
    a = s.op("Transpose", a, perm=[1, 0]) if s.attribute(node, "transA", 0) else a
    b = s.op("Transpose", b, perm=[1, 0]) if s.attribute(node, "transB", 0) else b
    if len(node.input) > 2 and node.input[2]:
        s.op("Add", s.op("MatMul", a, b), node.input[2], into=node.output[0])
    else:
        s.op("MatMul", a, b, into=node.output[0])
    return True


@spelling("Gemm")
def gemm_as_convolution(s: Speller, node: onnx.NodeProto) -> bool:
    weight = s.array(node.input[1])
    plain = all(s.attribute(node, a, d) == d for a, d in (("alpha", 1.0), ("beta", 1.0), ("transA", 0)))
    bias = s.array(node.input[2]) if len(node.input) > 2 else np.zeros(1)
    if weight is None or not plain or bias is None or s.opset < 13:
        return False
    weight = weight if s.attribute(node, "transB", 0) else weight.T
    if len(node.input) > 2 and bias.shape != (len(weight),):
        return False
    wide = s.op("Unsqueeze", node.input[0], s.ints(2, 3))
    y = s.op("Conv", wide, s.const(weight[:, :, None, None].copy()), *node.input[2:])
    s.op("Squeeze", y, s.ints(2, 3), into=node.output[0])
    return True


@spelling("MatMul")
def matmul_as_einsum(s: Speller, node: onnx.NodeProto) -> bool:
    a, b = (s.rank(i) for i in node.input)
    if a is None or b is None or min(a, b) < 2 or s.opset < 12 or not _is_float(s, node):
        return False
    other = "jk" if b == 2 else "...jk"
    s.op("Einsum", *node.input, equation=f"...ij,{other}->...ik", into=node.output[0])
    return True


@spelling("MatMul")
def matmul_transposed(s: Speller, node: onnx.NodeProto) -> bool:
    """``A·B = (Bᵀ·Aᵀ)ᵀ``."""
    ranks = [s.rank(i) for i in node.input]
    if None in ranks or min(r for r in ranks if r is not None) < 2:
        return False
    one, two = (
        s.op("Transpose", i, perm=[*range(r - 2), r - 1, r - 2])
        for i, r in zip(node.input, ranks, strict=True)
        if r is not None
    )
    last = max(r for r in ranks if r is not None)
    s.op(
        "Transpose",
        s.op("MatMul", two, one),
        perm=[*range(last - 2), last - 1, last - 2],
        into=node.output[0],
    )
    return True


@spelling("MatMul")
def matmul_of_rows(s: Speller, node: onnx.NodeProto) -> bool:
    """A product with a matrix, the other axes merged into one."""
    weight, rank = s.array(node.input[1]), s.rank(node.input[0])
    if weight is None or weight.ndim != 2 or rank is None or rank < 3:
        return False
    flat = s.op("Reshape", node.input[0], s.ints(-1, weight.shape[0]))
    y = s.op("Gemm", flat, node.input[1])
    head = s.op("Slice", s.op("Shape", node.input[0]), s.ints(0), s.ints(-1))
    s.op("Reshape", y, s.op("Concat", head, s.ints(weight.shape[1]), axis=0), into=node.output[0])
    return True


@spelling("Conv")
def groups_apart(s: Speller, node: onnx.NodeProto) -> bool:
    """A convolution in groups as one for each group."""
    group, weight = s.attribute(node, "group", 1), s.array(node.input[1])
    bias = s.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if weight is None or not 1 < group < 5 or (bias is None and len(node.input) > 2) or s.opset < 13:
        return False
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name != "group"}
    parts = [s.fresh("part") for _ in range(group)]
    lengths = s.ints(*[weight.shape[1]] * group)
    s.nodes.append(helper.make_node("Split", [node.input[0], lengths], parts, axis=1, name=parts[0]))
    made = []
    for part, w, b in zip(
        parts,
        np.split(weight, group),
        np.split(bias, group) if bias is not None else [None] * group,
        strict=True,
    ):
        more = [s.const(b.copy())] if b is not None else []
        made.append(s.op("Conv", part, s.const(w.copy()), *more, **given))
    s.op("Concat", *made, axis=1, into=node.output[0])
    return True


@spelling("MatMul")
def matmul_as_convolution(s: Speller, node: onnx.NodeProto) -> bool:
    weight, rank = s.array(node.input[1]), s.rank(node.input[0])
    if weight is None or weight.ndim != 2 or rank != 3:
        return False
    x = s.op("Transpose", node.input[0], perm=[0, 2, 1])
    y = s.op("Conv", x, s.const(weight.T[:, :, None].copy()))
    s.op("Transpose", y, perm=[0, 2, 1], into=node.output[0])
    return True


@spelling("MatMul")
def matmul_as_broadcast_sum(s: Speller, node: onnx.NodeProto) -> bool:
    weight, rank = s.array(node.input[1]), s.rank(node.input[0])
    if weight is None or weight.ndim != 2 or rank is None or weight.size > 4096 or s.opset < 13:
        return False
    product = s.op("Mul", s.op("Unsqueeze", node.input[0], s.ints(rank)), node.input[1])
    s.op("ReduceSum", product, s.ints(-2), keepdims=0, into=node.output[0])
    return True


@spelling("Gather")
def gather_as_product(s: Speller, node: onnx.NodeProto) -> bool:
    """Rows of a table as the product with positions in the form of zeros and ones."""
    table = s.array(node.input[0])
    if table is None or table.ndim != 2 or table.dtype != np.float32 or s.attribute(node, "axis", 0) != 0:
        return False
    if (s.rank(node.input[1]) or 0) < 1:
        return False
    ones = s.op("OneHot", node.input[1], s.ints(len(table)), s.const(np.asarray([0, 1], np.float32)))
    s.op("MatMul", ones, node.input[0], into=node.output[0])
    return True


@spelling("DepthToSpace")
def pixels_shuffled(s: Speller, node: onnx.NodeProto) -> bool:
    block, x = s.attribute(node, "blocksize", 1), node.input[0]
    channels = s.size(x, 1)
    if channels is None:
        return False
    first = s.attribute(node, "mode", b"DCR") == b"DCR"
    left = channels // block**2
    shape = s.op("Shape", x)
    n, h, w = (s.op("Gather", shape, s.ints(k), axis=0) for k in (0, 2, 3))
    parts = [s.ints(block, block, left) if first else s.ints(left, block, block)]
    y = s.op("Reshape", x, s.op("Concat", n, *parts, h, w, axis=0))
    y = s.op("Transpose", y, perm=[0, 3, 4, 1, 5, 2] if first else [0, 1, 4, 2, 5, 3])
    wide = [s.op("Mul", side, s.ints(block)) for side in (h, w)]
    s.op("Reshape", y, s.op("Concat", n, s.ints(left), *wide, axis=0), into=node.output[0])
    return True


# --- normalisations ----------------------------------------------------------------------------------------


@spelling("BatchNormalization")
def batch_normalization_spelled_out(s: Speller, node: onnx.NodeProto) -> bool:
    rank = s.rank(node.input[0])
    values = [s.array(i) for i in node.input[1:]]
    if rank is None or rank < 2 or any(v is None for v in values) or len(node.output) > 1:
        return False
    scale, shift, mean, variance = (np.reshape(v, (-1, *[1] * (rank - 2))) for v in values if v is not None)
    deviation = np.sqrt(variance + np.float32(s.attribute(node, "epsilon", 1e-5)))
    x = s.op("Sub", node.input[0], s.const(mean, node.input[0]))
    x = s.op("Div", x, s.const(deviation, node.input[0]))
    x = s.op("Mul", x, s.const(scale, node.input[0]))
    s.op("Add", x, s.const(shift, node.input[0]), into=node.output[0])
    return True


@spelling("BatchNormalization")
def batch_normalization_as_convolution(s: Speller, node: onnx.NodeProto) -> bool:
    rank = s.rank(node.input[0])
    values = [s.array(i) for i in node.input[1:]]
    if rank is None or rank < 3 or any(v is None for v in values) or len(node.output) > 1:
        return False
    scale, shift, mean, variance = (v for v in values if v is not None)
    factor = scale / np.sqrt(variance + np.float32(s.attribute(node, "epsilon", 1e-5)))
    weight = factor.reshape(-1, 1, *[1] * (rank - 2))
    s.op(
        "Conv",
        node.input[0],
        s.const(weight, node.input[0]),
        s.const(shift - factor * mean, node.input[0]),
        group=len(factor),
        into=node.output[0],
    )
    return True


@spelling("Softmax")
def softmax_as_quotient(s: Speller, node: onnx.NodeProto) -> bool:
    rank = s.rank(node.input[0])
    if rank is None or s.opset < 13:
        return False
    axis = s.attribute(node, "axis", -1)
    x = node.input[0]
    largest = s.op("ReduceMax", x, axes=[axis]) if s.opset < 18 else s.op("ReduceMax", x, s.ints(axis))
    power = s.op("Exp", s.op("Sub", x, largest))
    s.op("Div", power, s.op("ReduceSum", power, s.ints(axis)), into=node.output[0])
    return True


@spelling("GlobalAveragePool")
def mean_of_pixels(s: Speller, node: onnx.NodeProto) -> bool:
    rank = s.rank(node.input[0])
    if rank is None:
        return False
    axes = list(range(2, rank))
    if s.opset < 18:
        s.op("ReduceMean", node.input[0], axes=axes, keepdims=1, into=node.output[0])
    else:
        s.op("ReduceMean", node.input[0], s.ints(*axes), keepdims=1, into=node.output[0])
    return True


@spelling("GlobalAveragePool")
def mean_of_one_line(s: Speller, node: onnx.NodeProto) -> bool:
    """The pixels merged into one axis."""
    rank = s.rank(node.input[0])
    if rank is None or rank < 3:
        return False
    line = s.op("Reshape", node.input[0], s.ints(0, 0, -1))
    y = (
        s.op("ReduceMean", line, axes=[2], keepdims=1)
        if s.opset < 18
        else s.op("ReduceMean", line, s.ints(2), keepdims=1)
    )
    s.op("Reshape", y, s.ints(0, 0, *[1] * (rank - 2)), into=node.output[0])
    return True


@spelling("Flatten")
def flatten_as_reshape(s: Speller, node: onnx.NodeProto) -> bool:
    if s.attribute(node, "axis", 1) != 1:
        return False
    s.op("Reshape", node.input[0], s.ints(0, -1), into=node.output[0])
    return True


@spelling("Flatten")
def flatten_by_sizes(s: Speller, node: onnx.NodeProto) -> bool:
    if s.attribute(node, "axis", 1) != 1:
        return False
    batch = s.op("Gather", s.op("Shape", node.input[0]), s.ints(0), axis=0)
    s.op("Reshape", node.input[0], s.op("Concat", batch, s.ints(-1), axis=0), into=node.output[0])
    return True


@spelling("Concat")
def concat_in_two_steps(s: Speller, node: onnx.NodeProto) -> bool:
    if len(node.input) < 3:
        return False
    axis = s.attribute(node, "axis", 0)
    first = s.op("Concat", *node.input[:2], axis=axis)
    s.op("Concat", first, *node.input[2:], axis=axis, into=node.output[0])
    return True


@spelling("Concat")
def concat_as_sum(s: Speller, node: onnx.NodeProto) -> bool:
    """Two parts, each padded with zeros to the whole."""
    rank = s.rank(node.output[0])
    if len(node.input) != 2 or rank is None or not _is_float(s, node):
        return False
    axis = s.attribute(node, "axis", 0) % rank
    sizes = [s.size(i, axis) for i in node.input]
    if None in sizes:
        return False
    parts = []
    for place, name in enumerate(node.input):
        pads = [0] * (2 * rank)
        pads[axis + (0 if place else rank)] = sizes[1 - place]  # type: ignore[call-overload]
        parts.append(s.op("Pad", name, s.ints(*pads)))
    s.op("Add", *parts, into=node.output[0])
    return True


@spelling("Split")
def split_as_slices(s: Speller, node: onnx.NodeProto) -> bool:
    axis = s.attribute(node, "axis", 0)
    sizes = [s.size(o, axis) for o in node.output]
    if None in sizes:
        return False
    ends = np.cumsum([size for size in sizes if size is not None])
    for size, end, result in zip(sizes, ends, node.output, strict=True):
        begin = int(end) - (size or 0)
        s.op("Slice", node.input[0], s.ints(begin), s.ints(int(end)), s.ints(axis), into=result)
    return True


@spelling("Split")
def split_as_gathers(s: Speller, node: onnx.NodeProto) -> bool:
    axis = s.attribute(node, "axis", 0)
    sizes = [s.size(o, axis) for o in node.output]
    if None in sizes:
        return False
    begin = 0
    for size, result in zip(sizes, node.output, strict=True):
        s.op("Gather", node.input[0], s.ints(*range(begin, begin + (size or 0))), axis=axis, into=result)
        begin += size or 0
    return True


@spelling("LayerNormalization")
def layer_normalization_spelled_out(s: Speller, node: onnx.NodeProto) -> bool:
    return _normalised(s, node, folded=False)


@spelling("LayerNormalization")
def layer_normalization_with_folded_scale(s: Speller, node: onnx.NodeProto) -> bool:
    """``x·k + (b − m·k)`` with ``k = g/σ``."""
    return _normalised(s, node, folded=True)


def _normalised(s: Speller, node: onnx.NodeProto, folded: bool) -> bool:
    rank, x = s.rank(node.input[0]), node.input[0]
    axis = s.attribute(node, "axis", -1)
    if rank is None or len(node.output) > 1 or s.opset < 18 or not _is_float(s, node):
        return False
    axes = s.ints(*range(axis % rank, rank))
    mean = s.op("ReduceMean", x, axes)
    less = s.op("Sub", x, mean)
    square = s.op("Mul", less, less) if folded else s.op("Pow", less, s.const(2.0, x))
    variance = s.op("Add", s.op("ReduceMean", square, axes), s.const(s.attribute(node, "epsilon", 1e-5), x))
    shift = node.input[2] if len(node.input) > 2 and node.input[2] else s.const(0.0, x)
    if folded:
        scale = s.op("Mul", s.op("Reciprocal", s.op("Sqrt", variance)), node.input[1])
        rest = s.op("Sub", shift, s.op("Mul", mean, scale))
        s.op("Add", s.op("Mul", x, scale), rest, into=node.output[0])
    else:
        y = s.op("Mul", s.op("Div", less, s.op("Sqrt", variance)), node.input[1])
        s.op("Add", y, shift, into=node.output[0])
    return True


@spelling("InstanceNormalization")
def instance_normalization_spelled_out(s: Speller, node: onnx.NodeProto) -> bool:
    rank, x = s.rank(node.input[0]), node.input[0]
    scale, shift = s.array(node.input[1]), s.array(node.input[2])
    if rank is None or scale is None or shift is None or s.opset < 18 or not _is_float(s, node):
        return False
    axes = s.ints(*range(2, rank))
    less = s.op("Sub", x, s.op("ReduceMean", x, axes))
    variance = s.op("ReduceMean", s.op("Mul", less, less), axes)
    deviation = s.op("Sqrt", s.op("Add", variance, s.const(s.attribute(node, "epsilon", 1e-5), x)))
    wide = (-1, *[1] * (rank - 2))
    y = s.op("Mul", s.op("Div", less, deviation), s.const(scale.reshape(wide)))
    s.op("Add", y, s.const(shift.reshape(wide)), into=node.output[0])
    return True


@spelling("ReduceMean")
def mean_as_quotient(s: Speller, node: onnx.NodeProto) -> bool:
    """The sum over the size, which is computed."""
    x, rank = node.input[0], s.rank(node.input[0])
    axes = s.attribute(node, "axes", None)
    if axes is None and len(node.input) > 1:
        found = s.array(node.input[1])
        axes = None if found is None else found.tolist()
    if axes is None or len(axes) != 1 or rank is None or s.opset < 13 or not _is_float(s, node):
        return False
    size = s.op("Cast", s.op("Gather", s.op("Shape", x), s.const(np.asarray(axes[0] % rank))), to=1)
    total = s.op("ReduceSum", x, s.ints(*axes), keepdims=s.attribute(node, "keepdims", 1))
    s.op("Div", total, size, into=node.output[0])
    return True


@spelling("Slice")
def slice_as_gather(s: Speller, node: onnx.NodeProto) -> bool:
    values = [s.array(i) for i in node.input[1:]]
    rank = s.rank(node.input[0])
    if len(values) < 3 or any(v is None or v.size != 1 for v in values) or rank is None:
        return False
    begin, end, axis, *steps = (int(v.item()) for v in values if v is not None)
    size = s.size(node.input[0], axis)
    if size is None:
        return False
    chosen = range(size)[slice(begin, end, steps[0] if steps else 1)]
    if not chosen:
        return False
    s.op("Gather", node.input[0], s.ints(*chosen), axis=axis, into=node.output[0])
    return True


@spelling("Transpose")
def transposed_in_two_steps(s: Speller, node: onnx.NodeProto) -> bool:
    rank = s.rank(node.input[0])
    order = s.attribute(node, "perm", None)
    if rank is None or order is None:
        return False
    first = s.random.permutation(rank)
    second = [first.tolist().index(axis) for axis in order]
    s.op("Transpose", s.op("Transpose", node.input[0], perm=first.tolist()), perm=second, into=node.output[0])
    return True


# --- detours -----------------------------------------------------------------------------------------------


def move(function: Callable[[Speller, str], str | None]) -> Callable[[Speller, str], str | None]:
    MOVES.append(function)
    return function


@move
def identity(s: Speller, x: str) -> str:
    return s.op("Identity", x)


@move
def transposed_twice(s: Speller, x: str) -> str:
    order = s.random.permutation(s.rank(x) or 0)
    there = s.op("Transpose", x, perm=order.tolist())
    return s.op("Transpose", there, perm=np.argsort(order).tolist())


@move
def one_axis_more(s: Speller, x: str) -> str | None:
    if s.opset < 13:
        return None
    place = int(s.random.integers((s.rank(x) or 0) + 1))
    return s.op("Squeeze", s.op("Unsqueeze", x, s.ints(place)), s.ints(place))


@move
def reshaped_to_its_shape(s: Speller, x: str) -> str:
    return s.op("Reshape", x, s.op("Shape", x))


@move
def merged_and_split(s: Speller, x: str) -> str | None:
    """Two axes in a row merged and split again."""
    rank = s.rank(x) or 0
    if rank < 2:
        return None
    first = int(s.random.integers(rank - 1))
    shape = s.op("Shape", x)
    parts = []
    if first:
        parts.append(s.op("Slice", shape, s.ints(0), s.ints(first)))
    parts.append(s.ints(-1))
    if first + 2 < rank:
        parts.append(s.op("Slice", shape, s.ints(first + 2), s.ints(rank)))
    target = s.op("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]
    return s.op("Reshape", s.op("Reshape", x, target), shape)


@move
def cut_and_joined(s: Speller, x: str) -> str | None:
    rank = s.rank(x) or 0
    axis = int(s.random.integers(rank))
    size = s.size(x, axis)
    if size is None or size < 2:
        return None
    at = int(s.random.integers(1, size))
    one = s.op("Slice", x, s.ints(0), s.ints(at), s.ints(axis))
    two = s.op("Slice", x, s.ints(at), s.ints(size), s.ints(axis))
    return s.op("Concat", one, two, axis=axis)


@move
def cast_there_and_back(s: Speller, x: str) -> str:
    return s.op("Cast", s.op("Cast", x, to=TensorProto.DOUBLE), to=s.kind(x))


@move
def negated_twice(s: Speller, x: str) -> str:
    return s.op("Neg", s.op("Neg", x))


@move
def plus_zero(s: Speller, x: str) -> str:
    return s.op("Add", x, s.const(0.0, x))


@move
def scaled_there_and_back(s: Speller, x: str) -> str:
    return s.op("Mul", s.op("Mul", x, s.const(4.0, x)), s.const(0.25, x))


@move
def padded_and_cropped(s: Speller, x: str) -> str | None:
    rank = s.rank(x) or 0
    axis = int(s.random.integers(rank))
    size = s.size(x, axis)
    if size is None:
        return None
    pads = [0] * (2 * rank)
    pads[axis + rank] = 2
    return s.op("Slice", s.op("Pad", x, s.ints(*pads)), s.ints(0), s.ints(size), s.ints(axis))


@move
def repeated_and_cropped(s: Speller, x: str) -> str | None:
    """Two copies along an axis, of which the first is taken."""
    rank = s.rank(x) or 0
    axis = int(s.random.integers(rank))
    size = s.size(x, axis)
    if size is None:
        return None
    return s.op("Slice", s.op("Concat", x, x, axis=axis), s.ints(0), s.ints(size), s.ints(axis))


@move
def in_a_branch(s: Speller, x: str) -> str:
    """An If whose condition is a constant."""
    results = [s.fresh("branch") for _ in range(2)]
    bodies = [
        helper.make_graph(
            [helper.make_node("Identity" if k == 0 else "Neg", [x], [r])],
            "body",
            [],
            [helper.make_tensor_value_info(r, s.kind(x), None)],
        )
        for k, r in enumerate(results)
    ]
    return s.op("If", s.const(np.asarray(True)), then_branch=bodies[0], else_branch=bodies[1])


@move
def dropout(s: Speller, x: str) -> str:
    return s.op("Dropout", x)


@move
def expanded_to_its_shape(s: Speller, x: str) -> str:
    return s.op("Expand", x, s.op("Shape", x))


# --- weights -----------------------------------------------------------------------------------------------


def weight(function: Callable[[Speller, str], str | None]) -> Callable[[Speller, str], str | None]:
    WEIGHTS.append(function)
    return function


@weight
def weight_transposed(s: Speller, w: str) -> str:
    array = s.array(w)
    assert array is not None
    order = s.random.permutation(array.ndim)
    stored = s.const(array.transpose(order).copy())
    return s.op("Transpose", stored, perm=np.argsort(order).tolist())


@weight
def weight_scaled(s: Speller, w: str) -> str:
    array = s.array(w)
    assert array is not None
    factors = np.exp2(s.random.integers(-2, 3, (len(array), *[1] * (array.ndim - 1)))).astype(array.dtype)
    return s.op("Mul", s.const(array / factors), s.const(factors))


@weight
def weight_reshaped(s: Speller, w: str) -> str:
    array = s.array(w)
    assert array is not None
    return s.op("Reshape", s.const(array.ravel()), s.ints(*array.shape))


@weight
def weight_in_parts(s: Speller, w: str) -> str | None:
    array = s.array(w)
    if array is None or len(array) < 2:
        return None
    at = int(s.random.integers(1, len(array)))
    return s.op("Concat", s.const(array[:at].copy()), s.const(array[at:].copy()), axis=0)


@weight
def weight_as_sum(s: Speller, w: str) -> str:
    """A weight and a correction, as merged adapters leave it."""
    array = s.array(w)
    assert array is not None
    return s.op("Add", s.const(array), s.const(np.zeros_like(array)))


@weight
def weight_behind_identity(s: Speller, w: str) -> str:
    return s.op("Identity", w)


def spelled(
    model: Model, seed: int, share: float = 0.5, only: Collection[str] = ()
) -> tuple[Model, Sequence[str]]:
    """Write a network in another way.

    Args:
        model: The network.
        seed: Of the choices.
        share: Share of the nodes that are written in another way.
        only: Names of the spellings to use; all of them where it is empty.

    Returns:
        The network, and the names of the spellings that were used.
    """
    speller = Speller(model, seed, share, only)
    return speller.write(), speller.used
