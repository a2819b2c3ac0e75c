"""The elements of sequences: their axes, which the sequence carries by its name."""

from __future__ import annotations

from onnxprune.algebra.axes import Block, Factor
from onnxprune.algebra.sizes.tensors import TensorSequence
from onnxprune.ops.axes.axis_typing import Typing
from onnxprune.ops.axes.statements import Axes
from onnxprune.ops.sizes.sequence_values import VARIES, any_element, is_empty

DIFFER = "the elements of a sequence differ in the size of this axis"


def is_empty_sequence(typing: Typing, name: str) -> bool:
    """Return whether a value is a sequence without elements."""
    found = known_sequence(typing, name)
    return found is not None and is_empty(found)


def empty_sequences(typing: Typing) -> list[str]:
    """Return the sequences that have no element: a statement on all their elements is never wrong."""
    return [name for name, found in typing.shapes.analysis.sequences.items() if is_empty(found)]


def open_element(typing: Typing, name: str) -> Axes | None:
    """Define the axes of a sequence whose elements are known by their shape, and return them."""
    found = known_sequence(typing, name)
    shape = any_element(found) if found is not None else None
    if shape is None:
        return None
    why = Block(name, "sequence", DIFFER)
    typing.axes[name] = tuple(Factor(1, [why]) if size == VARIES else Factor(size) for size in shape)
    return typing.axes[name]


def known_sequence(typing: Typing, name: str) -> TensorSequence | None:
    """Return the elements of a sequence as the size analysis has them; ``None`` for other values."""
    analysis = typing.shapes.analysis
    return analysis.sequences.get(name) if analysis.kinds.get(name) == "sequence" else None
