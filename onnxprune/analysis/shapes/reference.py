"""A number for each open size of the input: costs are stated, and models run first, at these sizes.

Numbers given by the user hold. The others are likely ones for their kind of axis (batch, sequence, sound,
picture), larger or smaller where the network does not allow those.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from onnxprune.algebra.sizes.algebra import Extent, NotWholeError, Size, as_extent, evaluate, substitute
from onnxprune.algebra.sizes.bounds import Interval
from onnxprune.analysis.sizes import SizeAnalysis
from onnxprune.analysis.sizes.runnable_sizes import default_sizes
from onnxprune.errors import ModelError, UsageError
from onnxprune.ir import Model
from onnxprune.runtime.usual_sizes import (
    DATA_DEPENDENT,
    REFERENCE_BATCH,
    REFERENCE_LENGTHS,
    REFERENCE_PICTURES,
    REFERENCE_SEQUENCE,
    REFERENCE_SOUND,
    REFERENCE_SQUARES,
)


@dataclass(frozen=True)
class Guess:
    """Likely numbers for the kinds of axes.

    Attributes:
        batch: The first axis.
        sequence: Axes of token sequences and feature tables.
        sound: The second axis of a matrix of floats.
        picture: Height, width and depth.
    """

    batch: int
    sequence: int
    sound: int
    picture: tuple[int, int, int]

    def number(self, kind: onnx.TypeProto.Tensor, axis: int) -> int:
        """Return a likely size of one axis of an input."""
        declared = [d.dim_value for d in kind.shape.dim]
        if axis == 0:
            return self.batch
        if len(declared) == 2 and kind.elem_type == onnx.TensorProto.FLOAT:
            return self.sound
        if len(declared) < 4:
            return self.sequence
        channels_last = declared[-1] in (1, 3, 4) and declared[1] not in (1, 3, 4)
        cache = len(declared) == 4 and declared[-1] > 0 and not channels_last  # heads × steps × width
        if cache and axis == 2 and declared[1] not in (1, 3, 4):
            return self.sequence
        side = axis - (1 if channels_last else 2)
        return self.picture[side] if 0 <= side < 3 else 3


GUESSES = (
    *(
        Guess(REFERENCE_BATCH, REFERENCE_SEQUENCE, REFERENCE_SOUND, picture)
        for picture in (*REFERENCE_PICTURES, *((n, n, n) for n in REFERENCE_SQUARES))
    ),
    *(Guess(1, n, 8 * n, (4 * n, 4 * n, 4 * n)) for n in REFERENCE_LENGTHS),
)


class SymbolSizes(dict[str, int]):
    """Numbers by symbol; a size that depends on the data has a small one.

    Attributes:
        bounds: The least and the largest value of such sizes, ``None`` for no limit: a condition is 0 or 1.
    """

    bounds: Mapping[str, Interval]

    def __init__(self, numbers: Mapping[str, int], bounds: Mapping[str, Interval] | None = None) -> None:
        super().__init__(numbers)
        self.bounds = bounds or {}

    def __missing__(self, symbol: str) -> int:
        low, high = self.bounds.get(symbol, (None, None))
        least = DATA_DEPENDENT if low is None else max(DATA_DEPENDENT, math.ceil(low))
        return least if high is None else min(least, math.floor(high))


def _bounds(analysis: SizeAnalysis) -> dict[str, Interval]:
    """Return the limits of all sizes that depend on the data, by the names of their symbols."""
    sizes = (size for shape in analysis.shapes.values() for size in shape if isinstance(size, Size))
    atoms = (size.algebra.atoms[k] for size in sizes for k in size.inside)
    return {atom.name: atom.bounds for atom in atoms if atom.fresh}


def reference_sizes(model: Model, analysis: SizeAnalysis, given: Mapping[str, Sequence[int]]) -> SymbolSizes:
    """Return a number for each symbol of an analysis.

    Args:
        model: The model.
        analysis: Its size analysis.
        given: Shapes of inputs, by name, that hold; -1 for an axis that is not given.

    Raises:
        UsageError: One of those is of no input, or contradicts the file or another.
    """
    fixed = given_sizes(model, analysis, given)
    bounds = _bounds(analysis)
    guesses = {tuple((_guessed(model, analysis, guess) | fixed).items()): None for guess in GUESSES}
    tried = [SymbolSizes(dict(numbers), bounds) for numbers in guesses]
    fitting = next((numbers for numbers in tried if fits(analysis, numbers)), None)
    if fitting is None and not fixed.keys() >= analysis.symbols.keys():
        fitting = _solved_sizes(analysis, fixed, bounds)
    return tried[0] if fitting is None else fitting


def _solved_sizes(
    analysis: SizeAnalysis, fixed: Mapping[str, int], bounds: Mapping[str, Interval]
) -> SymbolSizes | None:
    """Return sizes that are solved for from the conditions of the network, with those that hold put in."""
    try:
        numbers = SymbolSizes({**default_sizes(analysis), **fixed}, bounds)
    except ModelError:  # a run of the model then reports the reason
        return None
    return numbers if fits(analysis, numbers) else None


def fits(analysis: SizeAnalysis, numbers: Mapping[str, int]) -> bool:
    """Return whether all conditions of a network hold, and no axis has a negative size, at some numbers."""
    if not all(condition.holds(numbers) for condition in analysis.conditions):
        return False
    sizes = {e for shape in analysis.shapes.values() for e in shape if not isinstance(e, int)}
    try:
        return all(evaluate(size, numbers) >= 0 for size in sizes)
    except NotWholeError:
        return False


def given_sizes(model: Model, analysis: SizeAnalysis, given: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return the symbols that given shapes decide: of an axis of one symbol, or of a sum of known others.

    Raises:
        UsageError: A shape is of no input, or contradicts the file or another shape.
    """
    numbers: dict[str, int] = {}
    open_: list[tuple[Extent, int, str]] = []
    for name, shape in given.items():
        declared = _declared(model, analysis, name, shape)
        open_ += [(size, number, name) for size, number in zip(declared, shape, strict=True) if number > 0]
    while open_:
        left = []
        for size, number, name in open_:
            rest = as_extent(substitute(size, numbers))
            if isinstance(rest, int):
                if rest != number:
                    raise UsageError(
                        f"the shapes given contradict each other: an axis of '{name}' is {rest} and {number}",
                        f"the file says that this axis is {size}",
                    )
            elif len(rest.symbols) > 1 or (solved := _solved(rest, number)) is None:
                left.append((size, number, name))
            else:
                numbers |= solved
        if len(left) == len(open_):
            break
        open_ = left
    return numbers


