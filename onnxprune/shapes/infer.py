"""The size of every axis of every tensor, and the small tensors that are known before the model runs.

Rules need numbers, models have symbols. Symbolic input axes get a *probe* value, shapes follow node by node
through onnx's own inference (onnxruntime's, for the operators only it knows), and the small integer chains
that exporters leave behind (Shape → Gather → Concat → Reshape) are evaluated on the way. Done with two
different probes, what differs between them is what depends on the input: those axes and elements are
*dynamic*. Shapes the file declares are not trusted.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxprune.errors import ModelError
from onnxprune.graph import Model, merged
from onnxprune.shapes.moving import moving_elements
from onnxprune.shapes.probes import PROBES, Probe, Shape, other_shapes, probe_shapes
from onnxprune.shapes.walk import SMALL, Walk

Array = np.ndarray[Any, np.dtype[Any]]
Given = Mapping[str, Sequence[int]] | None


@dataclass
class Shapes:
    """What is known of each tensor, by name.

    Attributes:
        sizes: Axis sizes at the first probe; a tensor of unknown rank is missing.
        dynamic: For each axis, whether its size follows the input.
        values: Small tensors known before the run, at the first probe (constants included).
        moving: For those, which elements follow the input.
        traced: Those of them that were computed from some tensor's shape.
        types: Element types (``TensorProto`` numbers).
        probed: Input shapes the first probe stands for.
    """

    sizes: dict[str, Shape]
    dynamic: dict[str, tuple[bool, ...]]
    values: dict[str, Array]
    moving: dict[str, Array]
    traced: set[str]
    types: dict[str, int]
    probed: dict[str, Shape]

    def note_constants(self, model: Model) -> None:
        """Take in constants added since, and values that have become constants."""
        for name, tensor in model.constants.items():
            if name in self.sizes and name not in self.traced:
                continue
            self.sizes[name], self.types[name] = tuple(tensor.dims), tensor.data_type
            self.dynamic[name] = (False,) * len(tensor.dims)
            self.traced.discard(name)
            if math.prod(tensor.dims) <= SMALL:
                self.values[name] = model.array(name)
                self.moving[name] = np.zeros(tuple(tensor.dims), bool)


def infer(model: Model, given: Mapping[str, Sequence[int]] | None = None) -> Shapes:
    """Find the shapes of all tensors.

    Args:
        model: A checked model.
        given: Shapes of inputs whose axes should not be probed, by input name, -1 for an axis that is left
            open. Those that the model was given decide over them.

    Raises:
        ModelError: No shape of the inputs that was tried fits the graph.
    """
    given = merged(given, model.sizes)
    undecided: set[str] = set()
    while True:
        first, probe = _first_that_fits(model, [(probe, given) for probe in PROBES], undecided)
        second = _with_other_shapes(model, first, probe, given)
        values = {n: v for n, v in first.values.items() if n in second.values}
        moving = moving_elements(model, values, second.values)
        follow = {name for name in first.conditions() if name not in moving or moving[name].any()}
        if follow <= undecided:
            break
        undecided |= follow
    sizes, others = first.sizes(), second.sizes()
    return Shapes(
        sizes=sizes,
        dynamic={n: _differs(s, others.get(n)) for n, s in sizes.items()},
        values=values,
        moving=moving,
        traced=first.traced & set(values),
        types={n: t.tensor_type.elem_type for n, t in first.types.items()},
        probed=probe_shapes(model, probe, given),
    )


def fitting_shapes(model: Model, given: Mapping[str, Sequence[int]] | None = None) -> dict[str, Shape]:
    """Return full input shapes the model works with, by input name.

    Args:
        model: A checked model.
        given: Shapes that are fixed by the caller.
    """
    return infer(model, given).probed


def _first_that_fits(
    model: Model, trials: Iterable[tuple[Probe, Given]], undecided: Collection[str]
) -> tuple[Walk, Probe]:
    """Walk with one choice of shapes after the other until one fits; the first failure tells most."""
    failure: ModelError | None = None
    for probe, given in trials:
        try:
            return _walk(model, probe, given, undecided), probe
        except ModelError as error:
            failure = failure or error
            if all(
                _is_static(i) or min((given or {}).get(i.name, (-1,)), default=1) > 0 for i in model.inputs
            ):
                break
    assert failure is not None
    failure.hint = failure.hint or "give the input shapes: --shape NAME=1x3x224x224"
    raise failure


def _with_other_shapes(model: Model, first: Walk, probe: Probe, given: Given) -> Walk:
    """Walk again with other sizes on open axes; a model that takes no others has none that move."""
    if all(_is_static(i) for i in model.inputs):
        return first
    for other in probe.others():
        for shapes in other_shapes(model, given):
            try:
                return _walk(model, other, shapes, first.undecided)
            except ModelError:
                continue
    return first


def _is_static(value: onnx.ValueInfoProto) -> bool:
    return all(d.HasField("dim_value") and d.dim_value > 0 for d in value.type.tensor_type.shape.dim)


def _walk(model: Model, probe: Probe, given: Given, undecided: Collection[str]) -> Walk:
    walk, shapes = Walk(model, undecided), probe_shapes(model, probe, given)
    for value in model.inputs:
        if value.type.HasField("tensor_type"):
            element = value.type.tensor_type.elem_type
            walk.types[value.name] = helper.make_tensor_type_proto(element, shapes[value.name])
        else:
            walk.types[value.name] = value.type
    walk.follow(model.proto.graph)
    return walk


def _differs(a: Shape, b: Shape | None) -> tuple[bool, ...]:
    if b is None or len(a) != len(b):
        return (True,) * len(a)
    return tuple(x != y for x, y in zip(a, b, strict=True))
