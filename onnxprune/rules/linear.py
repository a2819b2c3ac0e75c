"""Matrix products."""

from __future__ import annotations

from onnxprune.dims import Factor
from onnxprune.rules.constants import averages
from onnxprune.rules.context import Axes, Context, Linear
from onnxprune.rules.pointwise import broadcast
from onnxprune.rules.table import Zeros, rule, some


def product_and_bias(zeros: Zeros) -> bool:
    """``A·B + C`` is zero where A or B is, and C is too."""
    bias = zeros[2] if len(zeros) > 2 else True
    return some(zeros[:2]) and bias is True


@rule("Gemm", zero=product_and_bias)
def gemm(c: Context) -> None:
    """``Y = A·B + C``, either factor transposed on request."""
    a = "k m" if c.attributes.get("transA") else "m k"
    b = "n k" if c.attributes.get("transB") else "k n"
    axes = c.match(f"A[{a}] B[{b}] -> Y[m n]")
    if c.has(2):
        for dim, size, name in zip(reversed(c.axes(2)), reversed(c.shape(2)), ("n", "m"), strict=False):
            if size > 1:
                c.same(dim, axes[name])
    c.weights(0, 1, 2)
    c.works(axes["m"], axes["n"], axes["k"])
    axis, first = (0 if c.attributes.get("transA") else 1), not c.attributes.get("transB")
    alpha, beta = (float(c.attributes.get(name, 1.0)) for name in ("alpha", "beta"))
    c.multiplies(Linear(0, axis, 1, 1, inputs_first=first, bias=2, alpha=alpha, beta=beta))


@rule("MatMul", zero=some, constant=averages)
def matmul(c: Context) -> None:
    """Leading axes broadcast, and a vector stands for a matrix of one row or column, as in numpy."""
    matrix_product(c, c.axes(0), c.axes(1))
    c.weights(0, 1)
    if len(c.axes(1)) == 2:
        c.multiplies(Linear(0, -1, weights=1, result_axis=-1, inputs_first=True))
    if len(c.axes(0)) == 2 and len(c.axes(1)) > 1:
        c.multiplies(Linear(1, -2, weights=0, result_axis=-2))


def matrix_product(c: Context, a: Axes, b: Axes, operands: tuple[int, int] = (0, 1)) -> None:
    """Multiply two operands, whose axes are given in the order of MatMul.

    Attention multiplies two activations, head by head: of the two factors, heads and their width, the heads
    are the ones to prune first.
    """
    k = Factor(a[-1].size)
    c.same(a[-1], k)
    c.same(b[-2] if len(b) > 1 else b[0], k)
    c.contract(k, *operands)
    batch = broadcast(c, [a[:-2], b[:-2]])
    rows, columns = a[-2:-1] if len(a) > 1 else (), b[-1:] if len(b) > 1 else ()
    if not any(c.node.input[o] in c.typing.model.constants for o in operands):
        for dim in (k, *rows, *columns):
            c.prefer_other(dim)
    c.define(0, [*batch, *rows, *columns])
    c.works(*batch, *rows, k, *columns)
