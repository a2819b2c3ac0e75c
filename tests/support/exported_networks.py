"""Small networks with the inputs that exporters of well-known families give them, weights random."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from helpers import Net
from onnx import TensorProto, helper

EXPORTS: dict[str, Callable[[], onnx.ModelProto]] = {}
INT64, INT32, FLOAT, BOOL = TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT, TensorProto.BOOL
WIDTH, HEADS = 32, 4
LOWEST = float(np.finfo(np.float32).min)


def export(build: Callable[[], onnx.ModelProto]) -> Callable[[], onnx.ModelProto]:
    """Enter a function that builds a network into ``EXPORTS``."""
    EXPORTS[build.__name__] = build
    return build


def table(net: Net, rows: int, ids: str, width: int = WIDTH) -> str:
    """Rows of an embedding."""
    return net.op("Gather", net.const(net.random.normal(size=(rows, width))), ids)


def dims(net: Net, x: str, axis: int) -> str:
    """The size of one axis, as a list of one number."""
    return net.op("Gather", net.op("Shape", x), net.ints(axis))


def heads(net: Net, x: str) -> str:
    """``[B, S, E]`` to ``[B, H, S, D]``."""
    return net.transpose(net.reshape(net.linear(x, WIDTH), 0, 0, HEADS, WIDTH // HEADS), 0, 2, 1, 3)


def attend(net: Net, q: str, k: str, v: str, bias: str = "") -> str:
    """Softmax attention over ``[B, H, S, D]``, a mask added; back to ``[B, S, E]``."""
    scores = net.mul(net.op("MatMul", q, net.transpose(k, 0, 1, 3, 2)), net.const(8**-0.5))
    weights = net.op("Softmax", net.add(scores, bias) if bias else scores, axis=-1)
    return net.linear(
        net.reshape(net.transpose(net.op("MatMul", weights, v), 0, 2, 1, 3), 0, 0, WIDTH), WIDTH
    )


def mlp(net: Net, x: str, hidden: int = 64, out: int = WIDTH) -> str:
    return net.linear(net.relu(net.linear(x, hidden)), out)


def block(net: Net, x: str, mixed: str) -> str:
    """The rest of a transformer block."""
    x = net.layer_norm(net.add(x, mixed), spelled_out=False)
    return net.layer_norm(net.add(x, mlp(net, x)), spelled_out=False)


def subtracted(net: Net, mask: str) -> str:
    """``(1 − mask) · lowest``, as in BERT."""
    wide = net.op("Cast", net.unsqueeze(mask, 1, 2), to=FLOAT)
    return net.mul(net.op("Sub", net.const(1.0), wide), net.const(LOWEST))


def filled(net: Net, mask: str) -> str:
    """``where(mask == 0, lowest, 0)``, as in T5 and newer exports."""
    wide = net.op("Equal", net.unsqueeze(mask, 1, 2), net.const(np.asarray(0)))
    return net.op("Where", wide, net.const(LOWEST), net.const(0.0))


def causal(net: Net, ids: str, past: str) -> str:
    """A causal mask ``[1, 1, S, P + S]`` of numbers to be added, its sizes computed."""
    steps, before = (net.squeeze(dims(net, *place), 0) for place in ((ids, 1), (past, 2)))
    zero, one = net.const(np.asarray(0)), net.const(np.asarray(1))
    total = net.add(steps, before)
    keys = net.unsqueeze(net.op("Range", zero, total, one), 0)
    queries = net.unsqueeze(net.op("Range", before, total, one), 1)
    seen = net.op("LessOrEqual", keys, queries)
    return net.unsqueeze(net.op("Where", seen, net.const(0.0), net.const(LOWEST)), 0, 1)


@export
def bert() -> onnx.ModelProto:
    net = Net()
    ids, mask, kinds = (
        net.input(n, ["batch", "sequence"], INT64) for n in ("input_ids", "attention_mask", "token_type_ids")
    )
    places = net.op(
        "Slice", net.const(np.arange(40)[None]), net.ints(0), dims(net, ids, 1), net.ints(1), net.ints(1)
    )
    x = net.add(net.add(table(net, 90, ids), table(net, 2, kinds)), table(net, 40, places))
    x = net.layer_norm(x, spelled_out=False)
    x = block(net, x, attend(net, heads(net, x), heads(net, x), heads(net, x), subtracted(net, mask)))
    return net.proto(net.linear(x, 7))


@export
def distilbert_with_int32_mask() -> onnx.ModelProto:
    """The mask has another name and type, and goes through an Equal, Expand and Where."""
    net = Net()
    ids, mask = net.input("ids", ["b", "s"], INT32), net.input("valid", ["b", "s"], INT32)
    x = table(net, 50, ids)
    scores = net.op("MatMul", net.linear(x, WIDTH), net.transpose(net.linear(x, WIDTH), 0, 2, 1))
    hidden = net.op("Expand", net.unsqueeze(net.op("Equal", mask, net.const(np.asarray(0, np.int32))), 1),
                    net.op("Shape", scores))  # fmt: skip
    weights = net.op("Softmax", net.op("Where", hidden, net.const(-np.inf), scores), axis=-1)
    return net.proto(net.linear(mlp(net, net.op("MatMul", weights, x)), 5))


@export
def roberta() -> onnx.ModelProto:
    """Positions are counted over the tokens that are no padding."""
    net = Net()
    ids = net.input("input_ids", ["batch", "sequence"], INT64)
    mask = net.input("attention_mask", ["batch", "sequence"], INT64)
    real = net.op("Cast", net.op("Not", net.op("Equal", ids, net.const(np.asarray(1)))), to=INT64)
    places = net.add(
        net.mul(net.op("CumSum", real, net.const(np.asarray(1))), real), net.const(np.asarray(1))
    )
    x = net.layer_norm(net.add(table(net, 70, ids), table(net, 24, places)), spelled_out=False)
    x = block(net, x, attend(net, heads(net, x), heads(net, x), heads(net, x), filled(net, mask)))
    return net.proto(net.linear(x, 6))


@export
def gpt2_with_past() -> onnx.ModelProto:
    net = Net()
    both = "past_sequence_length + sequence_length"
    ids = net.input("input_ids", ["batch_size", "sequence_length"], INT64)
    cache = [
        net.input(f"past_key_values.0.{n}", ["batch_size", HEADS, "past_sequence_length", WIDTH // HEADS])
        for n in ("key", "value")
    ]
    mask = net.input("attention_mask", ["batch_size", both], INT64)
    places = net.input("position_ids", ["batch_size", "sequence_length"], INT64)
    x = net.add(table(net, 80, ids), table(net, 40, places))
    k, v = (net.concat(old, heads(net, x), axis=2) for old in cache)
    bias = net.add(causal(net, ids, cache[0]), subtracted(net, mask))
    x = block(net, x, attend(net, heads(net, x), k, v, bias))
    return net.proto(net.linear(x, 80), k, v)


@export
def merged_decoder() -> onnx.ModelProto:
    """A flag of the input chooses whether the cache is used."""
    net = Net()
    ids = net.input("input_ids", ["batch_size", "sequence_length"], INT64)
    old = net.input("past_key_values.0.key", ["batch_size", "past_sequence_length", WIDTH])
    use = net.input("use_cache_branch", [1], BOOL)
    x = table(net, 60, ids)
    fresh = net.linear(x, WIDTH)
    out = helper.make_tensor_value_info("keys", FLOAT, ["batch_size", "k", WIDTH])
    with_past = helper.make_graph(
        [helper.make_node("Concat", [old, fresh], ["keys_with"], axis=1)], "with", [],
        [helper.make_tensor_value_info("keys_with", FLOAT, ["batch_size", "k", WIDTH])],
    )  # fmt: skip
    without = helper.make_graph(
        [helper.make_node("Identity", [fresh], ["keys_without"])], "without", [],
        [helper.make_tensor_value_info("keys_without", FLOAT, ["batch_size", "k", WIDTH])],
    )  # fmt: skip
    keys = net.op("If", net.squeeze(use, 0), then_branch=with_past, else_branch=without)
    net.types[keys] = out.type
    weights = net.op("Softmax", net.op("MatMul", fresh, net.transpose(keys, 0, 2, 1)), axis=-1)
    return net.proto(net.linear(mlp(net, net.op("MatMul", weights, keys)), 6))


@export
def llama_with_grouped_query_attention() -> onnx.ModelProto:
    """As builders of generative models write it: the lengths come out of the mask."""
    net = Net()
    ids = net.input("input_ids", ["batch_size", "sequence_length"], INT64)
    mask = net.input("attention_mask", ["batch_size", "total_sequence_length"], INT64)
    cache = [
        net.input(f"past_key_values.0.{n}", ["batch_size", 2, "past_sequence_length", 16])
        for n in ("key", "value")
    ]
    last = net.op("Sub", net.reduce("ReduceSum", mask, [1], keepdims=0), net.const(np.asarray(1)))
    lengths = net.op("Cast", last, to=INT32)
    total = net.op("Cast", net.op("Gather", net.op("Shape", mask), net.const(np.asarray(1))), to=INT32)
    x = table(net, 64, ids)
    y, k, v = grouped(net, x, cache, lengths, total)
    x = net.add(x, net.linear(y, WIDTH))
    gate, up = net.linear(x, 64), net.linear(x, 64)
    x = net.add(x, net.linear(net.mul(net.silu(gate), up), WIDTH))
    return net.proto(net.linear(x, 64), k, v)


@export
def grouped_query_attention_with_lengths() -> onnx.ModelProto:
    """The lengths are inputs themselves."""
    net = Net()
    ids = net.input("input_ids", ["batch", "seq"], INT64)
    cache = [net.input(f"past_{n}", ["batch", 2, "past_seq", 16]) for n in ("key", "value")]
    lengths, total = net.input("seqlens_k", ["batch"], INT32), net.input("total_sequence_length", [], INT32)
    x = table(net, 64, ids)
    x = net.add(x, mlp(net, x))
    y, k, v = grouped(net, x, cache, lengths, total)
    return net.proto(net.linear(mlp(net, net.add(x, net.linear(y, WIDTH))), 9), k, v)


def grouped(
    net: Net, x: str, cache: Sequence[str], lengths: str, total: str, softcap: float = 0.0
) -> list[str]:
    """GroupQueryAttention with 4 heads, of which 2 have keys, and rotary positions."""
    q, k, v = net.linear(x, 64), net.linear(x, WIDTH), net.linear(x, WIDTH)
    angles = np.outer(np.arange(48), 1 / 3 ** np.arange(8))
    cos, sin = net.const(np.cos(angles)), net.const(np.sin(angles))
    made = net.ops(
        "GroupQueryAttention", q, k, v, *cache, lengths, total, cos, sin, outputs=3,
        domain="com.microsoft", num_heads=4, kv_num_heads=2, do_rotary=1, softcap=softcap,
    )  # fmt: skip
    net.sized(made[0], ["batch", "seq", 64])
    for name in made[1:]:
        net.sized(name, ["batch", 2, "total", 16])
    return made


@export
def vit() -> onnx.ModelProto:
    net = Net()
    x = net.input("pixel_values", ["batch_size", "num_channels", "height", "width"])
    net.sized(x, ["batch_size", 3, "height", "width"])
    x = net.op(
        "Conv", x, net.weight(WIDTH, 3, 16, 16), net.vector(WIDTH), kernel_shape=[16, 16], strides=[16, 16]
    )
    x = net.transpose(net.reshape(x, 0, WIDTH, -1), 0, 2, 1)
    x = net.add(x, net.const(net.random.normal(size=(1, 196, WIDTH))))
    x = block(net, x, attend(net, heads(net, x), heads(net, x), heads(net, x)))
    return net.proto(net.linear(net.reduce("ReduceMean", x, [1], keepdims=0), 9))


@export
def clip() -> onnx.ModelProto:
    net = Net()
    ids = net.input("input_ids", ["text_batch_size", "sequence_length"], INT64)
    pixels = net.input("pixel_values", ["image_batch_size", 3, "height", "width"])
    mask = net.input("attention_mask", ["text_batch_size", "sequence_length"], INT64)
    x = table(net, 99, ids)
    x = block(net, x, attend(net, heads(net, x), heads(net, x), heads(net, x), subtracted(net, mask)))
    rows = net.op(
        "Range", net.const(np.asarray(0)), net.squeeze(dims(net, ids, 0), 0), net.const(np.asarray(1))
    )
    ends = net.op("ArgMax", ids, axis=1, keepdims=0)
    places = net.concat(net.unsqueeze(rows, 1), net.unsqueeze(ends, 1), axis=1)
    text = net.linear(net.op("GatherND", x, places), 16)
    image = net.head(net.cbr(net.cbr(pixels, 16, stride=2), 24, stride=2), 16)
    return net.proto(net.op("MatMul", text, net.transpose(image, 1, 0)), text, image)


@export
def bart_classifier() -> onnx.ModelProto:
    """The row of the last end token is taken: each row of the input has as many as the others."""
    net = Net()
    ids = net.input("input_ids", ["batch", "sequence"], INT64)
    x = mlp(net, table(net, 99, ids))
    x = net.add(x, net.reduce("ReduceMean", x, [1]))  # every token sees the others
    ends = net.op("Equal", ids, net.const(np.asarray(2)))
    found = net.op("GatherND", x, net.transpose(net.op("NonZero", ends), 1, 0))
    rows = net.op("Reshape", found, net.concat(dims(net, ids, 0), net.ints(-1, WIDTH), axis=0))
    net.sized(rows, ["batch", "ends", WIDTH])
    last = net.op("Gather", rows, net.const(np.asarray(-1)), axis=1)
    return net.proto(net.linear(net.relu(net.linear(last, 24)), 3))


@export
def whisper_decoder() -> onnx.ModelProto:
    net = Net()
    ids = net.input("decoder_input_ids", ["batch_size", "decoder_sequence_length"], INT64)
    states = net.input("encoder_hidden_states", ["batch_size", "encoder_sequence_length / 2", WIDTH])
    cache = [
        net.input(f"past_key_values.0.decoder.{n}",
                  ["batch_size", HEADS, "past_decoder_sequence_length", WIDTH // HEADS])
        for n in ("key", "value")
    ]  # fmt: skip
    before, steps = dims(net, cache[0], 2), dims(net, ids, 1)
    rows = net.const(net.random.normal(size=(48, WIDTH)))
    places = net.op("Slice", rows, before, net.add(before, steps), net.ints(0), net.ints(1))
    x = net.add(table(net, 70, ids), places)
    k, v = (net.concat(old, heads(net, x), axis=2) for old in cache)
    x = block(net, x, attend(net, heads(net, x), k, v, causal(net, ids, cache[0])))
    x = block(net, x, attend(net, heads(net, x), heads(net, states), heads(net, states)))
    return net.proto(net.linear(x, 70), k, v)


@export
def speech_with_lengths() -> onnx.ModelProto:
    """Frames behind the length are masked; a recurrence takes the lengths too."""
    net = Net()
    x = net.input("features", ["batch", "time", 20])
    lengths = net.input("features_len", ["batch"], INT64)
    zero, one = net.const(np.asarray(0)), net.const(np.asarray(1))
    steps = net.op("Range", zero, net.squeeze(dims(net, x, 1), 0), one)
    inside = net.op("Less", net.unsqueeze(steps, 0), net.unsqueeze(lengths, 1))
    kept = net.mul(x, net.op("Cast", net.unsqueeze(inside, 2), to=FLOAT))
    hidden = net.relu(net.linear(kept, 48))
    y, *_ = net.ops(
        "GRU", net.transpose(hidden, 1, 0, 2), net.weight(1, 36, 48), net.weight(1, 36, 12), "",
        net.op("Cast", lengths, to=INT32), outputs=2, hidden_size=12,
    )  # fmt: skip
    return net.proto(net.linear(net.relu(net.linear(net.squeeze(y, 1), 24)), 11))


@export
def text_to_speech() -> onnx.ModelProto:
    """The mask is as long as the longest of the lengths; scales are three numbers."""
    net = Net()
    ids, lengths = net.input("input", ["n", "phonemes"], INT64), net.input("input_lengths", ["n"], INT64)
    scales = net.input("scales", [3])
    zero, one = net.const(np.asarray(0)), net.const(np.asarray(1))
    longest = net.reduce("ReduceMax", lengths, [0], keepdims=0)
    steps = net.op("Range", zero, longest, one)
    inside = net.op("Less", net.unsqueeze(steps, 0), net.unsqueeze(lengths, 1))
    x = net.transpose(
        net.mul(table(net, 40, ids), net.op("Cast", net.unsqueeze(inside, 2), to=FLOAT)), 0, 2, 1
    )
    x = net.relu(net.conv(net.sized(x, ["n", WIDTH, "phonemes"]), 24))
    x = net.mul(net.op("Tanh", net.conv(x, 16)), net.op("Gather", scales, net.const(np.asarray(1))))
    return net.proto(net.op("Tanh", net.conv(net.relu(net.conv(net.sized(x, ["n", 16, "phonemes"]), 24)), 1)))


@export
def detector_with_picture_sizes() -> onnx.ModelProto:
    net = Net()
    images = net.input("images", ["N", 3, "h", "w"])
    sizes = net.input("orig_target_sizes", ["N", 2], INT64)
    x = net.cbr(net.cbr(images, 16, stride=2), 24, stride=2)
    rows = net.transpose(net.reshape(net.conv(x, 32), 0, 32, -1), 0, 2, 1)
    scores, boxes = (
        net.linear(net.relu(net.linear(rows, 16)), 1),
        net.linear(net.relu(net.linear(rows, 16)), 4),
    )
    best, places = net.ops("TopK", scores, net.ints(5), axis=1, outputs=2)
    wide = net.op("Expand", places, net.ints(1, 1, 4))
    chosen = net.op("GatherElements", net.op("Sigmoid", boxes), wide, axis=1)
    scale = net.op("Cast", net.op("Tile", sizes, net.ints(1, 2)), to=FLOAT)
    return net.proto(net.mul(chosen, net.unsqueeze(scale, 1)), net.op("Sigmoid", best))


@export
def recommender() -> onnx.ModelProto:
    """Fields share one table, each at an offset; a class is one of a row and selects a score."""
    net = Net()
    fields, kind = net.input("fields", ["n", 3], INT64), net.input("kind", ["n"], INT64)
    dense = net.input("dense", ["n", 8])
    x = net.op("Flatten", table(net, 30, net.add(fields, net.ints(0, 12, 18))))
    hot = net.op(
        "OneHot", kind, net.const(np.asarray(5)), net.const(np.asarray([0.0, 1.0], np.float32)), axis=-1
    )
    x = net.concat(net.sized(x, ["n", 3 * WIDTH]), net.linear(dense, 16), net.sized(hot, ["n", 5]))
    scores = net.gemm(net.relu(net.gemm(x, 48)), 6)
    picked = net.op("GatherElements", scores, net.unsqueeze(kind, 1), axis=1)
    return net.proto(scores, picked)


@export
def last_token_pooling() -> onnx.ModelProto:
    net = Net()
    ids, mask = (net.input(n, ["batch", "seq"], INT64) for n in ("input_ids", "attention_mask"))
    x = mlp(net, table(net, 44, ids))
    last = net.op("Sub", net.reduce("ReduceSum", mask, [1]), net.const(np.asarray(1)))
    places = net.op("Expand", net.unsqueeze(last, 2), net.ints(1, 1, WIDTH))
    rows = net.squeeze(net.op("GatherElements", x, places, axis=1), 1)
    return net.proto(net.gemm(net.relu(net.gemm(net.sized(rows, ["batch", WIDTH]), 24)), 4))


@export
def hashed_ids() -> onnx.ModelProto:
    """Any whole number is taken: Mod and Clip keep the rows within the tables."""
    net = Net()
    user, item = net.input("user", ["n"], INT64), net.input("item", ["n"], INT64)
    one = table(net, 11, net.op("Mod", user, net.const(np.asarray(11))))
    two = table(net, 13, net.op("Clip", item, net.const(np.asarray(0)), net.const(np.asarray(12))))
    return net.proto(net.linear(net.relu(net.linear(net.concat(one, two), 32)), 3))


@export
def fused_embeddings() -> onnx.ModelProto:
    """The output of onnxruntime's transformer optimiser for a BERT."""
    net = Net()
    ids, kinds, mask = (net.input(n, ["batch", "seq"], INT32) for n in ("ids", "kinds", "mask"))
    tables = [net.const(net.random.normal(size=(rows, WIDTH))) for rows in (60, 512, 2)]
    scale, shift = net.vector(WIDTH, 0.7, 1.3), net.vector(WIDTH)
    x, lengths = net.ops(
        "EmbedLayerNormalization", ids, kinds, *tables, scale, shift, mask, outputs=2, domain="com.microsoft"
    )
    net.sized(x, ["batch", "seq", WIDTH])
    qkv, bias = net.weight(WIDTH, 3 * WIDTH, fan=WIDTH), net.vector(3 * WIDTH)
    y = net.op("Attention", x, qkv, bias, lengths, domain="com.microsoft", num_heads=HEADS)
    x = block(net, x, net.linear(net.sized(y, ["batch", "seq", WIDTH]), WIDTH))
    return net.proto(net.linear(x, 5))


