"""Attention in one node: whole heads, and the width of a head.

Letters: ``n`` batch, ``t`` queries, ``s`` keys, ``g`` heads of keys and values, ``r`` heads of queries for
each of those, ``k`` width of a query or key, ``v`` width of a value. Query heads are ``(g r)``: those that
share a key head stand together. The scores are scaled by 1/√k unless an attribute gives another factor; where
``k`` is shortened the old scale is written into that attribute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxprune.algebra.axes import Dim, Factor, concatenated, nested
from onnxprune.algebra.sizes.algebra import Extent
from onnxprune.ops.axes.axis_typing import UnknownOperandError
from onnxprune.ops.axes.context import Context
from onnxprune.ops.axes.table import first, rule
from onnxprune.ops.spec import MICROSOFT
from onnxprune.ops.views import LinearView, Operands

NORMALISED = "it normalises the scores over the keys"
IN_ORDER = "it attends to places by their number"
APART = "it treats each sample on its own, by masks and lengths of their own"
TURNS = "it turns pairs of its elements"
LAYOUTS = {
    (3, 3, 3): "Q[n t (g k)] K[n s (g k)] V[n s (g v)] -> Y[n t (g v)]",
    (3, 4, 4): "Q[n t (g k)] K[n g s k] V[n g s v] -> Y[n t (g v)]",
    (3, 5, 0): "Q[n t (g k)] KV[n s g 2 k] -> Y[n t (g k)]",
    (5, 0, 0): "QKV[n t g 3 k] -> Y[n t (g k)]",
}
"""Layouts of the operands of MultiHeadAttention, by the ranks of the first three, 0 for those left out."""


@rule("Attention")
def attention(c: Context) -> None:
    """The standard operator: heads are an axis of their own, or the major part of the last one."""
    if len(c.axes(0)) == 4:
        pattern = "Q[n (g r) t k] K[n g s k] V[n g s v] -> Y[n (g r) t v]"
        heads = {"g": c.shape(1)[1], "r": c.parts_of(c.shape(0)[1], c.shape(1)[1])}
    else:
        pattern = "Q[n t (g r k)] K[n s (g k)] V[n s (g v)] -> Y[n t (g r v)]"
        groups = int(c.attributes["kv_num_heads"])
        heads = {"g": groups, "r": int(c.attributes["q_num_heads"]) // groups}
    axes = c.match(pattern, heads)
    c.follow_attribute("q_num_heads", nested((axes["g"], axes["r"])))
    c.follow_attribute("kv_num_heads", axes["g"])
    finish(c, axes, bias=3, past=4)


@rule("MultiHeadAttention", domain=MICROSOFT, parameters=(3,), trainable=False)
def multi_head_attention(c: Context) -> None:
    """Queries, keys and values, apart or side by side, with one bias for all three end to end.

    Keys and values that were computed before, from another sequence, have heads as an axis of their own.
    """
    heads = {"g": int(c.attributes["num_heads"])}
    axes = c.match(_layout(c), heads)
    axes.setdefault("v", axes["k"])
    axes.setdefault("s", axes["t"])
    g, k, v = axes["g"], axes["k"], axes["v"]
    if k is v:
        c.contract(k, *(operand for operand in (0, 1) if c.has(operand)))
    if c.has(3):
        c.same(c.axes(3)[0], concatenated((nested((g, k)), nested((g, k)), nested((g, v)))))
        c.weights(3)
    c.follow_attribute("num_heads", g)
    finish(c, axes | {"r": c.fixed(1, "one query head for each key head")}, bias=5, past=6)


def _layout(c: Context) -> str:
    """Return the pattern of the operands of MultiHeadAttention, by their ranks."""
    ranks = tuple(len(c.axes(k)) if c.has(k) else 0 for k in range(3))
    if ranks not in LAYOUTS:
        raise UnknownOperandError(f"its queries, keys and values are of ranks {ranks}")
    return LAYOUTS[ranks]


def projections(_: Operands) -> list[LinearView]:
    """Return the linear view of the projections to queries, keys and values."""
    return [LinearView(0, -1, 1, -1, inputs_first=True, bias=2, after="mixing")]


@rule("Attention", domain=MICROSOFT, linear=projections, parameters=(1, 2), trainable=False)
def fused_attention(c: Context) -> None:
    """The projections to queries, keys and values are part of the node, side by side in one weight."""
    if c.attributes.get("do_rotary"):
        raise UnknownOperandError("it turns its queries and keys inside")
    axes = projected(c, c.attributes.get("qkv_hidden_sizes") or [c.count(c.shape(1)[1]) // 3] * 3)
    c.weights(1, 2)
    finish_with_one_cache(c, axes, past=4, bias=5)


def projected(c: Context, sizes: Sequence[int]) -> dict[str, Dim]:
    """Line up the data, operand 0, with the weights of three projections, 1, and their bias, 2."""
    heads = int(c.attributes["num_heads"])
    one = c.fixed(1, "one query head for each key head")
    g, k, v = Factor(heads), Factor(sizes[0] // heads), Factor(sizes[2] // heads)
    parts = [nested((g, k)), nested((g, k)), nested((g, v))]
    (n, t, i), (rows, columns) = c.axes(0), c.axes(1)
    c.same(rows, i)
    c.contract(rows, 0, 1)
    c.same(columns, concatenated(parts))
    if c.has(2):
        c.same(c.axes(2)[0], concatenated(parts))
    c.contract(k, 1)
    c.follow_attribute("num_heads", g)
    for element, part in enumerate(parts):
        c.follow_attribute("qkv_hidden_sizes", part, element)
    if "qkv_hidden_sizes" not in c.attributes:
        c.same(k, v)
    c.define(0, [n, t, nested((g, v))])
    c.works(n, t, rows, columns)
    return {"n": n, "t": t, "s": t, "g": g, "r": one, "k": k, "v": v}


@rule("GroupQueryAttention", domain=MICROSOFT)
def group_query_attention(c: Context) -> None:
    """Queries, keys and values have heads of one width; those may lie side by side in the first operand."""
    groups = int(c.attributes["kv_num_heads"])
    heads = {"g": groups, "r": int(c.attributes["num_heads"]) // groups}
    if c.attributes.get("kv_cache_bit_width"):
        raise UnknownOperandError("it keeps quantised keys and values")
    if c.has(1):
        axes = c.match("Q[n t (g r k)] K[n s (g k)] V[n s (g k)] -> Y[n t (g r k)]", heads)
    else:
        axes = _side_by_side(c, **heads)
    c.block(axes["k"], TURNS if c.attributes.get("do_rotary") else "queries, keys and values have one width")
    c.follow_attribute("num_heads", nested((axes["g"], axes["r"])))
    c.follow_attribute("kv_num_heads", axes["g"])
    if c.has(11):
        c.same(c.axes(11)[0], nested((axes["g"], axes["r"])))
    finish(c, axes | {"v": axes["k"]}, bias=10, past=3)


def _side_by_side(c: Context, g: int, r: int) -> dict[str, Dim]:
    """All heads of queries, then those of keys, then those of values, on one axis."""
    n, t, packed = c.axes(0)
    axes: dict[str, Dim] = {"n": n, "t": t, "s": t, "g": Factor(g), "r": Factor(r)}
    axes["k"] = Factor(c.parts_of(packed.size, g * (r + 2)))
    keys = nested((axes["g"], axes["k"]))
    queries = nested((axes["g"], axes["r"], axes["k"]))
    c.same(packed, concatenated((queries, keys, keys)))
    c.define(0, [n, t, queries])
    return axes


@rule("RotaryEmbedding", zero=first)
def rotary_embedding(c: Context) -> None:
    """Pairs of elements are turned by angles that all heads share: both go together."""
    _turn(c, 1, 2)


@rule("RotaryEmbedding", domain=MICROSOFT, zero=first)
def microsoft_rotary_embedding(c: Context) -> None:
    """As the standard operator, but with the positions before the angles."""
    _turn(c, 2, 3)


def _turn(c: Context, *angles: int) -> None:
    dims, half = c.axes(0), c.axes(angles[0])[-1]
    c.block(dims[0], APART)
    c.block(dims[-2 if len(dims) == 4 else 1], IN_ORDER)
    c.same(half, c.axes(angles[1])[-1])
    for angle in angles:
        for dim in c.axes(angle)[:-1]:
            c.block(dim, IN_ORDER)
    two = c.fixed(2, TURNS)
    pairs = nested((half, two) if c.attributes.get("interleaved") else (two, half))
    if c.attributes.get("rotary_embedding_dim"):
        pairs = c.fixed(_head_width(c, dims), "only a part of it is turned")
        c.block(half, "only a part of it is turned")
    heads = Factor(c.parts_of(dims[-1].size, pairs.size))
    c.same(dims[-1], nested((heads, pairs)))
    c.follow_attribute("num_heads", heads)
    c.define(0, dims)


def _head_width(c: Context, dims: tuple[Dim, ...]) -> Extent:
    width = dims[-1].size
    return c.parts_of(width, int(c.attributes["num_heads"])) if len(dims) == 3 else width


def finish(
    c: Context,
    axes: dict[str, Dim],
    bias: int | None = None,
    past: int | None = None,
    total: Dim | None = None,
) -> None:
    """State the common part of all forms: scale, bias of the scores, caches from step to step, work.

    Args:
        c: The node.
        axes: The dims of the letters.
        bias: The operand that is added to the scores.
        past: The operand that holds the keys of earlier steps; their values are in the next one.
        total: The axis of all keys, where it is known already.
    """
    n, t, s, g, r, k, v = (axes[name] for name in ("n", "t", "s", "g", "r", "k", "v"))
    c.block(n, APART)
    c.block(s, NORMALISED)
    c.block(t, IN_ORDER)
    for dim in (k, v, r):
        c.prefer_other(dim)
    for role, dim in (("heads", nested((g, r))), ("kv_heads", g), ("head_width", k)):
        c.plays(role, dim)
    _keep_scale(c, k)
    total = _kept(c, axes, past) if total is None else total
    if bias is not None and c.has(bias):
        _line_up_bias(c, bias, nested((g, r)))
    c.define(3, [n, nested((g, r)), t, total])
    for width in (k, v):
        c.works(n, g, r, t, total, width)


def finish_with_one_cache(c: Context, axes: dict[str, Dim], past: int, bias: int | None = None) -> None:
    """As `finish`, where keys and values of earlier steps are one tensor, ``[2, n, g, s, k]``."""
    n, g, k, total = (axes[name] for name in ("n", "g", "k", "s"))
    if c.has(past):
        c.same(k, axes["v"])
        two, *kept = c.axes(past)
        c.block(two, "it is that of the keys, then that of the values")
        for dim, axis in zip(kept, (n, g, None, k), strict=True):
            if axis is not None:
                c.same(dim, axis)
        c.block(kept[2], NORMALISED)
        total = concatenated((kept[2], total))
    if c.makes(1) and c.node.output[1] in c.typing.shapes.sizes:
        sizes = c.result_shape(1)
        total = total if sizes[3] == total.size else c.fixed(sizes[3], NORMALISED)
        c.define(1, [c.fixed(2, "keys, then values"), n, g, total, k])
    finish(c, axes, bias=bias, total=total)


def _keep_scale(c: Context, k: Dim) -> None:
    if c.attributes.get("scale", 1.0) == 0:
        c.block(k, "its scale is 1/√(this size)")
    c.rescale_attribute("scale", 1 / math.sqrt(c.count(k.size)), k, 0)


def _kept(c: Context, axes: dict[str, Dim], past: int | None) -> Dim:
    """Line up keys and values of earlier steps, and return the axis of all keys."""
    total = axes["s"]
    for operand, width in enumerate(("k", "v"), past or 0):
        if past is not None and c.has(operand):
            kept = c.axes(operand)
            for axis, name in ((0, "n"), (1, "g"), (3, width)):
                c.same(kept[axis], axes[name])
            c.block(kept[2], NORMALISED)
            total = concatenated((kept[2], axes["s"]))
    for result, width in enumerate(("k", "v"), 1):
        if c.makes(result) and c.node.output[result] in c.typing.shapes.sizes:
            if c.result_shape(result)[2] != total.size:
                total = c.fixed(c.result_shape(result)[2], NORMALISED)
            c.define(result, [axes["n"], axes["g"], total, axes[width]])
    return total


def _line_up_bias(c: Context, operand: int, heads: Dim) -> None:
    """A bias or mask is broadcast against batch, heads, queries and keys."""
    dims = c.axes(operand)
    for dim in dims[-2:]:
        c.block(dim, NORMALISED)
    for dim in dims[:-3]:
        c.block(dim, APART)
    if len(dims) > 2 and dims[-3].size == heads.size:
        c.same(dims[-3], heads)
