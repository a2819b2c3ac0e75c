"""Attention operators as plain ones (see `definitions`).

Letters as in the definitions of onnx: batch, heads of keys and values, heads of queries for each of those,
queries, keys, width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.certify.reading.definitions import Parts, defines
from onnxprune.certify.refusal import need
from onnxprune.certify.sizes.size_monomials import size_of

FOLLOWING = (
    "num_heads", "q_num_heads", "kv_num_heads", "qkv_hidden_sizes", "scale", "hidden_size",
)  # fmt: skip
"""Attributes that follow the heads and their width, which masks do not depend on."""


def attended(p: Parts, q: str, k: str, v: str, masks: Sequence[str], to: str = "") -> str:
    """Return means of values, weighted by the softmax of scaled products, ``[… queries width]``.

    Args:
        p: The node.
        q: Queries, ``[… queries width]``.
        k: Keys, ``[… keys width]``.
        v: Values, likewise.
        masks: Tensors that are added to the scores.
        to: The name of the result.
    """
    scale = p.given.get("scale", 0.0) or p.number(q, -1) ** -0.5
    scores = p.op("MatMul", q, p.swapped(k))
    scores = p.op("Mul", scores, p.constants(scale, np.float32))
    if limit := p.given.get("softcap", 0.0):
        scores = _limited(p, scores, limit)
    for mask in masks:
        scores = p.op("Add", scores, mask)
    return p.op("MatMul", p.op("Softmax", scores, axis=len(p.sizes(k)) - 1), v, to=to)


def _limited(p: Parts, scores: str, limit: float) -> str:
    """Return scores that are bent towards a limit on either side."""
    need(limit > 0, "a limit of scores below zero")
    whole = p.constants(limit, np.float32)
    return p.op("Mul", p.op("Tanh", p.op("Div", scores, whole)), whole)


def attended_in_groups(p: Parts, q: str, k: str, v: str, masks: Sequence[str], to: str = "") -> str:
    """Return the same where each head of keys serves several of queries, ``[batch heads queries width]``.

    The heads of queries that read the same keys stand together.
    """
    heads, groups = p.number(q, 1), p.number(k, 1)
    repeats = heads // groups
    need(heads == groups * repeats, "heads that keys cannot be repeated for")
    q = p.reshape(q, 0, groups, repeats, -1, p.number(q, -1))
    k, v = (p.op("Unsqueeze", x, axes=[2]) for x in (k, v))
    y = attended(p, q, k, v, [_for_groups(p, mask, groups, repeats) for mask in masks])
    return p.reshape(y, 0, heads, -1, p.number(v, -1), to=to)


def _for_groups(p: Parts, mask: str, groups: int, repeats: int) -> str:
    """Return a mask ``[… heads queries keys]`` for heads in groups."""
    rank = len(p.sizes(mask))
    if rank < 3:
        return mask
    if p.sizes(mask)[-3] == 1:
        return p.op("Unsqueeze", mask, axes=[rank - 3])
    need(rank == 4, "a mask of another rank")
    last = p.reshape(p.transpose(mask, 0, 2, 3, 1), 0, 0, 0, groups, repeats)
    return p.transpose(last, 0, 3, 4, 1, 2)


def split_heads(p: Parts, x: str, heads: int) -> str:
    """Return ``[n t (h k)]`` as ``[n h t k]``."""
    return p.transpose(p.reshape(x, 0, 0, heads, -1), 0, 2, 1, 3)


def merged_heads(p: Parts, y: str) -> None:
    """Enter ``[n h t k]`` as the first result, ``[n t (h k)]``."""
    p.reshape(p.transpose(y, 0, 2, 1, 3), 0, 0, -1, to=p.result())


def mask_of(p: Parts, q: str, k: str, *names: str) -> list[str]:
    """Return a mask ``[batch 1 queries keys]`` that follows from operands, the attributes and the sizes."""
    (batch, _, queries, _), keys = p.sizes(q), p.sizes(k)[2]
    return [p.whole([*names, p.lengths(q, 0, 2), p.lengths(k, 2)], [batch, 1, queries, keys], *FOLLOWING)]


@defines("Attention")
def fused_attention(p: Parts) -> None:
    """The projections to queries, keys and values are part of the node."""
    p.only("num_heads", "qkv_hidden_sizes", "scale", "mask_filter_value", "unidirectional")
    p.without(6)
    columns = p.number(p.operand(1), 1)
    need("qkv_hidden_sizes" in p.given or columns % 3 == 0, "columns that are not three parts")
    sizes = list(p.given.get("qkv_hidden_sizes") or [columns // 3] * 3)
    made = p.op("MatMul", p.operand(0), p.operand(1))
    made = p.op("Add", made, p.operand(2)) if p.has(2) else made
    attended_by_parts(p, made, sizes, mask=3, past=4, bias=5)


def attended_by_parts(
    p: Parts, projected: str, sizes: Sequence[int], mask: int, past: int, bias: int = -1
) -> None:
    """Enter attention over queries, keys and values that lie side by side.

    Args:
        p: The node.
        projected: The three, ``[batch places columns]``.
        sizes: The number of columns of each.
        mask: The operand that masks follow from.
        past: The operand that holds keys and values of the past.
        bias: The operand that is added to the scores, -1 for none.
    """
    heads = p.count("num_heads")
    q, k, v = (split_heads(p, x, heads) for x in p.ops("Split", projected, results=3, axis=2, split=sizes))
    if p.has(past):
        kept = p.ops("Split", p.operand(past), results=2, axis=0, split=[1, 1])
        k, v = (
            p.op("Concat", p.op("Squeeze", old, axes=[0]), new, axis=2)
            for old, new in zip(kept, (k, v), strict=True)
        )
    if p.result(1):
        p.op("Concat", *(p.op("Unsqueeze", x, axes=[0]) for x in (k, v)), axis=0, to=p.result(1))
    masked = p.has(mask) or p.given.get("unidirectional")
    masks = mask_of(p, q, k, p.operand(mask)) if masked else []
    added = [p.operand(bias)] if bias >= 0 and p.has(bias) else []
    merged_heads(p, attended(p, q, k, v, [*masks, *added]))


@defines("MultiHeadAttention")
def multi_head_attention(p: Parts) -> None:
    """Queries, keys and values apart or side by side, with one bias for all three end to end."""
    p.only("num_heads", "scale", "mask_filter_value", "unidirectional")
    p.without(8, 9)
    need(not p.result(3), "scores as a result")
    heads = p.count("num_heads")
    ranks = [len(p.sizes(p.operand(k))) if p.has(k) else 0 for k in range(3)]
    need(ranks == [3, 3, 3] or not p.has(3), "a bias of operands that are side by side")
    if ranks == [5, 0, 0]:
        q, k, v = (_picked(p, p.operand(0), which) for which in range(3))
    elif ranks == [3, 5, 0]:
        q = split_heads(p, p.operand(0), heads)
        k, v = (_picked(p, p.operand(1), which) for which in range(2))
    elif ranks == [3, 4, 4]:
        q, k, v = split_heads(p, p.operand(0), heads), p.operand(1), p.operand(2)
        p.without(6, 7)
    else:
        need(ranks == [3, 3, 3], "operands of other ranks")
        q, k, v = (split_heads(p, x, heads) for x in _with_bias(p))
    if p.has(6):
        k, v = (p.op("Concat", p.operand(6 + n), x, axis=2) for n, x in enumerate((k, v)))
    for place, x in enumerate((k, v), 1):
        if p.result(place):
            p.op("Identity", x, to=p.result(place))
    masks = mask_of(p, q, k, p.operand(4)) if p.has(4) or p.given.get("unidirectional") else []
    merged_heads(p, attended(p, q, k, v, [*masks, *([p.operand(5)] if p.has(5) else [])]))


def _picked(p: Parts, packed: str, which: int) -> str:
    """Return one of the tensors ``[n t h … k]`` side by side, as ``[n h t k]``."""
    part = p.op("Gather", packed, p.constants(which), axis=3)
    return p.transpose(part, 0, 2, 1, 3)


def _with_bias(p: Parts) -> list[str]:
    """Return queries, keys and values, each with its part of the bias."""
    names = [p.operand(k) for k in range(3)]
    if not p.has(3):
        return names
    sizes = [p.number(name, -1) for name in names]
    parts = p.ops("Split", p.operand(3), results=3, axis=0, split=sizes)
    return [p.op("Add", x, b) for x, b in zip(names, parts, strict=True)]


@defines("GroupQueryAttention")
def group_query_attention(p: Parts) -> None:
    """Keys and values serve several heads of queries each; they are kept from step to step.

    Which places of the kept and the new keys the present has, which of them a query sees, and the places by
    which queries and keys are turned, follow from the lengths alone.
    """
    p.only(
        "num_heads", "kv_num_heads", "scale", "do_rotary", "rotary_interleaved", "local_window_size",
        "causal", "softcap",
    )  # fmt: skip
    p.without(*range(11, 17))
    need(not p.result(3) and not (p.has(10)), "scores as a result, or a bias of them")
    heads, groups = p.count("num_heads"), p.count("kv_num_heads")
    if p.has(1):
        names = [p.operand(k) for k in range(3)]
    else:
        each = p.number(p.operand(0), -1) // (heads + 2 * groups)
        need(p.number(p.operand(0), -1) == each * (heads + 2 * groups), "heads of several widths")
        parts = [each * heads, each * groups, each * groups]
        names = p.ops("Split", p.operand(0), results=3, axis=2, split=parts)
    q, k, v = (p.reshape(x, 0, 0, h, -1) for x, h in zip(names, (heads, groups, groups), strict=True))
    batch, length = p.sizes(q)[:2]
    lengths = [*(p.operand(place) for place in (5, 6, 9)), p.lengths(q, 0, 1)]
    if p.given.get("do_rotary"):
        places = p.whole(lengths, [batch, length], *FOLLOWING)
        angles = [p.op("Gather", p.operand(7 + n), places) for n in range(2)]
        q, k = (turned(p, x, angles, 2, 0, p.given.get("rotary_interleaved", 0)) for x in (q, k))
    k, v = (_kept(p, place, x, lengths) for place, x in enumerate((k, v)))
    q = p.transpose(q, 0, 2, 1, 3)
    masks = mask_of(p, q, k, p.operand(5), p.operand(6))
    merged_heads(p, attended_in_groups(p, q, k, v, masks))


def _kept(p: Parts, place: int, new: str, lengths: Sequence[str]) -> str:
    """Return the present keys or values, ``[n h t k]``: places of the past and the new ones, or zeros."""
    both = new
    if p.has(3 + place):
        past = p.transpose(p.operand(3 + place), 0, 2, 1, 3)
        both, lengths = p.op("Concat", past, new, axis=1), [*lengths, p.lengths(past, 1)]
    batch, total = p.sizes(new)[0], size_of(f"{p.graph.side} present of {p.result()}")
    at = p.whole(lengths, [batch, total, 1], *FOLLOWING)
    there = p.whole(lengths, [batch, total, 1, 1], *FOLLOWING)
    made = p.op("Mul", p.op("GatherND", both, at, batch_dims=1), there)
    return p.transpose(made, 0, 2, 1, 3, to=p.result(1 + place))


# --- rotation of positions ----------------------------------------------------------------------------------


def turned(
    p: Parts, x: str, angles: Sequence[str], heads: int, part: int, pairs: object, to: str = ""
) -> str:
    """Return ``[… k]`` with its pairs of elements turned.

    Args:
        p: The node.
        x: A tensor of rank 4.
        angles: Cosines and sines, ``[n t k/2]``.
        heads: The axis of ``x`` that the angles lack.
        part: The number of elements that are turned, 0 for all.
        pairs: True if the elements of a pair are neighbours, else they are half of the part apart.
        to: The name of the result.
    """
    rest = None
    if part and part != p.number(x, -1):
        x, rest = p.ops("Split", x, results=2, axis=3, split=[part, p.number(x, -1) - part])
    half = p.number(x, -1) // 2
    need(p.number(x, -1) == 2 * half, "an odd number of elements")
    need(all(p.number(a, -1) == half for a in angles), "angles for a part of the elements")
    cos, sin = (p.op("Unsqueeze", a, axes=[heads]) for a in angles)
    if pairs:
        wide = p.op("Reshape", x, p.constants([0, 0, 0, half, 2]))
        one, two = (p.op("Gather", wide, p.constants(k), axis=4) for k in range(2))
    else:
        one, two = p.ops("Split", x, results=2, axis=3, split=[half, half])
    first = p.op("Sub", p.op("Mul", one, cos), p.op("Mul", two, sin))
    second = p.op("Add", p.op("Mul", one, sin), p.op("Mul", two, cos))
    last = to if rest is None else ""
    if pairs:
        both = p.op("Concat", *(p.op("Unsqueeze", y, axes=[4]) for y in (first, second)), axis=4)
        made = p.reshape(both, 0, 0, 0, -1, to=last)
    else:
        made = p.op("Concat", first, second, axis=3, to=last)
    return made if rest is None else p.op("Concat", made, rest, axis=3, to=to)


@defines("RotaryEmbedding", domain="")
@defines("RotaryEmbedding")
def rotary_embedding(p: Parts) -> None:
    """Pairs of elements are turned by angles that all heads share, picked by place or given for each."""
    p.only("interleaved", "num_heads", "rotary_embedding_dim", "scale")
    need(p.given.get("scale", 1.0) == 1, "angles with a factor")
    own = p.node.domain != "com.microsoft"
    tables, places = ([1, 2], 3) if own else ([2, 3], 1)
    angles = [p.operand(k) for k in tables]
    x, part = p.operand(0), p.given.get("rotary_embedding_dim", 0)
    if p.has(places):
        at = p.operand(places)
        if len(p.sizes(at)) == 1:  # the place of the first; the others follow
            axis = 1 if len(p.sizes(x)) == 3 else 2
            (batch, length) = p.sizes(x)[0], p.sizes(x)[axis]
            at = p.whole([at, p.lengths(x, 0, axis)], [batch, length], "num_heads")
        angles = [p.op("Gather", a, at) for a in angles]
    pairs, flat = p.given.get("interleaved", 0), len(p.sizes(x)) == 3
    if not flat:
        turned(p, x, angles, 1, part, pairs, p.result())
        return
    heads = p.given.get("num_heads", 0)
    need(heads > 0 or (heads == 0 and not part), "a part of heads of unknown width")
    width = p.number(x, -1) // heads if heads else 2 * p.number(angles[0], -1)
    wide = p.reshape(x, 0, 0, -1, width)
    p.reshape(turned(p, wide, angles, 2, part, pairs), 0, 0, -1, to=p.result())


# --- the operator of onnx -----------------------------------------------------------------------------------


@defines("Attention", domain="")
def attention(p: Parts) -> None:
    """Heads are an axis of their own, or the major part of the last one.

    Versions of the operator differ in the order of masks and a limit of the scores: both together are left.
    """
    p.only("is_causal", "kv_num_heads", "q_num_heads", "scale", "softcap", "softmax_precision")
    need(not (p.given.get("softcap") and (p.has(3) or p.given.get("is_causal"))), "masks of limited scores")
    need(p.given.get("scale", 1.0) != 0, "a scale of zero")
    p.without(6)
    need(not p.result(3), "scores as a result")
    names, flat = [p.operand(k) for k in range(3)], len(p.sizes(p.operand(0))) == 3
    if flat:
        heads, groups = p.count("q_num_heads"), p.count("kv_num_heads")
        names = [split_heads(p, x, h) for x, h in zip(names, (heads, groups, groups), strict=True)]
    q, k, v = names
    if p.has(4):
        k, v = (p.op("Concat", p.operand(4 + n), x, axis=2) for n, x in enumerate((k, v)))
    for place, x in enumerate((k, v), 1):
        if p.result(place):
            p.op("Identity", x, to=p.result(place))
    past = [p.lengths(p.operand(4), 2)] if p.has(4) else []
    masks = mask_of(p, q, k, *past) if p.given.get("is_causal") else []
    if p.has(3):  # truth values, or numbers that are added
        wide = p.sizes(p.operand(3))
        masks.append(p.whole([p.operand(3), p.lengths(k, 2)], [*wide[:-1], p.sizes(k)[2]], *FOLLOWING))
    y = attended_in_groups(p, q, k, v, masks, "" if flat else p.result())
    if flat:
        merged_heads(p, y)
