"""Quantised operators: integers that stand for ``(q − zero point) · scale``.

Where an integer tensor is said to be zero, it is its zero point. Masking a quantised weight therefore writes
its zero point, and padding and sums treat that as zero. Scales and zero points for each channel are cut too.
"""

from __future__ import annotations

import math

from onnxprune.dims import Dim, Factor, nested
from onnxprune.rules import attention
from onnxprune.rules.constants import same
from onnxprune.rules.context import CannotSayError, Context, Quantised
from onnxprune.rules.convolution import finish
from onnxprune.rules.joining import join
from onnxprune.rules.linear import matrix_product
from onnxprune.rules.pointwise import broadcast
from onnxprune.rules.table import Zeros, carriers, first, rule, some

MICROSOFT = "com.microsoft"


@rule("QuantizeLinear", zero=first)
def quantize(c: Context) -> None:
    """Scale and zero point are single numbers, or one for each place on an axis."""
    _scaled(c)
    c.moves()


@rule("DequantizeLinear", zero=first, constant=same)
def dequantize(c: Context) -> None:
    """The other way round; a constant operand is a quantised weight."""
    axis = _scaled(c)
    if _is_weight(c, 0, scale=1, zero=2, axis=axis):
        c.moves()


rule("QuantizeLinear", domain=MICROSOFT, zero=first)(quantize)
rule("DequantizeLinear", domain=MICROSOFT, zero=first, constant=same)(dequantize)


def _scaled(c: Context) -> int:
    """Line scale and zero point up with the data, and return the axis they lie on."""
    dims = c.axes(0)
    axis = int(c.attributes.get("axis", 1))
    for operand in (1, 2):
        if c.has(operand):
            parameter = c.axes(operand)
            if len(parameter) == 1 and parameter[0].size > 1:
                c.same(dims[axis], parameter[0])
            elif len(parameter) > 1:
                for dim in (*dims, *parameter):
                    c.block(dim, "it is quantised in blocks")
    c.define(0, dims)
    return axis % max(len(dims), 1)


@rule("DynamicQuantizeLinear", zero=first)
def dynamic_quantize(c: Context) -> None:
    """The scale follows from the largest and smallest element, zero included: zeros do not change it."""
    dims = c.axes(0)
    for dim in dims:
        c.contract(dim, 0)
    c.define(0, dims)
    for result in (1, 2):
        c.define(result, [])


def _weights_and_bias(zeros: Zeros) -> bool:
    """The result is its zero point where weight and bias are zero."""
    return zeros[3] is True and (len(zeros) < 9 or zeros[8] is True)


@rule("QLinearConv", zero=_weights_and_bias)
def qlinear_conv(c: Context) -> None:
    """Conv, every tensor with a scale and a zero point; those of the weight may be one for each filter."""
    scale, co = "xs[*a] xz[*b]", "(g co)"
    weight = f"W[{co} ci *k] ws[{_each(c, 4, co)}] wz[{_each(c, 5, co)}]"
    x, y = ("*s (g ci)", f"*t {co}") if c.attributes.get("channels_last") else ("(g ci) *s", f"{co} *t")
    pattern = f"X[n {x}] {scale} {weight} ys[*d] yz[*e] B[{co}] -> Y[n {y}]"
    axes = c.match(pattern, {"g": int(c.attributes.get("group", 1))})
    finish(c, axes, "*t", weights=())
    if _is_weight(c, 3, scale=4, zero=5, axis=0):
        c.weights(3)
    c.weights(8)


rule("QLinearConv", domain=MICROSOFT, zero=_weights_and_bias)(qlinear_conv)


