"""Architectural ideas of sequences: attention in its forms, mixers, embeddings, recurrence."""

from __future__ import annotations

import math

import ideas_exports  # noqa: F401  (enters its ideas)
import numpy as np
import onnx
from helpers import Net
from ideas import idea, image

WIDTH, HEADS, LENGTH = 32, 4, 16


def tokens(net: Net, name: str = "tokens", length: int = LENGTH) -> str:
    """Rows of an input, projected to the width of the network."""
    return net.linear(net.input(name, ["N", length, 8]), WIDTH)


def gelu(net: Net, x: str) -> str:
    """Spelled out with the error function."""
    bell = net.add(net.op("Erf", net.op("Div", x, net.const(math.sqrt(2)))), net.const(1.0))
    return net.mul(net.mul(x, bell), net.const(0.5))


def feed_forward(net: Net, x: str) -> str:
    return net.linear(gelu(net, net.linear(x, 4 * WIDTH)), WIDTH)


def attend(net: Net, q: str, k: str, v: str, bias: str = "") -> str:
    """Scaled dot products of [batch, heads, length, width]."""
    scale = net.const(1 / math.sqrt(net.shape(q)[-1]))
    scores = net.op("MatMul", net.mul(q, scale), net.transpose(k, 0, 1, 3, 2))
    scores = net.add(scores, bias) if bias else scores
    return net.op("MatMul", net.op("Softmax", scores, axis=-1), v)


def heads(net: Net, x: str, count: int = HEADS, length: int = LENGTH) -> str:
    """[batch, length, heads × width] → [batch, heads, length, width]."""
    width = net.shape(x)[-1] // count
    return net.transpose(net.reshape(x, -1, length, count, width), 0, 2, 1, 3)


def joined(net: Net, x: str, length: int = LENGTH) -> str:
    width = net.shape(x)[1] * net.shape(x)[-1]
    return net.reshape(net.transpose(x, 0, 2, 1, 3), -1, length, width)


def self_attention(net: Net, x: str) -> str:
    q, k, v = (heads(net, net.linear(x, WIDTH)) for _ in range(3))
    return net.linear(joined(net, attend(net, q, k, v)), WIDTH)


def pooled(net: Net, x: str, classes: int = 10) -> str:
    return net.linear(net.reduce("ReduceMean", x, [1], keepdims=0), classes)


# --- transformers of pictures ------------------------------------------------------------------------------


@idea(0.29, name="vit", inexact=True)
@idea(0.56, name="vit_exact")
@idea(0.29, name="vit_layer_norm_op", inexact=True, spelled_out=False)
@idea(0.56, name="vit_layer_norm_op_exact", spelled_out=False)
def vit(spelled_out: bool = True) -> onnx.ModelProto:
    net = Net()
    w, bias = net.weight(WIDTH, 3, 4, 4), net.vector(WIDTH)
    x = net.op("Conv", image(net), w, bias, strides=[4, 4])
    x = net.transpose(net.reshape(x, 0, WIDTH, LENGTH), 0, 2, 1)
    x = net.add(x, net.const(net.random.normal(size=(1, LENGTH, WIDTH))))
    for _ in range(2):
        x = net.add(x, self_attention(net, net.layer_norm(x, spelled_out)))
        x = net.add(x, feed_forward(net, net.layer_norm(x, spelled_out)))
    return net.proto(pooled(net, net.layer_norm(x, spelled_out)))


@idea(0.29, name="vit_fused_split", inexact=True)
@idea(0.29, name="vit_fused_gather", inexact=True, how="gather")
@idea(0.29, name="vit_fused_cut_before_heads", inexact=True, how="before")
def vit_fused(how: str = "split") -> onnx.ModelProto:
    """One projection makes queries, keys and values."""
    net = Net()
    x = tokens(net)
    for _ in range(2):
        y = net.linear(net.layer_norm(x), 3 * WIDTH)
        if how == "before":
            q, k, v = (heads(net, part) for part in net.split(y, [WIDTH] * 3, axis=2))
        else:
            y = net.transpose(net.reshape(y, 0, LENGTH, 3, HEADS, -1), 2, 0, 3, 1, 4)
            if how == "gather":
                q, k, v = (net.op("Gather", y, net.const(np.asarray(i)), axis=0) for i in range(3))
            else:
                q, k, v = (net.squeeze(part, 0) for part in net.split(y, 3, axis=0))
        x = net.add(x, net.linear(joined(net, attend(net, q, k, v)), WIDTH))
        x = net.add(x, feed_forward(net, net.layer_norm(x)))
    return net.proto(pooled(net, net.layer_norm(x)))


