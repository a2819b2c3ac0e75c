"""Rules of operators that work element by element."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
import onnx

from onnxprune.certify.refusal import Refusal, need
from onnxprune.certify.relations.element_bounds import (
    Array,
    Bounds,
    between,
    dipping,
    div,
    erf,
    hull,
    lift,
    magnitude,
    mul,
    negated,
    only_zero,
    plus,
    power,
    rising,
    unbounded,
    widened,
)
from onnxprune.certify.relations.kept_constants import matched, with_factor, with_shift
from onnxprune.certify.relations.relation import Lists, Relation, combined, same, shifted_sum
from onnxprune.certify.rules.node_pair import NodePair, by_channel, rule
from onnxprune.certify.sizes.size_monomials import Size

_FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.BFLOAT16,
)
Attributes: TypeAlias = "dict[str, Any]"
Unary: TypeAlias = "Callable[[Attributes, Bounds], Bounds]"


def _rises(function: Callable[[Array], Array]) -> Unary:
    return lambda given, x: rising(function, x)


def _leaky(given: Attributes, x: Bounds) -> Bounds:
    alpha = given.get("alpha", 0.01)
    return rising(lambda v: np.where(v < 0, alpha * v, v), x) if alpha >= 0 else only_zero(x)


def _elu(given: Attributes, x: Bounds) -> Bounds:
    alpha = given.get("alpha", 1.0)
    return (
        rising(lambda v: np.where(v < 0, alpha * np.expm1(np.minimum(v, 0)), v), x)
        if alpha >= 0
        else only_zero(x)
    )


def _hard_sigmoid(given: Attributes, x: Bounds) -> Bounds:
    alpha, beta = given.get("alpha", 0.2), given.get("beta", 0.5)
    return rising(lambda v: np.clip(alpha * v + beta, 0, 1), x) if alpha > 0 else between(0, 1, x.rank)


def _reciprocal(given: Attributes, x: Bounds) -> Bounds:
    return div(between(1, 1, x.rank), x)


def _cast(given: Attributes, x: Bounds) -> Bounds:
    """Rounding to the new type is rounding like any other; zero stays zero."""
    if given.get("to") == onnx.TensorProto.BOOL:
        return Bounds(np.zeros(x.shape), np.where(x.zero, 0.0, 1.0))
    return widened(x.low, x.high, 2.0**-7) if given.get("to") in _FLOATS else only_zero(x)


def _shrink(given: Attributes, x: Bounds) -> Bounds:
    """Numbers near zero become zero, others move towards it."""
    return only_zero(x) if given.get("lambd", 0.5) >= 0 else unbounded(x.rank)


def _tanh_gelu(v: Array) -> Array:
    return np.asarray(0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3))))


UNARY: dict[str, Unary] = {
    "Relu": _rises(lambda v: np.maximum(v, 0)),
    "Sigmoid": _rises(lambda v: 1 / (1 + np.exp(-v))),
    "Tanh": _rises(np.tanh),
    "LeakyRelu": _leaky,
    "Elu": _elu,
    "HardSigmoid": _hard_sigmoid,
    "Erf": _rises(erf),
    "Exp": _rises(np.exp),
    "Sqrt": _rises(lambda v: np.sqrt(np.maximum(v, 0))),
    "Log": _rises(lambda v: np.log(np.maximum(v, 0))),
    "Softplus": _rises(lambda v: np.logaddexp(0, v)),
    "Softsign": _rises(lambda v: np.where(np.isinf(v), np.sign(v), v / (1 + np.abs(v)))),
    "Floor": _rises(np.floor),
    "Ceil": _rises(np.ceil),
    "Round": _rises(np.round),
    "Sign": _rises(np.sign),
    "Atan": _rises(np.arctan),
    "Asin": _rises(np.arcsin),
    "Acos": lambda given, x: negated(rising(lambda v: -np.arccos(v), x)),
    "Sinh": _rises(np.sinh),
    "Cosh": lambda given, x: rising(np.cosh, magnitude(x)),
    "Asinh": _rises(np.arcsinh),
    "Acosh": _rises(np.arccosh),
    "Atanh": _rises(np.arctanh),
    "Shrink": _shrink,
    "Identity": lambda given, x: x,
    "Abs": lambda given, x: magnitude(x),
    "Neg": lambda given, x: negated(x),
    "Reciprocal": _reciprocal,
    "Cast": _cast,
    "HardSwish": lambda given, x: dipping(lambda v: v * np.clip(v / 6 + 0.5, 0, 1), x),
    "Mish": lambda given, x: dipping(lambda v: v * np.tanh(np.logaddexp(0, v)), x),
    "Swish": lambda given, x: (
        dipping(lambda v: v / (1 + np.exp(-v)), x) if given.get("alpha", 1) == 1 else only_zero(x)
    ),
    "Gelu": lambda given, x: dipping(
        _tanh_gelu if given.get("approximate") == b"tanh" else lambda v: 0.5 * v * (1 + erf(v / np.sqrt(2))),
        x,
    ),
    "Sin": lambda given, x: Bounds(np.where(x.zero, 0.0, -1.0), np.where(x.zero, 0.0, 1.0)),
    "Cos": lambda given, x: Bounds(np.where(x.zero, 1.0, -1.0), np.ones(x.shape)),
    "Not": lambda given, x: between(0, 1, x.rank),
    "BitwiseNot": lambda given, x: unbounded(x.rank),
    **dict.fromkeys(("IsNaN", "IsInf"), lambda given, x: between(0, 1, x.rank)),
    **dict.fromkeys(("Selu", "Celu", "ThresholdedRelu", "Tan"), lambda given, x: only_zero(x)),
}


_DEGREES = {"Abs": 1.0, "Neg": 1.0, "Reciprocal": -1.0, "Relu": 1.0, "Sqrt": 0.5}
"""Of homogeneous functions: f(c·x) = c^degree · f(x) for all c > 0."""


@rule(*UNARY)
def unary(pair: NodePair) -> list[Relation]:
    """A function of each element."""
    pair.same_attributes()
    need(len(pair.sparse.input) == len(pair.dense.input) == 1, "operands that are not known")
    at = pair.proof.indices.get(pair.dense.input[0])
    if pair.operator == "Identity" and at is not None and at.sparse == pair.sparse.input[0]:
        pair.proof.indices[pair.dense.output[0]] = replace(at, sparse=pair.sparse.output[0])
        return []
    given = pair.relation(0)
    if pair.operator == "Identity":
        return [given]
    if pair.operator == "Relu" and given.above is not None and given.above <= 0:
        given = replace(given, above=None)
    plain = replace(given, scale=1.0).exact()
    made = plain.holding(UNARY[pair.operator](pair.given, plain.bounds))
    return [replace(made, scale=_scale_of(pair, given.scale))]


def _scale_of(pair: NodePair, scale: float) -> float:
    """Return the factor that a function leaves of one of its operand."""
    if scale == 1:
        return scale
    degree = _DEGREES.get(pair.operator)
    if pair.operator == "Cast" and pair.given.get("to") in _FLOATS:
        degree = 1.0
    need(degree is not None and scale > 0, "the operand still lacks a factor")
    assert degree is not None
    return float(scale**degree)


@rule("CastLike")
def cast_like(pair: NodePair) -> list[Relation]:
    """Numbers of the type of another tensor, whose elements do not count."""
    pair.same_attributes()
    like = [g.constants.get(n.input[1]) for g, n in zip(pair.graphs, (pair.sparse, pair.dense), strict=True)]
    if like[0] is not None and like[1] is not None:
        need(like[0].dtype == like[1].dtype, "another type")
    else:
        need(pair.dense.input[1] not in pair.graphs[1].values, "the type of sizes is not known")
        pair.relation(1)  # tensors that are related are of one type
    given = pair.relation(0).exact()
    return [given.holding(only_zero(given.bounds))]


@rule("Dropout")
def dropout(pair: NodePair) -> list[Relation]:
    """Outside training the operand itself; the mask has no relation."""
    pair.same_attributes()
    for place in range(1, len(pair.sparse.input)):
        pair.whole(place)
    training = (
        pair.graphs[0].constants.get(pair.sparse.input[2]) if pair.graphs[0].has(pair.sparse, 2) else None
    )
    need(
        not pair.graphs[0].has(pair.sparse, 2) or (training is not None and not training.any()),
        "it may be training",
    )
    return [pair.relation(0)]


def _prelu(x: Bounds, slope: Bounds) -> Bounds:
    positive = Bounds(np.maximum(x.low, 0.0), np.maximum(x.high, 0.0))
    negative = Bounds(np.minimum(x.low, 0.0), np.minimum(x.high, 0.0))
    return plus(positive, mul(negative, slope))


def _chosen(condition: Bounds, one: Bounds, other: Bounds) -> Bounds:
    return hull([one, other])


def _largest(*given: Bounds) -> Bounds:
    return Bounds(reduce(np.maximum, [b.low for b in given]), reduce(np.maximum, [b.high for b in given]))


def _least(*given: Bounds) -> Bounds:
    return Bounds(reduce(np.minimum, [b.low for b in given]), reduce(np.minimum, [b.high for b in given]))


def _sum(*given: Bounds) -> Bounds:
    return reduce(plus, given)


def _mean(*given: Bounds) -> Bounds:
    return div(reduce(plus, given), between(len(given), len(given), given[0].rank))


def _truth(*given: Bounds) -> Bounds:
    return between(0, 1, max(b.rank for b in given))


def _unknown(*given: Bounds) -> Bounds:
    return unbounded(max(b.rank for b in given))


BINARY: dict[str, Callable[..., Bounds]] = {
    "Add": plus,
    "Sub": lambda one, other: plus(one, negated(other)),
    "Mul": mul,
    "Div": div,
    "Pow": power,
    "PRelu": _prelu,
    "Where": _chosen,
    "Max": _largest,
    "Min": _least,
    "Sum": _sum,
    "Mean": _mean,
    "SwiGLU": lambda gate, x: only_zero(mul(gate, x)),
    **dict.fromkeys("Mod BitShift BitwiseAnd BitwiseOr BitwiseXor".split(), _unknown),
    **dict.fromkeys("Equal Less Greater LessOrEqual GreaterOrEqual And Or Xor".split(), _truth),
}


@rule(*BINARY)
def binary(pair: NodePair) -> list[Relation]:
    """A function of elements in the same place of operands that broadcast."""
    return [elementwise(pair, BINARY[pair.operator])]


@rule("Clip")
def clip(pair: NodePair) -> list[Relation]:
    """Numbers outside of two limits become the limit."""
    low, high = (_limit(pair, k, name) for k, name in ((1, "min"), (2, "max")))
    given = pair.relation(0).exact()
    pair.same_attributes()
    for place in (1, 2):
        pair.whole(place)
    return [given.holding(rising(lambda v: np.minimum(np.maximum(v, low), high), given.bounds))]


def _limit(pair: NodePair, place: int, name: str) -> float:
    """Return a limit of a Clip; infinite where there is none or it is not known before the run."""
    endless = -np.inf if name == "min" else np.inf
    if pair.graphs[0].has(pair.sparse, place):
        known = pair.graphs[0].constants.get(pair.sparse.input[place])
        return float(known.ravel()[0]) if known is not None and known.size == 1 else endless
    return float(pair.given.get(name, endless))


def elementwise(pair: NodePair, function: Callable[..., Bounds]) -> Relation:
    """Operands that are not constant determine the kept channels; constants have to be cut alike."""
    pair.same_attributes()
    moving = {k: _lifted_out(pair, pair.relation(k)) for k in pair.places if not pair.is_constant(k)}
    sizes = {k: pair.sizes(k)[0] for k in pair.places}
    rank = max(map(len, sizes.values()))
    scale, shift = _left_over(pair, moving, rank)
    lists, rels = {}, {}
    if moving:
        base = combined([(_without_rest(r), sizes[k]) for k, r in moving.items()], lambda *x: x[0])
        lists = {a + rank - base.rank: lift(m, rank) for a, m in base.lists.items()}
    for k in pair.places:
        if k in moving:
            rels[k] = _without_rest(moving[k])
            continue
        one, two = (lift(c, rank) for c in pair.constant(k))
        known = {a: m for a, m in lists.items() if one.shape[a] != 1}
        hints = {a: m for a, m in pair.hints(k, rank).items() if a not in lists}
        if shift is not None and pair.operator == "Add":
            need(scale == 1, "an operand lacks a factor and a constant")
            rels[k], shift = with_shift(one, two, known | hints, shift), None
        else:
            rels[k], scale = _factored(pair, k, (one, two), scale, known, hints)
    parts = [(rels[k], _wide(sizes[k], rels[k].rank)) for k in pair.places]
    made = combined(parts, function)
    kinds = [pair.graphs[0].dtype(name) for name in pair.sparse.input]
    if pair.operator == "Div" and any(kind is not None and kind.kind in "iu" for kind in kinds):
        made = made.holding(Bounds(np.floor(made.bounds.low), np.ceil(made.bounds.high)))  # it truncates
    if pair.operator == "Mul" and len(set(pair.sparse.input)) == 1:
        made = made.holding(power(rels[0].bounds, between(2, 2, rank)))
    return Relation(made.rank, made.bounds, made.lists, made.free, scale, shift)


def _lifted_out(pair: NodePair, given: Relation) -> Relation:
    """Return the operand of a maximum with a constant that covers the range of possible differences."""
    if given.above is None:
        return given
    others = [pair.graphs[0].constants.get(i) for i in pair.sparse.input]
    lows = [float(c.min()) for c in others if c is not None and c.size]
    need(pair.operator == "Max" and lows and max(lows) >= given.above, "it may differ where all are negative")
    return replace(given, above=None)


def _factored(
    pair: NodePair, place: int, constant: tuple[Array, Array], scale: float, known: Lists, hints: Lists
) -> tuple[Relation, float]:
    """Match a constant, and return the factor that the result then lacks.

    Args:
        pair: The nodes.
        place: Number of the operand.
        constant: The sparse and the dense one.
        scale: The factor that the other operands lack, dense by sparse. A sum lacks it where the constant
            does too; a product or quotient lacks it no longer where the constant makes up for it.
        known: Index lists that follow from the other operands.
        hints: Those of the certificate.
    """
    one, two = constant
    rounded = pair.is_folded(place)
    if scale == 1 or pair.operator == "Pow":
        return matched(one, two, known, hints, rounded=rounded), scale
    if pair.operator in ("Add", "Sub"):
        return with_factor(one, two, {**known, **hints}, scale), scale
    try:
        return matched(one, two, known, hints, rounded=rounded), scale
    except Refusal:
        factor = scale if pair.operator == "Div" and place == 1 else 1 / scale
        return with_factor(one, two, {**known, **hints}, factor), 1.0


def _left_over(pair: NodePair, moving: dict[int, Relation], rank: int) -> tuple[float, Bounds | None]:
    """Return the factor and the constant that the result lacks because operands do."""
    scale = _lacking(pair, {k: given.scale for k, given in moving.items()})
    shift = None
    for given in moving.values():
        if given.shift is not None:
            need(pair.operator == "Add" and given.scale == 1, "an operand lacks a constant")
            shift = shifted_sum(shift, given.shift.lifted(rank))
    return scale, shift


def _lacking(pair: NodePair, scales: dict[int, float]) -> float:
    """Return the factor that the result lacks, of those of the operands by their places."""
    if all(scale == 1 for scale in scales.values()):
        return 1.0
    need(all(scale > 0 for scale in scales.values()), "an operand lacks a factor that is not positive")
    if pair.operator == "Mul":
        return math.prod(scales.values())
    if pair.operator == "Div":
        return scales.get(0, 1.0) / scales.get(1, 1.0)
    if pair.operator == "Pow":
        exponent = pair.graphs[0].constants.get(pair.sparse.input[1])
        need(exponent is not None and exponent.size == 1, "an operand lacks a factor")
        assert exponent is not None
        return float(scales[0] ** float(exponent.item()))
    one, *others = scales.values()
    alike = pair.operator in ("Add", "Sub") and all(math.isclose(one, o, rel_tol=1e-12) for o in others)
    need(alike, "an operand lacks a factor")
    return one


def _without_rest(given: Relation) -> Relation:
    """Return a relation without its factor and constant, which are accounted for elsewhere."""
    return Relation(given.rank, given.bounds, given.lists, given.free, alike=given.alike)


def _wide(sizes: list[Size], rank: int) -> list[Size]:
    return [*[1] * (rank - len(sizes)), *sizes]


@rule("BatchNormalization")
def batch_normalization(pair: NodePair) -> list[Relation]:
    """A scale and a shift for each channel."""
    pair.same_attributes()
    need(not pair.given.get("training_mode") and len(pair.sparse.output) == 1, "it is training")
    x = pair.relation(0).exact().only(1)
    need(not x.free, "channels that do not vary")
    known = {0: x.lists[1].reshape(-1)} if 1 in x.lists else {}
    scale, bias, mean, variance = (
        pair.match(k, known).bounds.moved(lambda v: by_channel(v, x.rank)) for k in (1, 2, 3, 4)
    )
    epsilon = pair.given.get("epsilon", 1e-5)
    deviation = rising(lambda v: np.sqrt(v + epsilon), variance)
    centred = plus(x.bounds, negated(mean))
    return [x.holding(plus(div(mul(centred, scale), deviation), bias))]


@rule("RandomNormalLike", "RandomUniformLike", "Bernoulli")
def drawn(pair: NodePair) -> list[Relation]:
    """Random numbers have a relation only where no axis is cut."""
    pair.same_attributes()
    given = pair.relation(0)
    need(given.plain, "random numbers for other sizes")
    return [same(given.rank)]
