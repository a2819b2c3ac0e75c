"""Shapes of samples: work is counted at these sizes, where an axis is open and no size is given.

They bind no axis. A sparse model notes those that its baseline was counted at, so that all later commands
count alike.
"""

from __future__ import annotations

import json
from dataclasses import replace

from onnxprune.errors import ModelError
from onnxprune.ir.given import Sizes
from onnxprune.ir.model import Model
from onnxprune.support.json_forms import COUNT, MappingOf, Nullable, read_form

SAMPLES_KEY = "onnxprune.sample_shapes"


def sample_shapes(model: Model) -> Sizes:
    """Return the shapes of samples that a model has or notes, by input name, -1 for the samples' axis."""
    if model.sample_shapes or SAMPLES_KEY not in (notes := model.metadata()):
        return dict(model.sample_shapes)
    try:
        read = read_form(notes[SAMPLES_KEY], MappingOf([Nullable(COUNT)]))
    except ValueError as error:
        raise ModelError(
            f"{model.name}: its note '{SAMPLES_KEY}' is damaged: {error}",
            "prune the original again, with --data",
        ) from error
    return {name: tuple(-1 if n is None else n for n in shape) for name, shape in read.items()}


def sized_like(model: Model, other: Model) -> Model:
    """Return a model that is analysed, run and counted at the sizes of another one."""
    return replace(model, sizes=other.sizes, sample_shapes=other.sample_shapes)


def note_sample_shapes(model: Model, shapes: Sizes) -> None:
    """Write shapes of samples into a model, or take them out of it where there are none."""
    content = {name: [n if n > 0 else None for n in shape] for name, shape in shapes.items()}
    model.set_metadata(SAMPLES_KEY, json.dumps(content) if content else None)
