"""Attention as one operator, of onnx and of onnxruntime."""

from __future__ import annotations

from onnxprune.algebra.sizes.algebra import Extent, Value, floor_div, maximum
from onnxprune.algebra.sizes.tensors import Shape
from onnxprune.ops.sizes.node import SizedNode
from onnxprune.ops.sizes.table import MICROSOFT, size_rule


@size_rule("Attention")
def attention(node: SizedNode) -> None:
    """Heads as an axis of their own, or side by side."""
    query, key, value = (node.shape(k) for k in range(3))
    if query is None or key is None or value is None:
        node.put(0, query)
        return
    past, flat = node.shape(4), len(query) == 3
    heads, groups = query[1], key[1]
    width, value_width, length = key[-1], value[-1], key[-2]
    if flat:
        heads, groups = node.required("q_num_heads"), node.required("kv_num_heads")
        width, value_width = floor_div(key[2], groups), floor_div(value[2], groups)
        length = key[1]
    total: Extent = length + (past[2] if past is not None else 0)
    rows = query[-2]
    node.put(0, [query[0], rows, heads * value_width] if flat else [query[0], heads, rows, value_width])
    node.put(1, [query[0], groups, total, width])
    node.put(2, [query[0], groups, total, value_width])
    node.put(3, [query[0], heads, rows, total])


@size_rule("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(node: SizedNode) -> None:
    """Query, key and value apart or packed; the present is as long as past and key together."""
    query, key, value = (node.shape(k) for k in range(3))
    heads = node.required("num_heads")
    if query is None:
        node.put(0, None)
        return
    if len(query) == 5:  # batch, length, heads, 3, width
        width = value_width = query[4]
        whole: Value = query[2] * query[4]
        length: Extent = query[1]
    else:
        whole = query[2] if value is None else value[2] if len(value) == 3 else value[1] * value[3]
        width, value_width = floor_div(query[2], heads), floor_div(whole, heads)
        length = query[1] if key is None else key[1] if len(key) in (3, 5) else key[2]
    past = node.shape(6)
    if past is not None and not (key is not None and len(key) == 4):
        length = length + past[2]
    node.put(0, [query[0], query[1], whole])
    node.put(1, [query[0], heads, length, width])
    node.put(2, [query[0], heads, length, value_width])
    node.put(3, [query[0], heads, query[1], length])


@size_rule("DecoderMaskedMultiHeadAttention", domain=MICROSOFT)
def masked_attention(node: SizedNode) -> None:
    """One step; the caches may be larger buffers."""
    query, past, past_value = node.shape(), node.shape(5), node.shape(6)
    node.put(0, query)
    node.put(1, past)
    node.put(2, past_value)


@size_rule("GroupQueryAttention", domain=MICROSOFT)
def group_query_attention(node: SizedNode) -> None:
    """Fewer heads of keys than of queries; the length of the present is a number in a tensor."""
    shape = node.shape()
    heads, groups = node.required("num_heads"), node.required("kv_num_heads")
    if shape is None:
        node.put(0, None)
        return
    packed = heads + 2 * groups
    width = floor_div(shape[2], heads if node.has(1) else packed)
    node.put(0, [shape[0], shape[1], width * heads])
    length: Value = _present(node)
    for place, past in ((1, node.shape(3)), (2, node.shape(4))):  # a cache of 4 bits packs two numbers
        node.put(place, [shape[0], groups, length, width if past is None else past[3]], _kept_kind(node))


def _kept_kind(node: SizedNode) -> int | None:
    """Return the element type of keys and values that are kept: of a quantised cache, its own."""
    return node.kind(3) if node.has(3) else node.kind()


def _present(node: SizedNode) -> Value:
    """Return the length of a present: the larger of the past's and that of the whole sequence."""
    whole, past, shape = node.elements(6), node.shape(3), node.shape()
    if node.has(3) and past is None:
        return node.fresh(1, 2)
    if past is not None and node.flag("sliding_window_cache"):
        return past[2]
    if whole is None or len(whole) != 1:
        return shape[1] if shape is not None and not node.has(3) else node.fresh(1, 2)
    return maximum(0 if past is None else past[2], whole[0])


@size_rule("SparseAttention", domain=MICROSOFT)
def sparse_attention(node: SizedNode) -> None:
    """Queries apart or packed; the present is the buffer of the past."""
    shape = node.shape()
    if shape is None:
        node.put_rank(3)
    else:
        heads, groups = node.required("num_heads"), node.required("kv_num_heads")
        whole = shape[2] if node.has(1) else floor_div(shape[2], heads + 2 * groups) * heads
        node.put(0, [shape[0], shape[1], whole])
    node.put(1, node.shape(3))
    node.put(2, node.shape(4))


@size_rule("DecoderMaskedSelfAttention", domain=MICROSOFT)
def masked_self_attention(node: SizedNode) -> None:
    """One matrix for query, key and value; the present may be the buffer of the past."""
    shape, weight, past = node.shape(), node.shape(1), node.shape(4)
    if shape is None or weight is None:
        node.put_rank(3)
    else:
        node.put(0, [shape[0], shape[1], floor_div(weight[1], 3)])
    if past is None or shape is None:
        node.put_rank(5, place=1)
        return
    shared = node.flag("past_present_share_buffer")
    node.put(1, past if shared else [*past[:3], past[3] + shape[1], past[4]])


@size_rule("PackedMultiHeadAttention", domain=MICROSOFT)
def packed_multi_head_attention(node: SizedNode) -> None:
    """A row for each token; query, key and value apart or in one tensor."""
    query, value = node.shape(), node.shape(2)
    if query is None:
        node.put_rank(2)
    elif len(query) == 4:  # tokens, heads, 3, width
        node.put(0, [query[0], query[1] * query[3]])
    else:
        node.put(0, [query[0], query[1] if value is None else value[1]])


@size_rule("Attention", "QAttention", domain=MICROSOFT)
def packed_attention(node: SizedNode) -> None:
    """One matrix for query, key and value."""
    shape, weight = node.shape(), node.shape(1)
    if shape is None or weight is None:
        node.put(0, None)
        return
    heads, parts = node.required("num_heads"), node.attribute("qkv_hidden_sizes")
    node.same(shape[2], weight[0], "features")
    whole: Extent = parts[2] if parts else floor_div(weight[1], 3)
    kind = None if node.operator == "Attention" else node.kind(3)
    node.put(0, [shape[0], shape[1], whole], kind)
    place = 4 if node.operator == "Attention" else 8
    past = node.shape(place)
    length: Extent = shape[1] + (past[3] if past is not None else 0)
    if past is not None and node.flag("past_present_share_buffer"):
        length = past[3]
    node.put(1, [2, shape[0], heads, length, floor_div(whole, heads)], kind)


@size_rule("RelativePositionBias", domain=MICROSOFT)
def relative_bias(node: SizedNode) -> None:
    """A number for each head, query and key."""
    table, query, key = node.shape(), node.elements(1), node.elements(2)
    heads: Value = node.fresh(0, 1) if table is None else table[1]
    rows: list[Value] = [
        node.fresh(0, axis) if not listed else node.nonnegative(listed[0], 0, axis)
        for axis, listed in ((2, query), (3, key))
    ]
    node.put(0, [1, heads, *rows])


@size_rule("GatedRelativePositionBias", domain=MICROSOFT)
def gated_bias(node: SizedNode) -> None:
    """A number for each head, query and key of each sample."""
    layer: Shape | None = node.shape()
    if layer is None:
        node.put_rank(4)
        return
    node.put(0, [layer[0], node.required("num_heads"), layer[1], layer[1]])
