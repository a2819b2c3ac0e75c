"""Operators that move axes about without touching the numbers."""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper

from onnxprune.algebra.axes import Dim, Factor, nested
from onnxprune.algebra.sizes.algebra import Extent, is_nonnegative
from onnxprune.ops.axes.axis_typing import UnknownOperandError
from onnxprune.ops.axes.constant_rules import Array, Numbers, in_order, moved, same
from onnxprune.ops.axes.context import Context
from onnxprune.ops.axes.pointwise import UNDECIDED
from onnxprune.ops.axes.table import first, rule
from onnxprune.ops.axes.variables import from_the_right


def _turned(v: Numbers) -> list[Array | None]:
    """The known numbers turn with the axes."""
    known = v.known(0)
    return [] if known is None else [np.transpose(known, v.attributes.get("perm"))]


@rule("Reshape", zero=first, constant=in_order, copies=True, rearranges="shape")
def reshape(c: Context) -> None:
    """All axes together are one product, read in two ways.

    The minor ends are compared first, so merged and split axes find their factors, of any number.
    """
    results = [Factor(s) for s in c.result_shape()]
    c.same_elements(c.axes(0), results)
    c.define(0, results)
    c.moves()
    for element, dim in enumerate(results):
        c.follow("shape", 1, element, dim)


@rule("Flatten", zero=first, constant=in_order, copies=True, rearranges="shape")
def flatten(c: Context) -> None:
    """Two axes: all before ``axis``, and the rest."""
    dims = c.axes(0)
    axis = int(c.attributes.get("axis", 1))
    axis += len(dims) if axis < 0 else 0
    c.define(0, [nested(dims[:axis]), nested(dims[axis:])])
    c.moves()


@rule("Transpose", zero=first, constant=_turned, copies=True, rearranges="axes")
def transpose(c: Context) -> None:
    """Reorder the axes."""
    dims = c.axes(0)
    order = c.attributes.get("perm") or range(len(dims))[::-1]
    c.define(0, [dims[k] for k in order])
    c.moves()


@rule("Squeeze", zero=first, constant=in_order, copies=True, rearranges="shape")
def squeeze(c: Context) -> None:
    """Drop axes of one element."""
    dims = c.axes(0)
    axes = c.numbers("axes", 1)
    if not axes and any(not isinstance(d.size, int) and not is_nonnegative(d.size - 2) for d in dims):
        raise UnknownOperandError("it depends on the input which axes have one element")
    dropped = {a % len(dims) for a in axes} if axes else {k for k, d in enumerate(dims) if d.size == 1}
    c.define(0, [d for k, d in enumerate(dims) if k not in dropped])
    c.moves()


@rule("Unsqueeze", zero=first, constant=in_order, copies=True, rearranges="shape")
def unsqueeze(c: Context) -> None:
    """Add axes of one element."""
    dims = iter(c.axes(0))
    rank = len(c.result_shape())
    added = {a % rank for a in c.numbers("axes", 1) or []}
    c.define(0, [Factor(1) if k in added else next(dims) for k in range(rank)])
    c.moves()


@rule("Expand", zero=first, constant=same, copies=True)
def expand(c: Context) -> None:
    """Repeat along axes of one element; the target holds sizes.

    Where several heads of queries share one of keys, the copies are a factor of their axis: whole heads of
    keys, with all queries that share them, are the first candidates of pruning.
    """
    sizes = c.result_shape()
    dims = c.axes(0)
    padded: list[Dim] = [Factor(1)] * (len(sizes) - len(dims)) + list(dims)
    results = [_expanded(c, dim, size) for dim, size in zip(padded, sizes, strict=True)]
    c.runs_along(from_the_right(results, {0: dims}))
    c.define(0, results)
    _follow_target(c, 1, results)


def _expanded(c: Context, dim: Dim, size: Extent) -> Dim:
    """Repeat an axis of one element; one that may have more for some inputs must stay."""
    if dim.size == size:
        return dim
    if dim.size != 1:
        c.block(dim, UNDECIDED)
        return c.fixed(size, UNDECIDED)
    result = Factor(size)
    c.prefer_other(result)
    return result


@rule("ConstantOfShape", zero=lambda _: True)
def constant_of_shape(c: Context) -> None:
    """One number in a new tensor of given sizes."""
    results = [Factor(s) for s in c.result_shape()]
    c.define(0, results)
    for element, dim in enumerate(results):
        c.follow_operand(0, element, dim)
    if "value" in c.attributes and np.any(numpy_helper.to_array(c.attributes["value"]) != 0):
        c.makes_no_zeros()


@rule("Tile", zero=first, constant=moved, copies=True)
def tile(c: Context) -> None:
    """Repeat whole axes: the repeats are the major part; of an axis of one element they are all of it."""
    repeats = c.listed("repeats", 1)
    results: list[Dim] = []
    for element, (dim, size) in enumerate(zip(c.axes(0), c.result_shape(), strict=True)):
        times = repeats[element] if repeats else None
        if dim.size == size:
            results.append(dim)
        elif dim.size == 1:
            results.append(Factor(size))
            c.prefer_other(results[-1])
            c.follow_operand(1, element, results[-1])
        elif times is None:
            raise UnknownOperandError("the number of its repetitions is known at run time only")
        else:
            results.append(nested((c.fixed(times, "Tile repeats it"), dim)))
    c.define(0, results)


@rule("Shape", sizes_only=True)
def shape(c: Context) -> None:
    """Numbers about the axes, not the axes."""
    dims = c.axes(0)
    for element, dim in enumerate(dims[slice(c.attributes.get("start"), c.attributes.get("end"))]):
        c.reads_size(element, dim)
    c.define(0, [c.fixed(s, "it lists sizes") for s in c.result_shape()])


@rule("Size", sizes_only=True)
def size(c: Context) -> None:
    """A number about all axes."""
    for dim in c.axes(0):
        c.block(dim, "it counts all elements while the network runs")
    c.define(0, [])


@rule("DepthToSpace", zero=first, constant=moved, copies=True)
def depth_to_space(c: Context) -> None:
    """Channels become blocks of pixels."""
    size = {"b": int(c.attributes["blocksize"]), "d": int(c.attributes["blocksize"])}
    channels = "c b d" if c.attributes.get("mode", "DCR") == "CRD" else "b d c"
    axes = c.match(f"X[n ({channels}) h w] -> Y[n c (h b) (w d)]", size)
    _keep_pixels(c, axes)


@rule("SpaceToDepth", zero=first, constant=moved, copies=True)
def space_to_depth(c: Context) -> None:
    """Blocks of pixels become channels."""
    size = {"b": int(c.attributes["blocksize"]), "d": int(c.attributes["blocksize"])}
    channels = "c b d" if c.attributes.get("mode", "DCR") == "CRD" else "b d c"
    axes = c.match(f"X[n c *s] -> Y[n ({channels}) *t]", size)
    _keep_pixels(c, axes)


def _keep_pixels(c: Context, axes: dict[str, Dim]) -> None:
    for name in set("bdhw").intersection(axes):
        c.block(axes[name], "pixels are moved in blocks of fixed size")


def _follow_target(c: Context, operand: int, results: list[Dim]) -> None:
    """The target of Expand may be shorter than the result: it counts from the right."""
    target = c.typing.shapes.integers(c.node.input[operand])
    length = len(target) if target is not None else len(results)
    for element, dim in enumerate(results[len(results) - length :]):
        if dim.size != 1 and (target is None or target[element] != 1):
            c.follow_operand(operand, element, dim)
