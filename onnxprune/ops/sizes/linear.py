"""Products of matrices."""

from __future__ import annotations

from onnxprune.algebra.sizes.algebra import Extent, Value
from onnxprune.algebra.sizes.facts import ContradictionError
from onnxprune.algebra.sizes.tensors import FLOAT, INT32, UINT8, Shape
from onnxprune.ops.sizes.node import SizedNode
from onnxprune.ops.sizes.table import MICROSOFT, size_rule


@size_rule("MatMul")
@size_rule("TransposeMatMul", "FusedMatMul", "FusedMatMulActivation", domain=MICROSOFT)
def matmul(node: SizedNode) -> None:
    """Rows of one by columns of the other; com.microsoft's may be turned."""
    one, other = node.shape(), node.shape(1)
    node.put(0, product(node, _turned(node, one, "A"), _turned(node, other, "B")))


def _turned(node: SizedNode, shape: Shape | None, which: str) -> Shape | None:
    """Return a shape with the axes that fused products swap swapped back."""
    if shape is None or len(shape) < 2:
        return shape
    if node.attribute(f"transBatch{which}", 0):  # the first axis comes last but one
        shape = (*shape[1:-1], shape[0], shape[-1])
    return (*shape[:-2], shape[-1], shape[-2]) if node.attribute(f"trans{which}", 0) else shape


def product(node: SizedNode, one: Shape | None, other: Shape | None) -> list[Value] | None:
    """Return the shape of a product as numpy has it."""
    if one is None or other is None:
        return None
    if not one or not other:
        raise ContradictionError("a single number cannot be multiplied as a matrix")
    node.same(one[-1], other[-2] if len(other) > 1 else other[0], "inner axes")
    lead = node.broadcast([one[:-2], other[:-2]])
    return [*(lead or ()), *(one[-2:-1] if len(one) > 1 else ()), *(other[-1:] if len(other) > 1 else ())]


@size_rule("MatMulInteger")
def matmul_integer(node: SizedNode) -> None:
    """A product in 32 bit integers."""
    node.put(0, product(node, node.shape(), node.shape(1)), INT32)


@size_rule("QLinearMatMul")
def quantized_matmul(node: SizedNode) -> None:
    """A product of quantised matrices."""
    node.put(0, product(node, node.shape(), node.shape(3)), node.kind(7))


@size_rule("MatMulIntegerToFloat", "DynamicQuantizeMatMul", domain=MICROSOFT)
def matmul_to_float(node: SizedNode) -> None:
    """A product of integers, in floats."""
    node.put(0, product(node, node.shape(), node.shape(1)), FLOAT)


@size_rule("Gemm")
@size_rule("FusedGemm", domain=MICROSOFT)
def gemm(node: SizedNode) -> None:
    """A product of two matrices, which may be turned."""
    node.put(0, _gemm(node, node.shape(), node.shape(1)))


@size_rule("QGemm", domain=MICROSOFT)
def quantized_gemm(node: SizedNode) -> None:
    """A product of two quantised matrices."""
    node.put(0, _gemm(node, node.shape(), node.shape(3)), node.kind(8) if node.has(8) else FLOAT)


def _gemm(node: SizedNode, one: Shape | None, other: Shape | None) -> list[Value] | None:
    if one is None or other is None:
        return [node.fresh(0, 0), node.fresh(0, 1)]
    if len(one) != 2 or len(other) != 2:
        raise ContradictionError(f"operands of {len(one)} and {len(other)} axes are no two matrices")
    if node.attribute("transA", 0):
        one = one[::-1]
    if node.attribute("transB", 0):
        other = other[::-1]
    node.same(one[1], other[0], "inner axes")
    return [one[0], other[1]]


@size_rule("MatMulNBits", "MatMulBnb4", "MatMulFpQ4", domain=MICROSOFT)
def matmul_of_bits(node: SizedNode) -> None:
    """A product with packed weights of N rows."""
    shape = node.shape()
    if shape is None:
        node.put(0, None)
        return
    if node.attribute("K") is not None:
        node.same(shape[-1], node.attribute("K"), "inner axes")
    node.put(0, [*shape[:-1], node.attribute("N")] if node.attribute("N") is not None else None)


@size_rule("Einsum")
def einsum(node: SizedNode) -> None:
    """A size for each letter."""
    terms = node.attribute("equation", "").replace(" ", "").split("->")
    shapes = [node.shape(k) for k in range(len(node.inputs))]
    known = [s for s in shapes if s is not None]
    inputs = terms[0].split(",")
    if len(known) != len(shapes) or len(inputs) != len(known):
        node.put(0, None)
        return
    letters: dict[str, Extent] = {}
    dots: list[Shape] = []
    for term, shape in zip(inputs, known, strict=True):
        dots.append(_read_term(node, term, shape, letters))
    middle = node.broadcast(dots) or ()
    result = terms[1] if len(terms) > 1 else _implicit(terms[0])
    sizes: list[Value] = []
    for letter in result.replace("...", "."):
        sizes += middle if letter == "." else (letters[letter],)
    node.put(0, sizes)


def _read_term(node: SizedNode, term: str, shape: Shape, letters: dict[str, Extent]) -> Shape:
    """Enter the sizes of a term's letters, and return those of its dots."""
    before, dots, after = term.partition("...")
    count = len(shape) - len(before) - len(after)
    if count < 0 or (count and not dots):
        raise ContradictionError(f"'{term}' does not fit an operand of {len(shape)} axes")
    pairs = [*zip(before, shape, strict=False), *zip(after, shape[len(shape) - len(after) :], strict=True)]
    for letter, size in pairs:
        old = letters.get(letter, size)
        broadcast = 1 in (old, size)
        letters[letter] = (size if old == 1 else old) if broadcast else node.same(old, size, f"'{letter}'")
    return shape[len(before) : len(before) + count]


def _implicit(inputs: str) -> str:
    letters = inputs.replace(",", "").replace(".", "")
    single = sorted(x for x in set(letters) if letters.count(x) == 1)
    return ("..." if "..." in inputs else "") + "".join(single)


@size_rule("CDist", domain=MICROSOFT)
def distances(node: SizedNode) -> None:
    """Rows of one by rows of the other."""
    one, other = node.shape(), node.shape(1)
    node.put(0, None if one is None or other is None else [one[0], other[0]])


@size_rule("GatherBlockQuantized", domain=MICROSOFT)
def gather_blocks(node: SizedNode) -> None:
    """Rows of a table, which may hold several numbers a byte."""
    shape, indices = node.shape(), node.shape(1)
    kind = node.kind(2)
    if shape is None or indices is None:
        node.put(0, None, kind)
        return
    axis = node.axis(node.attribute("gather_axis", 0), len(shape))
    packed = 8 // int(node.attribute("bits", 4)) if node.kind() == UINT8 else 1
    sizes = [*shape[:-1], shape[-1] * packed]
    node.put(0, [*sizes[:axis], *indices, *sizes[axis + 1 :]], kind)


@size_rule("Inverse", domain=MICROSOFT)
@size_rule("Det")
def determinant(node: SizedNode) -> None:
    """An inverse has the operand's shape, a determinant is without its last two axes."""
    shape = node.shape()
    node.put(0, shape if node.operator == "Inverse" or shape is None else shape[:-2])
