"""Sizes of the inputs that a network runs with: small ones to test it, and likely ones to count its work.

The demands of the analysis are solved: its conditions, one element at least along every axis, and whole
numbers. Symbols that no demand connects are solved apart. Each part is searched with growing limits, so the
solution is about as small as the network allows; other sets of sizes are found by moving away from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from onnxprune.algebra.sizes.algebra import Extent, Size, is_positive, number_of
from onnxprune.algebra.sizes.conditions import Condition
from onnxprune.analysis.sizes.inputs import OpenAxis
from onnxprune.analysis.sizes.likely import is_batch, likely_size
from onnxprune.analysis.sizes.result import SizeAnalysis
from onnxprune.errors import ModelError
from onnxprune.runtime.usual_sizes import ODD, SOLVED_BATCHES, UNEQUAL

LIMITS = (3, 8, 24, 64, 160, 352, 1056, 4200, 17000, 70000)
"""Sizes up to which solutions are looked for, one after the other."""
LARGEST_COUNTED = 17000
"""Limit up to which every size is tried where no candidate fits: a multiple of 147 is none of them."""
STEPS = 20_000
"""Assignments that are tried within one limit."""

Test = Callable[[Mapping[str, int]], bool]
Numbers = dict[str, int]


@dataclass(frozen=True)
class SizeDemand:
    """Conditions on sizes, to be solved.

    Attributes:
        symbols: The symbols it is about.
        holds: Test whether numbers fulfil it.
        text: The condition in words.
    """

    symbols: frozenset[str]
    holds: Test
    text: str


@dataclass
class ConnectedSymbols:
    """Symbols that demands connect.

    Attributes:
        axes: The open axes, by name.
        demands: Conditions on them.
    """

    axes: dict[str, OpenAxis]
    demands: list[SizeDemand] = field(default_factory=list)

    def fits(self, numbers: Mapping[str, int]) -> bool:
        """Return whether numbers for all symbols fulfil all demands."""
        return all(demand.holds(numbers) for demand in self.demands)


def trial_sizes(analysis: SizeAnalysis, *, count: int = 5, budget: int | None = None) -> list[Numbers]:
    """Find sets of sizes that a network can be tested with.

    The first is the smallest, with a batch of two if the budget allows it. Others are odd, one where it may
    be, unequal, and of another batch.

    Args:
        analysis: The sizes of the network.
        count: Number of sets wanted; fewer are found where the network allows fewer.
        budget: Elements of the largest tensor; sets above it are left out, but for the first.

    Returns:
        A number for each open axis by name, those already bound included.

    Raises:
        ModelError: No sizes were found that fulfil all conditions.
    """
    parts, smallest = _solved(analysis)
    first = _with_batch(parts, smallest, SOLVED_BATCHES[0])
    found = [first if budget is None or largest_tensor(analysis, first) <= budget else smallest]
    for k in range(1, max(count, len(SOLVED_BATCHES)) * 2):
        if len(found) >= count:
            break
        numbers = _moved(parts, smallest, k)
        fits = budget is None or largest_tensor(analysis, numbers) <= budget
        if fits and numbers not in found:
            found.append(numbers)
    return found[:count]


def default_sizes(analysis: SizeAnalysis) -> Numbers:
    """Return likely sizes, to count work with: batch 1, pictures of 224, sequences of 32, where they fit.

    Returns:
        A number for each open axis by name, those already bound included.

    Raises:
        ModelError: No sizes were found that fulfil all conditions.
    """
    numbers: Numbers = dict(analysis.bound)
    for part in _solved(analysis)[0]:
        targets = {name: likely_size(analysis, axis) for name, axis in part.axes.items()}
        found = targets if part.fits(targets) else _nearest(part, targets)
        numbers |= found
    return numbers


def largest_tensor(analysis: SizeAnalysis, numbers: Mapping[str, int]) -> int:
    """Return the elements of the largest tensor whose size numbers for the open axes decide."""
    most = 0
    for shape in analysis.shapes.values():
        sizes = [size for size in shape if isinstance(size, Size)]
        if all(size.symbols <= set(numbers) for size in sizes):
            elements = math.prod(number_of(size, numbers) for size in shape)
            most = max(most, int(elements))
    return most


def _solved(analysis: SizeAnalysis) -> tuple[list[ConnectedSymbols], Numbers]:
    """Return the parts and their smallest sizes; demands of nodes that may not run are met if they can be."""
    smallest: Numbers = dict(analysis.bound)
    for conditions in ([*analysis.conditions, *analysis.possible], analysis.conditions):
        parts = _parts(analysis, conditions)
        try:
            for part in parts:
                smallest |= _smallest(part)
        except ModelError:
            if conditions is analysis.conditions or not analysis.possible:
                raise
            continue
        break
    return parts, smallest


def _parts(analysis: SizeAnalysis, conditions: Iterable[Condition]) -> list[ConnectedSymbols]:
    """Group the open symbols by the demands that connect them."""
    demands = list(_demands(analysis, conditions))
    group = {name: name for name in analysis.symbols}

    def root(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    for demand in demands:
        first, *others = sorted(demand.symbols)
        for other in others:
            group[root(other)] = root(first)
    parts: dict[str, ConnectedSymbols] = {}
    for name, axis in analysis.symbols.items():
        parts.setdefault(root(name), ConnectedSymbols({})).axes[name] = axis
    for demand in demands:
        parts[root(min(demand.symbols))].demands.append(demand)
    return list(parts.values())


def _demands(analysis: SizeAnalysis, conditions: Iterable[Condition]) -> Iterator[SizeDemand]:
    """Yield the conditions on the open symbols; those that depend on data are left out."""
    known = set(analysis.symbols)
    for condition in conditions:
        if condition.symbols and condition.symbols <= known:
            yield SizeDemand(condition.symbols, condition.holds, str(condition))
    empty = {name for name, axis in analysis.symbols.items() if not axis.lower}
    sizes = dict.fromkeys(s for shape in analysis.shapes.values() for s in shape if isinstance(s, Size))
    for size in sizes:
        if size.symbols <= known and not (is_positive(size) and size.integral):
            least = 0 if size.symbols & empty else 1
            yield SizeDemand(size.symbols, _at_least(size, least), f"{size} >= {least}")


def _at_least(size: Extent, least: int) -> Test:
    def holds(numbers: Mapping[str, int]) -> bool:
        found = number_of(size, numbers)
        return found >= least and found.denominator == 1

    return holds


def _smallest(part: ConnectedSymbols) -> Numbers:
    """Return the smallest sizes found for a part: within the first limit that has some."""
    alone = {name: [d for d in part.demands if d.symbols == {name}] for name in part.axes}
    together = [d for d in part.demands if len(d.symbols) > 1]
    for limit in LIMITS:
        choices = {name: _choices(axis.lower, limit, alone[name]) for name, axis in part.axes.items()}
        found = _search(choices, together)
        if found is not None:
            return found
    raise _nothing_fits(part)


def _choices(lower: int, limit: int, demands: Sequence[SizeDemand]) -> list[int]:
    """Return the sizes of one symbol up to a limit that fulfil its own demands."""

    def fits(number: int) -> bool:
        return all(demand.holds(dict.fromkeys(demand.symbols, number)) for demand in demands)

    found = [number for number in _candidates(lower, limit) if fits(number)]
    if found or not demands or limit > LARGEST_COUNTED:
        return found
    return [number for number in range(max(lower, 1), limit) if fits(number)]


def _candidates(lower: int, limit: int) -> Iterable[int]:
    """Return the sizes to try up to a limit: all small ones, multiples of common blocks and strides."""
    few = range(max(lower, 1), min(limit, 65))
    step = 8 if limit <= 352 else 32 if limit <= 4200 else 160
    return sorted({*few, *range(step, limit, step), *(k + 1 for k in range(step, limit, step))})


def _search(choices: Mapping[str, Sequence[int]], demands: Sequence[SizeDemand]) -> Numbers | None:
    """Assign one symbol after the other; go back where a demand on those assigned does not hold."""
    names = sorted(choices, key=lambda name: len(choices[name]))
    due = [
        [d for d in demands if d.symbols <= set(names[: k + 1]) and names[k] in d.symbols]
        for k in range(len(names))
    ]
    numbers: Numbers = {}
    trails: list[Iterator[int]] = [iter(choices[names[0]])] if names else []
    for _ in range(STEPS):
        if not trails:
            return None
        place = len(trails) - 1
        number = next(trails[-1], None)
        if number is None:
            trails.pop()
            numbers.pop(names[place], None)
            continue
        numbers[names[place]] = number
        if all(d.holds(numbers) for d in due[place]):
            if len(trails) == len(names):
                return numbers
            trails.append(iter(choices[names[len(trails)]]))
    return None


def _moved(parts: Sequence[ConnectedSymbols], smallest: Numbers, style: int) -> Numbers:
    """Move from the smallest sizes to others, one symbol at a time, as far as demands let it."""
    numbers = _with_batch(parts, smallest, SOLVED_BATCHES[style % len(SOLVED_BATCHES)])
    place = style
    for part in parts:
        for name, axis in part.axes.items():
            if is_batch(axis):
                continue
            place += 1
            for number in _preferred(smallest[name], style, place):
                if number >= axis.lower and part.fits({**numbers, name: number}):
                    numbers[name] = number
                    break
    return numbers


def _preferred(least: int, style: int, place: int) -> Iterator[int]:
    """Yield the preferred sizes of a style: odd ones, the least, unequal ones; different for each place."""
    if style % len(SOLVED_BATCHES) == 2:
        yield from (1, least)
        return
    listed = ODD if style % 2 else UNEQUAL
    turned = [*listed[place % len(listed) :], *listed[: place % len(listed)]]
    more = 0 if least < 8 else least - 1 if least % 2 else least
    for number in turned:
        yield number + more if number + more > least else number + least + least % 2
    yield from (least * 2 + 1, least * 2, least * 3, least + 1)


def _with_batch(parts: Sequence[ConnectedSymbols], numbers: Numbers, batch: int) -> Numbers:
    """Give all batch axes a size, or a multiple of the least where it has to be one."""
    found = dict(numbers)
    for part in parts:
        for name, axis in part.axes.items():
            if is_batch(axis):
                for number in (batch, numbers[name] * batch):
                    tried = _together(part, found, name, number)
                    if part.fits(tried):
                        found = tried
                        break
    return found


def _together(part: ConnectedSymbols, numbers: Numbers, name: str, number: int) -> Numbers:
    """Give a symbol a number, and others too that a demand on the two alone makes follow it."""
    found = {**numbers, name: number}
    for demand in part.demands:
        if len(demand.symbols) == 2 and name in demand.symbols and not demand.holds(found):
            (other,) = demand.symbols - {name}
            if numbers[other] == numbers[name]:
                found[other] = number
    return found


def _nearest(part: ConnectedSymbols, targets: Numbers) -> Numbers:
    """Return sizes near to those wanted: as near as each symbol's own demands let it, else the smallest."""
    near: Numbers = {}
    for name, axis in part.axes.items():
        alone = [d for d in part.demands if d.symbols == {name}]
        choices = sorted(_near(axis.lower, targets[name]), key=lambda k, at=targets[name]: abs(k - at))  # type: ignore[misc]
        near[name] = next((k for k in choices if all(d.holds({name: k}) for d in alone)), targets[name])
    if part.fits(near):
        return near
    found = _smallest(part)
    for name, number in near.items():
        if part.fits({**found, name: number}):
            found[name] = number
    return found


def _near(lower: int, targets: int) -> Iterable[int]:
    return {*_candidates(lower, LIMITS[6]), *range(max(lower, targets - 32), targets + 33), *LIMITS[6:]}


def _nothing_fits(part: ConnectedSymbols) -> ModelError:
    names = ", ".join(part.axes)
    listed = "; ".join(d.text for d in part.demands[:4])
    return ModelError(
        f"no sizes were found for the open axes {names} that fit: {listed}",
        "give sizes the network runs with: --dim NAME=N",
    )
