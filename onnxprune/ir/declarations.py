"""Declared shapes compared with those that inference finds; wrong ones are corrected.

Runtimes do not rely on the declared shapes of outputs, so wrong declarations in files go unnoticed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from onnx import shape_inference

from onnxprune.ir.analyses import analysis
from onnxprune.ir.checking import skeleton
from onnxprune.ir.damage import graphs
from onnxprune.ir.model import Model
from onnxprune.support.mapped import is_mapped

_SMALL = 1 << 10
"""Bytes up to which a constant may hold sizes."""
_REFUSALS = (onnx.checker.ValidationError, shape_inference.InferenceError, ValueError)
"""Errors of onnx for a model it does not take; `ValueError` is that of an element type it does not know."""


@dataclass(frozen=True)
class Declaration:
    """An output of a graph whose declared shape is not the one its nodes make.

    Attributes:
        name: The output.
        declared: The shape the file declares.
        inferred: The shape its nodes make.
    """

    name: str
    declared: str
    inferred: str

    def __str__(self) -> str:
        return f"output '{self.name}' was declared as {self.declared} and is {self.inferred}: corrected"


@analysis("refusal", sized=False)
def refusal(model: Model, *, numbers: bool = False) -> Exception | None:
    """Return the error of the ONNX checker or of strict shape inference for a model, if any.

    Args:
        model: The model.
        numbers: True if inference gets the values of small constants, and with them the shapes they hold.
    """
    bare = skeleton(model.proto)
    if numbers:
        own = (t for t in model.proto.graph.initializer if not is_mapped(t))
        bare.graph.initializer.extend(t for t in own if t.ByteSize() <= _SMALL)
    try:
        onnx.checker.check_model(bare)
        shape_inference.infer_shapes(bare, strict_mode=True, data_prop=False)
    except _REFUSALS as error:
        return None if _only_misses_types(error) else error
    return None


def wrong_declarations(model: Model) -> list[Declaration] | None:
    """Return the outputs, those of bodies included, whose declared shapes are wrong.

    Returns:
        The declarations; ``None`` where inference refuses the model even without them.
    """
    inferred = _without_declarations(model)
    return None if inferred is None else [found for found, _, _ in _compared(model, inferred)]


def correct_declarations(model: Model) -> None:
    """Declare for every output that `wrong_declarations` lists the shape that its nodes make, in place."""
    inferred = _without_declarations(model)
    if inferred is not None:
        for _, value, found in list(_compared(model, inferred)):
            value.type.CopyFrom(found.type)
        model.edited()


def _without_declarations(model: Model) -> onnx.ModelProto | None:
    """Return the model's skeleton with inferred shapes only."""
    bare = skeleton(model.proto)
    for graph in graphs(bare.graph):
        del graph.value_info[:]
        for value in graph.output:
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")
    try:
        return shape_inference.infer_shapes(bare, strict_mode=True, data_prop=False)
    except _REFUSALS:
        return None


def _compared(
    model: Model, inferred: onnx.ModelProto
) -> Iterator[tuple[Declaration, onnx.ValueInfoProto, onnx.ValueInfoProto]]:
    """Yield each mistake, the value that declares it, and the one that is right."""
    for ours, theirs in zip(graphs(model.proto.graph), graphs(inferred.graph), strict=True):
        for value, found in zip(ours.output, theirs.output, strict=True):
            declared, right = (v.type.tensor_type for v in (value, found))
            if declared.HasField("shape") and right.HasField("shape") and _contradict(declared, right):
                yield Declaration(value.name, _shape_text(declared), _shape_text(right)), value, found


def _contradict(a: onnx.TypeProto.Tensor, b: onnx.TypeProto.Tensor) -> bool:
    if len(a.shape.dim) != len(b.shape.dim):
        return True
    pairs = zip(a.shape.dim, b.shape.dim, strict=True)
    return any(x.dim_value and y.dim_value and x.dim_value != y.dim_value for x, y in pairs)


def _shape_text(kind: onnx.TypeProto.Tensor) -> str:
    return "×".join(str(d.dim_value or d.dim_param or "?") for d in kind.shape.dim) or "a single number"


def _only_misses_types(error: Exception) -> bool:
    """Return whether inference only got no further behind operators that onnx has no inference for."""
    return all("instead is null" in line for line in str(error).splitlines() if line.strip())