@idea(0.30, inexact=True)
def swin() -> onnx.ModelProto:
    """Attention within windows of 2 × 2, with a bias for each pair of places."""
    net = Net()
    x = net.linear(net.input("tokens", ["N", 4, 4, 8]), WIDTH)
    for _ in range(2):
        y = net.reshape(net.layer_norm(x), -1, 2, 2, 2, 2, WIDTH)
        y = net.reshape(net.transpose(y, 0, 1, 3, 2, 4, 5), -1, 4, WIDTH)
        q, k, v = (heads(net, net.linear(y, WIDTH), length=4) for _ in range(3))
        bias = net.const(net.random.normal(size=(1, HEADS, 4, 4)))
        y = net.linear(joined(net, attend(net, q, k, v, bias), 4), WIDTH)
        y = net.transpose(net.reshape(y, -1, 2, 2, 2, 2, WIDTH), 0, 1, 3, 2, 4, 5)
        x = net.add(x, net.reshape(y, -1, 4, 4, WIDTH))
        x = net.add(x, feed_forward(net, net.layer_norm(x)))
    return net.proto(pooled(net, net.reshape(x, -1, LENGTH, WIDTH)))


@idea(0.31, inexact=True)
def convnext() -> onnx.ModelProto:
    net = Net()
    x = net.conv(image(net), WIDTH, 3, stride=2)
    for _ in range(2):
        y = net.transpose(net.depthwise(x, 7), 0, 2, 3, 1)
        y = feed_forward(net, net.layer_norm(y))
        y = net.mul(y, net.vector(WIDTH, 0.5, 1.0))
        x = net.add(x, net.transpose(y, 0, 3, 1, 2))
    return net.proto(net.head(x))


@idea(0.30, inexact=True)
def mlp_mixer() -> onnx.ModelProto:
    """Mixes along the tokens and along the channels in turn."""
    net = Net()
    x = tokens(net)
    for _ in range(2):
        y = net.transpose(net.layer_norm(x), 0, 2, 1)
        y = net.linear(gelu(net, net.linear(y, 24)), LENGTH)
        x = net.add(x, net.transpose(y, 0, 2, 1))
        x = net.add(x, feed_forward(net, net.layer_norm(x)))
    return net.proto(pooled(net, x))


# --- ways to write attention -------------------------------------------------------------------------------


