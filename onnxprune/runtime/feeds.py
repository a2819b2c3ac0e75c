"""Seeded random inputs for a model nobody has data for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxprune.errors import ModelError, UsageError
from onnxprune.runtime.session import Array, TensorSpec

DEFAULT_SIZE = 64  # of a symbolic axis that is not the batch: a multiple of the usual strides
DEFAULT_HIGH = 4  # integers are mostly indices, and small ones are nearly always in range


def sample_feeds(
    specs: Sequence[TensorSpec],
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    highs: Mapping[str, int] | None = None,
    choices: Mapping[str, Sequence[int]] | None = None,
    batch: int = 1,
    samples: int = 1,
    seed: int = 0,
) -> list[dict[str, Array]]:
    """Draw random inputs: floats standard normal, integers uniform in ``[0, high)``, booleans fair.

    The first axis of every input is the batch unless the file fixes it. Symbolic axes of one name get one
    size everywhere; those that `shapes` leaves open get 64.

    Args:
        specs: The inputs of the model.
        shapes: Whole shapes by input name, for models whose symbolic axes need certain sizes.
        highs: Upper bounds (exclusive) of integer inputs by name, 4 where not given.
        choices: Numbers that integer inputs take in turn, one a feed, by name.
        batch: The size of a first axis the file leaves open.
        samples: How many feeds to draw.
        seed: The same seed gives the same feeds.

    Returns:
        `samples` feeds, each one array an input.

    Raises:
        UsageError: A shape names no input or contradicts the model.
        ModelError: An input is of a type nothing can be drawn for.
    """
    resolved = resolve_shapes(specs, shapes or {}, batch)
    rng = np.random.default_rng(seed)
    bounds = highs or {}
    feeds = [
        {s.name: _draw(rng, s, resolved[s.name], bounds.get(s.name, DEFAULT_HIGH)) for s in specs}
        for _ in range(samples)
    ]
    for name, numbers in (choices or {}).items():
        for k, feed in enumerate(feeds):
            feed[name][...] = numbers[k % len(numbers)]
    return feeds


def resolve_shapes(
    specs: Sequence[TensorSpec], shapes: Mapping[str, tuple[int, ...]], batch: int
) -> dict[str, tuple[int, ...]]:
    """Give every input a shape of numbers, the same number wherever a symbolic size has the same name.

    Args:
        specs: The inputs of the model.
        shapes: Whole shapes by input name; they decide over the defaults.
        batch: The size of an open first axis.

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
    sizes: dict[str, int] = {}
    for spec in specs:
        if spec.name in shapes:
            _bind(spec, shapes[spec.name], sizes)
    for spec in specs:
        if spec.shape and isinstance(spec.shape[0], str):
            sizes.setdefault(spec.shape[0], batch)
    return {s.name: tuple(shapes[s.name]) if s.name in shapes else _filled(s, sizes, batch) for s in specs}


def _bind(spec: TensorSpec, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    """Check a given shape against the model and note the sizes of its symbolic axes."""
    fits = len(shape) == len(spec.shape) and all(n > 0 for n in shape)
    for size, known in zip(shape, spec.shape, strict=False):
        wanted = sizes.setdefault(known, size) if isinstance(known, str) else known
        fits = fits and wanted in (None, size)
    if not fits:
        raise UsageError(
            f"shape {list(shape)} does not fit the input {spec}", "give a size for every axis, the file's own"
        )


def _filled(spec: TensorSpec, sizes: Mapping[str, int], batch: int) -> tuple[int, ...]:
    """Put numbers in the place of open axes."""
    return tuple(
        size if isinstance(size, int) else sizes.get(size or "", batch if axis == 0 else DEFAULT_SIZE)
        for axis, size in enumerate(spec.shape)
    )


def _draw(rng: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...], high: int) -> Array:
    if spec.dtype.kind == "f":
        return rng.standard_normal(shape).astype(spec.dtype)
    if spec.dtype.kind in "iu":
        return rng.integers(0, high, shape).astype(spec.dtype)
    if spec.dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    raise ModelError(
        f"no random values can be drawn for the input {spec}",
        "give data with --data, so that nothing is drawn",
    )