def _solved(size: Extent, number: int) -> dict[str, int] | None:
    """Solve ``symbol + constant = number``."""
    assert not isinstance(size, int)
    (symbol,) = size.symbols
    try:
        found = number - evaluate(size, {symbol: 0})
        return {symbol: found} if found >= 0 and evaluate(size, {symbol: found}) == number else None
    except NotWholeError:  # of a fraction of the symbol
        return None


def _declared(model: Model, analysis: SizeAnalysis, name: str, shape: Sequence[int]) -> tuple[Extent, ...]:
    inputs = [i.name for i in model.inputs]
    if name not in inputs:
        raise UsageError(
            f"a shape is given for '{name}', which is not an input",
            f"the inputs are: {', '.join(inputs) or 'none'}",
        )
    known = analysis.shapes.get(name)
    if known is None:
        return tuple(shape)
    fixed = [s if isinstance(s, int) else None for s in known]
    fit = all(g < 0 or f in (None, g) for f, g in zip(fixed, shape, strict=False))
    if len(known) != len(shape) or not fit:
        has = "×".join("?" if f is None else str(f) for f in fixed)
        raise UsageError(
            f"shape {'×'.join(map(str, shape))} does not fit the input '{name}', which is {has}",
            "give a size for every axis, the file's own where it has one",
        )
    return known


def _guessed(model: Model, analysis: SizeAnalysis, guess: Guess) -> dict[str, int]:
    kinds = {i.name: i.type.tensor_type for i in model.inputs}
    numbers = {}
    for name, symbol in analysis.symbols.items():
        sizes = [guess.number(kinds[i], axis) for i, axis in symbol.places]
        likely = sizes[0] if sizes else DATA_DEPENDENT
        numbers[name] = max(likely, symbol.lower) if symbol.lower else min(likely, guess.sequence)
    return numbers
