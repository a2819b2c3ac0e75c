"""Attention in one node: general linear along the width of each head, as with its products spelled out."""

from __future__ import annotations

from onnxprune.algebra.axes import factors
from onnxprune.ops.spec import MICROSOFT
from onnxprune.ops.symmetry.passage import Passage
from onnxprune.ops.symmetry.symmetry_kinds import DualPair, Effect, Symmetry, permutation
from onnxprune.ops.symmetry.table import symmetry_rule

HEADS = "it normalises the scores of each head"
TOGETHER = "queries, keys and values have one width, or caches hold it"


@symmetry_rule("Attention")
def attention(p: Passage) -> Effect:
    """Queries and keys are a pairing along their width; values pass along theirs."""
    return _by_width(p, p.attributes.get("q_num_heads"), p.attributes.get("kv_num_heads"))


@symmetry_rule("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(p: Passage) -> Effect:
    """As the standard operator, where it has no bias and its operands are apart."""
    if p.has(3) and p.carries(p.node.input[3]):
        return permutation("it adds its bias along this axis")
    return _by_width(p, p.attributes["num_heads"], p.attributes["num_heads"])


def _by_width(p: Passage, queries: int | None, keys: int | None) -> Effect:
    if not all(p.has(k) for k in range(3)):
        return permutation(TOGETHER)
    q, k, v = p.node.input[:3]
    if p.inputs and set(p.inputs) <= {q, k} and not p.outputs:
        if not (_is_width(p, q, queries) and _is_width(p, k, keys)):
            return permutation(HEADS)
        return Effect(Symmetry.LINEAR, (DualPair(q, k, p.index),))
    if p.inputs == [v] and p.outputs == [p.result] and not p.is_constant(v):
        whole = _is_width(p, v, keys) and _is_width(p, p.result, queries)
        return Effect(Symmetry.LINEAR) if whole else permutation(HEADS)
    return permutation(TOGETHER if _is_width(p, q, queries) else HEADS)


def _is_width(p: Passage, name: str, heads: int | None) -> bool:
    """Return whether the factor is the whole width of a head: the last axis, or its minor part."""
    if p.is_constant(name) or p.axes(name) != [p.rank(name) - 1]:
        return False
    last = p.typing.axes[name][-1]
    if p.rank(name) == 4:
        return factors(last) == [p.factor]
    return heads is not None and factors(last)[-1] is p.factor and p.factor.size * heads == last.size
