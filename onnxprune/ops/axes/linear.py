"""Matrix products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnxprune.algebra.axes import Dim, Factor
from onnxprune.ops.axes.axis_typing import UnknownOperandError
from onnxprune.ops.axes.constant_rules import averages
from onnxprune.ops.axes.context import Context
from onnxprune.ops.axes.pointwise import broadcast
from onnxprune.ops.axes.statements import Axes
from onnxprune.ops.axes.table import Zeros, rule, some
from onnxprune.ops.axes.variables import Indexing, Keys, from_the_right
from onnxprune.ops.views import LinearView, Operands


def product_and_bias(zeros: Zeros) -> bool:
    """``A·B + C`` is zero where A or B is, and C is too."""
    bias = zeros[2] if len(zeros) > 2 else True
    return some(zeros[:2]) and bias is True


def gemm_views(o: Operands) -> list[LinearView]:
    """Return the linear views of Gemm: in the first operand, and in the second."""
    a, b, alpha, beta = o.flag("transA"), o.flag("transB"), o.number("alpha"), o.number("beta")
    right = LinearView(0, 0 if a else 1, 1, 1, inputs_first=not b, bias=2, alpha=alpha, beta=beta)
    left = LinearView(1, 1 if b else 0, 0, 0, inputs_first=a, alpha=alpha)
    return [right, replace(left, after="elementwise") if o.has(2) else left]


def matmul_views(o: Operands) -> list[LinearView]:
    """Return the linear views of MatMul; ``transA`` and ``transB`` are those of its fused forms."""
    if o.flag("transBatchA") or o.flag("transBatchB"):
        return []
    a, b = o.flag("transA"), o.flag("transB")
    return [*matrix_view(o, 0, 1, a, b), *matrix_view(o, 1, 0, b, a)]


def matrix_view(
    o: Operands, data: int, weights: int, turned: bool = False, weights_turned: bool = False
) -> list[LinearView]:
    """Return the view in one operand, by a matrix or a stack of them in the other.

    Args:
        o: The node.
        data: The operand that is multiplied.
        weights: The other one; the lower of both stands on the left.
        turned: True if the last two axes of the data are exchanged before.
        weights_turned: True if those of the weights are.
    """
    right, rank, data_rank = data < weights, o.rank(weights), o.rank(data)
    if rank is None or rank < 2 or (data_rank == 1 and not right):
        return []
    return [
        LinearView(
            data,
            -1 if right != turned else -2,
            weights=weights,
            result_axis=-1 if right else -2,
            layout="matrix" if rank == 2 else "stack",
            inputs_first=right != weights_turned,
            alpha=o.number("alpha"),
        )
    ]


@rule("Gemm", zero=product_and_bias, linear=gemm_views, parameters=(0, 1, 2))
def gemm(c: Context) -> None:
    """``Y = A·B + C``, either factor transposed on request."""
    a = "k m" if c.attributes.get("transA") else "m k"
    b = "n k" if c.attributes.get("transB") else "k n"
    axes = c.match(f"A[{a}] B[{b}] -> Y[m n]")
    if c.has(2):
        for dim, size, name in zip(reversed(c.axes(2)), reversed(c.shape(2)), ("n", "m"), strict=False):
            if size != 1:
                c.same(dim, axes[name])
        c.runs_along(added(2, c.axes(2), "m", "n"))
    c.weights(0, 1, 2)
    c.works(axes["m"], axes["n"], axes["k"])


@rule("MatMul", zero=some, constant=averages, linear=matmul_views, parameters=(0, 1))
def matmul(c: Context) -> None:
    """Leading axes broadcast, and a vector stands for a matrix of one row or column, as in numpy."""
    matrix_product(c, c.axes(0), c.axes(1))
    c.weights(0, 1)


def added(operand: int, dims: Axes, rows: str, columns: str) -> Indexing:
    """Return the indices of the addend of a product, along its rows and columns."""
    if len(dims) > 2:
        raise UnknownOperandError(f"its addend has {len(dims)} axes, and no more than two fit")
    keys = (rows, columns)[2 - len(dims) :]
    along: tuple[Keys, ...] = tuple((k,) if d.size != 1 else () for k, d in zip(keys, dims, strict=True))
    return Indexing(operands={operand: along})


def matrix_product(
    c: Context,
    a: Axes,
    b: Axes,
    operands: tuple[int, int] = (0, 1),
    turned: tuple[bool, bool] = (False, False),
) -> None:
    """Multiply two operands as MatMul does.

    Attention multiplies two activations, head by head: of the two factors, heads and their width, the heads
    are the ones to prune first.

    Args:
        c: The node.
        a: The axes of the first operand.
        b: Those of the second.
        operands: Their numbers.
        turned: True if the last two axes of each are exchanged before.
    """
    left, right = _described(a, "rows", "sum", turned[0]), _described(b, "sum", "columns", turned[1])
    where = {key: dim for keys, dims in ((left, a), (right, b)) for key, dim in zip(keys, dims, strict=True)}
    k = Factor(a[left.index("sum")].size)
    c.same(a[left.index("sum")], k)
    c.same(b[right.index("sum")], k)
    c.contract(k, *operands)
    leading = {o: dims[:-2] for o, dims in zip(operands, (a, b), strict=True)}
    batch = broadcast(c, list(leading.values()))
    outside = [key for key in ("rows", "columns") if key in where]
    if not any(c.node.input[o] in c.typing.model.constants for o in operands):
        for dim in (k, *(where[key] for key in outside)):
            c.prefer_other(dim)
        if len(batch) > 1:
            c.plays("heads", batch[-1])
            c.plays("kv_heads", b[-3] if len(b) > 2 else batch[-1])
            c.plays("head_width", k)
    c.runs_along(
        _apart(from_the_right(batch, leading), where, dict(zip(operands, (left, right), strict=True)))
    )
    c.define(0, [*batch, *(where[key] for key in outside)])
    c.works(*batch, *(where[key] for key in outside), k)


def _apart(batch: Indexing, where: Mapping[str, Dim], names: Mapping[int, Sequence[str]]) -> Indexing:
    """Return the indices of a product: batch, rows, columns, and the summed axis."""
    inner: dict[str, Dim] = {key: dim for key, dim in where.items() if not key.startswith("batch")}
    made = [key for key in ("rows", "columns") if key in inner]
    return Indexing(
        {**batch.variables, **inner},
        {k: (*keys, *((key,) for key in names[k][-2:])) for k, keys in batch.operands.items()},
        {0: (*batch.results[0], *((key,) for key in made))},
    )


def _described(dims: Axes, first: str, second: str, turned: bool) -> list[str]:
    """Name the axes of an operand, those of the batch by numbers; a vector has only the summed axis."""
    if len(dims) == 1:
        return ["sum"]
    last = [second, first] if turned else [first, second]
    return [*(f"batch {k}" for k in range(len(dims) - 2)), *last]
