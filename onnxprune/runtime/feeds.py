"""Seeded random inputs for a model without data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.errors import LimitError, ModelError, UsageError
from onnxprune.runtime.session import Array, TensorSpec
from onnxprune.runtime.size_names import computed, terms, total_of
from onnxprune.runtime.usual_sizes import OPEN
from onnxprune.support.memory import need

DEFAULT_HIGH = 4  # integers are mostly indices, and small ones are nearly always in range
_DRAWN_BYTES = 8
"""Bytes an element takes while it is drawn."""
_WORDS = ("a", "b", "c", "d")


@dataclass(frozen=True)
class Values:
    """The values that the elements of one input may be drawn from.

    Attributes:
        least: The smallest value, ``None`` for none.
        most: The largest value, itself included.
        constant: A value that all elements take; it overrides the bounds.
        turns: Values that all elements take, one a feed, in turn; they override the constant.
        ends: Values of which every row of the last axis ends with each one, where it is long enough.
        avoided: Values that are not drawn.
        counted: True if elements count up from the least along the last axis.
        unbounded: True if the graph takes other values as well, of both signs: the bounds are a choice.
    """

    least: float | None = None
    most: float | None = None
    constant: float | None = None
    turns: tuple[float, ...] = ()
    ends: tuple[int, ...] = ()
    avoided: frozenset[float] = frozenset()
    counted: bool = False
    unbounded: bool = False


def sample_feeds(
    specs: Sequence[TensorSpec],
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    highs: Mapping[str, int] | None = None,
    choices: Mapping[str, Sequence[int]] | None = None,
    values: Mapping[str, Values] | None = None,
    batch: int = 1,
    samples: int = 1,
    seed: int = 0,
) -> list[dict[str, Array]]:
    """Draw random inputs: floats standard normal, integers uniform in ``[0, high)``, booleans fair.

    The first axis of every input is the batch unless the file fixes it. Symbolic axes of one name get one
    size everywhere; those that `shapes` leaves open get 64. Where there is a model,
    `onnxprune.analysis.inputs` reads the values its inputs may take.

    Args:
        specs: The inputs of the model.
        shapes: Whole shapes by input name, for models whose symbolic axes need certain sizes.
        highs: Upper bounds (exclusive) of integer inputs by name, 4 where not given.
        choices: Numbers that integer inputs take in turn, one a feed, by name.
        values: The values inputs may take, by name; they override `highs`.
        batch: The size of a first axis the file leaves open.
        samples: Number of feeds to draw.
        seed: The same seed gives the same feeds.

    Returns:
        `samples` feeds, each one array an input.

    Raises:
        UsageError: A shape names no input or contradicts the model.
        ModelError: An input is of a type without a distribution to draw from.
        LimitError: They take more memory than is allowed.
    """
    resolved = resolve_shapes(specs, shapes or {}, batch)
    taken = sum(math.prod(resolved[s.name]) * max(s.dtype.itemsize, _DRAWN_BYTES) for s in specs)
    need(samples * taken, "a drawn input", LimitError)
    rng = np.random.default_rng(seed)
    known = {s.name: Values(most=(highs or {}).get(s.name, DEFAULT_HIGH) - 1) for s in specs}
    known |= values or {}
    feeds = [
        {s.name: _draw(rng, s, resolved[s.name], known[s.name], turn) for s in specs}
        for turn in range(samples)
    ]
    for name, numbers in (choices or {}).items():
        for k, feed in enumerate(feeds):
            feed[name][...] = numbers[k % len(numbers)]
    return feeds


def resolve_shapes(
    specs: Sequence[TensorSpec],
    shapes: Mapping[str, tuple[int, ...]],
    batch: int,
    named: Mapping[str, int] | None = None,
) -> dict[str, tuple[int, ...]]:
    """Give every input a shape of numbers, the same number wherever a symbolic size has the same name.

    Args:
        specs: The inputs of the model.
        shapes: Whole shapes by input name; they decide over the defaults.
        batch: The size of an open first axis.
        named: Sizes of axes by their names.

    Returns:
        Shapes by input name.

    Raises:
        UsageError: A shape names no input or contradicts the model.
    """
    if unknown := sorted(set(shapes) - {s.name for s in specs}):
        names = ", ".join(s.name for s in specs) or "none"
        raise UsageError(
            f"a shape is given for {unknown[0]!r}, which is not an input", f"the inputs are: {names}"
        )
    sizes = dict(named or {})
    for spec in specs:
        if spec.name in shapes:
            _bind(spec, shapes[spec.name], sizes)
    given = dict(sizes)
    for spec in specs:
        if spec.shape and isinstance(spec.shape[0], str):
            sizes.setdefault(spec.shape[0], batch)
    add_sums(sizes, [size for s in specs for size in s.shape if isinstance(size, str)])
    sizes |= given
    return {s.name: tuple(shapes[s.name]) if s.name in shapes else _filled(s, sizes, batch) for s in specs}


def add_sums(sizes: dict[str, int], names: Iterable[str] = ()) -> None:
    """Set the size of each axis whose name is a sum of others, such as ``past + present``.

    Args:
        sizes: Sizes by the name of the axis; terms of a sum that are missing get the default.
        names: More axes, whose sizes are not known.
    """
    known = dict.fromkeys((*sizes, *names))
    for name in known:
        parts = terms(name, known) or total_of(name, known)
        if parts:
            made = computed(name, {part: sizes.setdefault(part, OPEN) for part in parts})
            sizes[name] = sum(sizes[part] for part in parts) if made is None else made


def _bind(spec: TensorSpec, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    """Check a given shape against the model and note the sizes of its symbolic axes."""
    fits = len(shape) == len(spec.shape) and all(n > 0 for n in shape)
    for size, known in zip(shape, spec.shape, strict=False):
        expected = sizes.setdefault(known, size) if isinstance(known, str) else known
        fits = fits and expected in (None, size)
    if not fits:
        raise UsageError(
            f"shape {list(shape)} does not fit the input {spec}", "give a size for every axis, the file's own"
        )


def _filled(spec: TensorSpec, sizes: Mapping[str, int], batch: int) -> tuple[int, ...]:
    """Put numbers in the place of open axes."""
    return tuple(
        size if isinstance(size, int) else sizes.get(size or "", batch if axis == 0 else OPEN)
        for axis, size in enumerate(spec.shape)
    )


def _draw(
    rng: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...], values: Values, turn: int
) -> Array:
    """Draw the elements of one input."""
    if spec.dtype.kind not in "fiubO":
        raise ModelError(
            f"no random values can be drawn for the input {spec}",
            "give data with `data`, so that nothing is drawn",
        )
    drawn = _drawn(rng, spec, shape, values)
    constant = values.turns[turn % len(values.turns)] if values.turns else values.constant
    return drawn if constant is None else np.full(shape, constant, spec.dtype)


def _drawn(rng: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...], values: Values) -> Array:
    if spec.dtype.kind == "O":
        return np.asarray(rng.choice(_WORDS, shape), object)
    if spec.dtype.kind == "f":
        return _floats(rng, shape, values).astype(spec.dtype)
    if spec.dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    return _integers(rng, spec, shape, values)


def _floats(rng: np.random.Generator, shape: tuple[int, ...], values: Values) -> Array:
    """Draw floats: standard normal where both bounds are open, above the one bound, or between the two."""
    normal = rng.standard_normal(shape)
    least, most = values.least, values.most
    if least is not None and most is not None:
        return np.asarray(least + (most - least) * rng.random(shape))
    if least is not None:
        return np.asarray(least + np.abs(normal))
    return normal


def _integers(rng: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...], values: Values) -> Array:
    """Draw whole numbers between the bounds, those to be avoided left out, the ends put in."""
    info = np.iinfo(spec.dtype)
    low = max(math.ceil(values.least) if values.least is not None else 0, int(info.min))
    high = math.floor(values.most) if values.most is not None else low + DEFAULT_HIGH - 1
    high = min(max(low, high), int(info.max))
    drawn = rng.integers(low, high, shape, endpoint=True, dtype=np.int64 if info.max <= 2**63 else np.uint64)
    allowed = [n for n in range(low, min(high, low + 64) + 1) if n not in values.avoided]
    for number in sorted(values.avoided) if allowed else ():
        drawn = np.where(drawn == number, allowed[-1], drawn)
    if values.counted and shape:
        drawn = np.minimum(low + np.broadcast_to(np.arange(shape[-1]), shape), high)
    ends = [n for n in values.ends if low <= n <= high]
    if shape and len(ends) < shape[-1]:
        for place, number in enumerate(ends, 1):
            drawn[..., -place] = number
    return drawn.astype(spec.dtype)
