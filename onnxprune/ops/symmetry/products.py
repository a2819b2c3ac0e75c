"""Convolutions and matrix products: general linear along the summed axis, and along the made one."""

from __future__ import annotations

from onnxprune.algebra.axes import factors
from onnxprune.ops.axes.einsum import parse_equation
from onnxprune.ops.symmetry.passage import Passage
from onnxprune.ops.symmetry.symmetry_kinds import DualPair, Effect, Role, Symmetry, Vector, permutation
from onnxprune.ops.symmetry.table import symmetry_rule
from onnxprune.ops.views import LinearView

ROWS = "it applies its bias along this axis"


@symmetry_rule("Conv", "ConvTranspose", "Gemm")
def weighted(p: Passage) -> Effect:
    """Weights that read an axis take the inverse of the map of those that write it."""
    view = p.view
    if view is None:
        return permutation("its weights are no constants")
    if (
        not view.final
        or view.integers
        or view.layout not in ("matrix", "stack", "windows", "transposed windows")
    ):
        return permutation("its weights are packed or quantised")
    data, weights = p.node.input[view.data], p.node.input[view.weights]
    read, made = _axes(p, view)
    carried, result = p.axes(data), p.axes(p.result)
    if set(carried) - {view.axis % p.rank(data)} or set(result) - {view.result_axis % p.rank(p.result)}:
        return _rows(p, view)
    dims = p.typing.axes[weights]
    reads, writes = (p.factor in factors(dims[k]) for k in (read, made))
    if len(p.axes(weights)) > reads + writes:
        return permutation("the axis lies on other axes of its weights too")
    bias = _bias(p, view)
    if isinstance(bias, Effect):
        return bias
    if (carried and not reads) or (result and not writes):  # a number for each channel
        return Effect(Symmetry.SCALING, bias, "it multiplies each channel by itself")
    roles: list[Role] = list(bias)
    if reads and carried:
        roles.append(Vector("read", weights, read, data, p.index))
    if writes and result:
        roles.append(Vector("write", weights, made, p.result, p.index))
    return Effect(Symmetry.LINEAR, tuple(roles))


@symmetry_rule("MatMul")
def matrix_product(p: Passage) -> Effect:
    """With constant weights as above; two activations are a pairing along the summed axis."""
    if p.view is not None:
        return weighted(p)
    first, second = p.node.input[:2]
    if any(p.is_constant(x) for x in (first, second)):
        return permutation("its weights have no linear view")
    a, b = p.axes(first), p.axes(second)
    rank_a, rank_b = p.rank(first), p.rank(second)
    if a == [rank_a - 1] and b == [rank_b - 2] and not p.outputs:
        return Effect(Symmetry.LINEAR, (DualPair(first, second, p.index),))
    if (a == [rank_a - 2] and not b) or (b == [rank_b - 1] and not a):
        return Effect(Symmetry.LINEAR)
    return permutation("it pairs elements of the axis one by one")


@symmetry_rule("Einsum")
def equation(p: Passage) -> Effect:
    """A product of two operands, by letters: with constant weights as above, or of two activations."""
    if p.view is not None and p.view.layout == "matrix":
        return weighted(p)
    terms, result = parse_equation(p.attributes["equation"])
    if len(terms) != 2:
        return permutation("it multiplies more than two operands")
    names = list(p.node.input)
    here = [_letters(p, name, term) for name, term in zip(names, terms, strict=True)]
    made = _letters(p, p.result, result)
    shared = here[0] & here[1]
    if len(here[0]) > 1 or len(here[1]) > 1 or len(made) > 1 or "." in shared or shared & made:
        return permutation("it pairs elements of the axis one by one")
    constant = [p.is_constant(name) for name in names]
    if any(constant):
        return (
            permutation("both operands are constants")
            if all(constant)
            else _lettered(p, constant.index(True))
        )
    if shared:
        queries = 1 if result[-1:] in terms[0] and result[-1:] not in terms[1] else 0
        return Effect(Symmetry.LINEAR, (DualPair(names[queries], names[1 - queries], p.index),))
    return Effect(Symmetry.LINEAR) if made else permutation("it sums one operand over the axis")


def _letters(p: Passage, name: str, term: str) -> set[str]:
    """Return the letters of an operand that the factor lies on."""
    left, dots, right = term.partition(".")
    rest = p.rank(name) - len(left) - len(right)
    spread = [*left, *dots * rest, *right]
    return {spread[axis] for axis in p.axes(name)}


def _lettered(p: Passage, weights: int) -> Effect:
    """A product of an activation and constant weights that sums over one letter they share."""
    name, data = p.node.input[weights], p.node.input[1 - weights]
    if not p.carries(name):
        return Effect(Symmetry.LINEAR) if p.outputs else permutation("it sums one operand over the axis")
    if bool(p.outputs) == p.carries(data):
        return permutation("it multiplies each channel by itself")
    (axis,) = p.axes(name)
    if p.outputs:
        return Effect(Symmetry.LINEAR, (Vector("write", name, axis, p.result, p.index),))
    return Effect(Symmetry.LINEAR, (Vector("read", name, axis, data, p.index),))


def _axes(p: Passage, view: LinearView) -> tuple[int, int]:
    """Return the axis of the weights that is summed over, and that of the outputs."""
    rank = p.rank(p.node.input[view.weights])
    read = view.summed_axis(rank)
    base = 0 if view.layout in ("windows", "transposed windows", "matrix") else rank - 2
    return read, 2 * base + 1 - read


def _bias(p: Passage, view: LinearView) -> tuple[Vector, ...] | Effect:
    """Return the role of the bias; an effect where it has none that a change of basis can follow."""
    name = p.node.input[view.bias] if view.bias is not None and p.has(view.bias) else ""
    if not name or not p.carries(p.result):
        return ()
    if not p.is_constant(name):
        return permutation("its bias is computed while the network runs")
    if p.carries(name):
        return (p.shift(name),)
    return () if p.is_zero(name) else permutation("it adds one number to all of the axis")


def _rows(p: Passage, view: LinearView) -> Effect:
    """Axes that are neither summed over nor made pass through a matrix product without a bias."""
    weights = p.node.input[view.weights]
    if view.layout not in ("matrix", "stack") or p.carries(weights):
        return permutation("it takes windows along this axis, or a matrix for each of its elements")
    if view.bias is not None and p.has(view.bias) and not p.is_zero(p.node.input[view.bias]):
        return permutation(ROWS)
    return Effect(Symmetry.LINEAR)
