"""Shapes of all tensors of a model, and the numbers for its open sizes in costs and runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxprune.algebra.sizes.algebra import Extent, NotWholeError, evaluate
from onnxprune.analysis.shapes.node_evaluation import evaluate as evaluate_node
from onnxprune.analysis.shapes.reference import SymbolSizes, fits, reference_sizes
from onnxprune.analysis.sizes import SizeAnalysis, infer_sizes
from onnxprune.errors import ModelError, UsageError
from onnxprune.ir import Model, analysis, merged, sample_shapes, subgraphs
from onnxprune.ops.spec import STANDARD_DOMAINS, spec_of

Array = np.ndarray[Any, np.dtype[Any]]

SMALL = 4096
"""Elements up to which the values of a constant are kept at hand."""


@dataclass
class Shapes:
    """Sizes, values and types of the tensors of one model.

    Attributes:
        sizes: Axis sizes as expressions in the open sizes of the input; a tensor of unknown rank is missing.
        values: Small tensors that are the same for every input: constants of the file, shape arithmetic.
        listed: Small integer tensors as expressions, for those that follow the input.
        derived: Those of `values` and `listed` that some node computes.
        types: Element types (``TensorProto`` numbers).
        branches: The branch of each If whose condition never changes, by its first result.
        reference: A number for each open size, used for costs and for runs.
        inputs: Shapes of the inputs at these numbers.
        analysis: The size analysis, with its equations, assumptions and conditions.
    """

    sizes: dict[str, tuple[Extent, ...]]
    values: dict[str, Array]
    listed: dict[str, Array]
    derived: set[str]
    types: dict[str, int]
    branches: dict[str, bool]
    reference: SymbolSizes
    inputs: dict[str, tuple[int, ...]]
    analysis: SizeAnalysis = field(repr=False)

    def number(self, size: Extent) -> int:
        """Return a size at the reference numbers.

        Raises:
            ModelError: It is none there: the network does not run with them.
        """
        try:
            return size if isinstance(size, int) else evaluate(size, self.reference)
        except NotWholeError as error:
            raise ModelError(
                f"sizes do not fit: {error}", "give sizes it works with: --dim NAME=N"
            ) from error

    def numbers(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor at the reference numbers."""
        return tuple(map(self.number, self.sizes[name]))

    def integers(self, name: str) -> list[Extent | None] | None:
        """Return the elements of a small integer tensor as expressions, ``None`` for each unknown one.

        Returns:
            The elements in order; ``None`` where not even their number is known.
        """
        if name in self.values:
            return [_whole(v) for v in self.values[name].ravel()]
        if name in self.listed:
            return list(self.listed[name].ravel())
        return None

    def take_constants(self, model: Model) -> None:
        """Keep the values of the small constants of a model at hand."""
        for name, tensor in model.constants.items():
            if math.prod(tensor.dims) <= SMALL and tensor.data_type != onnx.TensorProto.STRING:
                self.values[name] = model.array(name)

    def with_constants(self, model: Model) -> Shapes:
        """Return the shapes with constants added since, and values that have become constants."""
        sizes, values, types = dict(self.sizes), dict(self.values), dict(self.types)
        listed, derived = dict(self.listed), set(self.derived)
        for name, tensor in model.constants.items():
            if name in self.sizes and name not in self.derived:
                continue
            sizes[name], types[name] = tuple(map(int, tensor.dims)), tensor.data_type
            derived.discard(name)
            listed.pop(name, None)
            if math.prod(tensor.dims) <= SMALL:
                values[name] = model.array(name)
        return replace(self, sizes=sizes, values=values, types=types, listed=listed, derived=derived)


@analysis("sizes", sized=False)
def sizes_of(model: Model) -> SizeAnalysis:
    """Return the sizes of all tensors as expressions of the open input axes."""
    return infer_sizes(model.proto, where=model.name)


