"""Two models made ready to be compared: changed alike where this runtime cannot run them as they are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx

from onnxprune.errors import LimitError, MixedTypesError, ModelError
from onnxprune.evaluate.equivalence.tails import Pair
from onnxprune.evaluate.runnable import RunnableModel, cut_before, reproducible, unknown_operators, widened
from onnxprune.ir import Model, anonymous, every_graph, label
from onnxprune.ir.canonical.canonicalise import canonicalise
from onnxprune.runtime import Session


class DifferenceError(Exception):
    """The two models cannot compute the same; the message is the reason."""


@dataclass(frozen=True)
class Subjects:
    """A reference and a candidate, ready to run.

    Attributes:
        reference: The model that is right by definition.
        candidate: The model to be judged.
        outputs: Outputs that both still have.
        points: Operands of the nodes that were cut off.
        notes: Changes made in both, and tensors that are not compared.
    """

    reference: onnx.ModelProto
    candidate: onnx.ModelProto
    outputs: tuple[str, ...]
    points: tuple[Pair, ...]
    notes: tuple[str, ...]


def subjects(reference: Model, candidate: Model) -> Subjects:
    """Make two models of the same interface ready.

    Raises:
        DifferenceError: Only one of them can be run, or their nodes that cannot be run differ.
        ModelError: The reference cannot be run by this runtime in any form.
    """
    try:
        return _subjects(reference, candidate)
    except DifferenceError:
        pair = (reference, candidate)
        if not any(unknown_operators(m.proto) and (m.nested or m.proto.functions) for m in pair):
            raise
    # one of them may have resolved the body or the local function that holds such an operator
    made = _subjects(canonicalise(reference)[0], canonicalise(candidate)[0])
    return replace(made, notes=(*made.notes, "both are compared in canonical form"))


def _subjects(reference: Model, candidate: Model) -> Subjects:
    """Make two models ready as they are."""
    protos = [model.copy().proto for model in (reference, candidate)]
    remarks = dict.fromkeys(sentence for proto in protos for sentence in reproducible(proto))
    unknown = unknown_operators(protos[0]) | unknown_operators(protos[1])
    names = tuple(o.name for o in protos[0].graph.output)
    if not unknown and all(o.type.HasField("tensor_type") for o in protos[0].graph.output):
        return _runnable(Subjects(protos[0], protos[1], names, (), tuple(remarks)))
    try:
        return _runnable(_cut(protos, unknown, True, tuple(remarks)))
    except (ModelError, DifferenceError):  # consumers of the operator do not take a copy of its operand
        return _runnable(_cut(protos, unknown, False, tuple(remarks)))


def _cut(
    protos: list[onnx.ModelProto], unknown: set[tuple[str, str]], stand_in: bool, remarks: tuple[str, ...]
) -> Subjects:
    one, two = (cut_before(proto, unknown, stand_in) for proto in protos)
    kept = _places([anonymous(n)[0] for n in one.nodes], [anonymous(n)[0] for n in two.nodes])
    if kept is None:
        raise DifferenceError("the operators that this runtime does not know are not the same")
    if len(kept) < len(one.nodes) and not stand_in:
        raise ModelError("only one of the two has all of the operators that this runtime does not know")
    if one.lost != two.lost:
        raise DifferenceError("other outputs depend on operators that this runtime does not know")
    points = {
        (a, b): None
        for ones, twos in zip((one.operands[k] for k in kept), two.operands, strict=True)
        for a, b in zip(ones, twos, strict=True)
        if a is not None and b is not None
    }
    left = [o.name for o in one.proto.graph.output if not any(o.name == a for a, _ in points)]
    outputs = [o.name for o in protos[0].graph.output if o.name not in one.lost]
    if not left and not points:
        raise ModelError("there is nothing to compare before operators that this runtime does not know")
    return Subjects(
        one.proto, two.proto, tuple(outputs), tuple(points), (*remarks, *_about(one, unknown, stand_in))
    )


def _places(nodes: list[onnx.NodeProto], fewer: list[onnx.NodeProto]) -> list[int] | None:
    """Return the places of nodes in a list that may have more of them, `None` where one is missing there.

    The results of the others do not matter, if the outputs agree with a stand-in for them.
    """
    found: list[int] = []
    for node in fewer:
        start = found[-1] + 1 if found else 0
        place = next((k for k in range(start, len(nodes)) if nodes[k] == node), None)
        if place is None:
            return None
        found.append(place)
    return found


def _about(cut: RunnableModel, unknown: set[tuple[str, str]], stand_in: bool) -> list[str]:
    """State the nodes that were cut off."""
    strangers = [n for n in cut.nodes if any((m.domain, m.op_type) in unknown for m in _inside(n))]
    names = ", ".join(dict.fromkeys(f"{node.op_type} '{label(node)}'" for node in strangers))
    remarks = [f"compared up to {names}, which this runtime does not know"] if names else []
    if stand_in and any(node.output and node.output[0] not in cut.lost for node in strangers):
        remarks = [f"{names}, which this runtime does not know, is a copy of its first operand in both"]
    lost = ", ".join(f"'{name}'" for name in cut.lost)
    return [*remarks, *([f"{lost}: the tensors before the output are compared instead"] if lost else [])]


def _inside(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return a node and all nodes of its bodies."""
    bodies = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return [node, *(n for body in bodies for g in every_graph(body) for n in g.node)]


def _runnable(made: Subjects) -> Subjects:
    """Return the two as they are where the runtime loads them, else as float32."""
    try:
        Session(made.reference, optimize=False)
    except MixedTypesError:
        raise
    except ModelError:
        if not widened(made.reference):
            raise
        widened(made.candidate)
        note = "float16 and bfloat16 are computed as float32 in both"
        made = replace(made, notes=(*made.notes, note))
        Session(made.reference, optimize=False)
    try:
        Session(made.candidate, optimize=False)
    except LimitError:
        raise
    except ModelError as error:
        raise DifferenceError(f"only the first model can be run: {error.message}") from error
    return made
