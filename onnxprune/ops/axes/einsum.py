"""Einsum: the equation is the rule, its letters are the factors."""

from __future__ import annotations

from onnxprune.algebra.axes import Dim
from onnxprune.ops.axes.axis_typing import UnknownOperandError
from onnxprune.ops.axes.context import Context
from onnxprune.ops.axes.pointwise import broadcast
from onnxprune.ops.axes.table import rule, some
from onnxprune.ops.axes.variables import Indexing, Keys, from_the_right
from onnxprune.ops.views import LinearView, Operands


def _views(o: Operands) -> list[LinearView]:
    """Return the linear views of a product of two operands that sums over one letter alone."""
    terms, result = parse_equation(o.attributes["equation"])
    if len(terms) != 2 or any(len(set(t)) != len(t) for t in terms):
        return []
    shared = [s for s in terms[0] if s in terms[1] and s != "."]
    if len(shared) != 1 or shared[0] in result:
        return []
    return [v for data in (0, 1) for v in _view(data, terms[data], terms[1 - data], result, shared[0])]


def _view(data: int, term: str, weights: str, result: str, summed: str) -> list[LinearView]:
    """Return the view in one operand; by a matrix where the axes of the data stay as they are."""
    if "." in weights:
        return []
    axis = term.index(summed) - (len(term) if "." in term else 0)
    if "." in term[term.index(summed) :]:
        axis = term.index(summed)
    place = weights.index(summed)
    made = weights.replace(summed, "")
    if len(made) == 1 and result == term.replace(summed, "") + made and axis in (-1, len(term) - 1):
        return [LinearView(data, -1, 1 - data, -1, inputs_first=place == 0)]
    return [LinearView(data, axis, 1 - data, -1, "letters", after="mixing", summed=place)]


@rule("Einsum", zero=some, linear=_views, parameters=(0, 1, 2, 3))
def einsum(c: Context) -> None:
    """Letters that only operands have are summed over; an ellipsis stands for axes that broadcast."""
    terms, result = parse_equation(c.attributes["equation"])
    if any(len(set(t)) != len(t) for t in terms):
        raise UnknownOperandError("it takes a diagonal")
    letters: dict[str, Dim] = {}
    spread: dict[int, list[Dim]] = {}
    for operand, term in enumerate(terms):
        dims = list(c.axes(operand))
        at, count = term.find("."), len(dims) - len(term.replace(".", ""))
        if at >= 0:
            spread[operand] = dims[at : at + count]
            del dims[at : at + count]
        for letter, dim in zip(term.replace(".", ""), dims, strict=True):
            _meet(c, letters, letter, dim)
    ellipsis = broadcast(c, list(spread.values()))
    indexing = _indexing(c, terms, result, letters, from_the_right(ellipsis, spread))
    activations = not any(name in c.typing.model.constants for name in c.node.input)
    for letter in sorted(set(letters) - set(result)):
        c.contract(letters[letter], *(k for k in range(len(terms)) if indexing.axes(k, letter)))
        if activations:
            c.prefer_other(letters[letter])
    c.define(0, [d for letter in result for d in (ellipsis if letter == "." else [letters[letter]])])
    c.weights(*range(len(terms)))
    c.works(*ellipsis, *letters.values())


def _indexing(
    c: Context, terms: list[str], result: str, letters: dict[str, Dim], ellipsis: Indexing
) -> Indexing:
    """State that a letter is an index, and so is each axis of the ellipsis."""
    variables = {**letters, **ellipsis.variables}
    operands = {}
    for operand, term in enumerate(terms):
        keys = _keys(term, ellipsis.operands.get(operand, ()))
        operands[operand] = tuple(
            key if not key or dim.size == variables[key[0]].size else ()
            for key, dim in zip(keys, c.axes(operand), strict=True)
        )
    indexing = Indexing(variables, operands, {0: _keys(result, ellipsis.results[0])})
    c.runs_along(indexing)
    return indexing


def _keys(term: str, ellipsis: tuple[Keys, ...]) -> tuple[Keys, ...]:
    left, dots, right = term.partition(".")
    return (*((s,) for s in left), *(ellipsis if dots else ()), *((s,) for s in right))


def _meet(c: Context, letters: dict[str, Dim], letter: str, dim: Dim) -> None:
    """The same letter is the same axis; one of a single element is stretched to the others."""
    known = letters.get(letter)
    if known is None or known.size == 1:
        letters[letter] = dim
    elif dim.size != 1:
        c.same(known, dim)


def parse_equation(equation: str) -> tuple[list[str], str]:
    """Return the letters of each operand and of the result, ``.`` for an ellipsis.

    Without a right-hand side the result has the letters that occur once, in alphabetical order.
    """
    left, arrow, right = equation.replace(" ", "").replace("...", ".").partition("->")
    terms = left.split(",")
    if not arrow:
        once = sorted(s for s in set(left) if s.isalpha() and left.count(s) == 1)
        right = ("." if "." in left else "") + "".join(once)
    return terms, right
