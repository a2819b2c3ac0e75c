"""Sequences and optional values whose elements are known by name, read as these elements.

Both models are read in this form: an element that is taken is an Identity of the tensor that was put in, and
a sequence laid out is a Concat. The node that makes a sequence stays, for consumers that are not read so.
Parts have the names that `transform` gives them, by which they are paired.
"""

from __future__ import annotations

from onnxprune.certify.reading.definitions import Parts, defines
from onnxprune.certify.refusal import need

LONGEST = 256
"""Elements of a sequence that is followed."""


def _elements(p: Parts, place: int = 0) -> list[str]:
    """Return the names of the elements of an operand.

    Raises:
        KeyError: They are not known.
    """
    return p.graph.lists[p.operand(place)]


def _position(p: Parts, place: int, count: int) -> int:
    """Return a position, counted from the front."""
    (position,) = p.graph.integers(p.operand(place))
    need(isinstance(position, int) and -count <= position < count, "a position beyond the sequence")
    return int(str(position)) % count


def _enter(p: Parts, elements: list[str]) -> None:
    """Let the node stay, and note the elements of the sequence that it makes."""
    need(len(elements) <= LONGEST and all(elements), "a sequence that is not followed")
    p.graph.lists[p.result()] = elements
    p.stay()


@defines("SequenceConstruct", "SequenceEmpty", domain="")
def construct(p: Parts) -> None:
    """The operands, in order."""
    _enter(p, list(p.node.input))


@defines("SequenceInsert", domain="")
def insert(p: Parts) -> None:
    """One element more, at the end unless a position is given."""
    elements = _elements(p)
    at = len(elements)
    if p.has(2) and p.graph.integers(p.operand(2)) != [at]:
        at = _position(p, 2, at)
    _enter(p, [*elements[:at], p.operand(1), *elements[at:]])


@defines("SequenceErase", domain="")
def erase(p: Parts) -> None:
    """One element less, the last unless a position is given."""
    elements = _elements(p)
    at = _position(p, 1, len(elements)) if p.has(1) else len(elements) - 1
    need(elements, "an empty sequence")
    _enter(p, elements[:at] + elements[at + 1 :])


@defines("SplitToSequence", domain="")
def cut(p: Parts) -> None:
    """Parts of an axis; those of one element each may lose the axis."""
    rank = len(p.sizes(p.operand(0)))
    axis = p.given.get("axis", 0) % rank
    single = not p.has(1)
    if single or not p.graph.sizes[p.operand(1)]:
        each = 1 if single else p.graph.integers(p.operand(1))[0]
        size = p.number(p.operand(0), axis)
        need(isinstance(each, int) and each > 0 and size <= LONGEST * int(str(each)), "parts of unknown size")
        parts = [min(int(str(each)), size - k) for k in range(0, size, int(str(each)))]
    else:
        listed = p.graph.integers(p.operand(1))
        need(0 < len(listed) <= LONGEST and all(isinstance(n, int) for n in listed), "parts of unknown size")
        parts = [int(str(n)) for n in listed]
    names = [p.graph.fresh(f"{p.result()}__part{k}") for k in range(len(parts))]
    p.ops("Split", p.operand(0), names=names, axis=axis, split=parts)
    if single and not p.given.get("keepdims", 1):
        names = [p.op("Squeeze", n, to=p.graph.fresh(f"{n}__squeezed"), axes=[axis]) for n in names]
    _enter(p, names)


@defines("SequenceAt", domain="")
def take(p: Parts) -> None:
    """One element."""
    elements = _elements(p)
    p.op("Identity", elements[_position(p, 1, len(elements))], to=p.result())


@defines("SequenceLength", domain="")
def count(p: Parts) -> None:
    """A number that is known."""
    p.op("Identity", p.constants(len(_elements(p))), to=p.result())


@defines("ConcatFromSequence", domain="")
def lay_out(p: Parts) -> None:
    """Elements along an axis, or along a new one."""
    elements = _elements(p)
    need(elements, "an empty sequence")
    new = p.given.get("new_axis", 0)
    axis = p.given["axis"] % (len(p.sizes(elements[0])) + new)
    if new:
        rows = [p.graph.fresh(f"{p.result()}__row{k}") for k in range(len(elements))]
        elements = [p.op("Unsqueeze", n, to=row, axes=[axis]) for n, row in zip(elements, rows, strict=True)]
    p.op("Concat", *elements, axis=axis, to=p.result())


@defines("Optional", domain="")
def optional(p: Parts) -> None:
    """A value with an element; one without stays as it is."""
    need(p.has(0), "no element")
    _copied(p, p.operand(0))
    p.graph.contents[p.result()] = p.operand(0)
    p.stay()


@defines("OptionalGetElement", domain="")
def element(p: Parts) -> None:
    """The element; a tensor is its own from opset 18 on."""
    name = p.graph.contents.get(p.operand(0), p.operand(0))
    need(name in p.graph.sizes or name in p.graph.lists, "a value that is not followed")
    _copied(p, name)
    p.op("Identity", name, to=p.result())


@defines("OptionalHasElement", domain="")
def has_element(p: Parts) -> None:
    """True for a value that was made of an element, and for a tensor."""
    known = p.operand(0) in p.graph.contents or p.operand(0) in p.graph.sizes or p.operand(0) in p.graph.lists
    need(known, "a value that is not followed")
    p.op("Identity", p.constants(True, bool), to=p.result())


def _copied(p: Parts, name: str) -> None:
    """Note the elements of a sequence that is handed on."""
    if name in p.graph.lists:
        p.graph.lists[p.result()] = p.graph.lists[name]
