"""Networks whose certificates need rules of their own: computed sizes, repeated heads, branches and more."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import onnx
from exported_networks import HEADS, WIDTH, attend, block, causal, dims, heads, mlp, table
from fused_networks import FUSED
from helpers import Net
from onnx import TensorProto, helper
from picking_networks import PICKING
from pruned_ideas import Pruned, pruned_half
from recurrences import RECURRENT

from onnxprune.ir import Model, check

NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {**RECURRENT, **FUSED, **PICKING}
INT64, FLOAT, BOOL = TensorProto.INT64, TensorProto.FLOAT, TensorProto.BOOL


def network(build: Callable[[], onnx.ModelProto]) -> Callable[[], onnx.ModelProto]:
    """Enter a function that builds a network into ``NETWORKS``."""
    NETWORKS[build.__name__] = build
    return build


@cache
def half_of(name: str) -> Pruned:
    """Remove half the channels of every group."""
    return pruned_half(check(Model(NETWORKS[name]())))


def spread(net: Net, x: str, *wanted: str) -> str:
    """Expand to computed sizes as torch writes it: −1 stands for a size that stays."""
    target = net.concat(*wanted, axis=0)
    count = len(wanted)
    minus = net.op("Equal", target, net.ints(*[-1] * count))
    return net.op("Expand", x, net.op("Where", minus, net.ints(*[1] * count), target))


@network
def positions_cut_from_a_table() -> onnx.ModelProto:
    """BERT: the position ids are a Slice of a constant, up to the length of the text."""
    net = Net()
    ids = net.input("ids", ["batch", "sequence"], INT64)
    mask = net.input("mask", ["batch", "sequence"], INT64)
    places = net.op(
        "Slice", net.const(np.arange(32)[None]), net.ints(0), dims(net, ids, 1), net.ints(1), net.ints(1)
    )
    x = net.layer_norm(net.add(table(net, 60, ids), table(net, 32, places)), spelled_out=False)
    batch, length = dims(net, ids, 0), dims(net, x, 1)
    seen = net.op("Cast", net.unsqueeze(mask, 1, 2), to=BOOL)
    wide = spread(net, seen, batch, net.ints(-1), length, dims(net, ids, 1))
    bias = net.op("Where", wide, net.const(0.0), net.const(-1e9))
    shape = net.concat(batch, length, net.ints(-1), net.ints(WIDTH // HEADS), axis=0)

    def split(y: str) -> str:
        made = net.op("Reshape", net.linear(y, WIDTH), shape)
        net.sized(made, ["batch", "sequence", HEADS, WIDTH // HEADS])
        return net.transpose(made, 0, 2, 1, 3)

    x = block(net, x, attend(net, split(x), split(x), split(x), bias))
    return net.proto(net.linear(x, 7))


@network
def grouped_queries_with_caches() -> onnx.ModelProto:
    """Llama written out: keys and values of a group are repeated for its queries by Unsqueeze and Expand."""
    net = Net()
    groups, repeats, wide = 2, 3, 8
    ids = net.input("ids", ["batch", "sequence"], INT64)
    cache = [net.input(f"past_{n}", ["batch", groups, "past", wide]) for n in ("key", "value")]
    x = table(net, 50, ids)
    q = net.linear(x, groups * repeats * wide, bias=False)
    q = net.transpose(net.reshape(q, 0, 0, groups * repeats, wide), 0, 2, 1, 3)
    made, repeated = [], []
    for old in cache:
        new = net.transpose(net.reshape(net.linear(x, groups * wide), 0, 0, groups, wide), 0, 2, 1, 3)
        both = net.sized(net.concat(old, new, axis=2), ["batch", groups, "total", wide])
        total = dims(net, both, 2)
        sizes = [dims(net, both, 0), net.ints(groups), net.ints(repeats), total, net.ints(wide)]
        copies = spread(net, net.unsqueeze(both, 2), *sizes)
        target = net.concat(dims(net, both, 0), net.ints(groups * repeats), total, net.ints(wide), axis=0)
        merged = net.op("Reshape", copies, target)
        repeated.append(net.sized(merged, ["batch", groups * repeats, "total", wide]))
        made.append(both)
    scores = net.mul(net.op("MatMul", q, net.transpose(repeated[0], 0, 1, 3, 2)), net.const(wide**-0.5))
    weights = net.op("Softmax", net.add(scores, causal(net, ids, cache[0])), axis=-1)
    y = net.transpose(net.op("MatMul", weights, repeated[1]), 0, 2, 1, 3)
    y = net.sized(net.reshape(y, 0, 0, -1), ["batch", "sequence", groups * repeats * wide])
    x = net.add(x, net.linear(y, WIDTH))
    return net.proto(net.linear(net.add(x, mlp(net, x)), 9), *made)


@network
def masks_picked_by_place() -> onnx.ModelProto:
    """The dynamo exporter: the mask is read by GatherND at computed places."""
    net = Net()
    ids = net.input("ids", ["batch", "sequence"], INT64)
    mask = net.input("mask", ["batch", "sequence"], BOOL)
    x = table(net, 60, ids)
    zero, one = net.const(np.asarray(0)), net.const(np.asarray(1))
    rows, columns = (net.op("Range", zero, net.squeeze(dims(net, ids, a), 0), one) for a in (0, 1))
    wide = net.concat(dims(net, ids, 0), net.ints(1, 1), dims(net, ids, 1), axis=0)
    places = [
        net.unsqueeze(net.op("Expand", net.unsqueeze(r, *axes), wide), -1)
        for r, axes in ((rows, (1, 2, 3)), (columns, (0, 1, 2)))
    ]
    seen = net.op("GatherND", mask, net.concat(*places, axis=-1))
    bias = net.op("Where", seen, net.const(0.0), net.const(-1e9))
    x = block(net, x, attend(net, heads(net, x), heads(net, x), heads(net, x), bias))
    return net.proto(net.linear(x, 7))


@network
def relative_positions_gathered() -> onnx.ModelProto:
    """DeBERTa: scores of relative positions are picked for each pair of places, the same in every head."""
    net = Net()
    x = net.input("x", ["batch", 6, WIDTH])
    wide = WIDTH // HEADS
    q, k = heads(net, x), heads(net, x)
    table_ = net.transpose(net.reshape(net.linear(net.const(net.random.normal(size=(1, 11, WIDTH))), WIDTH),
                                       1, 11, HEADS, wide), 0, 2, 3, 1)  # fmt: skip
    apart = net.const((np.arange(6)[:, None] - np.arange(6)[None] + 5)[None, None])
    scores = net.op("MatMul", q, table_)
    picked = net.op("GatherElements", scores, net.op("Expand", apart, net.concat(
        dims(net, x, 0), net.ints(HEADS, 6, 6), axis=0)), axis=-1)  # fmt: skip
    net.sized(picked, ["batch", HEADS, 6, 6])
    y = net.add(net.op("MatMul", q, net.transpose(k, 0, 1, 3, 2)), picked)
    y = net.op("MatMul", net.op("Softmax", y, axis=-1), heads(net, x))
    y = net.linear(net.reshape(net.transpose(y, 0, 2, 1, 3), 0, 0, WIDTH), WIDTH)
    return net.proto(net.linear(net.add(x, y), 5))


@network
def linear_attention_by_einsum() -> onnx.ModelProto:
    """Linear attention: keys and values are summed over places before the queries read them."""
    net = Net()
    x = net.input("x", ["batch", "places", WIDTH])
    q, k, v = heads(net, x), heads(net, x), heads(net, x)
    q, k = net.relu(q), net.op("Softmax", k, axis=2)
    state = net.op("Einsum", k, v, equation="bhnd,bhne->bhde")
    y = net.op("Einsum", q, state, equation="b h n d, b h d e -> b n h e")
    y = net.linear(net.sized(net.reshape(y, 0, 0, -1), ["batch", "places", WIDTH]), WIDTH)
    x = net.add(x, y)
    return net.proto(net.linear(net.add(x, mlp(net, x)), 5))


@network
def weights_mixed_by_the_input() -> onnx.ModelProto:
    """CondConv: a convolution whose kernels are sums of experts', weighed by the picture."""
    net = Net()
    x = net.cbr(net.input("x", [1, 3, 12, 12]), 16)
    weighed = net.op("Softmax", net.gemm(net.op("Flatten", net.gap(x)), 4), axis=-1)
    kernel = net.op("MatMul", weighed, net.reshape(net.weight(4, 24, 16, 3, 3, fan=144), 4, 24 * 16 * 9))
    kernel = net.reshape(kernel, 24, 16, 3, 3)
    y = net.relu(net.op("Conv", x, kernel, kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    return net.proto(net.head(net.cbr(y, 16), 6))


@network
def picture_sampled_on_a_computed_grid() -> onnx.ModelProto:
    """A spatial transformer: features are read where a small network says."""
    net = Net()
    x = net.input("x", ["N", 3, 16, 16])
    y = net.cbr(x, 12)
    flat = net.reshape(net.relu(net.conv(x, 8, stride=4)), 0, 8 * 4 * 4)
    net.sized(flat, ["N", 128])
    grid = net.op("Tanh", net.gemm(net.relu(net.gemm(flat, 20)), 2 * 5 * 5))
    picked = net.op("GridSample", y, net.reshape(grid, 0, 5, 5, 2), mode="bilinear")
    net.sized(picked, ["N", 12, 5, 5])
    return net.proto(net.head(net.cbr(picked, 16), 6))


@network
def detector_with_learned_queries() -> onnx.ModelProto:
    """DETR: learned queries attend to places of a picture; boxes and classes per query."""
    net = Net()
    x = net.conv(net.cbr(net.input("x", ["N", 3, "H", "W"]), 16), WIDTH)
    flat = net.op("Reshape", x, net.concat(dims(net, x, 0), net.ints(WIDTH, -1), axis=0))
    memory = net.transpose(net.sized(flat, ["N", WIDTH, "S"]), 0, 2, 1)
    queries = net.op("Expand", net.const(net.random.normal(size=(1, 5, WIDTH))), net.concat(
        dims(net, x, 0), net.ints(1, 1), axis=0))  # fmt: skip
    net.sized(queries, ["N", 5, WIDTH])
    mixed = attend(net, heads(net, queries), heads(net, queries), heads(net, queries))
    y = net.layer_norm(net.add(queries, mixed), spelled_out=False)
    y = block(net, y, attend(net, heads(net, y), heads(net, memory), heads(net, memory)))
    boxes = net.op("Sigmoid", net.linear(net.relu(net.linear(net.relu(net.linear(y, 24)), 24)), 4))
    corner, size = net.split(boxes, [2, 2], axis=-1)
    half = net.mul(size, net.const(0.5))
    return net.proto(
        net.linear(y, 7), net.concat(net.op("Sub", corner, half), net.add(corner, half), axis=-1)
    )


@network
def branch_that_sizes_allow() -> onnx.ModelProto:
    """An axis is dropped if it has one element; otherwise the recurrent layer behind it cannot run."""
    net = Net()
    x = net.input("x", ["N", 12, "S"])
    y = net.relu(net.conv(x, 16))
    is_one = net.op("Equal", dims(net, y, 2), net.ints(1))
    kept, gone = ([helper.make_tensor_value_info(n, FLOAT, None)] for n in ("as_it_is", "without"))
    dropped = helper.make_graph(
        [helper.make_node("Squeeze", [y, net.ints(2)], ["without"])], "one", [], gone)  # fmt: skip
    same = helper.make_graph([helper.make_node("Identity", [y], ["as_it_is"])], "more", [], kept)
    flat = net.op("If", is_one, then_branch=dropped, else_branch=same)
    net.sized(flat, ["N", 16])
    state = net.op("Tanh", net.linear(net.op("ReduceMean", x, axes=[2], keepdims=0), 10))
    rows = net.unsqueeze(flat, 0)
    weights = net.weight(1, 40, 16), net.weight(1, 40, 10), net.const(net.random.normal(size=(1, 80)))
    _, last, _ = net.ops(
        "LSTM",
        rows,
        *weights,
        "",
        net.unsqueeze(state, 0),
        net.unsqueeze(state, 0),
        outputs=3,
        hidden_size=10,
    )
    return net.proto(net.linear(net.squeeze(last, 0), 4))


@network
def heads_merged_with_the_batch() -> onnx.ModelProto:
    """Dynamo's attention: keys are turned in a tensor whose first axis is batch times heads."""
    net = Net()
    x = net.input("x", ["batch", "places", WIDTH])
    q, k, v = heads(net, x), heads(net, x), heads(net, x)
    shape = net.op("Shape", k)
    ends = [
        net.op("Slice", shape, net.ints(a), net.ints(b), net.ints(0)) for a, b in ((0, 2), (2, 3), (3, 4))
    ]
    merged = net.op("Reshape", k, net.concat(net.ints(-1), ends[1], ends[2], axis=0))
    turned = net.transpose(net.sized(merged, ["merged", "places", 8]), 0, 2, 1)
    k = net.op("Reshape", turned, net.concat(ends[0], ends[2], ends[1], axis=0))
    net.sized(k, ["batch", HEADS, 8, "places"])
    y = net.op("MatMul", net.op("Softmax", net.op("MatMul", q, k), axis=-1), v)
    y = net.linear(net.reshape(net.transpose(y, 0, 2, 1, 3), 0, 0, WIDTH), WIDTH)
    return net.proto(net.linear(net.add(x, y), 5))


def quantised(net: Net, x: str, weights: np.ndarray, kind: str, bias: str = "", **how: object) -> str:
    """A product of integers as dynamic quantisation writes it: scales of the input are found in the run."""
    numbers, scale, zero = net.ops("DynamicQuantizeLinear", x, outputs=3)
    columns = tuple(range(weights.ndim - 1)) if kind == "MatMulInteger" else tuple(range(1, weights.ndim))
    step = np.abs(weights).max(axis=columns if kind == "MatMulInteger" else None) / 127
    whole = np.round(weights / step).astype(np.int8)
    points = net.const(np.zeros(step.shape, np.int8))
    y = net.op("Cast", net.op(kind, numbers, net.const(whole), zero, points, **how), to=FLOAT)
    y = net.mul(y, net.mul(scale, net.const(np.asarray(step, np.float32))))
    return net.add(y, bias) if bias else y


@network
def products_of_integers() -> onnx.ModelProto:
    """Dynamic quantisation: two convolutions and two matrices of eight bits."""
    net = Net()
    x = net.input("x", ["N", 3, 10, 10])
    for inputs, outputs in ((3, 16), (16, 12)):
        drawn = net.random.normal(size=(outputs, inputs, 3, 3)) * 0.3
        bias = net.const(net.random.uniform(-0.5, 0.5, (1, outputs, 1, 1)))
        x = net.relu(quantised(net, x, drawn, "ConvInteger", bias, kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    x = net.op("Flatten", net.gap(x))
    x = net.relu(quantised(net, x, net.random.normal(size=(12, 20)), "MatMulInteger", net.vector(20)))
    return net.proto(quantised(net, x, net.random.normal(size=(20, 5)), "MatMulInteger", net.vector(5)))
