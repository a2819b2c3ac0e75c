"""Inputs and outputs whose axes may shrink, such as the caches of a decoder.

Programs that feed a model, or read it, rely on its shapes, so those stay. Where the user declares that the
other side follows, that is noted in the model itself, and travels with it from command to command.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import onnx

from onnxprune.errors import ModelError, UsageError
from onnxprune.ir.model import Model
from onnxprune.support.globs import matching
from onnxprune.support.json_forms import TEXT, read_form

OPEN_KEY = "onnxprune.open_io"


def opened(model: Model, globs: Iterable[str]) -> Model:
    """Let the fixed axes of some inputs and outputs shrink.

    Args:
        model: The model; it is changed in place.
        globs: Patterns over names of inputs and outputs. They are added to those the model has already.

    Returns:
        The same model.

    Raises:
        UsageError: One of them names no input and no output.
    """
    names = [value.name for value in (*model.inputs, *model.outputs)]
    for pattern in globs:
        if not matching(pattern, names):
            raise UsageError(
                f"'{pattern}' names no input or output of {model.name}", f"there are: {', '.join(names)}"
            )
    kept = list(dict.fromkeys((*_globs(model), *globs)))
    if kept:
        model.set_metadata(OPEN_KEY, json.dumps(kept))
    return model


def open_values(model: Model, also: Iterable[str] = ()) -> Iterator[onnx.ValueInfoProto]:
    """Yield the inputs and outputs whose axes may shrink.

    Args:
        model: The model, with the patterns that are noted in it.
        also: Further patterns over names.
    """
    values = (*model.inputs, *model.outputs)
    names = [value.name for value in values]
    found: set[str] = set().union(*(matching(pattern, names) for pattern in (*_globs(model), *also)))
    yield from (value for value in values if value.name in found)


def fixed_axes(value: onnx.ValueInfoProto) -> set[int]:
    """Return the axes of an input or output that the file gives a number."""
    return {k for k, dim in enumerate(value.type.tensor_type.shape.dim) if dim.dim_value > 0}


def _globs(model: Model) -> list[str]:
    text = model.metadata().get(OPEN_KEY)
    if text is None:
        return []
    try:
        globs: list[str] = read_form(text, [TEXT])
    except ValueError as error:
        raise ModelError(
            f"{model.name}: its note '{OPEN_KEY}' is damaged: {error}",
            "prune the original again, with --open-io",
        ) from error
    return globs
