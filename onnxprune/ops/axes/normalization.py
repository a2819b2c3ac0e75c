"""Normalisation: the axes under the statistics determine which channels may be removed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.algebra.axes import Dim, Factor
from onnxprune.ops.axes.constant_rules import Array, Numbers, aligned, scaled
from onnxprune.ops.axes.context import Context
from onnxprune.ops.axes.pointwise import broadcast
from onnxprune.ops.axes.table import Zeros, every, first, rule, some, weights_and_bias
from onnxprune.ops.axes.variables import from_the_right
from onnxprune.ops.spec import MICROSOFT

STATISTICS = "it takes statistics over this axis"


def _normalised(v: Numbers) -> list[Array | None]:
    """With fixed statistics a formula for each channel; where the scale is zero, the bias for any operand."""
    shape, trained = v.shapes[0], v.attributes.get("training_mode")
    if shape is None or any(v.known(k) is None for k in range(1, 5)):
        return []
    scale, bias, mean, variance = (aligned(v.operands[k], 1, len(shape)) for k in range(1, 5))  # type: ignore[arg-type]
    data = v.known(0)
    if trained or data is None:
        data = np.full((1,) * len(shape), np.nan)
    factor = scale / np.sqrt(variance + v.attributes.get("epsilon", 1e-5))
    return [np.where(scale == 0, bias, (data - mean) * factor + bias)]


@rule(
    "BatchNormalization",
    zero=weights_and_bias,
    constant=_normalised,
    parameters=(1, 2),
    statistics=(3, 4),
    normalises="stored",
)
def batch_normalization(c: Context) -> None:
    """Every channel on its own, so removing one changes no other."""
    axes = c.match("X[n c *s] scale[c] B[c] mean[c] var[c] -> Y[n c *s] running_mean[c] running_var[c]")
    if c.attributes.get("training_mode"):
        c.block(axes["n"], STATISTICS)
        c.block(axes["*s"], STATISTICS)
    c.weights(1, 2)


@rule(
    "InstanceNormalization",
    zero=weights_and_bias,
    constant=scaled(2, axis=1),
    parameters=(1, 2),
    normalises="places",
)
def instance_normalization(c: Context) -> None:
    """Statistics over the spatial axes of one channel, which other channels may lie on (GroupNorm)."""
    axes = c.match("X[n c *s] scale[c] B[c] -> Y[n c *s]")
    c.normalises(axes["*s"], STATISTICS)
    c.prefer_other(axes["*s"])
    if c.typing.allow_inexact:
        c.rescale_operand(1, axes["*s"], 0.5)
        c.rescale_attribute("epsilon", 1e-5, axes["*s"], 1)
    c.weights(1, 2)


@rule("LRN", zero=first, normalises="places")
def lrn(c: Context) -> None:
    """Sums over a window of neighbouring channels: removing one moves its neighbours together."""
    axes = c.match("X[n c *s] -> Y[n c *s]")
    c.block(axes["c"], "it normalises over neighbouring channels")


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(c: Context) -> None:
    """Normalise over one axis; before opset 13 over all axes from that one on."""
    dims = c.axes(0)
    axis = int(c.attributes.get("axis", -1 if c.opset >= 13 else 1)) % max(len(dims), 1)
    over: tuple[Dim, ...] = dims[axis : axis + 1] if c.opset >= 13 else dims[axis:]
    for dim in over:
        c.block(dim, "it normalises over this axis")
    c.define(0, dims)
    if c.node.op_type == "Softmax" and [*over] == [*dims[-1:]]:
        c.sums_to_one()


@rule(
    "GroupNormalization",
    zero=weights_and_bias,
    constant=scaled(2, axis=1),
    parameters=(1, 2),
    normalises="places",
)
def group_normalization(c: Context) -> None:
    """Statistics within groups of channels, so only whole groups may be removed."""
    pattern = "X[n (g c) *s] scale[(g c)] B[(g c)] -> Y[n (g c) *s]"
    axes = c.match(pattern, {"g": c.attributes["num_groups"]})
    c.block(axes["*s"], STATISTICS)
    c.normalises(axes["c"], STATISTICS)
    c.prefer_other(axes["c"])
    c.weights(1, 2)
    c.follow_attribute("num_groups", axes["g"])


@rule(
    "LayerNormalization", zero=weights_and_bias, constant=scaled(2), parameters=(1, 2), normalises="features"
)
def layer_normalization(c: Context) -> None:
    """Centred and divided by the deviation over the last axes."""
    dims = c.axes(0)
    over = dims[_axis(c, dims) :]
    _centre(c, over, 1, range(len(dims) - len(over), len(dims)))
    _line_up(c, (0, 1, 2))
    c.weights(1, 2)
    _define(c, dims, over)


@rule("RMSNormalization", "SimplifiedLayerNormalization", zero=some, parameters=(1,), normalises="features")
def rms_normalization(c: Context) -> None:
    """Divided by the root of the mean square over the last axes.

    Without channels that are zero the mean of ``old`` squares becomes one of ``new``; the scale and epsilon
    make up for that: ``x·s / √(S/old + ε) = x·s·√(old/new) / √(S/new + ε·old/new)``.
    """
    dims = c.axes(0)
    over = dims[_axis(c, dims) :]
    _root_mean_square(c, over, [0], 1)
    _line_up(c, (0, 1))
    c.weights(1)
    _define(c, dims, over)


rule("SimplifiedLayerNormalization", domain=MICROSOFT, zero=some, parameters=(1,), normalises="features")(
    rms_normalization
)


def _skipped(zeros: Zeros) -> bool:
    """The sum of input, skip and bias is zero where all of them are."""
    return every([*zeros[:2], *zeros[3:]])


@rule(
    "SkipSimplifiedLayerNormalization",
    domain=MICROSOFT,
    zero=_skipped,
    parameters=(2, 3),
    normalises="features",
)
def skip_rms_normalization(c: Context) -> None:
    """Two operands and a bias are added, then as RMSNormalization over the last axis."""
    dims = _line_up(c, (0, 1, 3, 2), (0, 3))
    _root_mean_square(c, dims[-1:], [k for k in (0, 1, 3) if c.has(k)], 2)
    c.weights(2, 3)
    _define(c, dims, dims[-1:])
    c.define(3, dims)


def _skipped_and_bias(zeros: Zeros) -> bool:
    """The sum is zero where input, skip and bias are, the result where scale and shift are: all five."""
    return every(zeros)


@rule(
    "SkipLayerNormalization",
    domain=MICROSOFT,
    zero=_skipped_and_bias,
    constant=scaled(3, scale=2),
    parameters=(2, 3, 4),
    normalises="features",
)
def skip_layer_normalization(c: Context) -> None:
    """Two operands and a bias are added, then as LayerNormalization over the last axis."""
    dims = _line_up(c, range(5), (0, 3))
    _centre(c, dims[-1:], 2)
    c.weights(2, 3, 4)
    _define(c, dims, dims[-1:])
    c.define(3, dims)


@rule(
    "EmbedLayerNormalization",
    domain=MICROSOFT,
    parameters=(2, 3, 4, 5, 6),
    trainable=False,
    normalises="features",
)
def embed_layer_normalization(c: Context) -> None:
    """Rows of two or three tables are added, then as LayerNormalization over the last axis."""
    tables = "words[v h] positions[p h] kinds[k h] gamma[h] beta[h]"
    axes = c.match(f"ids[n t] segments[n t] {tables} mask[n t] places[m t] -> Y[n t h] index[n] sum[n t h]")
    for name in "vpk":
        if name in axes:
            c.block(axes[name], "it picks elements of this axis by number")
    c.block(axes["t"], "it counts along this axis")
    _centre(c, (axes["h"],), 5)
    c.weights(2, 3, 4, 5, 6)


@rule("LpNormalization", zero=first, normalises="features")
def lp_normalization(c: Context) -> None:
    """Divided by the sum, or the root of the sum of squares, over one axis: the terms of zeros are zero."""
    dims = c.axes(0)
    c.contract(dims[int(c.attributes.get("axis", -1))], 0, statistic=True)
    c.define(0, dims)


@rule("MeanVarianceNormalization", normalises="places")
def mean_variance_normalization(c: Context) -> None:
    """Statistics over the axes named; there is no epsilon, so the data may not be zero all over them."""
    dims = c.axes(0)
    over = {axis % len(dims) for axis in c.attributes.get("axes", [0, 2, 3])}
    for axis, dim in enumerate(dims):
        if axis not in over:
            c.block(dim, "it divides by the deviation, 0 where a channel is removed")
            continue
        c.normalises(dim, STATISTICS, sorted(over))
        if c.typing.allow_inexact:
            c.rescale_result(dim, 0.5)
    c.define(0, dims)


def _line_up(c: Context, operands: Sequence[int], results: Sequence[int] = (0,)) -> list[Dim]:
    """Line operands up from the right, and return the axes of the results."""
    dims = {k: c.axes(k) for k in operands if c.has(k)}
    axes = broadcast(c, list(dims.values()))
    c.runs_along(from_the_right(axes, dims, results))
    return axes


def _axis(c: Context, dims: Sequence[Dim]) -> int:
    return int(c.attributes.get("axis", -1)) % len(dims)


def _centre(c: Context, over: Sequence[Dim], scale: int, axes: Sequence[int] = ()) -> None:
    """Statistics that zeros change, and channels as large as the mean change by a factor alone.

    Without ``old - new`` such channels the mean of ``old`` squares becomes one of ``new``, as for a root mean
    square.
    """
    for dim in over:
        c.normalises(dim, STATISTICS, axes)
        if c.typing.allow_inexact:
            _rescale(c, dim, scale)


def _root_mean_square(c: Context, over: Sequence[Dim], operands: Sequence[int], scale: int) -> None:
    for dim in over:
        for operand in operands:
            c.contract(dim, operand, statistic=True)
        _rescale(c, dim, scale)


def _rescale(c: Context, dim: Dim, scale: int) -> None:
    c.rescale_operand(scale, dim, 0.5)
    c.rescale_attribute("epsilon", 1e-12 if c.node.op_type.startswith(("Skip", "Embed")) else 1e-5, dim, 1)


def _define(c: Context, dims: Sequence[Dim], over: Sequence[Dim]) -> None:
    """The normalised tensor, then the statistics it was normalised with."""
    c.define(0, dims)
    statistics = [*dims[: len(dims) - len(over)], *[Factor(1)] * len(over)]
    for result in (1, 2):
        c.define(result, statistics)
