"""Operators of quantised tensors as plain ones between two changes of numbers (see `definitions`)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxprune.certify.reading.attention_definitions import attended_by_parts
from onnxprune.certify.reading.definitions import Parts, defines
from onnxprune.certify.refusal import need
from onnxprune.certify.relations.element_bounds import Array

ROUNDED_STATES = "states_are_rounded"
"""Attribute of an LSTM whose states become integers by the range of all hidden channels."""
LARGEST = 1 << 26
"""Elements up to which weights of a few bits are written out."""


def _numbers(p: Parts, place: int, axis: int) -> str:
    """Return an operand as numbers; the next two are its scale and its zero point, if it has one."""
    names = [p.operand(k) for k in range(place, place + 3)]
    if names[0] not in p.graph.constants:
        need(all(len(p.sizes(n)) == 0 or p.sizes(n) == [1] for n in names[1:] if n), "a scale for each row")
        return p.op("DequantizeLinear", *names)
    return _as_numbers(p, names, axis)


def _as_numbers(p: Parts, names: Sequence[str], axis: int) -> str:
    """Return a constant as numbers, given its name and those of its scale and zero point, if it has one."""
    value, scale = (p.graph.constants[n].astype(np.float64) for n in names[:2])
    zero = p.graph.constants[names[2]].astype(np.float64) if names[2] else np.zeros(())
    need(max(scale.ndim, zero.ndim) < 2 and value.size <= LARGEST, "scales of blocks")
    shape = [-1 if value.ndim and a == axis % value.ndim else 1 for a in range(value.ndim)]
    scale, zero = (v.reshape(shape) if v.size > 1 else v.reshape(()) for v in (scale, zero))
    made = p.constants((value - zero) * scale, np.float32)
    p.graph.like[made] = names[0]
    return made


def _rounded(p: Parts, made: str, place: int) -> None:
    """Enter a tensor as the result, with the scale and the zero point of two operands."""
    names = [p.operand(k) for k in (place, place + 1)]
    need(all(len(p.sizes(n)) == 0 or p.sizes(n) == [1] for n in names if n), "a scale for each row")
    p.op("QuantizeLinear", made, *(n for n in names if n), to=p.result())


def _bias(p: Parts, place: int, *scales: int, factor: float = 1.0) -> list[str]:
    """Return a bias of integers, which has the product of some scales, as numbers; an empty list for none."""
    if not p.has(place):
        return []
    scale = math.prod((p.constant(k).astype(np.float64) for k in scales), start=np.asarray(factor))
    return [p.constants(p.constant(place).astype(np.float64) * scale, np.float32)]


@defines("DequantizeLinear", domain="")
def numbers(p: Parts) -> None:
    """The numbers of a constant, and of rows picked from one: rows of the numbers."""
    need(not p.given.get("block_size"), "scales of blocks")
    axis = p.given.get("axis", 1)
    if p.operand(0) in p.graph.constants:
        p.op("Identity", _numbers(p, 0, axis), to=p.result())
        p.graph.like[p.result()] = p.operand(0)
        return
    picked = p.graph.moves[p.operand(0)]
    need(picked.op_type == "Gather", "no rows of a table")
    need(all(p.graph.constants[p.operand(k)].size == 1 for k in (1, 2) if p.has(k)), "a scale for each row")
    table = _as_numbers(p, [picked.input[0], p.operand(1), p.operand(2)], 0)
    axis = p.graph.attributes(picked).get("axis", 0)
    p.op("Gather", table, picked.input[1], to=p.result(), axis=axis)


@defines("DequantizeLinear")
def numbers_of_onnxruntime(p: Parts) -> None:
    """The operator of onnx."""
    if p.operand(0) in p.graph.constants:
        numbers(p)
    else:
        p.op("DequantizeLinear", *p.node.input, to=p.result(), **p.given)


@defines("QLinearConv", domain="")
@defines("QLinearConv")
def convolution(p: Parts) -> None:
    """Conv; the weights may have a scale for each filter."""
    need(not p.given.get("channels_last"), "channels on the last axis")
    given = {name: value for name, value in p.given.items() if name != "channels_last"}
    need(p.operand(3) in p.graph.constants, "computed weights")
    operands = [_numbers(p, 0, 1), _numbers(p, 3, 0), *_bias(p, 8, 1, 4)]
    _rounded(p, p.op("Conv", *operands, **given), 6)


def _centred(p: Parts, place: int, point: int, axis: int) -> str:
    """Return an operand of integers minus its zero point, another operand, as numbers."""
    names = [p.operand(place), p.constants(1, np.float32), p.operand(point)]
    if names[0] in p.graph.constants:
        return _as_numbers(p, names, axis)
    need(not names[2] or p.sizes(names[2]) in ([], [1]), "a zero point for each row")
    return p.op("DequantizeLinear", *(n for n in names if n))


@defines("MatMulInteger", domain="")
def product_of_integers(p: Parts) -> None:
    """MatMul of differences to zero points."""
    p.op("MatMul", _centred(p, 0, 2, -2), _centred(p, 1, 3, -1), to=p.result())


@defines("ConvInteger", domain="")
def convolution_of_integers(p: Parts) -> None:
    """Conv of differences to zero points."""
    p.op("Conv", _centred(p, 0, 2, 1), _centred(p, 1, 3, 0), to=p.result(), **p.given)


@defines("MatMulIntegerToFloat")
def product_of_integers_scaled(p: Parts) -> None:
    """MatMul of differences to zero points, times both scales, plus a bias."""
    need(p.sizes(p.operand(2)) in ([], [1]), "a scale for each row")
    made = p.op("MatMul", _centred(p, 0, 4, -2), _scaled_weights(p, 3, 5))
    _with_bias(p, p.op("Mul", made, p.operand(2)), 6)


@defines("DynamicQuantizeMatMul")
def product_of_ranges(p: Parts) -> None:
    """The same of numbers that become integers by their range."""
    x, scale, point = p.ops("DynamicQuantizeLinear", p.operand(0), results=3)
    x = p.op("DequantizeLinear", x, p.constants(1, np.float32), point)
    made = p.op("MatMul", x, _scaled_weights(p, 2, 3))
    _with_bias(p, p.op("Mul", made, scale), 4)


def _scaled_weights(p: Parts, scale: int, point: int) -> str:
    """Return the second operand, integers, as numbers, which may have a scale for each column."""
    return _as_numbers(p, [p.operand(1), p.operand(scale), p.operand(point)], -1)


def _with_bias(p: Parts, made: str, place: int) -> None:
    if p.has(place):
        p.op("Add", made, p.operand(place), to=p.result())
    else:
        p.op("Identity", made, to=p.result())


@defines("QAttention")
def attention(p: Parts) -> None:
    """Attention whose projections are products of integers."""
    p.only("num_heads", "scale", "mask_filter_value", "unidirectional")
    columns = p.number(p.operand(1), 1)
    need(columns % 3 == 0, "columns that are not three parts")
    scaled = [p.operand(k) for k in (0, 3, 6)]
    need(all(len(p.sizes(n)) == 0 or p.sizes(n) == [1] for n in scaled[1:] if n), "a scale for each row")
    x = p.op("DequantizeLinear", *(n for n in scaled if n))
    weights = _as_numbers(p, [p.operand(k) for k in (1, 4, 7)], -1)
    made = p.op("Add", p.op("MatMul", x, weights), p.operand(2))
    attended_by_parts(p, made, [columns // 3] * 3, mask=5, past=8)


@defines("QLinearMatMul", domain="")
def product(p: Parts) -> None:
    """MatMul; a constant second operand may have a scale for each column."""
    _rounded(p, p.op("MatMul", _numbers(p, 0, -2), _numbers(p, 3, -1)), 6)


@defines("QGemm")
def gemm(p: Parts) -> None:
    """Gemm; without a scale of its own the result is of floating-point numbers."""
    p.only("alpha", "transA", "transB")
    need(p.operand(3) in p.graph.constants, "computed weights")
    axis = 0 if p.given.get("transB") else 1
    bias = _bias(p, 6, 1, 4, factor=p.given.get("alpha", 1.0))
    operands = [_numbers(p, 0, 0), _numbers(p, 3, axis), *bias]
    made = p.op("Gemm", *operands, to="" if p.has(7) else p.result(), **p.given)
    if p.has(7):
        _rounded(p, made, 7)


@defines("QLinearAdd", "QLinearMul")
def sums(p: Parts) -> None:
    """Add and Mul."""
    operator = p.node.op_type.removeprefix("QLinear")
    need(not any(p.operand(k) in p.graph.constants for k in (0, 3)), "a constant")
    _rounded(p, p.op(operator, _numbers(p, 0, 0), _numbers(p, 3, 0)), 6)


@defines("QLinearSigmoid", "QLinearLeakyRelu", "QLinearGlobalAveragePool", "QLinearAveragePool")
def of_one_operand(p: Parts) -> None:
    """A function of one tensor."""
    need(not p.given.get("channels_last"), "channels on the last axis")
    given = {name: value for name, value in p.given.items() if name != "channels_last"}
    _rounded(p, p.op(p.node.op_type.removeprefix("QLinear"), _numbers(p, 0, 0), **given), 3)


@defines("QLinearSoftmax")
def softmax(p: Parts) -> None:
    """Softmax as of some opset, before 13 over all axes from one on."""
    rank = len(p.sizes(p.operand(0)))
    axis, since = p.given.get("axis", -1) % rank, p.given["opset"]
    need(since >= 13 or axis == rank - 1, "several axes at once")
    need(p.graph.opset >= 13 or axis == rank - 1, "an operator of another opset")
    _rounded(p, p.op("Softmax", _numbers(p, 0, 0), axis=axis), 3)


@defines("QLinearWhere")
def choice(p: Parts) -> None:
    """Selection by a condition."""
    need(not any(p.operand(k) in p.graph.constants for k in (1, 4)), "a constant")
    _rounded(p, p.op("Where", p.operand(0), _numbers(p, 1, 0), _numbers(p, 4, 0)), 7)


@defines("QLinearConcat")
def concat(p: Parts) -> None:
    """Concat; every third operand from the third on is a tensor."""
    p.only("axis")
    places = range(2, len(p.node.input), 3)
    need(not any(p.operand(k) in p.graph.constants for k in places), "a constant")
    _rounded(p, p.op("Concat", *(_numbers(p, k, 0) for k in places), **p.given), 0)


@defines("GatherBlockQuantized")
def rows_of_few_bits(p: Parts) -> None:
    """Gather from a table with a scale for each block along an axis."""
    p.only("bits", "block_size", "gather_axis", "quantize_axis")
    table, scales = p.constant(0), p.constant(2)
    bits, size = p.given.get("bits", 4), p.given.get("block_size", 128)
    packed = table.dtype == np.uint8
    values = _unpacked(table, bits) if packed and bits < 8 else table
    axis = p.given.get("quantize_axis", 1) % values.ndim
    need(values.size <= LARGEST and size > 0 and table.dtype.kind in "iu", "a table that is not written out")
    need(scales.shape[axis] * size == values.shape[axis], "a last block that is not full")
    points: Array = np.asarray(1 << (bits - 1) if packed else 0)
    if p.has(3):
        points = _unpacked(p.constant(3), bits) if packed and bits < 8 else p.constant(3)
        points = points.take(range(scales.shape[-1]), -1).repeat(size, axis)
    numbers = (values.astype(np.float64) - points) * scales.astype(np.float64).repeat(size, axis)
    made = p.constants(numbers, scales.dtype)
    if values.shape == table.shape:
        p.graph.like[made] = p.operand(0)
    p.op("Gather", made, p.operand(1), to=p.result(), axis=p.given.get("gather_axis", 0))


@defines("DynamicQuantizeLSTM")
def recurrence(p: Parts) -> None:
    """LSTM of weights ``[directions, inputs, gates]``; data and states become integers by their range."""
    x, scale, point = p.ops("DynamicQuantizeLinear", p.operand(0), results=3)
    weights = []
    for place, first in ((1, 8), (2, 10)):
        value, factor, zero = (p.constant(k).astype(np.float64) for k in (place, first, first + 1))
        factor, zero = (v.reshape(v.shape[0], 1, -1) for v in (factor, zero))
        weights.append(p.constants(((value - zero) * factor).transpose(0, 2, 1), np.float32))
    others = [p.operand(k) for k in range(3, 8)]
    operands = [p.op("DequantizeLinear", x, scale, point), *weights, *others]
    names = [p.result(k) for k in range(len(p.node.output))]
    p.ops("LSTM", *operands, names=names, states_are_rounded=1, **p.given)


@defines("MatMulNBits")
def product_of_few_bits(p: Parts) -> None:
    """MatMul with a matrix of few bits, ``[columns, blocks, bytes]``, and a scale for each block."""
    p.only("K", "N", "bits", "block_size", "accuracy_level")
    p.without(4)
    y = p.op("MatMul", p.operand(0), p.constants(_matrix(p), np.float32), to="" if p.has(5) else p.result())
    if p.has(5):
        p.op("Add", y, p.operand(5), to=p.result())


def _matrix(p: Parts) -> Array:
    """Return the matrix, ``[rows, columns]``."""
    rows, columns, size = (p.count(name) for name in ("K", "N", "block_size"))
    bits, blocks = p.given.get("bits", 4), -(-rows // size)
    need(bits in (2, 4, 8) and rows * columns <= LARGEST, "a matrix that is not written out")
    packed, scales = p.constant(1), p.constant(2)
    need(packed.dtype == np.uint8 and packed.shape == (columns, blocks, size * bits // 8), "another layout")
    zero: Array = np.asarray(1 << (bits - 1))
    if p.has(3):
        given = p.constant(3)
        if given.dtype == np.uint8:
            given = _unpacked(given.reshape(columns, -1), bits)[:, :blocks]
        zero = given.reshape(columns, blocks, 1)
    values = _unpacked(packed, bits).astype(np.float32) - zero.astype(np.float32)
    values = values * scales.reshape(columns, blocks, 1).astype(np.float32)
    return values.reshape(columns, blocks * size)[:, :rows].T


def _unpacked(packed: Array, bits: int) -> Array:
    """Return the elements of bytes, the lowest bits first."""
    parts = [packed >> shift & ((1 << bits) - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, -1).reshape(*packed.shape[:-1], -1)