def plain_attention(net: Net, split: str, join: str) -> onnx.ModelProto:
    x = net.input("tokens", ["N", "L" if "shape" in split else LENGTH, WIDTH])
    q, k, v = (SPLITS[split](net, net.linear(x, WIDTH)) for _ in range(3))
    for y in (q, k, v):
        net.sized(y, ["N", HEADS, "L", WIDTH // HEADS])
    y = net.transpose(attend(net, q, k, v), 0, 2, 1, 3)
    y = net.sized(JOINS[join](net, x, y), ["N", "L", WIDTH])
    return net.proto(net.linear(net.relu(net.linear(y, 2 * WIDTH)), WIDTH))


def _computed(net: Net, x: str, *rest: int) -> str:
    """A target of batch and length as they are when the network runs, then numbers."""
    shape = net.op("Shape", x)
    sizes = [net.op("Gather", shape, net.const(np.asarray(k)), axis=0) for k in (0, 1)]
    parts = [net.unsqueeze(s, 0) for s in sizes]
    return net.concat(*parts, net.ints(*rest), axis=0)


def _head_width(net: Net, x: str) -> str:
    """A target whose last number is the width divided by the number of heads, computed when it runs."""
    shape = net.op("Shape", x)
    first = net.slice(shape, 0, 2, axis=0)
    width = net.op("Div", net.op("Gather", shape, net.ints(2), axis=0), net.ints(HEADS))
    return net.concat(first, net.ints(HEADS), width, axis=0)


SPLITS = {
    "zeros": lambda net, x: net.transpose(net.reshape(x, 0, 0, HEADS, -1), 0, 2, 1, 3),
    "number": lambda net, x: net.transpose(net.reshape(x, -1, LENGTH, HEADS, WIDTH // HEADS), 0, 2, 1, 3),
    "heads open": lambda net, x: net.transpose(net.reshape(x, 0, 0, -1, WIDTH // HEADS), 0, 2, 1, 3),
    "shape": lambda net, x: net.transpose(
        net.op("Reshape", x, _computed(net, x, HEADS, WIDTH // HEADS)), 0, 2, 1, 3
    ),
    "shape divided": lambda net, x: net.transpose(net.op("Reshape", x, _head_width(net, x)), 0, 2, 1, 3),
}
JOINS = {
    "zeros": lambda net, x, y: net.reshape(y, 0, 0, -1),
    "number": lambda net, x, y: net.reshape(y, 0, LENGTH, WIDTH),
    "shape": lambda net, x, y: net.op("Reshape", y, _computed(net, x, WIDTH)),
    "same shape": lambda net, x, y: net.op("Reshape", y, net.op("Shape", x)),
}


@idea(0.44, name="attention_zeros", split="zeros", join="zeros")
@idea(0.44, name="attention_numbers", split="number", join="number")
@idea(0.44, name="attention_heads_open", split="heads open", join="number")
@idea(0.44, name="attention_shape_chain", split="shape", join="shape")
@idea(0.44, name="attention_shape_chain_open", split="shape", join="zeros")
@idea(0.44, name="attention_shape_divided", split="shape divided", join="shape")
@idea(0.44, name="attention_input_shape", split="zeros", join="same shape")
def attention(split: str, join: str) -> onnx.ModelProto:
    """Between an input and an output of fixed width: only heads and the hidden layer can shrink."""
    return plain_attention(Net(), split, join)


def unit(net: Net, x: str, form: str) -> str:
    """``x / max(‖x‖, ε)`` along the last axis, the norm repeated, bounded before or after."""
    norm, bound = net.reduce("ReduceL2", x, [3]), net.const(1e-12)
    if form == "bounded first":
        norm = net.op("Expand", net.op("Clip", norm, bound), net.op("Shape", x))
    elif form == "repeated first":
        norm = net.op("Max", net.op("Expand", norm, net.op("Shape", x)), bound)
    else:
        norm = net.op("Clip", norm, bound)
    return net.op("Div", x, norm)


@idea(0.44, name="cosine_attention", form="broadcast")
@idea(0.44, name="cosine_attention_bounded_then_repeated", form="bounded first")
@idea(0.44, name="cosine_attention_repeated_then_bounded", form="repeated first")
def cosine_attention(form: str) -> onnx.ModelProto:
    """Queries and keys of unit length."""
    net = Net()
    x = net.input("tokens", ["N", LENGTH, WIDTH])
    q, k, v = (heads(net, net.linear(x, WIDTH)) for _ in range(3))
    y = joined(net, attend(net, unit(net, q, form), unit(net, k, form), v))
    return net.proto(net.linear(net.relu(net.linear(y, 2 * WIDTH)), WIDTH))


@idea(0.43)
def grouped_query_attention() -> onnx.ModelProto:
    """Two heads of keys and values serve four of queries."""
    net = Net()
    x = net.input("tokens", ["N", LENGTH, WIDTH])
    q = heads(net, net.linear(x, WIDTH))
    k, v = (heads(net, net.linear(x, WIDTH // 2), HEADS // 2) for _ in range(2))
    repeated = []
    for y in (k, v):
        y = net.op("Expand", net.unsqueeze(y, 2), net.ints(1, 2, 2, LENGTH, 8))
        repeated.append(net.reshape(y, -1, HEADS, LENGTH, 8))
    y = joined(net, attend(net, q, *repeated))
    return net.proto(net.linear(net.relu(net.linear(y, 2 * WIDTH)), WIDTH))


@idea(0.46)
def rotary_embedding() -> onnx.ModelProto:
    """Halves of each head are turned against each other."""
    net = Net()
    x = net.input("tokens", ["N", LENGTH, WIDTH])
    q, k, v = (heads(net, net.linear(x, WIDTH)) for _ in range(3))
    angles = np.outer(np.arange(LENGTH), 0.3 ** np.arange(4))
    cos, sin = (net.const(np.concatenate([f(angles)] * 2, 1)) for f in (np.cos, np.sin))

    def turned(y: str) -> str:
        a, b = net.slice(y, 0, 4, 3), net.slice(y, 4, 2**31, 3)
        half = net.concat(net.op("Neg", b), a, axis=3)
        return net.add(net.mul(y, cos), net.mul(half, sin))

    y = joined(net, attend(net, turned(q), turned(k), v))
    return net.proto(net.linear(net.relu(net.linear(y, 2 * WIDTH)), WIDTH))


@idea(0.44)
def cross_attention() -> onnx.ModelProto:
    """Queries of one sequence look at another one."""
    net = Net()
    x = net.input("tokens", ["N", LENGTH, WIDTH])
    memory = net.input("memory", ["N", 12, WIDTH])
    q = heads(net, net.linear(x, WIDTH))
    k, v = (heads(net, net.linear(memory, WIDTH), length=12) for _ in range(2))
    y = joined(net, attend(net, q, k, v))
    return net.proto(net.linear(net.relu(net.linear(y, 2 * WIDTH)), WIDTH))


# --- feed-forward, embeddings, recurrence ------------------------------------------------------------------


@idea(0.51)
def gated_linear_unit() -> onnx.ModelProto:
    """One projection, cut into values and gates."""
    net = Net()
    x = net.input("rows", ["N", 32])
    a, b = net.split(net.linear(x, 128), 2)
    x = net.linear(net.mul(a, net.op("Sigmoid", b)), 32)
    return net.proto(x)


@idea(0.51)
def swiglu() -> onnx.ModelProto:
    net = Net()
    x = net.input("rows", ["N", LENGTH, 32])
    y = net.mul(net.silu(net.linear(x, 96, bias=False)), net.linear(x, 96, bias=False))
    return net.proto(net.linear(y, 32, bias=False))


def embedded(net: Net, table: str) -> str:
    ids = net.input("ids", ["N", LENGTH], onnx.TensorProto.INT64)
    return net.op("Gather", table, ids)


@idea(0.32)
def embedding() -> onnx.ModelProto:
    net = Net()
    x = embedded(net, net.weight(40, 32, fan=1))
    x = net.relu(net.linear(net.relu(net.linear(x, 64)), 64))
    return net.proto(pooled(net, x))


@idea(0.32)
def tied_embedding() -> onnx.ModelProto:
    """The table of the embedding, transposed, is the classifier."""
    net = Net()
    table = net.weight(40, 32, fan=8)
    x = net.relu(net.linear(embedded(net, table), 64))
    return net.proto(net.op("MatMul", net.linear(x, 32), net.transpose(table, 1, 0)))


@idea(0.30, name="lstm", kind="LSTM")
@idea(0.30, name="lstm_both_ways", kind="LSTM", directions=2)
@idea(0.30, name="gru", kind="GRU")
@idea(0.30, name="gru_both_ways", kind="GRU", directions=2)
@idea(0.30, name="rnn", kind="RNN")
def recurrent(kind: str, directions: int = 1) -> onnx.ModelProto:
    """Two layers, and a classifier on the last step."""
    net = Net()
    x, hidden = net.transpose(net.input("rows", ["N", 8, 8]), 1, 0, 2), 32
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    for _ in range(2):
        width = net.shape(x)[-1]
        w = net.weight(directions, gates * hidden, width, fan=width)
        r = net.weight(directions, gates * hidden, hidden, fan=hidden)
        b = net.const(net.random.uniform(-0.5, 0.5, (directions, 2 * gates * hidden)))
        direction = "bidirectional" if directions == 2 else "forward"
        y = net.op(kind, x, w, r, b, hidden_size=hidden, direction=direction)
        x = net.reshape(net.transpose(y, 0, 2, 1, 3), 8, -1, directions * hidden)
    return net.proto(net.linear(net.op("Gather", x, net.const(np.asarray(-1))), 10))


@idea(0.31)
def rms_normalization_op() -> onnx.ModelProto:
    """Zeros add nothing to a sum of squares; its mean is made up for by the scale and epsilon."""
    net = Net(opset=23)
    x = net.linear(net.input("rows", ["N", LENGTH, 8]), 64, bias=False)
    for _ in range(2):
        y = net.op("RMSNormalization", x, net.vector(64, 0.7, 1.3), axis=-1)
        x = net.relu(net.linear(net.sized(y, ["N", LENGTH, 64]), 64, bias=False))
    return net.proto(pooled(net, x))
