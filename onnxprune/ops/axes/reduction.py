"""Operators that take many elements of an axis together."""

from __future__ import annotations

from onnxprune.algebra.axes import Dim, Factor, factors
from onnxprune.ops.axes.constant_rules import Array, Numbers, uniform_along
from onnxprune.ops.axes.context import Context
from onnxprune.ops.axes.signs import is_never_negative, loses_its_sign
from onnxprune.ops.axes.table import first, rule

SUMS = ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare")
WHY_NOT = {
    "ReduceMin": "it takes the minimum over this axis",
    "ReduceProd": "it multiplies along this axis",
    "ReduceLogSum": "it takes a logarithm of the sum over this axis",
    "ReduceLogSumExp": "it sums exponentials over this axis",
    "ArgMax": "it returns positions on this axis",
    "ArgMin": "it returns positions on this axis",
}


def _chosen_or_averaged(v: Numbers) -> list[Array | None]:
    """Of equal numbers the mean, the largest and the smallest are that number."""
    known = v.known(0)
    if known is None or v.results[0] is None:
        return []
    listed = v.attributes.get("axes")
    if listed is None and len(v.node.input) > 1 and v.node.input[1]:
        if v.settled[1] is None:
            return []
        listed = v.settled[1].tolist()
    over = {
        a % known.ndim
        for a in listed or ([] if v.attributes.get("noop_with_empty_axes") else range(known.ndim))
    }
    found = uniform_along(known, over)
    return [found if len(v.results[0]) == known.ndim else found.squeeze(tuple(over))]


@rule("ReduceLogSum", "ReduceLogSumExp", "ArgMax", "ArgMin")
def reduce(c: Context) -> None:
    """Drop the reduced axes, or keep them with one element."""
    dims = c.axes(0)
    over = _reduced_axes(c, len(dims))
    for axis in over:
        if c.node.op_type in SUMS:
            c.contract(dims[axis], 0)
        elif c.node.op_type == "ReduceMean":
            c.contract(dims[axis], 0, statistic=True)
            c.rescale_result(dims[axis], -1)
        elif c.node.op_type == "ReduceMax":
            take_maximum(c, dims[axis])
        else:
            c.block(dims[axis], WHY_NOT[c.node.op_type])
    if c.node.op_type == "ReduceLogSum":
        c.divides_by(0, *(d for k, d in enumerate(dims) if k not in over), above=True)
    if c.attributes.get("keepdims", 1):
        c.define(0, [Factor(1) if k in over else d for k, d in enumerate(dims)])
    else:
        c.define(0, [d for k, d in enumerate(dims) if k not in over])


rule(*SUMS, "ReduceProd", zero=first)(reduce)
rule("ReduceMean", "ReduceMax", "ReduceMin", zero=first, constant=_chosen_or_averaged)(reduce)


def take_maximum(c: Context, dim: Dim) -> None:
    """Choose the largest element of an axis: zeros do not count where no element is negative."""
    if not any(f.free for f in factors(dim)) or is_never_negative(c, 0) or loses_its_sign(c, 0):
        c.contract(dim, 0)
    else:
        c.block(dim, "it takes the maximum over this axis, and of numbers that may be negative")


def _reduced_axes(c: Context, rank: int) -> set[int]:
    if c.node.op_type.startswith("Arg"):
        return {int(c.attributes.get("axis", 0)) % rank}
    axes = c.numbers("axes", 1)
    if not axes:
        return set() if c.attributes.get("noop_with_empty_axes") else set(range(rank))
    return {a % rank for a in axes}


@rule("CumSum", "CumProd", "TopK", zero=first)
def along_axis(c: Context) -> None:
    """Every element of the axis depends on the others."""
    dims = list(c.axes(0))
    axis = c.attributes.get("axis", -1) if c.node.op_type == "TopK" else (c.numbers("axis", 1) or [0])[0]
    c.block(dims[axis], f"{c.node.op_type} goes through the elements of this axis in order")
    for result in range(len(c.node.output)):
        size = c.result_shape(result)[axis]
        replaced = list(dims)
        if size != dims[axis].size:
            replaced[axis] = c.fixed(size, "it picks elements of this axis")
        c.define(result, replaced)
