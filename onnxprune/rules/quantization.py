"""Quantised operators: integers that stand for ``(q − zero point) · scale``.

Where an integer tensor is said to be zero, it is its zero point. Masking a quantised weight therefore writes
its zero point, and padding and sums treat that as zero. Scales and zero points for each channel are cut too.
"""

from __future__ import annotations

from onnxprune.dims import Dim, concatenated
from onnxprune.rules.constants import same
from onnxprune.rules.context import Context, Quantised
from onnxprune.rules.convolution import finish
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
    pattern = f"X[n (g ci) *s] {scale} {weight} ys[*d] yz[*e] B[{co}] -> Y[n {co} *t]"
    axes = c.match(pattern, {"g": int(c.attributes.get("group", 1))})
    finish(c, axes, "*t", weights=())
    if _is_weight(c, 3, scale=4, zero=5, axis=0):
        c.weights(3)
    c.weights(8)


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


rule("QLinearMul", domain=MICROSOFT, zero=lambda zeros: some((zeros[0], zeros[3])))(qlinear_add)


@rule("QLinearConcat", domain=MICROSOFT, zero=lambda zeros: carriers(zeros[2::3]))
def qlinear_concat(c: Context) -> None:
    """Each operand is followed by its scale and zero point."""
    operands = [c.axes(k) for k in range(2, len(c.node.input), 3)]
    axis = int(c.attributes["axis"]) % len(operands[0])
    result = list(operands[0])
    for dims in operands[1:]:
        for k, dim in enumerate(dims):
            if k != axis:
                c.same(result[k], dim)
    result[axis] = concatenated(dims[axis] for dims in operands)
    c.define(0, result)


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
