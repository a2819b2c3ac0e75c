"""Products of quantised weights: convolutions, matrices, attention, recurrence, packed blocks of integers."""

from __future__ import annotations

import math
from dataclasses import replace

from onnx import TensorProto

from onnxprune.algebra.axes import Dim, Factor, nested
from onnxprune.ops.axes import attention
from onnxprune.ops.axes.axis_typing import UnknownOperandError
from onnxprune.ops.axes.context import Context
from onnxprune.ops.axes.convolution import finish
from onnxprune.ops.axes.linear import added, matrix_product, matrix_view
from onnxprune.ops.axes.pointwise import broadcast
from onnxprune.ops.axes.quantized_operands import IN_BLOCKS, quantised_weights, reading
from onnxprune.ops.axes.recurrent import candidates_are_zero, gates
from onnxprune.ops.axes.statements import Quantised
from onnxprune.ops.axes.table import RuleFacts, Zeros, rule, some
from onnxprune.ops.axes.variables import Indexing
from onnxprune.ops.spec import MICROSOFT
from onnxprune.ops.views import LinearRule, LinearView, Operands


def _integers(view: LinearView) -> LinearView:
    """Return a view whose weights are integers; its result is scaled and rounded."""
    return replace(view, integers=True, after="elementwise")


def _product(weights: int, bias: int | None = None) -> LinearRule:
    """Return the linear views of products of integers, by a matrix in an operand from the right."""

    def linear(o: Operands) -> list[LinearView]:
        views = matrix_view(o, 0, weights, o.flag("transA"), o.flag("transB"))
        return [replace(_integers(view), bias=bias) for view in views]

    return linear


def _windows(weights: int, bias: int | None = None) -> LinearRule:
    """Return the linear view of convolutions of integers."""

    def linear(o: Operands) -> list[LinearView]:
        axis = -1 if o.flag("channels_last") else 1
        groups = int(o.attributes.get("group", 1))
        return [_integers(LinearView(0, axis, weights, axis, "windows", groups, bias=bias))]

    return linear


def _weights_and_bias(zeros: Zeros) -> bool:
    """The result is its zero point where weight and bias are zero."""
    return zeros[3] is True and (len(zeros) < 9 or zeros[8] is True)


_QLINEAR_CONV = RuleFacts(
    zero=_weights_and_bias, linear=_windows(3, bias=8), parameters=(3, 8), trainable=False
)


@rule("QLinearConv", **_QLINEAR_CONV)
def qlinear_conv(c: Context) -> None:
    """Conv, every tensor with a scale and a zero point; those of the weight may be one for each filter."""
    scale, co = "xs[*a] xz[*b]", "(g co)"
    weight = f"W[{co} ci *k] ws[{_each(c, 4, co)}] wz[{_each(c, 5, co)}]"
    x, y = ("*s (g ci)", f"*t {co}") if c.attributes.get("channels_last") else ("(g ci) *s", f"{co} *t")
    pattern = f"X[n {x}] {scale} {weight} ys[*d] yz[*e] B[{co}] -> Y[n {y}]"
    axes = c.match(pattern, {"g": int(c.attributes.get("group", 1))})
    finish(c, axes, "*t", weights=())
    c.reads(0, reading(c, 1, 2))
    c.writes(0, reading(c, None, 7))
    quantised_weights(c, 3, scale=4, zero=5, axis=0)
    c.reads(8, Quantised())
    c.weights(8)


rule("QLinearConv", domain=MICROSOFT, **_QLINEAR_CONV)(qlinear_conv)


def _projections(o: Operands) -> list[LinearView]:
    return [replace(view, integers=True) for view in attention.projections(o)]