@export
def rotary_positions() -> onnx.ModelProto:
    net = Net()
    ids, places = (net.input(n, ["batch", "seq"], INT64) for n in ("ids", "where"))
    x = table(net, 60, ids)
    angles = np.outer(np.arange(20), 1 / 10 ** np.arange(4))
    cos, sin = net.const(np.cos(angles)), net.const(np.sin(angles))
    q = net.op("RotaryEmbedding", heads(net, x), places, cos, sin, domain="com.microsoft")
    k = net.op("RotaryEmbedding", heads(net, x), places, cos, sin, domain="com.microsoft")
    for name in (q, k):
        net.sized(name, ["batch", HEADS, "seq", WIDTH // HEADS])
    return net.proto(net.linear(block(net, x, attend(net, q, k, heads(net, x))), 6))


@export
def padding_of_a_fused_attention() -> onnx.ModelProto:
    net = Net()
    ids, mask = net.input("ids", ["batch", "seq"], INT64), net.input("key_padding", ["batch", "seq"], INT32)
    x = table(net, 60, ids)
    q, k, v = (net.linear(x, WIDTH) for _ in range(3))
    y = net.op("MultiHeadAttention", q, k, v, "", mask, domain="com.microsoft", num_heads=HEADS)
    return net.proto(net.linear(block(net, x, net.linear(net.sized(y, ["batch", "seq", WIDTH]), WIDTH)), 6))


@export
def float_masks() -> onnx.ModelProto:
    """One mask is added to scores, one multiplies."""
    net = Net()
    x = net.input("x", ["batch", "seq", 16])
    added, kept = net.input("bias", ["batch", 1, "seq", "seq"]), net.input("frame_mask", ["batch", "seq", 1])
    x = net.mul(net.linear(x, WIDTH), kept)
    return net.proto(
        net.linear(block(net, x, attend(net, heads(net, x), heads(net, x), heads(net, x), added)), 6)
    )


@export
def boolean_masks() -> onnx.ModelProto:
    """One is true where something is, the other where nothing is."""
    net = Net()
    ids = net.input("ids", ["batch", "seq"], INT64)
    real, hidden = net.input("real", ["batch", "seq"], BOOL), net.input("hidden", ["batch", "seq"], BOOL)
    x = table(net, 60, ids)
    x = net.op("Where", net.unsqueeze(hidden, 2), net.const(0.0), x)
    scores = net.op("MatMul", net.linear(x, WIDTH), net.transpose(net.linear(x, WIDTH), 0, 2, 1))
    scores = net.op("Where", net.unsqueeze(real, 1), scores, net.const(-np.inf))
    return net.proto(net.linear(mlp(net, net.op("MatMul", net.op("Softmax", scores, axis=-1), x)), 6))


@export
def spectrogram_logarithm() -> onnx.ModelProto:
    net = Net()
    power = net.input("power", ["batch", 12, "frames"])
    x = net.op("Log", net.add(power, net.const(1e-6)))
    return net.proto(net.conv(net.relu(net.conv(net.sized(x, ["batch", 12, "frames"]), 32)), 4))