@rule("QAttention", domain=MICROSOFT)
def quantised_attention(c: Context) -> None:
    """Attention whose projections are products of integers."""
    if c.attributes.get("do_rotary"):
        raise CannotSayError("it turns its queries and keys inside")
    axes = attention.projected(c, [c.shape(1)[1] // 3] * 3)
    _columns(c, c.axes(1), 4, 7)
    if _is_weight(c, 1, scale=4, zero=7, axis=1):
        c.weights(1)
    c.weights(2)
    attention.finish_with_one_cache(c, axes, past=8)


@rule("ConvInteger", zero=lambda zeros: zeros[1] is True)
def conv_integer(c: Context) -> None:
    """Conv whose result is the sum of integers."""
    co = "(g co)"
    pattern = f"X[n (g ci) *s] W[{co} ci *k] xz[*a] wz[{_each(c, 3, co)}] -> Y[n {co} *t]"
    axes = c.match(pattern, {"g": int(c.attributes.get("group", 1))})
    finish(c, axes, "*t", weights=())
    if _is_weight(c, 1, zero=3, axis=0):
        c.weights(1)


def _each(c: Context, operand: int, axis: str) -> str:
    """Return the axes of a parameter that is one number, or one for each place on an axis."""
    return axis if c.has(operand) and c.shape(operand) and c.shape(operand)[0] > 1 else f"*p{operand}_"


@rule("QLinearMatMul", zero=lambda zeros: some((zeros[0], zeros[3])))
def qlinear_matmul(c: Context) -> None:
    """MatMul, every tensor with a scale and a zero point; those of the second may be one for each column."""
    a, b = c.axes(0), c.axes(3)
    matrix_product(c, a, b, (0, 3))
    _columns(c, b, 4, 5)
    _rows_stay(c, a, 1, 2)
    if _is_weight(c, 3, scale=4, zero=5, axis=-1):
        c.weights(3)


@rule("MatMulInteger", zero=lambda zeros: some(zeros[:2]))
def matmul_integer(c: Context) -> None:
    """MatMul whose result is the sum of integers."""
    a, b = c.axes(0), c.axes(1)
    matrix_product(c, a, b)
    _columns(c, b, 3)
    _rows_stay(c, a, 2)
    if _is_weight(c, 1, zero=3, axis=-1):
        c.weights(1)


@rule("MatMulIntegerToFloat", domain=MICROSOFT, zero=lambda zeros: some(zeros[:2]) and all(zeros[6:]))
def matmul_integer_to_float(c: Context) -> None:
    """MatMulInteger, scaled, and a bias."""
    a, b = c.axes(0), c.axes(1)
    matrix_product(c, a, b)
    _columns(c, b, 3, 5, 6)
    _rows_stay(c, a, 2, 4)
    if _is_weight(c, 1, scale=3, zero=5, axis=-1):
        c.weights(1)
    c.weights(6)


def _product_and_bias(zeros: Zeros) -> bool:
    """The sum is zero where one of the operands is, and the bias."""
    return some((zeros[0], zeros[3])) and all(zeros[6:7])


@rule("QGemm", domain=MICROSOFT, zero=_product_and_bias)
def qgemm(c: Context) -> None:
    """Gemm of integers; scale and zero point of the second operand may be one for each column."""
    a, b = c.axes(0), c.axes(3)
    a = a[::-1] if c.attributes.get("transA") else a
    b = b[::-1] if c.attributes.get("transB") else b
    k = Factor(a[1].size)
    c.same(a[1], k)
    c.same(b[0], k)
    c.contract(k, 0, 3)
    _columns(c, b, 4, 5)
    if c.has(6):
        broadcast(c, [[a[0], b[1]], c.axes(6)])
    c.define(0, [a[0], b[1]])
    if _is_weight(c, 3, scale=4, zero=5, axis=0 if c.attributes.get("transB") else 1):
        c.weights(3)
    c.weights(6)
    c.works(a[0], b[1], k)


def _scales_and_bias(zeros: Zeros) -> bool:
    """A column is zero where its scales and its bias are."""
    return zeros[2] is True and all(zeros[5:6])


@rule("MatMulNBits", domain=MICROSOFT, zero=_scales_and_bias)
def matmul_n_bits(c: Context) -> None:
    """``A · B`` with a few bits an element of B, ``[columns, blocks, bytes]``, and a scale for each block.

    Masking sets scales to zero, for several elements share a byte. Along the sum whole blocks can go.
    """
    if c.has(4):
        raise CannotSayError("its rows are put in another order by a list")
    blocks, size = c.shape(1)[1], int(c.attributes["block_size"])
    n, b = Factor(int(c.attributes["N"])), Factor(blocks)
    lead, k = c.axes(0)[:-1], c.axes(0)[-1]
    if k.size == blocks * size:
        c.same(k, nested((b, c.fixed(size, "its elements share a scale"))))
    else:
        for dim in (k, b):
            c.block(dim, "its last block is not full")
    c.same(c.axes(1)[0], n)
    c.same(c.axes(1)[1], b)
    c.block(c.axes(1)[2], "several elements share a byte")
    _along_columns(c, 2, n, b)
    if c.has(3):
        _along_columns(c, 3, n, b)
    if c.has(5):
        c.same(c.axes(5)[0], n)
    c.contract(b, 0, 2)
    c.weights(2, 5)
    c.follow_attribute("N", n)
    c.follow_attribute("K", k)
    c.define(0, [*lead, n])
    c.works(*lead, n, k)


def _along_columns(c: Context, operand: int, columns: Dim, blocks: Dim) -> None:
    """Scales and zero points are written down column by column; zero points may share bytes."""
    dims = c.axes(operand)
    each = math.prod(d.size for d in dims) // columns.size
    inner: Dim = blocks
    if each != blocks.size:
        inner = c.fixed(each, "several zero points share a byte")
        c.block(blocks, "several zero points share a byte")
    c.same(nested(dims), nested((columns, inner)))


@rule("DynamicQuantizeMatMul", domain=MICROSOFT, zero=lambda zeros: some(zeros[:2]) and all(zeros[4:]))
def dynamic_quantize_matmul(c: Context) -> None:
    """DynamicQuantizeLinear of the first operand, then MatMulIntegerToFloat."""
    a, b = c.axes(0), c.axes(1)
    for dim in a[:-1]:
        c.contract(dim, 0)
    c.contract(a[-1], 0)
    matrix_product(c, a, b)
    _columns(c, b, 2, 3, 4)
    if _is_weight(c, 1, scale=2, zero=3, axis=-1):
        c.weights(1)
    c.weights(4)


@rule("QLinearAdd", domain=MICROSOFT, zero=lambda zeros: zeros[0] is True and zeros[3] is True)
def qlinear_add(c: Context) -> None:
    """Elementwise; scales and zero points are single numbers."""
    c.define(0, broadcast(c, [c.axes(0), c.axes(3)]))


@rule("QLinearWhere", domain=MICROSOFT, zero=lambda zeros: zeros[1] is True and zeros[4] is True)
def qlinear_where(c: Context) -> None:
    """Choose between two operands, each with its scale and zero point."""
    c.define(0, broadcast(c, [c.axes(k) for k in (0, 1, 4)]))


@rule("QLinearSoftmax", domain=MICROSOFT)
def qlinear_softmax(c: Context) -> None:
    """Normalise over one axis; before opset 13 over all axes from that one on."""
    dims = c.axes(0)
    axis = int(c.attributes.get("axis", -1)) % len(dims)
    for dim in dims[axis:] if c.attributes["opset"] < 13 else dims[axis : axis + 1]:
        c.block(dim, "it normalises over this axis")
    c.define(0, dims)


rule("QLinearMul", domain=MICROSOFT, zero=lambda zeros: some((zeros[0], zeros[3])))(qlinear_add)


@rule("QLinearConcat", domain=MICROSOFT, zero=lambda zeros: carriers(zeros[2::3]))
def qlinear_concat(c: Context) -> None:
    """Each operand is followed by its scale and zero point."""
    join(c, range(2, len(c.node.input), 3))


@rule("QLinearLeakyRelu", domain=MICROSOFT, zero=first)
def qlinear_activation(c: Context) -> None:
    """Elementwise, of one operand."""
    c.define(0, c.axes(0))


rule("QLinearSigmoid", domain=MICROSOFT)(qlinear_activation)


@rule("QLinearGlobalAveragePool", "QLinearAveragePool", domain=MICROSOFT, zero=first)
def qlinear_pool(c: Context) -> None:
    """Channels do not see each other."""
    c.match("X[n *s c] -> Y[n *t c]" if c.attributes.get("channels_last") else "X[n c *s] -> Y[n c *t]")


def _columns(c: Context, b: tuple[Dim, ...], *operands: int) -> None:
    """Parameters for each column are cut with the columns; those of more axes are left alone."""
    for operand in operands:
        if c.has(operand):
            parameter = c.axes(operand)
            if len(parameter) == 1 and parameter[0].size > 1:
                c.same(b[-1], parameter[0])
            elif len(parameter) > 1:
                c.block(b[-1], "its columns are quantised in blocks")


def _rows_stay(c: Context, a: tuple[Dim, ...], *operands: int) -> None:
    for operand in operands:
        if c.has(operand) and any(d.size > 1 for d in c.axes(operand)):
            for dim in (*a[:-1], *c.axes(operand)):
                c.block(dim, "its rows are quantised one by one")


def _is_weight(c: Context, operand: int, *, scale: int | None = None, zero: int, axis: int) -> bool:
    """Register a constant as a quantised weight, and say whether masking knows what stands for zero in it."""
    constants = c.typing.model.constants
    names = [c.node.input[k] if k is not None and c.has(k) else None for k in (scale, zero)]
    if any(n is not None and n not in constants for n in names):
        return False
    name = c.node.input[operand]
    if name not in constants:  # moved about before: then only one number, 0, can be written anywhere
        return names[1] is None or not c.typing.model.array(names[1]).any()
    how = Quantised(names[0], names[1], axis % max(len(c.axes(operand)), 1))
    if c.typing.quantised.setdefault(name, how) != how:
        for dim in c.axes(operand):
            c.block(dim, "other nodes read its numbers in another way")
    return True
