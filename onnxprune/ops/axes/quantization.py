"""Quantised operators: integers that stand for ``(q − zero point) · scale``.

A zero of an integer tensor means its zero point. Masking a quantised weight therefore writes
its zero point, and padding and sums treat that as zero. Scales and zero points for each channel are cut too.
"""

from __future__ import annotations

from dataclasses import replace

from onnxprune.algebra.axes import nested
from onnxprune.algebra.sizes.algebra import Extent, exact_quotient
from onnxprune.ops.axes.axis_typing import UnknownOperandError
from onnxprune.ops.axes.constant_rules import same
from onnxprune.ops.axes.context import Context
from onnxprune.ops.axes.quantized_operands import IN_BLOCKS, is_known, reading
from onnxprune.ops.axes.statements import Axes, Quantised
from onnxprune.ops.axes.table import first, rule
from onnxprune.ops.spec import MICROSOFT


@rule("QuantizeLinear", zero=first)
def quantize(c: Context) -> None:
    """Scale and zero point are single numbers, one for each place on an axis, or one for each block there."""
    c.writes(0, replace(_scaled(c), scale=None))
    c.moves()


@rule("DequantizeLinear", zero=first, constant=same)
def dequantize(c: Context) -> None:
    """The other way round; a constant operand is a quantised weight."""
    how = _scaled(c)
    c.reads(0, how)
    if is_known(c, how):
        c.moves()


rule("QuantizeLinear", domain=MICROSOFT, zero=first)(quantize)
rule("DequantizeLinear", domain=MICROSOFT, zero=first, constant=same)(dequantize)


def _scaled(c: Context) -> Quantised:
    """Line scale and zero point up with the data, and return how they are to be read."""
    dims = c.axes(0)
    axis = int(c.attributes.get("axis", 1)) % max(len(dims), 1)
    size = int(c.attributes.get("block_size", 0))
    for operand in (1, 2):
        if c.has(operand):
            parameter = c.axes(operand)
            if not (_fits_in_blocks if size else _fits)(dims, parameter, axis, size):
                raise UnknownOperandError(f"its operand {operand} does not fit the quantised tensor")
            if size:
                _in_blocks(c, dims, parameter, axis, size)
            elif parameter and parameter[0].size != 1:
                c.same(dims[axis], parameter[0])
    c.define(0, dims)
    return reading(c, 1, 2, axis, size)


def _fits(dims: Axes, parameter: Axes, axis: int, _: int) -> bool:
    """Return true for one number, and for one at each place of the axis."""
    sizes = (1, dims[axis].size) if dims else (1,)
    return not parameter or (len(parameter) == 1 and parameter[0].size in sizes)


def _fits_in_blocks(dims: Axes, parameter: Axes, axis: int, size: int) -> bool:
    """Return true for one number a block of neighbours on the axis; the last block may be short."""
    return len(parameter) == len(dims) and all(
        _number_of_blocks(d.size, size) == p.size if k == axis else d.size == p.size
        for k, (d, p) in enumerate(zip(dims, parameter, strict=True))
    )


def _number_of_blocks(count: Extent, size: int) -> Extent | None:
    """Return the number of blocks of a size on an axis; ``None`` where that is not known."""
    return -(-count // size) if isinstance(count, int) else exact_quotient(count, size)


def _in_blocks(c: Context, dims: Axes, parameter: Axes, axis: int, size: int) -> None:
    """Neighbours on one axis share a scale: whole blocks of them are removable; the other axes are free."""
    if dims[axis].size != parameter[axis].size * size:
        for dim in (*dims, *parameter):
            c.block(dim, "it is quantised in blocks, the last of which is not full")
        return
    for k, (dim, other) in enumerate(zip(dims, parameter, strict=True)):
        c.same(dim, nested((other, c.fixed(size, IN_BLOCKS))) if k == axis else other)


@rule("DynamicQuantizeLinear", zero=first)
def dynamic_quantize(c: Context) -> None:
    """The scale follows from the largest and smallest element, zero included: zeros do not change it."""
    dims = c.axes(0)
    for dim in dims:
        c.contract(dim, 0)
    c.define(0, dims)
    c.writes(0, Quantised(zero=c.node.output[2]))
    for result in (1, 2):
        c.define(result, [])
