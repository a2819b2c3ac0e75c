"""Functions of single elements: the gradient of the result times the derivative."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from onnxprune.train.pullbacks.registry import ForwardNode, pullback
from onnxprune.train.pullbacks.tape import Gradient, Tape
from onnxprune.train.pullbacks.writer import STEP, Operand, Writer

Derivative: TypeAlias = Callable[[ForwardNode, Writer, str, str], str]
"""Function from a node, its operand x and its result y to the derivative at x."""


def step(write: Writer, x: Operand) -> str:
    """1 where x is positive, else 0, in one pass."""
    return write("HardSigmoid", x, alpha=STEP, beta=0.0)


def _sigmoid(node: ForwardNode, write: Writer, x: str, y: str) -> str:
    return write.mul(y, write.sub(1.0, y))


def _tanh(node: ForwardNode, write: Writer, x: str, y: str) -> str:
    return write.sub(1.0, write.mul(y, y))


def _leaky(node: ForwardNode, write: Writer, x: str, y: str) -> str:
    alpha = node.attributes.get("alpha", 0.01)
    return write.add(write.mul(step(write, x), 1.0 - alpha), alpha)


def _erf(node: ForwardNode, write: Writer, x: str, y: str) -> str:
    """2/√π · exp(−x²), the constant inside the exponent."""
    return write("Exp", write.sub(math.log(2 / math.sqrt(math.pi)), write.mul(x, x)))


def _elu(node: ForwardNode, write: Writer, x: str, y: str) -> str:
    """1 above zero, α·exp(x) = y + α below."""
    alpha = node.attributes.get("alpha", 1.0)
    above = step(write, x)
    return write.add(above, write.mul(write.sub(1.0, above), write.add(y, alpha)))


def _hard_sigmoid(node: ForwardNode, write: Writer, x: str, y: str) -> str:
    """The slope strictly between 0 and 1."""
    inside = write.mul(step(write, y), step(write, write.sub(1.0, y)))
    return write.mul(inside, node.attributes.get("alpha", 0.2))


def _hard_swish(node: ForwardNode, write: Writer, x: str, y: str) -> str:
    """H + x·h' with h the hard sigmoid of slope 1/6."""
    gate = write("HardSigmoid", x, alpha=1 / 6, beta=0.5)
    inside = write.mul(step(write, gate), step(write, write.sub(1.0, gate)))
    return write.add(gate, write.mul(write.mul(x, 1 / 6), inside))


def _softplus(node: ForwardNode, write: Writer, x: str, y: str) -> str:
    return write("Sigmoid", x)


def _root_of(write: Writer, x: str, sign: float, constant: float) -> str:
    """√(constant + sign·x²)."""
    return write("Sqrt", write.add(write.mul(write.mul(x, x), sign), constant))


DERIVATIVES: dict[str, Derivative] = {
    "Abs": lambda node, write, x, y: write("Sign", x),
    "Acos": lambda node, write, x, y: write.div(-1.0, _root_of(write, x, -1.0, 1.0)),
    "Acosh": lambda node, write, x, y: write.div(1.0, _root_of(write, x, 1.0, -1.0)),
    "Asin": lambda node, write, x, y: write.div(1.0, _root_of(write, x, -1.0, 1.0)),
    "Asinh": lambda node, write, x, y: write.div(1.0, _root_of(write, x, 1.0, 1.0)),
    "Atan": lambda node, write, x, y: write.div(1.0, write.add(write.mul(x, x), 1.0)),
    "Atanh": lambda node, write, x, y: write.div(1.0, write.sub(1.0, write.mul(x, x))),
    "Cos": lambda node, write, x, y: write("Neg", write("Sin", x)),
    "Cosh": lambda node, write, x, y: write("Sinh", x),
    "Elu": _elu,
    "Erf": _erf,
    "Exp": lambda node, write, x, y: y,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "LeakyRelu": _leaky,
    "Log": lambda node, write, x, y: write("Reciprocal", x),
    "Neg": lambda node, write, x, y: write.tensor(-1.0),
    "Reciprocal": lambda node, write, x, y: write("Neg", write.mul(y, y)),
    "Relu": lambda node, write, x, y: step(write, y),
    "Sigmoid": _sigmoid,
    "Sin": lambda node, write, x, y: write("Cos", x),
    "Sinh": lambda node, write, x, y: write("Cosh", x),
    "Softplus": _softplus,
    "Sqrt": lambda node, write, x, y: write.div(0.5, y),
    "Tan": lambda node, write, x, y: write.add(write.mul(y, y), 1.0),
    "Tanh": _tanh,
}
"""By operator of the standard domain."""


def _elementwise(node: ForwardNode, tape: Tape) -> None:
    """Multiply by the derivative; a factor along an axis goes on."""
    arrived = tape.carried(node.outputs[0])
    slope = DERIVATIVES[node.operator](node, tape.writer, node.inputs[0], node.outputs[0])
    value = tape.writer.mul(slope, arrived.value)
    tape.give(node.inputs[0], value, arrived.factor, arrived.axis)


pullback(*DERIVATIVES)(_elementwise)


@pullback("Clip")
def clip(node: ForwardNode, tape: Tape) -> None:
    """The gradient where the result lies strictly between the bounds."""
    write, arrived, y = tape.writer, tape.carried(node.outputs[0]), node.outputs[0]
    inside = [
        write(operator, y, bound)
        for operator, bound in (("Greater", node.input(1)), ("Less", node.input(2)))
        if bound
    ]
    value = arrived.value
    if inside:
        value = write.mul(write.floats(inside[0] if len(inside) == 1 else write("And", *inside)), value)
    tape.give(node.inputs[0], value, arrived.factor, arrived.axis)


