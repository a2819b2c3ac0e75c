"""The analysis of a whole model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx

from onnxprune.algebra.sizes.algebra import Size, Value, as_extent, replaced
from onnxprune.algebra.sizes.conditions import Condition
from onnxprune.algebra.sizes.facts import ContradictionError, SizeFacts
from onnxprune.algebra.sizes.tensors import INTEGERS, Shape, TensorSequence, Values
from onnxprune.analysis.sizes.inputs import Inputs
from onnxprune.analysis.sizes.result import SizeAnalysis
from onnxprune.analysis.sizes.walk import Walk


def infer_sizes(
    proto: onnx.ModelProto,
    *,
    bound: Mapping[str, int] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    where: str = "the model",
) -> SizeAnalysis:
    """Find the size of every axis as an expression of the open input axes.

    Declared shapes of other values than inputs are not used.

    Args:
        proto: A model whose nodes are in the order of execution, and whose bodies share no names.
        bound: Numbers for open axes, by the name of their symbol.
        shapes: Full shapes of inputs, by name; they bind the symbols of other inputs too.
        where: Name of the model in messages.

    Raises:
        ModelError: Sizes do not fit each other; the message names the node and both sizes.
        UsageError: A number or a shape is given that fits no input.
    """
    facts = SizeFacts()
    inputs = Inputs(proto, facts, bound, shapes)
    opsets = {o.domain: o.version for o in proto.opset_import}
    hint = "another export may help"
    if bound or shapes:
        hint = "sizes were given with --dim or --shape: leave them out, or give others"
    walk = Walk(opsets, facts, where, hint)
    for value in inputs.values:
        _enter_input(walk, value, inputs.sizes.get(value.name))
    walk.follow(proto.graph)
    try:
        return _result(walk, inputs)
    except ContradictionError as error:
        raise ContradictionError(f"{where}: sizes do not fit: {error.message}", hint) from error


def _enter_input(walk: Walk, value: onnx.ValueInfoProto, shape: Shape | None) -> None:
    kind = value.type.WhichOneof("value")
    if kind == "tensor_type":
        walk.put(value.name, shape, value.type.tensor_type.elem_type)
        if shape is None:
            walk.tensors.unknown[value.name] = "the file declares no shape of this input"
        return
    name = (kind or "unknown").removesuffix("_type")
    walk.tensors.kinds[value.name] = name
    if name == "sequence":
        element = value.type.sequence_type.elem_type.tensor_type.elem_type
        walk.tensors.sequences[value.name] = TensorSequence(None, None, element, None)


def _result(walk: Walk, inputs: Inputs) -> SizeAnalysis:
    """Apply the facts derived last to the sizes found first."""
    facts, tensors = walk.facts, walk.tensors
    for name in [n for n in tensors.constants if tensors.types[n] in INTEGERS]:
        tensors.known_value(name)
    names = [name for name in tensors.values if name not in tensors.invented]
    values: dict[str, Values] = {name: found for name in names if (found := walk.value(name)) is not None}
    shapes = {name: shape for name in tensors.shapes if (shape := walk.shape(name)) is not None}
    solved = {facts.algebra.atoms[k].name: v for k, v in facts.solved.items()}
    return SizeAnalysis(
        shapes=shapes,
        values=values,
        derived=tensors.derived & set(values),
        types=tensors.types,
        kinds=tensors.kinds,
        symbols={n: a for n, a in inputs.axes.items() if n not in solved},
        bound={n: v for n, v in solved.items() if n in inputs.axes and isinstance(v, int)},
        equations=list(facts.equations),
        assumptions=list(facts.assumptions),
        conditions=_conditions(facts, facts.conditions),
        possible=_conditions(facts, facts.possible),
        undecided=list(facts.undecided),
        branches=walk.branches,
        turns={name: facts.size_now(turns) for name, turns in walk.turns.items()},
        unknown=tensors.unknown,
        sequences=tensors.sequences,
        simplified=facts.size_now,
    )


def _conditions(facts: SizeFacts, noted: Iterable[Condition]) -> list[Condition]:
    """Return the demands with solved symbols put in; a floor is not simplified further."""

    def solved(value: Value) -> Value:
        return replaced(value, facts.solved)

    found = {
        Condition(
            c.kind,
            as_extent(solved(c.size)),
            tuple(as_extent(solved(o)) for o in c.options),
            c.node,
            c.reason,
        ): None
        for c in noted
    }
    return [c for c in found if isinstance(c.size, Size) or any(isinstance(o, Size) for o in c.options)]
