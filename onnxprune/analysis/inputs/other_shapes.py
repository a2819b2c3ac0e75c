"""Shapes of inputs to try when a model does not run at those of its analysis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from onnxprune.runtime import TensorSpec
from onnxprune.runtime.feeds import add_sums, resolve_shapes
from onnxprune.runtime.usual_sizes import IMAGES, LENGTHS

Shapes = dict[str, tuple[int, ...]]
_IMAGE_RANK = 4


def full_shapes(specs: Sequence[TensorSpec], shapes: Mapping[str, tuple[int, ...]], batch: int = 1) -> Shapes:
    """Return full shapes for all inputs: those given, the others by the names of their axes.

    Args:
        specs: The inputs.
        shapes: Shapes by name, -1 for an axis that is left open; those of other tensors, and those that do
            not fit, are left out.
        batch: The size of a first axis that is not determined otherwise.
    """
    known = {s.name: tuple(shapes[s.name]) for s in specs if s.shape and _fits(s, shapes.get(s.name))}
    whole = {name: shape for name, shape in known.items() if min(shape) > 0}
    named = {
        axis: size
        for s in specs
        for axis, size in zip(s.shape, known.get(s.name, ()), strict=False)
        if isinstance(axis, str) and size > 0
    }
    found = resolve_shapes(specs, whole, batch, named)
    return {
        name: tuple(n if n > 0 else f for n, f in zip(known.get(name, shape), shape, strict=True))
        for name, shape in found.items()
    }


def other_shapes(
    specs: Sequence[TensorSpec],
    first: Mapping[str, tuple[int, ...]],
    given: Mapping[str, Sequence[int]] | None = None,
) -> Iterator[Shapes]:
    """Yield shapes unlike the first: a batch of 1, then other sizes on the axes that the file leaves open.

    Args:
        specs: The inputs.
        first: The shapes tried first, for all inputs.
        given: Sizes that inputs keep, by name; -1 for an axis that may have another.
    """
    seen = [dict(first)]
    kinds = {_kind(s, axis) for s in specs for axis in range(len(s.shape))}
    lengths = LENGTHS if _SEQUENCE in kinds else (None,)
    images = IMAGES if _IMAGE in kinds else (None,)
    for length, image in ((None, None), *product(lengths, images)):
        found = _changed(specs, first, given or {}, {_BATCH: 1, _SEQUENCE: length, _IMAGE: image})
        if found not in seen:
            seen.append(found)
            yield found


_BATCH, _SEQUENCE, _IMAGE, _FIXED = "batch", "sequence", "image", "fixed"


def _changed(
    specs: Sequence[TensorSpec],
    first: Mapping[str, tuple[int, ...]],
    given: Mapping[str, Sequence[int]],
    targets: Mapping[str, int | None],
) -> Shapes:
    """Return the first shapes with other sizes on the axes of some kinds; axes of one name stay alike."""
    named: dict[str, int] = {}
    for held in (True, False):
        for spec in specs:
            for axis, (known, old) in enumerate(zip(spec.shape, first[spec.name], strict=True)):
                if isinstance(known, str) and held == _is_given(given, spec.name, axis):
                    named.setdefault(known, old if held else targets.get(_kind(spec, axis)) or old)
    add_sums(named)
    return {s.name: _sized(s, first[s.name], given, named, targets) for s in specs}


def _sized(
    spec: TensorSpec,
    first: Sequence[int],
    given: Mapping[str, Sequence[int]],
    named: Mapping[str, int],
    targets: Mapping[str, int | None],
) -> tuple[int, ...]:
    sizes = []
    for axis, (known, old) in enumerate(zip(spec.shape, first, strict=True)):
        other = named[known] if isinstance(known, str) else targets.get(_kind(spec, axis))
        sizes.append(old if _is_given(given, spec.name, axis) else other or old)
    return tuple(sizes)


def _is_given(given: Mapping[str, Sequence[int]], name: str, axis: int) -> bool:
    return name in given and given[name][axis] > 0


def _kind(spec: TensorSpec, axis: int) -> str:
    """Return the kind of an axis; an axis whose size the file fixes keeps it."""
    if isinstance(spec.shape[axis], int):
        return _FIXED
    if axis == 0:
        return _BATCH
    image = len(spec.shape) >= _IMAGE_RANK and not any(isinstance(k, int) for k in spec.shape[-2:])
    return _SEQUENCE if not image else _IMAGE if axis > 1 else _FIXED


def _fits(spec: TensorSpec, shape: Sequence[int] | None) -> bool:
    return (
        shape is not None
        and len(shape) == len(spec.shape)
        and all(n != 0 for n in shape)
        and all(not isinstance(k, int) or n in (k, -1) for k, n in zip(spec.shape, shape, strict=True))
    )
