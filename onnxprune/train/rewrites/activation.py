"""Activations spelled in Relu, Exp, Log, Abs, Clip and Tanh (definitions: ONNX operator specification)."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_graphsurgeon as gs

from onnxprune.train.emit import Emitter
from onnxprune.train.rewrites.registry import rewrites


def _negative_part(x: gs.Tensor, emit: Emitter) -> Any:
    """min(x, 0)."""
    return emit("Neg", emit("Relu", emit("Neg", x)))


def _exponential_unit(x: gs.Tensor, emit: Emitter, alpha: float, width: float = 1.0) -> Any:
    """max(x, 0) + alpha (exp(min(x, 0) / width) − 1), which never overflows."""
    exponent = emit("Exp", emit("Mul", _negative_part(x, emit), 1.0 / width))
    return emit("Add", emit("Relu", x), emit("Mul", emit("Sub", exponent, 1.0), alpha))


def _softplus(x: gs.Tensor, emit: Emitter) -> Any:
    """log(1 + exp(x)) as max(x, 0) + log(1 + exp(−|x|))."""
    decayed = emit("Exp", emit("Neg", emit("Abs", x)))
    return emit("Add", emit("Relu", x), emit("Log", emit("Add", decayed, 1.0)))


@rewrites("Relu")
def relu(node: gs.Node, emit: Emitter) -> Any:
    """The product x · [x > 0], whose gradient takes a third of the time of the runtime's own for Relu."""
    x = node.inputs[0]
    return emit("Mul", x, emit("Cast", emit("Greater", x, 0.0), to=onnx.TensorProto.FLOAT))


@rewrites("Elu")
def elu(node: gs.Node, emit: Emitter) -> Any:
    """Exponential linear unit."""
    return _exponential_unit(node.inputs[0], emit, node.attrs.get("alpha", 1.0))


@rewrites("Selu")
def selu(node: gs.Node, emit: Emitter) -> Any:
    """Scaled exponential linear unit; the defaults are the standard's."""
    alpha = node.attrs.get("alpha", 1.67326319217681884765625)
    gamma = node.attrs.get("gamma", 1.05070102214813232421875)
    return emit("Mul", _exponential_unit(node.inputs[0], emit, alpha), gamma)


@rewrites("Celu")
def celu(node: gs.Node, emit: Emitter) -> Any:
    """Continuously differentiable exponential linear unit."""
    alpha = node.attrs.get("alpha", 1.0)
    return _exponential_unit(node.inputs[0], emit, alpha, width=alpha)


@rewrites("Softplus")
def softplus(node: gs.Node, emit: Emitter) -> Any:
    """Smooth Relu."""
    return _softplus(node.inputs[0], emit)


@rewrites("Mish")
def mish(node: gs.Node, emit: Emitter) -> Any:
    """Self-regularised smooth unit: x tanh(softplus(x))."""
    x = node.inputs[0]
    return emit("Mul", x, emit("Tanh", _softplus(x, emit)))


@rewrites("Softsign")
def softsign(node: gs.Node, emit: Emitter) -> Any:
    """Softsign: x / (1 + |x|)."""
    x = node.inputs[0]
    return emit("Div", x, emit("Add", emit("Abs", x), 1.0))


def hard_sigmoid_of(x: gs.Tensor, emit: Emitter, alpha: float = 0.2, beta: float = 0.5) -> Any:
    """A line clipped to [0, 1]."""
    line = emit("Add", emit("Mul", x, alpha), beta)
    return emit("Clip", line, 0.0, 1.0)


@rewrites("HardSigmoid")
def hard_sigmoid(node: gs.Node, emit: Emitter) -> Any:
    """A line clipped to [0, 1]."""
    return hard_sigmoid_of(node.inputs[0], emit, node.attrs.get("alpha", 0.2), node.attrs.get("beta", 0.5))


@rewrites("HardSwish")
def hard_swish(node: gs.Node, emit: Emitter) -> Any:
    """Product of x and its hard sigmoid of slope 1/6."""
    x = node.inputs[0]
    return emit("Mul", x, hard_sigmoid_of(x, emit, 1 / 6, 0.5))


@rewrites("ThresholdedRelu")
def thresholded_relu(node: gs.Node, emit: Emitter) -> Any:
    """Keep x where it exceeds the threshold, else 0."""
    x = node.inputs[0]
    above = emit("Greater", x, node.attrs.get("alpha", 1.0))
    return emit("Mul", x, emit("Cast", above, to=1))


@rewrites("Shrink")
def shrink(node: gs.Node, emit: Emitter) -> Any:
    """Move x towards zero by the bias outside of ±lambd, else 0."""
    x, threshold, bias = node.inputs[0], node.attrs.get("lambd", 0.5), node.attrs.get("bias", 0.0)
    above = emit("Cast", emit("Greater", x, threshold), to=1)
    below = emit("Cast", emit("Less", x, -threshold), to=1)
    return emit(
        "Add",
        emit("Mul", emit("Sub", x, bias), above),
        emit("Mul", emit("Add", x, bias), below),
    )


@rewrites("Sinh", "Cosh")
def hyperbolic(node: gs.Node, emit: Emitter) -> Any:
    """Half the difference, or sum, of exp(x) and exp(−x)."""
    up, down = emit("Exp", node.inputs[0]), emit("Exp", emit("Neg", node.inputs[0]))
    return emit("Mul", emit("Sub" if node.op == "Sinh" else "Add", up, down), 0.5)


@rewrites("Asinh", "Acosh")
def inverse_hyperbolic(node: gs.Node, emit: Emitter) -> Any:
    """Log(x + sqrt(x² ± 1)); for Asinh of |x|, with the sign of x, so that nothing cancels."""
    x = node.inputs[0]
    if node.op == "Acosh":
        return emit("Log", emit("Add", x, emit("Sqrt", emit("Sub", emit("Mul", x, x), 1.0))))
    root = emit("Sqrt", emit("Add", emit("Mul", x, x), 1.0))
    sign = emit("Sub", emit("Mul", emit("Cast", emit("Greater", x, 0.0), to=1), 2.0), 1.0)
    return emit("Mul", sign, emit("Log", emit("Add", emit("Abs", x), root)))


@rewrites("Atanh")
def inverse_hyperbolic_tangent(node: gs.Node, emit: Emitter) -> Any:
    """Half of log((1 + x) / (1 − x))."""
    x = node.inputs[0]
    return emit("Mul", emit("Log", emit("Div", emit("Add", x, 1.0), emit("Sub", 1.0, x))), 0.5)


@rewrites("Tan")
def tangent(node: gs.Node, emit: Emitter) -> Any:
    """Sine over cosine."""
    return emit("Div", emit("Sin", node.inputs[0]), emit("Cos", node.inputs[0]))


@rewrites("PRelu")
def prelu(node: gs.Node, emit: Emitter) -> Any:
    """max(x, 0) + slope min(x, 0)."""
    x, slope = node.inputs
    return emit("Add", emit("Relu", x), emit("Mul", slope, _negative_part(x, emit)))


@rewrites("Dropout", form=True)
def dropout(node: gs.Node, emit: Emitter) -> Any:
    """Inference form: the identity, unless the mask is read."""
    unread_mask = len(node.outputs) == 1 or not node.outputs[1].outputs
    return emit("Identity", node.inputs[0]) if unread_mask else None
