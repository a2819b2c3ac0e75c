"""Sizes of inputs that the user gives: whole shapes, or numbers for the names of open axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx

from onnxprune.errors import UsageError
from onnxprune.ir.model import Model
from onnxprune.runtime.size_names import computed, expression, symbols_of

Sizes = dict[str, tuple[int, ...]]
OPEN = -1
"""The size of an axis that is not given."""


def sized(
    model: Model,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, int] | None = None,
) -> Model:
    """Return a model that is analysed and run at given sizes; it shares the message with the one given.

    A shape binds the names of its axes for all other inputs, and a name that is a sum of others follows them.

    Args:
        model: The model.
        shapes: Full shapes of inputs, by name.
        dims: Sizes by the name of an open axis of the inputs; see `axis_name`.

    Raises:
        UsageError: A name is of no input or of no axis, or two sizes contradict each other or the file.
    """
    if not shapes and not dims:
        return model
    names = _named_axes(model)
    mentioned = {name: symbols_of(expression(name, names), name) for name in names}
    for name, size in (dims or {}).items():
        if name not in names and not any(name in found for found in mentioned.values()):
            raise UsageError(f"no axis of an input is named '{name}' in {model.name}", _listed(mentioned))
        if size < 1:
            raise UsageError(f"a size of {size} makes no sense for the axis '{name}'", "give 1 or more")
    bound = dict(dims or {})
    for name, shape in (shapes or {}).items():
        _bind(model, name, shape, bound)
    sums = {name: computed(name, bound) for name in names if name not in bound}
    for name in dims or {}:
        _check_used(name, mentioned, sums)
    found = {i.name: _sizes(i, {**sums, **bound}, (shapes or {}).get(i.name)) for i in model.inputs}
    return replace(model, sizes=merged(model.sizes, {n: s for n, s in found.items() if s}))


def merged(sizes: Mapping[str, Sequence[int]] | None, over: Mapping[str, Sequence[int]]) -> Sizes:
    """Return sizes of inputs, those of the second mapping where it has any."""
    found = {name: tuple(shape) for name, shape in (sizes or {}).items()}
    for name, shape in over.items():
        before = found.get(name, ())
        kept = before if len(before) == len(shape) else (OPEN,) * len(shape)
        found[name] = tuple(n if n > 0 else k for n, k in zip(shape, kept, strict=True))
    return found


def axis_name(name: str, axis: int, dim: onnx.TensorShapeProto.Dimension) -> str:
    """Return the name of an open axis: the declared one, else ``INPUT.AXIS``, counted from 0.

    paddle2onnx writes a question mark for an unknown axis.

    Args:
        name: The input.
        axis: The number of the axis.
        dim: Its declaration.
    """
    declared = str(dim.dim_param).strip()
    return declared if declared.strip("?") else f"{name}.{axis}"


def _axes(value: onnx.ValueInfoProto) -> list[str | int]:
    """Return the axes of an input: a name, or the size that the file gives."""
    dims = value.type.tensor_type.shape.dim
    return [int(d.dim_value) if d.dim_value > 0 else axis_name(value.name, k, d) for k, d in enumerate(dims)]


def _named_axes(model: Model) -> list[str]:
    """Return the names of the open axes of all inputs."""
    return list(dict.fromkeys(axis for i in model.inputs for axis in _axes(i) if isinstance(axis, str)))


def _check_used(name: str, mentioned: Mapping[str, Sequence[str]], sums: Mapping[str, int | None]) -> None:
    """Refuse a size that determines no axis: it is in sums only, and the other terms are not given."""
    within = [axis for axis, symbols in mentioned.items() if name in symbols]
    if name not in mentioned and all(sums.get(axis) is None for axis in within):
        others = dict.fromkeys(s for axis in within for s in mentioned[axis] if s != name)
        raise UsageError(
            f"'{name}' alone decides no size: the inputs have it in {', '.join(within)} only",
            f"give {', '.join(others)} too",
        )


def _listed(mentioned: Mapping[str, Sequence[str]]) -> str:
    names = list(dict.fromkeys(symbol for symbols in mentioned.values() for symbol in symbols))
    named = f"its open axes are: {', '.join(names)}; " if names else "it has no open axes; "
    return f"{named}--shape NAME=1x3x224x224 gives the whole shape of an input"


def _bind(model: Model, name: str, shape: Sequence[int], bound: dict[str, int]) -> None:
    """Note the sizes that a whole shape gives to the names of its axes."""
    declared = {i.name: _axes(i) for i in model.inputs}
    if name not in declared:
        hint = f"the inputs are: {', '.join(declared) or 'none'}"
        raise UsageError(f"a shape is given for '{name}', which is not an input", hint)
    for axis, size in zip(declared[name], shape, strict=False):
        if isinstance(axis, str) and size > 0 and bound.setdefault(axis, size) != size:
            raise UsageError(
                f"the axis '{axis}' of the input '{name}' cannot be both {bound[axis]} and {size}",
                "give one size for each name: --dim and --shape have to agree",
            )


def _sizes(
    value: onnx.ValueInfoProto, bound: Mapping[str, int | None], shape: Sequence[int] | None
) -> tuple[int, ...]:
    """Return the known sizes of one input; ``()`` where no axis of it is given."""
    if shape is not None:
        return tuple(shape)
    axes = _axes(value)
    sizes = [axis if isinstance(axis, int) else bound.get(axis) or OPEN for axis in axes]
    return tuple(sizes) if any(bound.get(axis) for axis in axes if isinstance(axis, str)) else ()