@rule("QAttention", domain=MICROSOFT, linear=_projections, parameters=(1, 2), trainable=False)
def quantised_attention(c: Context) -> None:
    """Attention whose projections are products of integers."""
    if c.attributes.get("do_rotary"):
        raise UnknownOperandError("it turns its queries and keys inside")
    axes = attention.projected(c, [c.count(c.shape(1)[1]) // 3] * 3)
    _columns(c, c.axes(1), 4, 7)
    c.reads(0, reading(c, 3, 6))
    quantised_weights(c, 1, scale=4, zero=7, axis=1)
    c.weights(2)
    attention.finish_with_one_cache(c, axes, past=8)


@rule(
    "ConvInteger",
    zero=lambda zeros: zeros[1] is True,
    linear=_windows(1),
    parameters=(1,),
    trainable=False,
)
def conv_integer(c: Context) -> None:
    """Conv whose result is the sum of integers."""
    co = "(g co)"
    pattern = f"X[n (g ci) *s] W[{co} ci *k] xz[*a] wz[{_each(c, 3, co)}] -> Y[n {co} *t]"
    axes = c.match(pattern, {"g": int(c.attributes.get("group", 1))})
    finish(c, axes, "*t", weights=())
    c.reads(0, reading(c, None, 2))
    quantised_weights(c, 1, zero=3, axis=0)


def _each(c: Context, operand: int, axis: str) -> str:
    """Return the axes of a parameter that is one number, or one for each place on an axis."""
    return axis if c.has(operand) and c.shape(operand) and c.shape(operand)[0] != 1 else f"*p{operand}_"


@rule(
    "QLinearMatMul",
    zero=lambda zeros: some((zeros[0], zeros[3])),
    linear=_product(3),
    parameters=(3,),
    trainable=False,
)
def qlinear_matmul(c: Context) -> None:
    """MatMul, every tensor with a scale and a zero point; those of the second may be one for each column."""
    a, b = c.axes(0), c.axes(3)
    matrix_product(c, a, b, (0, 3))
    _columns(c, b, 4, 5)
    _rows_stay(c, a, 1, 2)
    c.reads(0, reading(c, 1, 2, len(a) - 2))
    c.writes(0, reading(c, None, 7))
    quantised_weights(c, 3, scale=4, zero=5, axis=-1)


@rule(
    "MatMulInteger",
    zero=lambda zeros: some(zeros[:2]),
    linear=_product(1),
    parameters=(1,),
    trainable=False,
)
def matmul_integer(c: Context) -> None:
    """MatMul whose result is the sum of integers."""
    a, b = c.axes(0), c.axes(1)
    matrix_product(c, a, b)
    _columns(c, b, 3)
    _rows_stay(c, a, 2)
    c.reads(0, reading(c, None, 2, len(a) - 2))
    quantised_weights(c, 1, zero=3, axis=-1)


@rule(
    "MatMulIntegerToFloat",
    domain=MICROSOFT,
    zero=lambda zeros: some(zeros[:2]) and all(zeros[6:]),
    linear=_product(1, bias=6),
    parameters=(1, 6),
    trainable=False,
)
def matmul_integer_to_float(c: Context) -> None:
    """MatMulInteger, scaled, and a bias."""
    a, b = c.axes(0), c.axes(1)
    matrix_product(c, a, b)
    _columns(c, b, 3, 5, 6)
    _rows_stay(c, a, 2, 4)
    c.reads(0, reading(c, 2, 4, len(a) - 2))
    quantised_weights(c, 1, scale=3, zero=5, axis=-1)
    c.weights(6)


def _product_and_bias(zeros: Zeros) -> bool:
    """The sum is zero where one of the operands is, and the bias."""
    return some((zeros[0], zeros[3])) and all(zeros[6:7])


@rule(
    "QGemm",
    domain=MICROSOFT,
    zero=_product_and_bias,
    linear=_product(3, bias=6),
    parameters=(3, 6),
    trainable=False,
)
def qgemm(c: Context) -> None:
    """Gemm of integers; scale and zero point of the second operand may be one for each column."""
    a, b = c.axes(0), c.axes(3)
    turned = bool(c.attributes.get("transA")), bool(c.attributes.get("transB"))
    matrix_product(c, a, b, (0, 3), turned)
    b = b[::-1] if turned[1] else b
    _columns(c, b, 4, 5)
    if c.has(6):
        broadcast(c, [c.typing.axes[c.node.output[0]], c.axes(6)])
        c.runs_along(added(6, c.axes(6), "rows", "columns"))
    c.reads(0, reading(c, 1, 2))
    if c.has(8):
        c.writes(0, reading(c, None, 8))
    quantised_weights(c, 3, scale=4, zero=5, axis=0 if c.attributes.get("transB") else 1)
    c.reads(6, Quantised())
    c.weights(6)


def _scales_and_bias(zeros: Zeros) -> bool:
    """A column is zero where its scales and its bias are."""
    return zeros[2] is True and all(zeros[5:6])


def _blocks(_: Operands) -> list[LinearView]:
    """Return the linear view of a product with packed weights, ``[columns, blocks, bytes]``."""
    return [LinearView(0, -1, 1, -1, "blocks", bias=5, integers=True, scales=2, summed=1)]


@rule(
    "MatMulNBits",
    domain=MICROSOFT,
    zero=_scales_and_bias,
    linear=_blocks,
    parameters=(1, 2, 5),
    trainable=False,
)
def matmul_n_bits(c: Context) -> None:
    """``A · B`` with a few bits an element of B, ``[columns, blocks, bytes]``, and a scale for each block.

    Masking sets scales to zero, for several elements share a byte. Along the sum whole blocks are removable.
    """
    if c.has(4):
        raise UnknownOperandError("its rows are put in another order by a list")
    blocks, size = c.shape(1)[1], int(c.attributes["block_size"])
    n, b = Factor(int(c.attributes["N"])), Factor(blocks)
    lead, k = c.axes(0)[:-1], c.axes(0)[-1]
    if k.size == blocks * size:
        c.same(k, nested((b, c.fixed(size, IN_BLOCKS))))
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
    each = c.parts_of(math.prod((d.size for d in dims), start=1), columns.size)
    inner: Dim = blocks
    if each != blocks.size:
        inner = c.fixed(each, "several zero points share a byte")
        c.block(blocks, "several zero points share a byte")
    c.same(nested(dims), nested((columns, inner)))


@rule(
    "GatherBlockQuantized",
    domain=MICROSOFT,
    zero=lambda zeros: zeros[2] is True,
    parameters=(0, 2),
    trainable=False,
)
def gather_block_quantized(c: Context) -> None:
    """Gather from a table in blocks with common scales, which masking sets to zero: blocks are removable."""
    data, scales = list(c.axes(0)), c.axes(2)
    rank, last = len(data), len(data) - 1
    axis, along = (int(c.attributes.get(n, d)) % rank for n, d in (("gather_axis", 0), ("quantize_axis", 1)))
    size, each = int(c.attributes.get("block_size", 128)), _elements_of_a_byte(c)
    if axis == along or (each > 1 and along != last):
        raise UnknownOperandError("it picks from an axis that is quantised in blocks")
    if data[along].size * each != scales[along].size * size:
        raise UnknownOperandError("the last block of its table is not full")
    parameters = [(scales, 1), *([(c.axes(3), each)] if c.has(3) else [])]
    for k in range(rank):
        for dims, packed in parameters:
            if k != along:
                c.same(data[k], dims[k])
            elif packed > 1:
                c.block(scales[k], "several zero points share a byte")
            else:
                c.same(scales[k], dims[k])
    c.same(data[along], nested((scales[along], c.fixed(size // each, IN_BLOCKS))))
    c.block(data[axis], "it picks elements of this axis by number")
    data[along] = nested((scales[along], c.fixed(size, IN_BLOCKS)))
    c.define(0, [*data[:axis], *c.axes(1), *data[axis + 1 :]])
    c.weights(2)


def _elements_of_a_byte(c: Context) -> int:
    """Return the number of elements of the first operand in one of its bytes."""
    is_packed = c.typing.shapes.types[c.node.input[0]] == TensorProto.UINT8
    return 8 // int(c.attributes.get("bits", 4)) if is_packed else 1


@rule(
    "DynamicQuantizeMatMul",
    domain=MICROSOFT,
    zero=lambda zeros: some(zeros[:2]) and all(zeros[4:]),
    linear=_product(1, bias=4),
    parameters=(1, 4),
    trainable=False,
)
def dynamic_quantize_matmul(c: Context) -> None:
    """DynamicQuantizeLinear of the first operand, then MatMulIntegerToFloat."""
    a, b = c.axes(0), c.axes(1)
    for dim in a[:-1]:
        c.contract(dim, 0)
    c.contract(a[-1], 0)
    matrix_product(c, a, b)
    _columns(c, b, 2, 3, 4)
    quantised_weights(c, 1, scale=2, zero=3, axis=-1)
    c.weights(4)


def _integer_gates(o: Operands) -> list[LinearView]:
    return [replace(view, integers=True, inputs_first=True) for view in gates(o)]


def _weights_and_states(zeros: Zeros) -> bool:
    """A channel whose weights, bias and initial states are zero stays zero, with any scales."""
    return all(z is not False for z in zeros[1:8])


@rule(
    "DynamicQuantizeLSTM",
    domain=MICROSOFT,
    zero=_weights_and_states,
    linear=_integer_gates,
    parameters=(1, 2, 3, 7),
    trainable=False,
)
def dynamic_quantize_lstm(c: Context) -> None:
    """LSTM whose weights are integers, and whose data and states become integers by their range.

    That range includes zero, so a channel that is zero does not show; another one would.
    """
    one, each = "d", "d (4 h)"
    parameters = " ".join(
        f"{name}[{each if c.has(k) and len(c.axes(k)) > 1 else one}]"
        for k, name in enumerate(("ws", "wz", "rs", "rz"), 8)
    )
    states = "lengths[n] initial_h[d n h] initial_c[d n h] P[d (3 h)]"
    weights = "W[d i (4 h)] R[d h (4 h)] B[d (8 h)]"
    axes = c.match(f"X[t n i] {weights} {states} {parameters} -> Y[t d n h] Y_h[d n h] Y_c[d n h]")
    t, n, d, h, i = (axes[name] for name in "tndhi")
    c.block(d, "the operator fixes the number of directions")
    c.block(t, "it moves along this axis")
    c.contract(i, 0)
    for state in (5, 6):
        if c.has(state):
            c.contract(h, state)
    c.contract(h, 2, results=(0, 1), axis=1)
    if not candidates_are_zero(c):
        c.block(h, "its result for zeros is not zero, and widens the range of its integers")
    if d.size != 1 and any(c.has(k) and len(c.axes(k)) > 1 for k in (8, 9, 10, 11)):
        c.block(h, "each of its directions has scales for each column")
    for weight, scale in ((1, 8), (2, 10)):
        quantised_weights(c, weight, scale=scale, zero=scale + 1, axis=2 if len(c.axes(scale)) > 1 else 0)
    c.weights(3, 5, 6, 7)
    c.follow_attribute("hidden_size", h)
    rows = (t, n, d, c.fixed(4, "gates"), h)
    c.works(*rows, i)
    c.works(*rows, h)


def _columns(c: Context, b: tuple[Dim, ...], *operands: int) -> None:
    """Parameters for each column are cut with the columns; those of more axes block the columns."""
    for operand in operands:
        if c.has(operand):
            parameter = c.axes(operand)
            if len(parameter) == 1 and parameter[0].size != 1:
                c.same(b[-1], parameter[0])
                c.runs_along(Indexing(operands={operand: (("columns",),)}))
            elif len(parameter) > 1:
                c.block(b[-1], "its columns are quantised in blocks")


def _rows_stay(c: Context, a: tuple[Dim, ...], *operands: int) -> None:
    for operand in operands:
        if c.has(operand) and any(d.size != 1 for d in c.axes(operand)):
            for dim in (*a[:-1], *c.axes(operand)):
                c.block(dim, "its rows are quantised one by one")
