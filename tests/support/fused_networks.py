"""Networks with operators of several steps, which the verifier reads as plain ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from exported_networks import EXPORTS, HEADS, WIDTH, dims, grouped, heads, mlp, table
from helpers import Net
from onnx import TensorProto

MICROSOFT = "com.microsoft"
INT64, INT32 = TensorProto.INT64, TensorProto.INT32
FUSED: dict[str, Callable[[], onnx.ModelProto]] = {
    name: EXPORTS[name]
    for name in (
        "fused_embeddings", "rotary_positions", "padding_of_a_fused_attention",
        "llama_with_grouped_query_attention", "grouped_query_attention_with_lengths",
    )
}  # fmt: skip
"""Functions that build the networks, by name."""


def fused(build: Callable[[], onnx.ModelProto]) -> Callable[[], onnx.ModelProto]:
    """Enter a function that builds a network into ``FUSED``."""
    FUSED[build.__name__] = build
    return build


def own(net: Net, kind: str, *operands: str, like: str, **how: object) -> str:
    """Add an operator of onnxruntime, whose result has the shape of a tensor."""
    made = net.op(kind, *operands, domain=MICROSOFT, **how)
    net.types[made] = net.types[like]
    return made


@fused
def sums_and_activations_in_one() -> onnx.ModelProto:
    """BERT as a session writes it: sums with their normalisation, biases with their activation."""
    net = Net()
    ids = net.input("ids", ["batch", "seq"], INT64)
    x = table(net, 60, ids)
    for kind, norm in (
        ("BiasGelu", "SkipLayerNormalization"),
        ("QuickGelu", "SkipSimplifiedLayerNormalization"),
    ):
        q, k, v = (net.linear(x, WIDTH) for _ in range(3))
        y = net.sized(
            own(net, "MultiHeadAttention", q, k, v, like=x, num_heads=HEADS), ["batch", "seq", WIDTH]
        )
        scales = [net.vector(WIDTH, 0.7, 1.3), *([net.vector(WIDTH)] if kind == "BiasGelu" else [])]
        x = own(net, norm, net.linear(y, WIDTH), x, *scales, like=x)
        y = net.linear(x, 40, bias=False)
        y = own(net, kind, y, *([net.vector(40)] if kind == "BiasGelu" else []), like=y)
        x = net.add(x, net.linear(y, WIDTH))
    return net.proto(net.linear(x, 5))


@fused
def products_with_factors() -> onnx.ModelProto:
    """The scores of an attention as one product with turned keys and a factor."""
    net = Net()
    x = net.input("x", ["batch", "seq", WIDTH])
    split = []
    for _ in range(3):
        y = net.reshape(net.linear(x, WIDTH), 0, 0, HEADS, WIDTH // HEADS)
        split.append(net.transpose(y, 0, 2, 1, 3))
    scores = net.op("FusedMatMul", *split[:2], domain=MICROSOFT, transB=1, alpha=0.35)
    net.sized(scores, ["batch", HEADS, "seq", "seq"])
    y = net.op("MatMul", net.op("Softmax", scores, axis=-1), split[2])
    y = net.reshape(net.transpose(y, 0, 2, 1, 3), 0, 0, WIDTH)
    x = net.add(x, net.linear(y, WIDTH))
    return net.proto(net.linear(net.add(x, mlp(net, x)), 5))


@fused
def projections_in_the_attention() -> onnx.ModelProto:
    """GPT-2 as onnxruntime fuses it: one matrix for queries, keys and values, their caches as one tensor."""
    net = Net()
    x = net.input("x", ["batch", "seq", WIDTH])
    past = net.input("past", [2, "batch", HEADS, "past", WIDTH // HEADS])
    weight, bias = net.weight(WIDTH, 3 * WIDTH, fan=WIDTH), net.vector(3 * WIDTH)
    y, kept = net.ops(
        "Attention", x, weight, bias, "", past, outputs=2, domain=MICROSOFT, num_heads=HEADS, unidirectional=1
    )
    net.sized(y, ["batch", "seq", WIDTH])
    net.sized(kept, [2, "batch", HEADS, "total", WIDTH // HEADS])
    x = net.add(x, net.linear(y, WIDTH))
    y = net.linear(x, 40)
    x = net.add(x, net.linear(own(net, "FastGelu", y, like=y), WIDTH))
    return net.proto(net.linear(x, 5), kept)


@fused
def attention_of_onnx() -> onnx.ModelProto:
    """The operator of onnx: heads of queries in groups, a mask, and rotary positions."""
    net = Net(opset=23, ir=10)
    x = net.input("x", ["batch", 6, WIDTH])
    mask = net.input("mask", ["batch", 1, 6, 6])
    q, k, v = net.linear(x, 2 * WIDTH), net.linear(x, WIDTH), net.linear(x, WIDTH)
    angles = np.outer(np.arange(6), 1 / 3 ** np.arange(WIDTH // HEADS // 2))
    tables = net.const(np.cos(angles)), net.const(np.sin(angles))
    places = net.op("Expand", net.const(np.arange(6)[None]), net.concat(dims(net, x, 0), net.ints(1), axis=0))
    net.types[places] = onnx.helper.make_tensor_type_proto(INT64, ["batch", 6])
    q = net.op("RotaryEmbedding", q, *tables, places, num_heads=2 * HEADS)
    k = net.op("RotaryEmbedding", k, *tables, places, num_heads=HEADS)
    y = net.ops("Attention", q, k, v, mask, q_num_heads=2 * HEADS, kv_num_heads=HEADS)[0]
    x = net.add(x, net.linear(net.sized(y, ["batch", 6, 2 * WIDTH]), WIDTH))
    return net.proto(net.linear(net.add(x, mlp(net, x)), 5))


@fused
def limited_scores_with_caches() -> onnx.ModelProto:
    """Gemma 2: scores are bent towards a limit before they are masked; keys and values are kept."""
    net = Net()
    x = net.input("x", ["batch", "seq", WIDTH])
    cache = [net.input(f"past_{n}", ["batch", 2, "past_seq", 16]) for n in ("key", "value")]
    lengths = net.input("seqlens_k", ["batch"], INT32)
    y, k, v = grouped(net, x, cache, lengths, net.input("total_sequence_length", [], INT32), softcap=0.5)
    return net.proto(net.linear(mlp(net, net.add(x, net.linear(y, WIDTH))), 9), k, v)


@fused
def limited_scores_of_onnx() -> onnx.ModelProto:
    """The operator of onnx with a limit of the scores, and no mask."""
    net = Net(opset=23, ir=10)
    x = net.input("x", ["batch", 6, WIDTH])
    q, k, v = net.linear(x, 2 * WIDTH), net.linear(x, WIDTH), net.linear(x, WIDTH)
    y = net.ops("Attention", q, k, v, q_num_heads=2 * HEADS, kv_num_heads=HEADS, softcap=0.5)[0]
    x = net.add(x, net.linear(net.sized(y, ["batch", 6, 2 * WIDTH]), WIDTH))
    return net.proto(net.linear(net.add(x, mlp(net, x)), 5))


@fused
def weights_of_four_bits() -> onnx.ModelProto:
    """Two layers whose weights have four bits, with a scale and a zero point for each block."""
    net = Net()
    x = net.input("x", ["batch", 64])
    for inputs, outputs in ((64, 96), (96, 32)):
        blocks = inputs // 32
        packed = net.const(net.random.integers(0, 256, (outputs, blocks, 16)).astype(np.uint8))
        scales = net.const(net.random.uniform(0.01, 0.05, (outputs, blocks)))
        made = net.op(
            "MatMulNBits", x, packed, scales, domain=MICROSOFT, K=inputs, N=outputs, bits=4, block_size=32
        )
        x = net.relu(net.sized(made, ["batch", outputs]))
    return net.proto(net.linear(x, 5))


def _whole(net: Net, *shape: int) -> str:
    return net.const(net.random.integers(-60, 60, shape).astype(np.int8))


@fused
def convolutions_of_integers() -> onnx.ModelProto:
    """Static quantisation in operators: convolutions, a sum, a mean and a matrix, zero points not zero."""
    net = Net()
    x = net.input("x", ["N", 4, 8, 8])
    step, middle = net.const(0.05), net.const(np.asarray(121, np.uint8))
    none = net.const(np.asarray(0, np.int8))

    def conv(given: str, inputs: int, outputs: int) -> str:
        each = net.const(net.random.uniform(0.002, 0.006, outputs))
        zeros = net.const(np.zeros(outputs, np.int8))
        bias = net.const(net.random.integers(-900, 900, outputs).astype(np.int32))
        weight = _whole(net, outputs, inputs, 3, 3)
        how = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
        return net.op("QLinearConv", given, step, middle, weight, each, zeros, step, middle, bias, **how)

    y = conv(net.op("QuantizeLinear", x, step, middle), 4, 16)
    z = conv(y, 16, 16)
    y = own(net, "QLinearAdd", y, step, middle, z, step, middle, step, middle, like=y)
    y = conv(y, 16, 12)
    y = net.op("DequantizeLinear", y, step, middle)
    flat = net.op("QuantizeLinear", net.op("Flatten", net.gap(y)), step, middle)
    small = net.const(0.004)
    made = net.op("QLinearMatMul", flat, step, middle, _whole(net, 12, 5), small, none, step, middle)
    return net.proto(net.op("DequantizeLinear", made, step, middle))


@fused
def integers_around_a_zero_point() -> onnx.ModelProto:
    """Static quantisation as pairs of nodes, the zero points of the activations not zero."""
    net = Net()
    x = net.input("x", ["N", 4, 8, 8])
    for inputs, outputs in ((4, 16), (16, 12)):
        step, middle = net.const(0.04), net.const(np.asarray(90, np.uint8))
        weight = net.op("DequantizeLinear", _whole(net, outputs, inputs, 3, 3), net.const(0.004))
        x = net.op("DequantizeLinear", net.op("QuantizeLinear", x, step, middle), step, middle)
        x = net.relu(net.op("Conv", x, weight, net.vector(outputs), kernel_shape=[3, 3]))
    return net.proto(net.gemm(net.op("Flatten", net.gap(x)), 5))


@fused
def scores_in_a_merged_batch() -> onnx.ModelProto:
    """DeBERTa: products, sums and picked elements in tensors whose first axis is batch times heads."""
    net = Net()
    x = net.input("x", ["batch", 6, WIDTH])
    wide = WIDTH // HEADS
    q, k, v = heads(net, x), heads(net, x), heads(net, x)
    q, k, v = (net.sized(net.reshape(y, -1, 6, wide), ["merged", 6, wide]) for y in (q, k, v))
    table_ = net.const(net.random.normal(size=(1, 11, WIDTH)))
    places = net.transpose(net.reshape(net.linear(table_, WIDTH), 11, HEADS, wide), 1, 2, 0)
    batch = dims(net, x, 0)
    places = net.sized(
        net.op("Tile", places, net.concat(batch, net.ints(1, 1), axis=0)), ["merged", wide, 11]
    )
    scores = net.op("MatMul", q, places)
    apart = net.const((np.arange(6)[:, None] - np.arange(6)[None] + 5)[None])
    number = net.op("Gather", net.op("Shape", scores), net.ints(0))
    picked = net.op("GatherElements", scores, net.op(
        "Expand", apart, net.concat(number, net.ints(6, 6), axis=0)), axis=-1)  # fmt: skip
    y = net.add(net.op("MatMul", q, net.transpose(k, 0, 2, 1)), net.sized(picked, ["merged", 6, 6]))
    y = net.op("Softmax", net.mul(y, net.const(0.3)), axis=-1)
    y = net.reshape(net.op("MatMul", y, v), -1, HEADS, 6, wide)
    y = net.reshape(net.transpose(net.sized(y, ["batch", HEADS, 6, wide]), 0, 2, 1, 3), 0, 0, WIDTH)
    x = net.add(x, net.linear(y, WIDTH))
    return net.proto(net.linear(net.add(x, mlp(net, x)), 5))