def _gelu_slope(write: Writer, x: Operand) -> str:
    """Φ(x) + x·φ(x): HardSigmoid is the affine map of erf's values, φ's constant is in the exponent."""
    scaled = write.mul(x, math.sqrt(0.5))
    cumulative = write("HardSigmoid", write("Erf", scaled), alpha=0.5, beta=0.5)
    density = write("Exp", write.sub(-0.5 * math.log(math.pi), write.mul(scaled, scaled)))
    return write.add(cumulative, write.mul(scaled, density))


def _tanh_gelu_slope(write: Writer, x: Operand) -> str:
    """Derivative of x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))."""
    root, cubic = math.sqrt(2 / math.pi), 0.044715
    square = write.mul(x, x)
    inner = write.mul(write.mul(x, root), write.add(write.mul(square, cubic), 1.0))
    tanh = write("Tanh", inner)
    rising = write.mul(write.add(write.mul(square, 3 * cubic), 1.0), root)
    bent = write.mul(write.mul(x, 0.5), write.mul(write.sub(1.0, write.mul(tanh, tanh)), rising))
    return write.add(write.mul(write.add(tanh, 1.0), 0.5), bent)


@pullback("Gelu")
def gelu(node: ForwardNode, tape: Tape) -> None:
    """Gaussian error linear unit, exact or with a hyperbolic tangent."""
    form = node.attributes.get("approximate", b"none")
    slope = _tanh_gelu_slope if form in (b"tanh", "tanh") else _gelu_slope
    _pass(node, tape, slope(tape.writer, node.inputs[0]))


@pullback("Gelu", domain="com.microsoft")
def contrib_gelu(node: ForwardNode, tape: Tape) -> None:
    """Gaussian error linear unit."""
    _pass(node, tape, _gelu_slope(tape.writer, node.inputs[0]))


@pullback("BiasGelu", domain="com.microsoft")
def bias_gelu(node: ForwardNode, tape: Tape) -> None:
    """Gaussian error linear unit of a sum."""
    slope = _gelu_slope(tape.writer, tape.writer.add(*node.inputs))
    _pass_sum(node, tape, slope)


@pullback("FastGelu", domain="com.microsoft")
def fast_gelu(node: ForwardNode, tape: Tape) -> None:
    """Its form with a hyperbolic tangent, of a sum if there is a bias."""
    total = tape.writer.add(*node.inputs) if node.input(1) else node.inputs[0]
    _pass_sum(node, tape, _tanh_gelu_slope(tape.writer, total))


@pullback("QuickGelu", domain="com.microsoft")
def quick_gelu(node: ForwardNode, tape: Tape) -> None:
    """x·σ(αx): the derivative is σ·(1 + αx·(1 − σ))."""
    write, x, alpha = tape.writer, node.inputs[0], node.attributes.get("alpha", 1.702)
    scaled = write.mul(x, alpha)
    gate = write("Sigmoid", scaled)
    _pass(node, tape, write.mul(gate, write.add(write.mul(scaled, write.sub(1.0, gate)), 1.0)))


def _pass(node: ForwardNode, tape: Tape, slope: str) -> None:
    arrived = tape.carried(node.outputs[0])
    value = tape.writer.mul(slope, arrived.value)
    tape.give(node.inputs[0], value, arrived.factor, arrived.axis)


def _pass_sum(node: ForwardNode, tape: Tape, slope: str) -> None:
    dims = tape.dims(node.outputs[0])
    value = tape.writer.mul(slope, tape.gradient(node.outputs[0]))
    for name in node.inputs:
        tape.give_broadcast(name, Gradient(value), dims)


@pullback("Softmax")
def softmax(node: ForwardNode, tape: Tape) -> None:
    """y·(dy − Σ dy·y)."""
    write, y, axis = tape.writer, node.outputs[0], node.attributes.get("axis", -1)
    weighted = write.mul(tape.gradient(y), y)
    total = write.total(weighted, [axis], keepdims=True)
    tape.give(node.inputs[0], write.sub(weighted, write.mul(y, total)))


@pullback("LogSoftmax")
def log_softmax(node: ForwardNode, tape: Tape) -> None:
    """Dy − exp(y)·Σ dy."""
    write, y, axis = tape.writer, node.outputs[0], node.attributes.get("axis", -1)
    arrived = tape.gradient(y)
    total = write.total(arrived, [axis], keepdims=True)
    tape.give(node.inputs[0], write.sub(arrived, write.mul(write("Exp", y), total)))


@pullback("PRelu")
def parametric_relu(node: ForwardNode, tape: Tape) -> None:
    """The slope below zero is trained, too."""
    write, (x, slope), y = tape.writer, node.inputs, node.outputs[0]
    arrived, dims = tape.gradient(y), tape.dims(y)
    below = write.sub(1.0, step(write, x))
    rising = write.add(step(write, x), write.mul(below, slope))
    tape.give_broadcast(x, Gradient(write.mul(arrived, rising)), dims)
    if tape.wants(slope):
        tape.give_broadcast(slope, Gradient(write.mul(arrived, write.mul(below, x))), dims)


@pullback("Dropout", "Identity")
def same(node: ForwardNode, tape: Tape) -> None:
    """The gradient as it is."""
    tape.pass_on(node.inputs[0], tape.carried(node.outputs[0]))


@pullback("Cast")
def cast(node: ForwardNode, tape: Tape) -> None:
    """The gradient as it is: all floats that training sees are of 32 bits."""
    tape.pass_on(node.inputs[0], tape.carried(node.outputs[0]))
