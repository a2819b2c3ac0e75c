"""Inputs to compare two models on: drawn from the ranges of the graph, or of other kinds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx

from onnxprune.analysis.inputs import input_values
from onnxprune.ir import Model
from onnxprune.ops.spec import spec_of
from onnxprune.runtime import Array, TensorSpec, Values, sample_feeds

KINDS = ("usual", "masks", "zeros and ones", "small", "ones", "positive", "of [0, 1)", "large", "zeros")
"""Ways of drawing, in the order in which they are tried."""
LARGE = 1000.0
WIDE = "wide"
"""Numbers of all sizes up to `LARGE`, which cross thresholds that usual numbers do not reach.

Of both signs, where the graph sets no bound.
"""
WHOLE = "whole"
"""The same, whole or with a half: they are often zero, equal, or at a threshold itself."""
APART = (WIDE, WHOLE)
"""The kinds whose runs are judged apart from the others, and from each other."""
_FEEDS = {WIDE: 2, WHOLE: 1}
_MOST_FEEDS = 32
_NUMBERS = 256
"""Numbers drawn of each of them for small inputs: between any two thresholds some are to be expected."""
_FEW = 4
_TABLES = {"Gather": "axis", "GatherBlockQuantized": "gather_axis"}


def drawn(
    model: Model,
    specs: Sequence[TensorSpec],
    shapes: Mapping[str, tuple[int, ...]],
    kind: str = KINDS[0],
    *,
    count: int = 1,
    seed: int = 0,
) -> list[dict[str, Array]]:
    """Draw inputs.

    Args:
        model: The graph, which determines the allowed values of its inputs.
        specs: Its inputs, as the runtime has them.
        shapes: Their full shapes, by name.
        kind: Kind of values, one of `KINDS` or `APART`.
        count: Number of feeds; more where values of an input choose a branch, so that each does.
        seed: Seed of the draws.

    Returns:
        The feeds, without those that are the usual ones again.
    """
    values = input_values(model, specs, shapes)
    count = max([count, *(len(v.turns) for v in values.values())])
    known = {s.name: tuple(shapes[s.name]) for s in specs}
    feeds = sample_feeds(specs, shapes=known, values=values, samples=count, seed=seed)
    if kind == KINDS[0]:
        return feeds
    random = np.random.default_rng([seed, 2 if kind == WHOLE else 1])
    others = []
    for turn, feed in enumerate(feeds):
        scale = LARGE ** (turn / max(count - 1, 1))
        other = {name: _of_kind(random, feed[name], kind, values[name], scale) for name in feed}
        others += [other] if any(other[name] is not feed[name] for name in feed) else []
    return others


def feeds_of(kind: str, shapes: Mapping[str, Sequence[int]]) -> int:
    """Return how many feeds to draw of a kind that is judged apart: more for inputs of few numbers."""
    fed = max(sum(math.prod(shape) for shape in shapes.values()), 1)
    return min(max(_FEEDS[kind], math.ceil(_NUMBERS / fed)), _MOST_FEEDS)


def _of_kind(random: np.random.Generator, usual: Array, kind: str, values: Values, scale: float) -> Array:
    """Return numbers of a kind in the place of the usual ones; the same array where there are no others."""
    if kind in APART:
        return _scaled(random, usual, scale, kind == WHOLE) if values.unbounded else usual
    return usual if values.turns else _otherwise(random, usual, kind)


def _scaled(random: np.random.Generator, values: Array, scale: float, whole: bool) -> Array:
    """Return numbers of such a size, of both signs where the type has them."""
    narrow = values.dtype.kind == "f" and values.dtype.itemsize < 4
    made = random.standard_normal(values.shape) * (scale**0.5 if narrow else scale)
    if whole or values.dtype.kind in "iu":
        halves = whole and scale > 1
        made = np.rint(2 * made) / 2 if halves else np.rint(made)
    if values.dtype.kind in "iu":
        bounds = np.iinfo(values.dtype)
        return np.asarray(np.clip(made, bounds.min, bounds.max)).astype(values.dtype)
    return np.asarray(made, values.dtype) if values.dtype.kind == "f" else values


def _otherwise(random: np.random.Generator, values: Array, kind: str) -> Array:
    """Return values of the same shape and type, drawn in another way."""
    if kind == "masks":
        return _mask(random, values)
    if values.dtype.kind == "f":
        return _floats(random, values, kind).astype(values.dtype, copy=False)
    if values.dtype.kind not in "iub":
        return values
    if kind in ("zeros and ones", "small"):
        made = np.asarray(random.integers(0, 2 if kind == "zeros and ones" else _FEW, values.shape))
        if made.ndim:
            made[..., :1] = 1  # a mask that keeps at least one element
        return np.asarray(made, values.dtype)
    if kind in ("ones", "of [0, 1)"):
        return np.ones_like(values)
    return np.zeros_like(values) if kind == "zeros" else values


def _mask(random: np.random.Generator, values: Array) -> Array:
    """Return random zeros and ones in the place of a constant 0 or 1, which may be a mask without effect."""
    if values.size < 2 or not np.isin(values.ravel()[0], (0, 1)) or (values != values.ravel()[0]).any():
        return values
    made = np.asarray(random.integers(0, 2, values.shape))
    made[..., :1] = values.ravel()[0]
    return np.asarray(made, values.dtype)


def _floats(random: np.random.Generator, values: Array, kind: str) -> Array:
    if kind == "positive":
        return np.asarray(np.abs(values))
    if kind in ("of [0, 1)", "ones"):
        return np.asarray(random.random(values.shape))
    if kind == "large":
        return np.asarray(random.standard_normal(values.shape) * LARGE)
    if kind == "small" and values.size and (values == values.ravel()[0]).all():
        return np.asarray(random.standard_normal(values.shape))
    return values


def table_rows(protos: Sequence[onnx.ModelProto]) -> dict[str, int]:
    """Return how many rows the tables have that integer inputs index, by input name: the smallest of them."""
    rows: dict[str, int] = {}
    for proto in protos:
        for name, size in _indexed(proto.graph):
            rows[name] = min(rows.get(name, size), size)
    return {name: size for name, size in rows.items() if size > 1}


def _indexed(graph: onnx.GraphProto) -> Iterator[tuple[str, int]]:
    """Yield each input that picks rows of a constant table, and the number of rows."""
    sources = {i.name: {i.name} for i in graph.input}
    tables = {t.name: list(t.dims) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            tables.update((node.output[0], list(a.t.dims)) for a in node.attribute if a.name == "value")
        elif node.op_type in ("DequantizeLinear", "Identity", "Cast") and node.input[0] in tables:
            tables[node.output[0]] = tables[node.input[0]]
        elif node.op_type in _TABLES and node.input[0] in tables:
            axis = next((a.i for a in node.attribute if a.name == _TABLES[node.op_type]), 0)
            if sizes := tables[node.input[0]]:
                yield from ((n, sizes[axis]) for n in sources.get(node.input[1], ()))
        elif spec_of(node).moves or node.op_type == "Concat":
            found = set().union(*(sources.get(i, set()) for i in node.input))
            sources.update(dict.fromkeys(node.output, found))
