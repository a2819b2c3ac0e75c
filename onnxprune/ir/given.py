"""Sizes of inputs that the user gives: whole shapes, or numbers for the names of open axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx

from onnxprune.errors import UsageError
from onnxprune.ir.model import Model
from onnxprune.runtime.size_names import computed

Sizes = dict[str, tuple[int, ...]]
OPEN = -1
"""Stands for an axis of which no size is given."""


def sized(
    model: Model,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, int] | None = None,
) -> Model:
    """Return a model that is analysed and run at given sizes; it shares everything else with the one given.

    A shape binds the names of its axes for all other inputs, and a name that is a sum of others follows them.

    Args:
        model: The model.
        shapes: Full shapes of inputs, by name.
        dims: Sizes by the name of an open axis of the inputs.

    Raises:
        UsageError: A name is of no input or of no axis, or two sizes contradict each other or the file.
    """
    if not shapes and not dims:
        return model
    names = _named_axes(model)
    for name, size in (dims or {}).items():
        if name not in names:
            raise UsageError(f"no axis of an input is named '{name}' in {model.name}", _listed(names))
        if size < 1:
            raise UsageError(f"a size of {size} makes no sense for the axis '{name}'", "give 1 or more")
    bound = dict(dims or {})
    for name, shape in (shapes or {}).items():
        _bind(model, name, shape, bound)
    sums = {name: computed(name, bound) for name in names if name not in bound}
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


def symbol(dim: onnx.TensorShapeProto.Dimension) -> str:
    """Return the name of an open axis; paddle2onnx writes a question mark for what it does not know."""
    return "" if dim.dim_value > 0 else str(dim.dim_param).strip("?")


def _named_axes(model: Model) -> list[str]:
    names = (symbol(dim) for i in model.inputs for dim in i.type.tensor_type.shape.dim)
    return [name for name in dict.fromkeys(names) if name]


def _listed(names: Sequence[str]) -> str:
    named = f"its axes are named: {', '.join(names)}; " if names else "its open axes have no names: "
    return f"{named}--shape NAME=1x3x224x224 gives the whole shape of an input"


def _bind(model: Model, name: str, shape: Sequence[int], bound: dict[str, int]) -> None:
    """Note what a whole shape says of the names of its axes."""
    declared = {i.name: i.type.tensor_type.shape.dim for i in model.inputs}
    if name not in declared:
        hint = f"the inputs are: {', '.join(declared) or 'none'}"
        raise UsageError(f"a shape is given for '{name}', which is not an input", hint)
    for dim, size in zip(declared[name], shape, strict=False):
        if (axis := symbol(dim)) and size > 0 and bound.setdefault(axis, size) != size:
            raise UsageError(
                f"the axis '{axis}' of the input '{name}' cannot be both {bound[axis]} and {size}",
                "give one size for each name: --dim and --shape have to agree",
            )


def _sizes(
    value: onnx.ValueInfoProto, bound: Mapping[str, int | None], shape: Sequence[int] | None
) -> tuple[int, ...]:
    """Return what is known of the sizes of one input; nothing where no axis of it is given."""
    if shape is not None:
        return tuple(shape)
    dims = value.type.tensor_type.shape.dim
    sizes = [int(dim.dim_value) if dim.dim_value > 0 else bound.get(symbol(dim)) or OPEN for dim in dims]
    return tuple(sizes) if any(bound.get(symbol(dim)) for dim in dims if symbol(dim)) else ()
