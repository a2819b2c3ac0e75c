"""Operators that put axes end to end, cut them, or pick from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from onnxprune.algebra.axes import Block, Dim, Factor, Mirror, concatenated, factors, nested, split
from onnxprune.algebra.sizes.algebra import Extent
from onnxprune.ops.axes.axis_typing import UnknownOperandError
from onnxprune.ops.axes.constant_rules import Numbers, joined, moved, parts, windows
from onnxprune.ops.axes.context import Context
from onnxprune.ops.axes.table import carriers, first, rule
from onnxprune.ops.axes.variables import Indexing, Keys

MOST_PARTS = 1 << 14
"""Parts of an axis; joins of joins double their number with every node."""
OPEN_BOUNDS = "it cuts this axis at bounds that follow the input"


@rule("Concat", zero=carriers, constant=joined)
def concat(c: Context) -> None:
    """A sum of axes."""
    join(c, range(len(c.node.input)))


def join(c: Context, operands: Iterable[int]) -> None:
    """Put operands, named by their numbers, side by side along an axis; all other axes are the same."""
    operands = list(operands)
    first_dims, *others = (c.axes(k) for k in operands)
    axis = int(c.attributes["axis"]) % len(first_dims)
    result = list(first_dims)
    for dims in others:
        for k, dim in enumerate(dims):
            if k != axis:
                c.same(result[k], dim)
    together = [dims[axis] for dims in (first_dims, *others)]
    if sum(len(factors(dim)) for dim in together) > MOST_PARTS:
        raise UnknownOperandError(f"it joins more than {MOST_PARTS} parts")
    result[axis] = concatenated(together)
    keys: tuple[Keys, ...] = tuple((str(k),) for k in range(len(result)))
    c.runs_along(
        Indexing({str(k): d for k, d in enumerate(result)}, dict.fromkeys(operands, keys), {0: keys})
    )
    c.define(0, result)


@rule("Split", zero=first, constant=parts, copies=True)
def split_(c: Context) -> None:
    """Cut an axis; equal parts may be given by their number alone."""
    dims = c.axes(0)
    axis = int(c.attributes.get("axis", 0)) % len(dims)
    sizes = [c.result_shape(k)[axis] for k in range(len(c.node.output))]
    parts = _cut(dims[axis], sizes, c.why("it cuts within a block"))
    explicit = "split" in c.attributes or c.has(1)
    for k, part in enumerate(parts):
        c.define(k, [part if a == axis else d for a, d in enumerate(dims)])
        if explicit:
            c.follow("split", 1, k, part)
    if not explicit:
        for part in parts[1:]:
            c.same(parts[0], part)


def _cut(dim: Dim, sizes: Sequence[Extent], why: Block) -> list[Dim]:
    parts: list[Dim] = []
    for size in sizes[:-1]:
        if size in (0, dim.size):
            part, dim = (Factor(0), dim) if size == 0 else (dim, Factor(0))
        else:
            part, dim = split(dim, size, why)
        parts.append(part)
    return [*parts, dim]


@rule("Slice", zero=first, constant=moved, copies=True)
def slice_(c: Context) -> None:
    """Cut a piece out of axes; steps other than 1 pick single elements, which must stay."""
    dims, result = c.axes(0), list(c.axes(0))
    starts, ends, steps = c.listed("starts", 1), c.listed("ends", 2), c.listed("steps", 4)
    if starts is None or ends is None:
        raise UnknownOperandError("it has no bounds")
    axes = c.numbers("axes", 3) or list(range(len(starts)))
    cuts = zip(axes, starts, ends, steps or [1] * len(starts), strict=True)
    for element, (axis, start, end, step) in enumerate(cuts):
        axis %= len(result)
        size = dims[axis].size
        known = [v for v in (size, start, end, step) if isinstance(v, int)]
        if len(known) == 4:
            result[axis] = _known_piece(c, dims[axis], element, known[1:])
        elif step != 1 or c.result_shape()[axis] != size:
            c.block(dims[axis], OPEN_BOUNDS)
            result[axis] = c.fixed(c.result_shape()[axis], OPEN_BOUNDS)
    c.define(0, result)


def _known_piece(c: Context, dim: Dim, element: int, numbers: Sequence[int]) -> Dim:
    """Cut an axis of known size at known bounds."""
    start, end, step = numbers
    bounds = slice(start, end, step).indices(dim.count)
    if bounds[2] == 1 and bounds[1] > bounds[0]:
        return _piece(c, dim, element, (start, end), bounds[:2])
    return _picked(c, dim, range(*bounds), start)


def _picked(c: Context, dim: Dim, places: range, written: int) -> Dim:
    """Every element at the same place of its block, or single elements, which must stay.

    A start that is counted from the end would name another place on a shorter axis.
    """
    step, size = places.step, dim.count
    if step == -1 and len(places) == size and any(f.free for f in factors(dim)):
        return Mirror(dim)  # bounds beyond the ends hold at any size
    in_each_block = 1 < step < size and size % step == 0 and len(places) == size // step
    if in_each_block and 0 <= written < step:
        blocks = Factor(len(places))
        c.same(dim, nested((blocks, c.fixed(step, "it picks elements at equal distances"))))
        return blocks
    c.block(dim, "it picks single elements of this axis")
    return c.fixed(len(places), "it picks single elements of this axis")


def _piece(c: Context, dim: Dim, element: int, written: tuple[int, int], bounds: tuple[int, int]) -> Dim:
    """Cut an axis at the bounds; those counted from its end are written as minus the size behind them.

    Bounds at the ends of the axis, or beyond them, hold at any size.
    """
    (start, end), size = bounds, dim.count
    why = c.why("it cuts within a block")
    cuts = [0, *([start] if start else []), *([end] if end < size else []), size]
    parts = _cut(dim, [b - a for a, b in pairwise(cuts)], why)
    k = 1 if start else 0
    if start:
        backwards = written[0] < 0
        counted = parts[k:] if backwards else parts[:k]
        c.follow("starts", 1, element, concatenated(counted), backwards=backwards)
    if end < size:
        backwards = written[1] < 0
        counted = parts[k + 1 :] if backwards else parts[: k + 1]
        c.follow("ends", 2, element, concatenated(counted), backwards=backwards)
    return parts[k]


@rule("Pad", zero=first, constant=moved)
def pad(c: Context) -> None:
    """Constant padding lays new elements beside an axis; the other modes copy elements of it.

    New channels are all alike, so they may be removed like any others.
    """
    dims = c.axes(0)
    pads = c.listed("pads", 1) or []
    axes = c.numbers("axes", 3) or list(range(len(dims)))
    constant = c.attributes.get("mode", "constant") == "constant"
    result = list(dims)
    for k, axis in enumerate(axes):
        before, after = pads[k], pads[k + len(axes)]
        axis %= len(dims)
        if before == 0 and after == 0:
            continue
        if constant and isinstance(before, int) and isinstance(after, int) and min(before, after) >= 0:
            edges = [_edge(c, dims[axis], k + side * len(axes), n) for side, n in enumerate((before, after))]
            result[axis] = concatenated([edges[0], dims[axis], edges[1]])
        else:
            c.block(dims[axis], "it copies or drops elements at the ends of this axis")
            result[axis] = c.fixed(c.result_shape()[axis], "padding")
    c.define(0, result)
    value = c.value(2) if c.has(2) else c.attributes.get("value", 0)
    if constant and (value is None or np.any(value != 0)):
        c.makes_no_zeros()


def _edge(c: Context, beside: Dim, element: int, size: int) -> Factor:
    """Padding of a blocked axis is blocked as well."""
    edge = Factor(size)
    if any(f.free for f in factors(beside)):
        c.follow("pads", 1, element, edge)
    else:
        c.block(edge, "padding")
    return edge


def _keeps_channels(v: Numbers) -> bool:
    """Return whether it interpolates along no axis before the third, and reads nothing outside."""
    return all(v.passing[:2])


@rule("Resize", "Upsample", zero=first, constant=windows(_keeps_channels))
def resize(c: Context) -> None:
    """Axes that keep their size pass through; the others are interpolated along."""
    dims, sizes = c.axes(0), c.result_shape()
    for operand in (1, 2, 3):
        if c.has(operand):
            c.keep_list(operand)
    if c.attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise UnknownOperandError("it crops as well")
    if c.attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UnknownOperandError("it keeps the ratio of the sizes")
    listed = c.attributes.get("axes") or range(len(dims))
    places = {axis % len(dims): element for element, axis in enumerate(listed)}
    result: list[Dim] = []
    for axis, (dim, size) in enumerate(zip(dims, sizes, strict=True)):
        if size == dim.size and not _scaled(c, places.get(axis)):
            result.append(dim)
            if c.has(3) and axis in places:
                c.follow_operand(3, places[axis], dim)
        else:
            c.block(dim, "it interpolates along this axis")
            result.append(c.fixed(size, "it interpolates along this axis"))
    c.define(0, result)


def _scaled(c: Context, element: int | None) -> bool:
    """Return whether an axis has a scale other than 1, which may still leave its size as it was."""
    if element is None:
        return False
    if "scales" in c.attributes:
        return bool(c.attributes["scales"][element] != 1)
    scales = c.value(1 if c.node.op_type == "Upsample" or c.opset < 11 else 2)
    return scales is not None and element < scales.size and not np.isclose(scales[element], 1)
