"""Operators that work element by element, and those whose result has the shape of an operand."""

from __future__ import annotations

import math
from collections.abc import Callable

from onnxprune.algebra.sizes.algebra import Value
from onnxprune.algebra.sizes.facts import ContradictionError
from onnxprune.algebra.sizes.tensor_arithmetic import COMPARISONS, cast, elementwise, function_of
from onnxprune.algebra.sizes.tensors import BOOL, INTEGERS, SMALL, Values, plain
from onnxprune.ops.sizes.node import SizedNode
from onnxprune.ops.sizes.table import MICROSOFT, size_rule

UNARY = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid "
    "HardSwish Identity LeakyRelu Log Mish Neg Reciprocal Relu Round Selu Shrink Sigmoid "
    "Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu Not IsNaN IsInf"
).split()
FOLLOWED = {"Identity", "Neg", "Abs", "Sign", "Floor", "Ceil", "Round", "Relu", "Not", "Sqrt"}
"""Operators of one operand whose values are followed, beside their shapes."""
SAME_SHAPE = (
    "Clip CumSum InstanceNormalization GroupNormalization LRN MeanVarianceNormalization "
    "PRelu ReverseSequence RotaryEmbedding TensorScatter Trilu CumProd"
).split()
VARIADIC = (
    "Add Sub Mul Div Mod Pow Max Min Mean Sum BitShift BitwiseAnd BitwiseOr BitwiseXor And Or Xor "
    "Equal Greater GreaterOrEqual Less LessOrEqual"
).split()
TRUTHS = {*COMPARISONS, "IsNaN", "IsInf"}


@size_rule(*UNARY)
def unary(node: SizedNode) -> None:
    """The shape of the operand."""
    kind = BOOL if node.operator in TRUTHS else node.kind()
    if node.operator in ("Identity", "Relu") and node.walk.pass_on(node.inputs[0], node.outputs[0]):
        return
    value = computed(node, [0]) if node.operator in FOLLOWED else None
    node.put(0, node.shape(), kind, value)


@size_rule(*SAME_SHAPE)
def same_shape(node: SizedNode) -> None:
    """The shape of the operand for all results."""
    node.put_all(node.shape())


@size_rule("Hardmax", "LogSoftmax", "LpNormalization", "Softmax")
def along_an_axis(node: SizedNode) -> None:
    """The shape of the operand, which has the axis."""
    shape = node.shape()
    if shape:
        node.axis(node.attribute("axis", 0), len(shape))
    node.put(0, shape)


size_rule("FakeQuantize", domain="org.openvinotoolkit")(same_shape)


@size_rule("Clip")
def clip(node: SizedNode) -> None:
    """The shape of the operand; limits are attributes before version 11."""
    value = node.known(0)
    if value is not None and node.kind() in INTEGERS:
        for place, name in ((1, "Max"), (2, "Min")):
            limit = node.known(place)
            if node.has(place):
                function = function_of(name, node.kind())
                assert function is not None
                value = (
                    None if limit is None or value is None else elementwise(function, [value, limit], _none)
                )
    else:
        value = None
    node.put(0, node.shape(), None, value)


@size_rule(*VARIADIC)
def variadic(node: SizedNode) -> None:
    """The broadcast of the operands."""
    places = [k for k in range(len(node.inputs)) if node.has(k)]
    shape = node.broadcast([node.shape(k) for k in places])
    kind = BOOL if node.operator in TRUTHS else node.kind()
    value = None
    sizes = plain(shape)
    if sizes is not None and math.prod(sizes) <= SMALL and any(node.known(k) is not None for k in places):
        value = computed(node, places)
    node.put(0, shape, kind, value)


@size_rule("Where")
def where(node: SizedNode) -> None:
    """The broadcast of the condition and both choices."""
    shape = node.broadcast([node.shape(k) for k in range(3)])
    sizes, value = plain(shape), None
    if sizes is not None and math.prod(sizes) <= SMALL and any(node.known(k) is not None for k in range(3)):
        value = computed(node, [0, 1, 2])
    node.put(0, shape, node.kind(1) or node.kind(2), value)


@size_rule("SwiGLU")
def gated(node: SizedNode) -> None:
    """The shape of both operands."""
    node.put(0, node.shape() or node.shape(1))


@size_rule("BitCast")
def bit_cast(node: SizedNode) -> None:
    """The shape of the operand, its bits read as another type."""
    node.put(0, node.shape(), node.required("to"))


@size_rule("Cast", "CastLike")
def cast_(node: SizedNode) -> None:
    """The shape of the operand, in another type."""
    source = node.kind()
    target = node.attribute("to") if node.operator == "Cast" else node.kind(1)
    known = node.known(0)
    if known is None and source in INTEGERS and target in INTEGERS:
        known = node.value(0)
    value = None
    if known is not None:
        value = elementwise(lambda x: cast(x, source, target), [known], unknowns(node, target))
    node.put(0, node.shape(), target, value)


@size_rule("Dropout")
def dropout(node: SizedNode) -> None:
    """The shape of the operand; so has the mask."""
    node.put(0, node.shape(), None, node.known(0) if not node.has(2) else None)
    node.put(1, node.shape(), BOOL if node.opset >= 10 else None)


@size_rule("BatchNormalization")
def batch_normalization(node: SizedNode) -> None:
    """The shape of the operand; statistics are as long as it has channels."""
    shape = node.shape()
    node.put(0, shape)
    channels = shape[1] if shape is not None and len(shape) > 1 else None
    for place in range(1, 5):
        listed = node.shape(place) if node.has(place) else None
        if channels is not None and listed is not None and len(listed) == 1:
            node.same(channels, listed[0], "channels")
    for place in range(1, len(node.outputs)):
        node.put(place, node.shape(3), node.kind(3))


@size_rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
@size_rule("LayerNormalization", "SimplifiedLayerNormalization", domain=MICROSOFT)
def layer_normalization(node: SizedNode) -> None:
    """The shape of the operand; statistics have 1 on the axes they are taken over."""
    shape = node.shape()
    node.put(0, shape)
    statistics = None
    if shape is not None:
        for place in (1, 2):
            scale = node.shape(place) if node.has(place) else None
            if scale is not None and len(scale) > len(shape):
                raise ContradictionError(f"operand {place + 1} has more axes than the tensor that it scales")
        axis = node.axis(node.attribute("axis", -1), len(shape))
        statistics = [*shape[:axis], *(1 for _ in shape[axis:])]
    for place in range(1, len(node.outputs)):
        node.put(place, statistics, node.attribute("stash_type", 1))


def computed(node: SizedNode, places: list[int]) -> Values | None:
    """Return the numbers of a result, ``None`` where they are not known."""
    kind = node.kind(places[-1])
    function = function_of(node.operator, kind, fmod=node.flag("fmod"))
    if function is None:
        return None
    if len(places) == 1 and node.known(places[0]) is None:
        return None
    operands = [node.value(k) for k in places]
    known = [x for x in operands if x is not None]
    if len(known) != len(places):
        return None
    return elementwise(function, known, unknowns(node, BOOL if node.operator in TRUTHS else kind))


def unknowns(node: SizedNode, kind: int | None) -> Callable[[int], Value | None]:
    """Return the values of elements that are not followed: symbols for integers."""
    if kind not in INTEGERS:
        return _none
    limits = (0, 1) if kind == BOOL else (None, None)
    return lambda k: node.walk.facts.fresh(f"{node.outputs[0]}[{k}]", *limits)


def _none(_: int) -> Value | None:
    return None
