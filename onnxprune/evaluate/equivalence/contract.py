"""The interface of a model: names, types, ranks and fixed sizes of its inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx

from onnxprune.ir import Model

Cuts = Mapping[str, Mapping[int, int]]


def interface_differences(reference: Model, candidate: Model, cuts: Cuts | None = None) -> list[str]:
    """Return how the interface of a candidate differs from that of a reference, one sentence a difference.

    Outputs have the same names in the same order, inputs the same names. Types and ranks are equal. A size
    that both fix is equal, and an input axis that the reference leaves open the candidate leaves open too.
    Names of symbolic sizes are ignored, and so are declared sizes of outputs: the comparison checks those of
    the results.

    Args:
        reference: The model that is right by definition.
        candidate: The model to be judged.
        cuts: The lengths of input axes that have shrunk in the candidate, by name and axis.
    """
    return [*_inputs(reference, candidate, cuts or {}), *_outputs(reference, candidate)]


def _inputs(reference: Model, candidate: Model, cuts: Cuts) -> Iterator[str]:
    expected = {i.name: i for i in reference.inputs}
    found = {i.name: i for i in candidate.inputs}
    yield from (f"there is no input '{n}'" for n in expected if n not in found)
    yield from (f"there is an input '{n}' more" for n in found if n not in expected)
    for name in (n for n in expected if n in found):
        yield from _kinds(f"input '{name}'", expected[name].type, found[name].type)
        for axis, (size, other) in enumerate(zip(*map(_sizes, (expected[name], found[name])), strict=False)):
            size = cuts.get(name, {}).get(axis, size)
            if other is not None and other != size:
                wanted_size = "open" if size is None else size
                yield f"axis {axis} of input '{name}' is {other} instead of {wanted_size}"


def _outputs(reference: Model, candidate: Model) -> Iterator[str]:
    expected = {o.name: o for o in reference.outputs}
    found = {o.name: o for o in candidate.outputs}
    yield from (f"there is no output '{n}'" for n in expected if n not in found)
    yield from (f"there is an output '{n}' more" for n in found if n not in expected)
    if list(expected) != list(found) and set(expected) == set(found):
        yield f"the outputs come in the order {', '.join(found)} instead of {', '.join(expected)}"
    for name in (n for n in expected if n in found):
        yield from _kinds(f"output '{name}'", expected[name].type, found[name].type)


def _kinds(subject: str, expected: onnx.TypeProto, found: onnx.TypeProto) -> Iterator[str]:
    """Compare two types: the kind of value, the element type, the rank."""
    if expected.WhichOneof("value") != found.WhichOneof("value"):
        yield f"{subject} is of another kind: {_kind(found)} instead of {_kind(expected)}"
        return
    if not expected.HasField("tensor_type"):
        return
    if expected.tensor_type.elem_type != found.tensor_type.elem_type:
        yield f"{subject} is of type {_element(found)} instead of {_element(expected)}"
    known = all(t.tensor_type.HasField("shape") for t in (expected, found))
    ranks = [len(t.tensor_type.shape.dim) for t in (expected, found)]
    if known and ranks[0] != ranks[1] and subject.startswith("input"):
        yield f"{subject} has {ranks[1]} axes instead of {ranks[0]}"


def _sizes(value: onnx.ValueInfoProto) -> list[int | None]:
    dims = value.type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None for d in dims]


def _kind(kind: onnx.TypeProto) -> str:
    return (kind.WhichOneof("value") or "nothing").removesuffix("_type")


def _element(kind: onnx.TypeProto) -> str:
    return str(onnx.TensorProto.DataType.Name(kind.tensor_type.elem_type)).lower()
