"""The axes along which a Scan goes through its inputs and lays out its results; a Loop has the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnxprune.certify.refusal import can_be
from onnxprune.certify.sizes.size_monomials import Size


def given_sizes(
    shapes: Mapping[str, list[Size]], given: Mapping[str, str], states: int, into: Sequence[int], turns: Size
) -> tuple[dict[str, list[Size]], Size]:
    """Return the sizes of the inputs of a body where they are known, and the number of turns.

    Args:
        shapes: Sizes by tensor.
        given: The operand for each input of the body.
        states: How many of them are states; the others are scanned.
        into: The axis along which each of the others is scanned.
        turns: The number of turns where no scanned input tells it.

    Raises:
        Impossible: A scanned input has no such axis.
    """
    sizes: dict[str, list[Size]] = {}
    for place, (inner, outer) in enumerate(given.items()):
        if outer in shapes:
            sizes[inner] = list(shapes[outer])
            if place >= states:
                axis, rank = into[place - states], len(sizes[inner])
                can_be(-rank <= axis < rank, f"'{outer}' has no axis {axis} to go along")
                turns = sizes[inner].pop(axis)
    return sizes, turns


def scan_axes(given: Mapping[str, Any], inputs: int, results: int) -> tuple[list[int], list[int]]:
    """Return the axis of each scanned input, and that of each stack of results.

    Args:
        given: The attributes of the node.
        inputs: Number of its scanned inputs.
        results: Number of its stacks.
    """
    into, out_of = (list(given.get(f"scan_{name}_axes", [])) for name in ("input", "output"))
    return into or [0] * inputs, out_of or [0] * results


def laid_out_at(axis: int, rank: int) -> int:
    """Return the place of a new axis among those of an element, from the front."""
    return axis % (rank + 1)


def laid_out(element: Sequence[Size], turns: Size, axis: int) -> list[Size]:
    """Return the sizes of elements of some turns, laid along a new axis."""
    at = laid_out_at(axis, len(element))
    return [*element[:at], turns, *element[at:]]