@analysis("shapes")
def infer(model: Model, given: Mapping[str, Sequence[int]] | None = None) -> Shapes:
    """Find the shapes of all tensors.

    Args:
        model: A checked model.
        given: Shapes of inputs, by name, for the reference numbers; -1 for an axis that is not given. Sizes
            that the file leaves open stay open all the same. Those the model was given decide over them.

    Raises:
        ModelError: The shapes of the graph contradict each other.
        UsageError: A shape is given for no input, or contradicts the file.
    """
    sizes = sizes_of(model)
    sizes = replace(sizes, unknown=dict(sizes.unknown))
    reference = _reference(model, sizes, merged(given, model.sizes))
    inputs = {i.name: sizes.shapes[i.name] for i in model.inputs if i.name in sizes.shapes}
    shapes = Shapes(
        sizes=dict(sizes.shapes),
        values={},
        listed={},
        derived=set(sizes.derived),
        types=dict(sizes.types),
        branches=dict(sizes.branches),
        reference=reference,
        inputs={},
        analysis=sizes,
    )
    shapes.inputs = {name: tuple(map(shapes.number, shape)) for name, shape in inputs.items()}
    shapes.take_constants(model)
    for name, elements in sizes.values.items():
        if name in shapes.values:
            continue
        if all(isinstance(e, int | Fraction) for e in elements.ravel()):
            shapes.values[name] = _as_numbers(elements, sizes.types[name])
        else:
            shapes.listed[name] = elements
    for node in model.all_nodes:
        _follow(model, shapes, node)
    return shapes


def _reference(model: Model, sizes: SizeAnalysis, given: Mapping[str, Sequence[int]]) -> SymbolSizes:
    """Return the numbers of open axes: those given, else of samples where they fit, else likely ones."""
    if samples := sample_shapes(model):
        try:
            found = reference_sizes(model, sizes, merged(samples, given))
            if fits(sizes, found):
                return found
        except UsageError:  # samples of other sizes, or of another model
            pass
    return reference_sizes(model, sizes, given)


def _follow(model: Model, shapes: Shapes, node: onnx.NodeProto) -> None:
    """Evaluate a node on numbers that were computed from shapes, such as logarithms of distances."""
    result, inputs = next(iter(node.output), ""), [i for i in node.input if i]
    if spec_of(node).random or node.domain not in STANDARD_DOMAINS or len(node.output) != 1:
        return
    if result in shapes.values or not shapes.derived.intersection(inputs):
        return
    if not all(i in shapes.values for i in inputs) or any(subgraphs(node)):
        return
    if result not in shapes.sizes or math.prod(shapes.numbers(result)) > SMALL:
        return
    try:
        value = np.asarray(evaluate_node(node, [shapes.values[i] for i in inputs], model.opset()))
    except Exception as error:  # of any kind, depending on the operator
        shapes.analysis.unknown[result] = f"its value cannot be computed before the run: {error}"
        return
    if shapes.types.get(result) == helper.np_dtype_to_tensor_dtype(value.dtype):
        shapes.values[result] = value
        shapes.derived.add(result)
        shapes.listed.pop(result, None)


def fitting_shapes(
    model: Model, given: Mapping[str, Sequence[int]] | None = None
) -> dict[str, tuple[int, ...]]:
    """Return full input shapes the model works with, by input name.

    Args:
        model: A checked model.
        given: Shapes that are fixed by the caller.
    """
    return infer(model, given).inputs


def _whole(value: Any) -> int | None:
    """Return a number as an integer, ``None`` where it is none: a fraction, no number at all, or a string."""
    if isinstance(value, str | bytes) or not np.isfinite(value) or value != int(value):
        return None
    return int(value)


def _as_numbers(elements: Array, kind: int) -> Array:
    """Return exact numbers as a tensor of an element type."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    return np.array([float(e) if dtype.kind == "f" else int(e) for e in elements.ravel()], dtype).reshape(
        elements.shape
    )
