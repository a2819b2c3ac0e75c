"""Operators of quantised tensors as plain ones between two changes of numbers (see `definitions`)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxprune.certify.reading.definitions import Parts, defines
from onnxprune.certify.refusal import need
from onnxprune.certify.relations.element_bounds import Array

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


@defines("QLinearConcat")
def concat(p: Parts) -> None:
    """Concat; every third operand from the third on is a tensor."""
    p.only("axis")
    places = range(2, len(p.node.input), 3)
    need(not any(p.operand(k) in p.graph.constants for k in places), "a constant")
    _rounded(p, p.op("Concat", *(_numbers(p, k, 0) for k in places), **p.given), 0)


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
